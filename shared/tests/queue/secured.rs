//! A Redis that wants TLS, a certificate and a password.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use shared::config;
use shared::error::ErrorCode;
use shared::redis::Queue;
use tempfile::TempDir;

use crate::harness::{Fleet, Redis, ending, free_port};

const PASSWORD: &str = "p@ss/word";

/// A server behind TLS on loopback alone.
struct Secured {
    redis: Redis,
    directory: std::path::PathBuf,
    port: u16,
}

impl Secured {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        write_certificates(&directory);
        let file = |name: &str| path.join(name).display().to_string();
        let port = free_port();
        let redis = Redis::start_in(
            directory,
            &[
                &["--bind", "127.0.0.1", "--tls-port", &port.to_string()][..],
                &["--tls-ca-cert-file", &file("ca.pem"), "--tls-auth-clients", "yes"],
                &["--tls-cert-file", &file("server.pem"), "--tls-key-file", &file("server.key")],
            ]
            .concat(),
        );
        let password = format!(">{PASSWORD}");
        redis.run::<()>(&["ACL", "SETUSER", "fleet", "on", &password, "~v1:*", "&v1:*", "+@all"]);
        fs::write(path.join("password"), format!("{PASSWORD}\n")).unwrap();
        Self { redis, directory: path, port }
    }

    fn config(&self) -> config::Redis {
        let file = |name: &str| Some(self.directory.join(name));
        config::Redis {
            url: Some(format!("rediss://fleet@localhost:{}", self.port)),
            password_file: file("password"),
            ca_file: file("ca.pem"),
            certificate_file: file("client.pem"),
            key_file: file("client.key"),
            allow_plain_secrets: true,
            ..config::Redis::default()
        }
    }
}

/// An authority, what it has signed, and one that nobody knows.
fn write_certificates(directory: &TempDir) {
    let write = |name: &str, text: String| fs::write(directory.path().join(name), text).unwrap();
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    write("ca.pem", authority.self_signed(&key).unwrap().pem());
    let stranger = KeyPair::generate().unwrap();
    write("stranger.pem", authority.self_signed(&stranger).unwrap().pem());
    let issuer = Issuer::new(authority, key);
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let mut certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        // OpenSSL takes one that is named like its authority for one that signed itself.
        certificate.distinguished_name.push(DnType::CommonName, name);
        write(&format!("{name}.pem"), certificate.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{name}.key"), key.serialize_pem());
    }
}

async fn refusal(config: &config::Redis) -> String {
    let error = Queue::connect(config).await.err().expect("it was let in");
    assert_eq!(error.code(), ErrorCode::QueueUnavailable, "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_fleet_works_over_tls_as_a_user_with_a_certificate() {
    let secured = Secured::start();
    let mut fleet = Fleet::new(&secured.config()).await;
    let id = fleet.enqueue().await;
    let claimed = fleet.claim_one().await;
    fleet.finish(&claimed, "done").await;
    fleet.expect_reply(id, &ending("done")).await;
    secured.redis.assert_nothing_left();
}

#[tokio::test]
async fn nobody_gets_in_without_what_is_asked_for() {
    let secured = Secured::start();
    let good = secured.config();

    let stranger = Some(secured.directory.join("stranger.pem"));
    refusal(&config::Redis { ca_file: stranger, ..good.clone() }).await;

    let no_certificate = config::Redis { certificate_file: None, key_file: None, ..good.clone() };
    refusal(&no_certificate).await;

    let by_address = Some(format!("rediss://fleet@127.0.0.1:{}", secured.port));
    refusal(&config::Redis { url: by_address, ..good.clone() }).await;

    fs::write(secured.directory.join("wrong"), "wrong").unwrap();
    let wrong = Some(secured.directory.join("wrong"));
    let said = refusal(&config::Redis { password_file: wrong, ..good.clone() }).await;
    assert!(said.contains("credentials"), "{said}");
    assert!(!said.contains("wrong"), "{said}");

    let no_file = Some(Path::new("/nowhere").to_owned());
    let said = Queue::open(&config::Redis { password_file: no_file, ..good }).err().unwrap();
    assert!(said.to_string().contains("redis.passwordFile /nowhere"), "{said}");
}
