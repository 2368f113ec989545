//! How this host reaches its package registries: trust, proxies, and the settings of pip and npm,
//! read with those tools where they are installed. Values may hold credentials and are never shown.

use std::path::{Path, PathBuf};

use shared::runtime::Runtime;
use worker::engine::images::{Authority, Registry, RegistrySettings};

use super::answers::{Manager, Surroundings};

/// Where administrators of Debian and Ubuntu put additional authorities.
const AUTHORITIES: &str = "/usr/local/share/ca-certificates";

/// Settings of pip that say where packages come from.
const PIP_KEYS: [&str; 4] = ["index-url", "extra-index-url", "find-links", "trusted-host"];

const PROXY_VARIABLES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
];

/// Authorities this host trusts beyond the usual ones.
pub(crate) fn authorities() -> Vec<Authority> {
    read_authorities(Path::new(AUTHORITIES))
}

/// Everything else. `apt_sources` is known from the choice of the operating system image.
pub(crate) async fn settings(apt_sources: String) -> RegistrySettings {
    let (pip_config, npm_config) = tokio::join!(pip_config(), npm_config());
    RegistrySettings { apt_sources, pip_config, npm_config, proxies: proxies() }
}

/// What packages of one runtime need, upon an image that has its package sources already: only that
/// manager is asked.
pub(crate) async fn settings_for(runtime: Runtime) -> RegistrySettings {
    let (pip_config, npm_config) = match Registry::of(runtime) {
        Some(Registry::Pip) => (pip_config().await, String::new()),
        Some(Registry::Npm) => (String::new(), npm_config().await),
        None => Default::default(),
    };
    RegistrySettings { apt_sources: String::new(), pip_config, npm_config, proxies: proxies() }
}

fn proxies() -> Vec<(String, String)> {
    PROXY_VARIABLES
        .iter()
        .filter_map(|&name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

fn read_authorities(folder: &Path) -> Vec<Authority> {
    let mut found: Vec<Authority> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.to_owned();
            let certificate = std::fs::read_to_string(&path).ok()?;
            let is_authority = name.ends_with(".crt") && certificate.contains("BEGIN CERTIFICATE");
            is_authority.then_some(Authority { name, certificate })
        })
        .collect();
    found.sort_by(|left, right| left.name.cmp(&right.name));
    found
}

const PIP: Manager = Manager {
    program: "pip3",
    sources: &["config", "debug"],
    files: |listing| {
        let named = listing.lines().filter_map(|line| line.trim().rsplit_once(", exists: "));
        named.map(|(path, _)| PathBuf::from(path)).collect()
    },
    settings: &["config", "list"],
};

const NPM: Manager = Manager {
    program: "npm",
    sources: &["config", "get", "userconfig", "globalconfig"],
    files: |listing| {
        let named = listing.lines().filter_map(|line| line.trim().split_once('='));
        named.map(|(_, path)| PathBuf::from(path)).collect()
    },
    settings: &["config", "get", "registry"],
};

async fn pip_config() -> String {
    pip_config_from(&Surroundings::own().ask(&PIP).await)
}

/// Turns `pip config list` into a `pip.conf`. Environment variables come first in importance.
fn pip_config_from(listing: &str) -> String {
    let mut text = String::new();
    for key in PIP_KEYS {
        let value_of = |section: &str| {
            listing.lines().find_map(|line| {
                let (name, value) = line.split_once('=')?;
                (name == format!("{section}.{key}")).then(|| unquote(value))
            })
        };
        let Some(value) =
            value_of(":env:").or_else(|| value_of("install")).or_else(|| value_of("global"))
        else {
            continue;
        };
        let values: Vec<&str> = value
            .split_whitespace()
            // A folder of this host does not exist in a build.
            .filter(|value| {
                key != "find-links" || value.contains("://") && !value.starts_with("file:")
            })
            .collect();
        if !values.is_empty() {
            text.push_str(&format!("{key} = {}\n", values.join("\n    ")));
        }
    }
    if text.is_empty() { text } else { format!("[global]\n{text}") }
}

