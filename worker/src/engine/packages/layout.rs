//! Where packages are in a sandbox, so that programs find them as if they were the image's own, and
//! how each package manager is told to put them there.

use std::collections::BTreeMap;

use shared::runtime::Runtime;

/// Where packages appear, except for runtimes that look elsewhere.
const MOUNT: &str = "/isol8-packages";
/// The folder that both `require` and `import` look into last, from any folder.
const NODE_MODULES: &str = "/node_modules";

/// What a program is started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Starts {
    /// The runtime's interpreter.
    Interpreter,
    /// A shell, which may start anything, a package manager too.
    Shell,
}

/// Where the volume with packages of `runtime` is mounted.
pub(in crate::engine) const fn mount(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Node | Runtime::Bun | Runtime::Agent => NODE_MODULES,
        Runtime::Python | Runtime::Deno | Runtime::Bash => MOUNT,
    }
}

/// Adds what leads to the packages to an environment.
///
/// Python finds them in the place of its user's own packages: behind the standard library, with their
/// `.pth` files honoured, by a prepared interpreter too. A shell keeps that place writable under
/// `/sandbox`, for package managers, and leads to the packages by `PYTHONPATH`.
pub(in crate::engine) fn lead_to(
    runtime: Runtime,
    starts: Starts,
    environment: &mut BTreeMap<String, String>,
) {
    let mut set = |name: &str, value: &str| {
        environment.insert(name.to_owned(), value.to_owned());
    };
    let programs = match (runtime, starts) {
        (Runtime::Python, Starts::Interpreter) => {
            set("PYTHONUSERBASE", MOUNT);
            "/isol8-packages/bin"
        }
        (Runtime::Python, Starts::Shell) => {
            set("PYTHONPATH", "/isol8-packages/site");
            "/isol8-packages/bin"
        }
        (Runtime::Node | Runtime::Bun | Runtime::Agent, _) => "/node_modules/.bin",
        (Runtime::Deno, _) => {
            set("DENO_DIR", MOUNT);
            return;
        }
        (Runtime::Bash, _) => return,
    };
    let path = environment.get("PATH").cloned().unwrap_or_default();
    environment.insert("PATH".to_owned(), format!("{programs}:{path}"));
}

/// Where the installer gathers what becomes the volume's content.
pub(super) const fn gathered(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Node | Runtime::Bun | Runtime::Agent => "/sandbox/packages/node_modules",
        Runtime::Python | Runtime::Deno | Runtime::Bash => "/sandbox/packages",
    }
}

/// Installs its arguments into [`gathered`]. `None` where packages are part of an image.
pub(super) const fn script(runtime: Runtime) -> Option<&'static str> {
    match runtime {
        Runtime::Python => Some(PYTHON),
        Runtime::Node | Runtime::Agent => Some(NODE),
        Runtime::Bun => Some(BUN),
        Runtime::Deno => Some(DENO),
        Runtime::Bash => None,
    }
}

/// Prints the addresses that pip uses of itself, one a line.
pub(super) const PIP_DEFAULTS: &str = r#"
from pip._internal.models.index import PyPI
print(PyPI.url)
print("https://" + PyPI.file_storage_domain)
"#;

// What is baked into an image is taken for there by pip. A plain line of a `.pth` file is a folder
// that is searched too, should it exist.
const PYTHON: &str = r#"
set -e
export PYTHONUSERBASE=/sandbox/packages
authorities=/etc/ssl/certs/ca-certificates.crt
if [ -s "$authorities" ]; then export PIP_CERT="$authorities"; fi
export PIP_BREAK_SYSTEM_PACKAGES=1
python3 -m pip install --user --no-cache-dir --no-input --disable-pip-version-check --quiet \
  --no-warn-script-location --retries 3 --timeout 15 -- "$@"
site="$(python3 -c 'import site; print(site.getusersitepackages())')"
below="${site#"$PYTHONUSERBASE"/}"
mkdir -p "$site"
echo "/sandbox/.local/$below" > "$site/zz-isol8-own.pth"
ln -s "$below" "$PYTHONUSERBASE/site"
"#;

// What is baked into an image is taken along: the volume is mounted in its place. Of a full disk npm tells
// nothing but its own log.
const NODE: &str = r#"
set -e
authorities=/etc/ssl/certs/ca-certificates.crt
if [ -s "$authorities" ]; then export NODE_EXTRA_CA_CERTS="$authorities"; fi
mkdir -p /sandbox/packages && cd /sandbox/packages
if [ -d /opt/packages ]; then cp -R /opt/packages/. .; fi
if [ ! -f package.json ]; then echo '{"private":true}' > package.json; fi
npm install --cache=/sandbox/cache --no-audit --no-fund --loglevel=error --no-update-notifier \
  --no-progress --fetch-retries=3 --fetch-retry-mintimeout=500 --fetch-retry-factor=2 \
  --fetch-timeout=30000 -- "$@" >&2 || {
    code=$?
    grep -hom1 'ENOSPC: .*' /sandbox/cache/_logs/*.log >&2 || true
    exit "$code"
  }
mkdir -p node_modules
"#;

// Copies, not the hard links into its cache that bun prefers: those would be links in the archive.
const BUN: &str = r#"
set -e
authorities=/etc/ssl/certs/ca-certificates.crt
if [ -s "$authorities" ]; then export NODE_EXTRA_CA_CERTS="$authorities"; fi
export BUN_INSTALL_CACHE_DIR=/sandbox/cache
mkdir -p /sandbox/packages && cd /sandbox/packages
if [ -d /opt/packages ]; then cp -R /opt/packages/. .; fi
if [ ! -f package.json ]; then echo '{"private":true}' > package.json; fi
bun add --no-progress --silent --backend=copyfile "$@" >&2
mkdir -p node_modules
"#;

const DENO: &str = r#"
set -e
export DENO_DIR=/sandbox/packages DENO_TLS_CA_STORE=system DENO_NO_UPDATE_CHECK=1
if [ -d /usr/local/share/deno ]; then cp -R /usr/local/share/deno "$DENO_DIR"; fi
mkdir -p "$DENO_DIR"
deno cache --quiet "$@"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_finds_packages_and_a_shell_may_still_install() {
        let led = |runtime, starts| {
            let mut environment = BTreeMap::from([
                ("PATH".to_owned(), "/bin".to_owned()),
                ("PYTHONUSERBASE".to_owned(), "/sandbox/.local".to_owned()),
            ]);
            lead_to(runtime, starts, &mut environment);
            environment
        };
        let program = led(Runtime::Python, Starts::Interpreter);
        assert_eq!(program["PYTHONUSERBASE"], mount(Runtime::Python));
        assert_eq!(program["PATH"], "/isol8-packages/bin:/bin");
        assert!(!program.contains_key("PYTHONPATH"));
        let shell = led(Runtime::Python, Starts::Shell);
        assert_eq!(shell["PYTHONUSERBASE"], "/sandbox/.local");
        assert_eq!(shell["PYTHONPATH"], "/isol8-packages/site");
        assert_eq!(led(Runtime::Node, Starts::Shell)["PATH"], "/node_modules/.bin:/bin");
        assert_eq!(led(Runtime::Deno, Starts::Interpreter)["DENO_DIR"], mount(Runtime::Deno));
    }
}
