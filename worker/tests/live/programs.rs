//! Programs for tests to run, and what came of them.

use std::collections::BTreeMap;

use shared::config::Seccomp;
use shared::error::ErrorCode;
use shared::execution::{
    Ending, ExecutionResult, Failure, Job, Limits, Network, PackageSet, Source,
};
use shared::isolation::Isolation;
use shared::runtime::Runtime;

pub(crate) fn python(code: &str) -> Job {
    job(Runtime::Python, Source::Code { text: code.to_owned(), extension: ".py".into() })
}

pub(crate) fn bash(code: &str) -> Job {
    job(Runtime::Bash, Source::Code { text: code.to_owned(), extension: ".sh".into() })
}

pub(crate) fn javascript(runtime: Runtime, code: &str) -> Job {
    let extension = runtime.default_extension().to_owned();
    job(runtime, Source::Code { text: code.to_owned(), extension })
}

pub(crate) fn command(line: &str) -> Job {
    job(Runtime::Python, Source::Command { command: line.to_owned() })
}

fn job(runtime: Runtime, source: Source) -> Job {
    Job {
        runtime,
        image: runtime.image().into(),
        source,
        timeout_ms: 20_000,
        env: BTreeMap::new(),
        secrets: BTreeMap::new(),
        stdin: None,
        files: Vec::new(),
        output_paths: None,
        packages: PackageSet::default(),
        substitutes: Vec::new(),
        setup_script: None,
        workdir: "/sandbox".into(),
        network: Network::None,
        egress: None,
        agent_flags: Vec::new(),
        isolation: Isolation::Container,
        seccomp: Seccomp::Strict,
        limits: Limits {
            memory_bytes: 256 << 20,
            cpu_millis: 1000,
            pids: 64,
            sandbox_bytes: 128 << 20,
            tmp_bytes: 64 << 20,
            readonly_root: true,
            max_output_bytes: 1 << 20,
        },
        metadata: BTreeMap::new(),
        stream: false,
        interactive: false,
        signals: false,
    }
}

/// Of a program that ran.
pub(crate) fn result(ending: Ending) -> ExecutionResult {
    match ending {
        Ending::Result(result) => result,
        other => panic!("{other:?}"),
    }
}

/// Of one that did not.
pub(crate) fn failure(ending: Ending) -> Failure {
    match ending {
        Ending::Error(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// Code of a refused call.
pub(crate) fn code<T: std::fmt::Debug>(refused: shared::Result<T>) -> ErrorCode {
    refused.unwrap_err().code()
}