/// Reads the notation in which pip prints a string.
fn unquote(value: &str) -> String {
    let value = value.trim();
    let inner = value
        .strip_prefix(['\'', '"'])
        .and_then(|rest| rest.strip_suffix(['\'', '"']))
        .unwrap_or(value);
    inner.replace("\\n", "\n").replace("\\'", "'").replace("\\\\", "\\")
}

async fn npm_config() -> String {
    let registry = Surroundings::own().ask(&NPM).await;
    let file = std::env::var_os("NPM_CONFIG_USERCONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".npmrc")));
    let user = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    npm_config_from(registry.trim(), &user, |name| std::env::var(name).ok())
}

/// Keeps the lines of an `.npmrc` that say where packages come from and who asks for them; what
/// they take from the environment is filled in, since a build has another one.
fn npm_config_from(
    registry: &str,
    user: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> String {
    let mut text = String::new();
    if registry.starts_with("http") {
        text.push_str(&format!("registry={registry}\n"));
    }
    for line in user.lines().map(str::trim) {
        let name = line.split('=').next().unwrap_or_default().trim();
        if name.starts_with("//") || name.starts_with('@') && name.ends_with(":registry") {
            text.push_str(&fill_in(line, &variable));
            text.push('\n');
        }
    }
    text
}

/// Replaces each `${NAME}` by its value, or by nothing.
fn fill_in(line: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, tail)) = after.split_once('}') else {
            break;
        };
        filled.push_str(before);
        filled.push_str(&variable(name).unwrap_or_default());
        rest = tail;
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_settings_are_carried_over_and_the_environment_wins() {
        let listing = "\
:env:.index-url='https://own.example/simple'
:env:.find-links='/srv/wheels https://own.example/wheels'
global.cert='/etc/own.pem'
global.index-url='https://other.example/simple'
global.extra-index-url='\\nhttps://a.example/simple\\nhttps://b.example/simple'
";
        assert_eq!(
            pip_config_from(listing),
            "[global]\nindex-url = https://own.example/simple\n\
             extra-index-url = https://a.example/simple\n    https://b.example/simple\n\
             find-links = https://own.example/wheels\n"
        );
        assert_eq!(pip_config_from("global.cert='/etc/own.pem'\n"), "");
    }

    #[test]
    fn npm_settings_keep_registries_and_credentials_only() {
        let user =
            "fund=false\n//own.example/:_authToken=${TOKEN}\n@team:registry=https://t.example/\n";
        let text = npm_config_from("https://own.example/", user, |name| {
            (name == "TOKEN").then(|| "s3cret".to_owned())
        });
        assert_eq!(
            text,
            "registry=https://own.example/\n//own.example/:_authToken=s3cret\n@team:registry=https://t.example/\n"
        );
        assert_eq!(npm_config_from("undefined", "", |_| None), "");
    }

    #[test]
    fn the_files_that_managers_read_are_found_in_their_words() {
        let listing = "env_var:\n  PIP_CERT='/a.pem'\nenv:\nglobal:\n  /etc/xdg/pip/pip.conf, exists: False\n\
                       \x20 /etc/pip.conf, exists: True\n    global.cert: /a.pem\n";
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!((PIP.files)(listing), paths(&["/etc/xdg/pip/pip.conf", "/etc/pip.conf"]));
        let listing = "userconfig=/root/.npmrc\nglobalconfig=/usr/etc/npmrc\n";
        assert_eq!((NPM.files)(listing), paths(&["/root/.npmrc", "/usr/etc/npmrc"]));
    }

    #[test]
    fn only_certificates_count_as_authorities() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("write");
        };
        write("b.crt", "-----BEGIN CERTIFICATE-----");
        write("a.crt", "-----BEGIN CERTIFICATE-----");
        write("readme.crt", "none here");
        write("key.pem", "-----BEGIN CERTIFICATE-----");
        let names: Vec<_> =
            read_authorities(folder.path()).into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["a.crt", "b.crt"]);
    }
}
