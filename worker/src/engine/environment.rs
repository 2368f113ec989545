//! The environment of programs, and which jobs an interpreter that was
//! started ahead can stand in for.

use std::collections::BTreeMap;

use runner::protocol::{Interpreter, MAX_PAYLOAD_BYTES, Prepare};
use shared::execution::{Job, Network, Source};
use shared::runtime::Runtime;

use super::fault::JobError;
use super::packages::{Starts, lead_to};
use crate::egress::PROXY_PORT;

/// Tells the Python fork server which modules to import, comma-joined. Jobs do not see it.
pub(super) const PRELOAD: &str = "ISOL8_PRELOAD";

/// Where packages installed inside a sandbox put their programs; in front of the image's own path.
const SANDBOX_PATH: &str = "/sandbox/.local/bin:/sandbox/.npm-global/bin:/sandbox/.bun-global/bin";
/// The path of an image that does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables every program gets, unless its image sets them.
const STANDARD: [(&str, &str); 6] = [
    ("LANG", "C.UTF-8"),
    ("PYTHONUNBUFFERED", "1"),
    ("PYTHONUSERBASE", "/sandbox/.local"),
    ("NPM_CONFIG_PREFIX", "/sandbox/.npm-global"),
    ("DENO_DIR", "/sandbox/.deno"),
    (
        "NODE_PATH",
        "/usr/local/lib/node_modules:/sandbox/.npm-global/lib/node_modules:/sandbox/node_modules",
    ),
];

/// Where programs on the filtered network find their proxy; both spellings are in use.
const PROXY: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
/// What is not to go through it.
const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];
const LOOPBACK: &str = "localhost,127.0.0.1,::1";
/// Without it Node's own `fetch` and `http` do not look at the others.
const NODE_PROXY: (&str, &str) = ("NODE_USE_ENV_PROXY", "1");
/// Nor without this are they quiet about it; a job may set the variable for itself.
const NODE_QUIET: (&str, &str) = ("NODE_OPTIONS", "--disable-warning=UNDICI-EHPA");

/// Beginnings of names that an interpreter, its C library or its TLS library reads while it
/// starts. A job that sets one needs a fresh start to honour it.
const READ_AT_START: [&str; 13] = [
    "PYTHON", "NODE_", "DENO_", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "TZ", "PATH", "HOME",
    "SSL_", "OPENSSL_",
];

/// Above this size the program text travels as a file of its own, ahead of the start.
pub(super) const INLINE_CODE_BYTES: usize = 256 << 10;

/// What every program in sandboxes of an image gets; `image` is what the image brings
/// (`NAME=value`).
pub(super) fn of_image(image: &[String], network: Network) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> =
        STANDARD.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    for variable in image {
        if let Some((name, value)) = variable.split_once('=') {
            environment.insert(name.to_owned(), value.to_owned());
        }
    }
    let path = environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let path = format!("{SANDBOX_PATH}:{path}");
    environment.insert("PATH".into(), path);
    environment.insert("HOME".into(), "/sandbox".into());
    if network == Network::Filtered {
        environment.extend(proxy_variables());
        let (name, value) = NODE_QUIET;
        environment.entry(name.into()).or_insert_with(|| value.into());
    }
    environment
}

fn proxy_variables() -> impl Iterator<Item = (String, String)> {
    let proxy = format!("http://127.0.0.1:{PROXY_PORT}");
    let proxies = PROXY.into_iter().map(move |name| (name.to_owned(), proxy.clone()));
    let others = NO_PROXY.map(|name| (name, LOOPBACK)).into_iter().chain([NODE_PROXY]);
    proxies.chain(others.map(|(name, value)| (name.to_owned(), value.to_owned())))
}

