//! TLS to a host, on behalf of a program that speaks plain HTTP to its proxy: certificates are verified
//! against the roots of the worker's machine.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use shared::net::Host;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Speaks TLS; made ready at its first use, since most workers never do.
#[derive(Clone, Default)]
pub(super) struct Tls(Arc<OnceLock<Option<Arc<ClientConfig>>>>);

impl Tls {
    /// Speaks TLS to `host` over `stream`.
    ///
    /// # Errors
    /// If the machine has no roots, or the host is not who it says.
    pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &Host,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let config = self.config().await?;
        let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    }

    async fn config(&self) -> io::Result<Arc<ClientConfig>> {
        let this = Arc::clone(&self.0);
        let config = match this.get() {
            Some(config) => config.clone(),
            // Reads files.
            None => tokio::task::spawn_blocking(move || this.get_or_init(read_roots).clone())
                .await
                .map_err(io::Error::other)?,
        };
        config.ok_or_else(|| io::Error::other("this machine has no certificates to trust"))
    }
}

fn read_roots() -> Option<Arc<ClientConfig>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "certificates of this machine cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.ok()?.with_root_certificates(roots).with_no_client_auth();
    (added > 0).then(|| Arc::new(config))
}
