//! The environment of programs (contract section 5.5), and which jobs an interpreter that was
//! started ahead can stand in for.

use std::collections::BTreeMap;

use runner::protocol::{Interpreter, Prepare};
use shared::execution::{Job, Source};
use shared::runtime::Runtime;

/// Search path of every program.
pub(super) const PATH: &str = "/sandbox/.local/bin:/sandbox/.npm-global/bin:/sandbox/.bun-global/bin:/usr/local/bin:/usr/bin:/bin";

/// Variables every program gets.
const STANDARD: [(&str, &str); 8] = [
    ("HOME", "/sandbox"),
    ("LANG", "C.UTF-8"),
    ("PYTHONUNBUFFERED", "1"),
    ("PYTHONUSERBASE", "/sandbox/.local"),
    ("NPM_CONFIG_PREFIX", "/sandbox/.npm-global"),
    ("DENO_DIR", "/sandbox/.deno"),
    ("PATH", PATH),
    (
        "NODE_PATH",
        "/usr/local/lib/node_modules:/sandbox/.npm-global/lib/node_modules:/sandbox/node_modules",
    ),
];

/// Beginnings of names that an interpreter, its C library or its TLS library reads while it
/// starts. A job that sets one needs a fresh start to honour it.
const READ_AT_START: [&str; 13] = [
    "PYTHON", "NODE_", "DENO_", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "TZ", "PATH", "HOME",
    "SSL_", "OPENSSL_",
];

/// Above this size the program text travels as a file of its own, ahead of the start.
pub(super) const INLINE_CODE_BYTES: usize = 256 << 10;

/// Environment without anything of the job's own.
pub(super) fn standard() -> BTreeMap<String, String> {
    STANDARD
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// Environment of the main program of `job`.
pub(super) fn of_job(job: &Job) -> BTreeMap<String, String> {
    let mut environment = standard();
    for source in [&job.secrets, &job.env] {
        environment.extend(
            source
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
    }
    environment
}

/// Where the program text of a job goes.
pub(super) fn code_path(extension: &str) -> String {
    format!("/sandbox/main{extension}")
}

/// The interpreter to keep waiting in a sandbox of `runtime`; `None` where a plain start is about
/// as fast.
pub(super) fn prepare(runtime: Runtime) -> Option<Prepare> {
    let interpreter = match runtime {
        Runtime::Python => Interpreter::Python,
        Runtime::Node => Interpreter::Node,
        Runtime::Deno => Interpreter::Deno,
        Runtime::Bun | Runtime::Bash => return None,
    };
    let argv = runtime.command(&code_path(runtime.default_extension()));
    Some(Prepare {
        interpreter,
        argv,
        env: standard(),
    })
}

/// Whether the waiting interpreter would behave exactly as a fresh one for this job.
pub(super) fn fits_prepared(job: &Job) -> bool {
    let Source::Code { text, extension } = &job.source else {
        return false;
    };
    let fits_path = match job.runtime {
        Runtime::Node => matches!(extension.as_str(), ".js" | ".cjs" | ".mjs"),
        runtime => extension == runtime.default_extension(),
    };
    // A setup script may have installed what an interpreter looks for only while it starts.
    let fits_files = job.setup_script.is_none()
        && !job
            .files
            .iter()
            .any(|file| file.path.starts_with("/sandbox/."));
    let mut names = job.env.keys().chain(job.secrets.keys());
    fits_path
        && fits_files
        && text.len() <= INLINE_CODE_BYTES
        && !names.any(|name| READ_AT_START.iter().any(|prefix| name.starts_with(prefix)))
}
