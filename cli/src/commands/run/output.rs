//! What a run shows: output as it comes, or a result at the end.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;
use shared::execution::ExecutionRequest;

use super::out_dir;
use crate::args::OutputArgs;
use crate::printer;
use crate::request::WHOLE_SANDBOX;

/// How the output of a program is wanted.
pub(crate) struct Output {
    /// As it comes.
    pub(crate) is_streamed: bool,
    file: Option<PathBuf>,
    out_dir: Option<PathBuf>,
}

/// The end of a program, as both engines tell it.
pub(super) struct Finished<'a> {
    pub(super) stdout: &'a str,
    pub(super) stderr: &'a str,
    pub(super) is_truncated: bool,
    pub(super) network_logs: &'a [Value],
    pub(super) exit_code: i64,
}

impl Output {
    pub(crate) fn new(args: &OutputArgs) -> Self {
        let (file, out_dir) = (args.out.clone(), args.out_dir.clone());
        // What a program leaves is part of a result, not of a stream.
        let is_streamed = !args.no_stream && out_dir.is_none();
        if file.is_some() && is_streamed {
            printer::warning("--out needs --no-stream; no file is written");
        }
        Self { is_streamed, file, out_dir }
    }

    /// Puts what the program has left where it is wanted, if it is; `sent` is what it was given.
    pub(super) fn take_out(
        &self,
        files: &BTreeMap<String, String>,
        sent: &ExecutionRequest,
    ) -> anyhow::Result<()> {
        let Some(directory) = &self.out_dir else { return Ok(()) };
        let archive = files.get(WHOLE_SANDBOX).context(
            "what the program has left cannot be had: more than 16 MiB packed, or no room in /tmp \
             to pack it",
        )?;
        let written = out_dir::unpack(archive, sent, directory)?;
        printer::note(format!("[Run] {written} files written to {}", directory.display()));
        Ok(())
    }

    /// Shows a whole result.
    pub(super) fn show(&self, finished: &Finished<'_>) -> anyhow::Result<ExitCode> {
        let Finished { stdout, stderr, is_truncated, network_logs, exit_code } = finished;
        if !stdout.is_empty() {
            printer::line(stdout);
        }
        if !stderr.is_empty() {
            printer::note(stderr);
        }
        if *is_truncated {
            printer::warning("Output was truncated");
        }
        if !network_logs.is_empty() {
            printer::note("\n--- Network Logs ---");
            network_logs.iter().for_each(printer::note);
        }
        if let Some(file) = self.file.as_ref().filter(|_| !stdout.is_empty()) {
            std::fs::write(file, stdout)
                .with_context(|| format!("cannot write {}", file.display()))?;
            printer::note(format!("[Run] Output written to {}", file.display()));
        }
        Ok(to_exit_code(*exit_code))
    }
}

/// What a run ends with when nobody takes its output any more. A reader that has seen enough, as
/// `head` has, is no failure: it ends a program as SIGPIPE would.
pub(super) fn unwritable(error: io::Error) -> anyhow::Result<ExitCode> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(ExitCode::from(128 + 13));
    }
    Err(error).context("cannot write the program's output")
}

/// The program's own code; what does not fit a byte is a plain failure.
pub(crate) fn to_exit_code(code: i64) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
