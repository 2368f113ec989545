//! A registry of npm packages on loopback, with packages that the test makes up. Workers are led to it
//! by the settings of npm: its packages belong to the scope `@stand-in`.

use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::Upstream;
use crate::upstream::{Answer, Request};

/// Not `127.0.0.1`, which no program asks a proxy for.
const HOST: &str = "127.0.0.2";
/// Nothing listens on this port: a registry that is down, of the scope `@down`.
const CLOSED_PORT: u16 = 1;

/// A package.
#[derive(Clone, Debug)]
pub struct Package {
    name: &'static str,
    /// What npm is told about it.
    description: Value,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Package {
    /// One whose only export is its name.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        let main = format!("module.exports = {};\n", json!(name)).into_bytes();
        let description = json!({"name": full_name(name), "version": "1.0.0"});
        Self { name, description, files: vec![("index.js", main)] }
    }

    /// Adds a file of zeros.
    #[must_use]
    pub fn with_zeros(mut self, count: usize) -> Self {
        self.files.push(("zeros", vec![0; count]));
        self
    }

    /// Has a script run by a shell in the package's folder, once it is unpacked.
    #[must_use]
    pub fn with_script(mut self, script: &str) -> Self {
        self.description["scripts"] = json!({"postinstall": "sh ./script.sh"});
        self.files.push(("script.sh", script.into()));
        self
    }

    fn archive(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let description = ("package.json", self.description.to_string().into_bytes());
        for (path, content) in self.files.iter().chain([&description]) {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            let path = format!("package/{path}");
            archive.append_data(&mut header, path, content.as_slice()).expect("into memory");
        }
        archive.into_inner().and_then(GzEncoder::finish).expect("into memory")
    }
}

/// The registry; it ends when this is dropped.
pub struct Registry {
    server: Upstream,
}

impl Registry {
    /// One that has these packages.
    pub async fn start(packages: impl IntoIterator<Item = Package>) -> Self {
        let packages: Vec<(Package, Vec<u8>)> = packages
            .into_iter()
            .map(|package| {
                let archive = package.archive();
                (package, archive)
            })
            .collect();
        Self { server: Upstream::start(HOST, move |request| answer(&packages, request)).await }
    }

    /// Writes settings of npm, for `NPM_CONFIG_USERCONFIG`.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn write_settings(&self, file: &Path) {
        let settings = format!(
            "@stand-in:registry={}\n@down:registry=http://{HOST}:{CLOSED_PORT}/\n\
             @down-here:registry=http://127.0.0.1:{CLOSED_PORT}/\n",
            self.server.url("http", HOST, "/"),
        );
        std::fs::write(file, settings).expect("the directory is writable");
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.address.port()
    }

    /// How often a package was fetched.
    #[must_use]
    pub fn fetched(&self, name: &str) -> usize {
        let line = format!("GET {}", path_of(name));
        self.server.seen().iter().filter(|request| request.line == line).count()
    }
}

/// What a package is called where it is asked for.
#[must_use]
pub fn full_name(name: &str) -> String {
    format!("@stand-in/{name}")
}

fn path_of(name: &str) -> String {
    format!("/archives/{name}.tgz")
}

fn answer(packages: &[(Package, Vec<u8>)], request: &Request) -> Answer {
    let asked = request.line.trim_start_matches("GET ");
    let found = packages.iter().find_map(|(package, archive)| {
        if asked == path_of(package.name) {
            return Some(Answer::ok(archive.clone()));
        }
        let encoded = format!("/@stand-in%2f{}", package.name);
        asked.eq_ignore_ascii_case(&encoded).then(|| {
            let described = described(package, request.header("host")).to_string();
            Answer::ok(described).with("Content-Type", "application/json")
        })
    });
    found.unwrap_or_else(|| Answer::status("404 Not Found"))
}

fn described(package: &Package, host: &str) -> Value {
    let archive = format!("http://{host}{}", path_of(package.name));
    let mut version = package.description.clone();
    version["dist"] = json!({"tarball": archive});
    let versions = json!({"1.0.0": version});
    json!({"name": version["name"], "dist-tags": {"latest": "1.0.0"}, "versions": versions})
}