/// Environment of a program of `job`, on top of what its image gives everyone; `packages` is how it is
/// started if its sandbox has a volume of them. Whether it has a way out, with the placeholders of secrets
/// that wait there, is not the job's to say: it may be shut for this part of it.
pub(super) fn of_job(
    image: &BTreeMap<String, String>,
    job: &Job,
    packages: Option<Starts>,
    way_out: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let mut environment = image.clone();
    if way_out.is_none() {
        proxy_variables().for_each(|(name, _)| drop(environment.remove(&name)));
        let (name, value) = NODE_QUIET;
        if environment.get(name).is_some_and(|found| found == value) {
            environment.remove(name);
        }
    }
    if let Some(starts) = packages {
        lead_to(job.runtime, starts, &mut environment);
    }
    for source in [&job.secrets, &job.env] {
        environment.extend(source.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    if let Some(placeholders) = way_out {
        environment.extend(placeholders.clone());
        environment.extend(proxy_variables());
    }
    environment
}

/// Refuses a job whose variables would not fit into a start order, before anything is made of them.
pub(super) fn check(job: &Job) -> Result<(), JobError> {
    let size = |(name, value): (&String, &String)| name.len() + value.len();
    let size_bytes = job.env.iter().chain(&job.secrets).map(size).sum();
    if size_bytes > MAX_PAYLOAD_BYTES {
        return Err(JobError::TooLong { size_bytes, max_bytes: MAX_PAYLOAD_BYTES });
    }
    Ok(())
}

/// Where the program text of a job goes.
pub(super) fn code_path(extension: &str) -> String {
    format!("/sandbox/main{extension}")
}

/// The interpreter to keep waiting in a sandbox of `runtime`; `None` where a plain start is about
/// as fast.
pub(super) fn prepare(runtime: Runtime, environment: &BTreeMap<String, String>) -> Option<Prepare> {
    let interpreter = match runtime {
        Runtime::Python => Interpreter::Python,
        Runtime::Node => Interpreter::Node,
        // Deno has no start-up file yet, so asking for it would only cost a round trip.
        Runtime::Bun | Runtime::Bash | Runtime::Deno | Runtime::Agent => return None,
    };
    let argv = runtime.command(&code_path(runtime.default_extension()));
    Some(Prepare { interpreter, argv, env: environment.clone() })
}

/// Whether the waiting interpreter would behave exactly as a fresh one for this job.
pub(super) fn fits_prepared(job: &Job, has_way_out: bool) -> bool {
    let Source::Code { text, extension } = &job.source else {
        return false;
    };
    let fits_path = match job.runtime {
        Runtime::Node => matches!(extension.as_str(), ".js" | ".cjs" | ".mjs"),
        runtime => extension == runtime.default_extension(),
    };
    // A setup script may have installed what an interpreter looks for only while it starts.
    let fits_files = job.setup_script.is_none()
        && !job.files.iter().any(|file| file.path.starts_with("/sandbox/."));
    // Node has read while it started whether there is a proxy.
    let fits_network = job.network != Network::Filtered || has_way_out;
    let held = job.egress.iter().flat_map(|egress| egress.secrets.keys());
    let mut names = job.env.keys().chain(job.secrets.keys()).chain(held);
    fits_path
        && fits_files
        && fits_network
        && text.len() <= INLINE_CODE_BYTES
        && !names.any(|name| READ_AT_START.iter().any(|prefix| name.starts_with(prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_keeps_its_variables_and_its_path() {
        let image = ["PATH=/opt/bin:/bin".into(), "DENO_DIR=/baked".into(), "HOME=/root".into()];
        let environment = of_image(&image, Network::None);
        assert!(environment["PATH"].starts_with("/sandbox/.local/bin:"));
        assert!(environment["PATH"].ends_with(":/opt/bin:/bin"));
        assert_eq!(environment["DENO_DIR"], "/baked");
        assert_eq!(environment["HOME"], "/sandbox");
        assert_eq!(environment["PYTHONUNBUFFERED"], "1");
    }
    #[test]
    fn a_program_is_told_of_its_proxy_only_where_it_has_a_way_out() {
        let image = of_image(&[], Network::Filtered);
        let proxy = |environment: &BTreeMap<String, String>| {
            ["https_proxy", "NO_PROXY", "NODE_USE_ENV_PROXY"]
                .map(|name| environment.contains_key(name))
        };
        assert_eq!(proxy(&image), [true; 3]);
        let json = serde_json::json!({
            "runtime": "bash", "image": "x", "source": {"kind": "command", "command": "x"},
            "timeoutMs": 1, "workdir": "/sandbox", "network": "filtered",
            "env": {"HTTPS_PROXY": "http://elsewhere"},
            "limits": {"memoryBytes": 1, "cpuMillis": 1, "pids": 1, "sandboxBytes": 1, "tmpBytes": 1,
                "readonlyRoot": true, "maxOutputBytes": 1},
        });
        let job: Job = serde_json::from_value(json).unwrap();
        let held = BTreeMap::from([("KEY".into(), "held".into())]);
        let open = of_job(&image, &job, None, Some(&held));
        assert_eq!(open["KEY"], "held");
        assert_eq!(open["HTTPS_PROXY"], "http://127.0.0.1:8118");
        let shut = of_job(&image, &job, None, None);
        assert_eq!(shut["HTTPS_PROXY"], "http://elsewhere");
        assert_eq!(proxy(&shut), [false; 3]);
    }
}
