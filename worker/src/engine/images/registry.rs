//! How the host reaches its package registries, passed into image builds so that they go the same
//! way. Settings that may hold credentials reach inner build stages only, never an image.

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
