//! How the host reaches its package registries, passed into image builds and installers so that they go
//! the same way. Settings that may hold credentials reach inner build stages only, never an image.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use shared::runtime::Runtime;

/// A kind of registry, with the package manager whose settings say where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registry {
    /// Python's.
    Pip,
    /// JavaScript's.
    Npm,
}

impl Registry {
    /// Where packages of a runtime come from. `None` for those of the operating system, whose sources
    /// are part of the images.
    #[must_use]
    pub const fn of(runtime: Runtime) -> Option<Self> {
        match runtime {
            Runtime::Python => Some(Self::Pip),
            Runtime::Node | Runtime::Bun | Runtime::Deno | Runtime::Agent => Some(Self::Npm),
            Runtime::Bash => None,
        }
    }
}

/// What the host is set up to use; everything may be empty.
#[derive(Clone, Default)]
pub struct RegistrySettings {
    /// Package sources for the images' release, one-line format, without credentials; these stay in
    /// the images.
    pub apt_sources: String,
    /// Text of a `pip.conf`.
    pub pip_config: String,
    /// Text of an `.npmrc`.
    pub npm_config: String,
    /// Proxy variables, as build arguments. Docker leaves these out of an image's history.
    pub proxies: Vec<(String, String)>,
}

impl RegistrySettings {
    /// The same without what only its owner should know: for where code of packages runs.
    #[must_use]
    pub fn without_credentials(&self) -> Self {
        let is_public = |line: &&str| !line.trim_start().starts_with("//");
        let npm_config = self.npm_config.lines().filter(is_public);
        Self {
            pip_config: without_users(&self.pip_config),
            npm_config: npm_config.map(|line| without_users(line) + "\n").collect(),
            ..self.clone()
        }
    }
}

/// Takes user and password out of all addresses in a text.
fn without_users(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(part.len());
        let start = part[..end].rfind('@').map_or(0, |at| at + 1);
        clean.push_str("://");
        clean.push_str(&part[start..]);
    }
    clean
}

/// Reads the host's settings when they are first needed: asking package managers takes a while.
#[derive(Clone)]
pub struct RegistrySource(Arc<Read>);

type Read = dyn Fn(Runtime) -> BoxFuture<'static, RegistrySettings> + Send + Sync;

impl RegistrySource {
    /// A source that asks in the given way.
    #[must_use]
    pub fn new<F>(read: impl Fn(Runtime) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = RegistrySettings> + Send + 'static,
    {
        Self(Arc::new(move |runtime| Box::pin(read(runtime))))
    }

    /// What the host is set up to use for packages of `runtime`.
    pub async fn read(&self, runtime: Runtime) -> RegistrySettings {
        (self.0)(runtime).await
    }
}

impl std::fmt::Debug for RegistrySource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RegistrySource")
    }
}

/// A certificate authority the host trusts beyond the usual ones. It becomes part of the images, so
/// that sandboxes can talk through the same inspected network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// File name, ending in `.crt`.
    pub name: String,
    /// The certificate, PEM.
    pub certificate: String,
}

// By hand: the two config texts may hold credentials and must not reach a log.
impl std::fmt::Debug for RegistrySettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RegistrySettings")
            .field("apt_sources", &self.apt_sources.lines().count())
            .field("has_pip_config", &!self.pip_config.is_empty())
            .field("has_npm_config", &!self.npm_config.is_empty())
            .field("proxies", &self.proxies.len())
            .finish()
    }
}
