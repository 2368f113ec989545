//! A program on a server.

use std::process::ExitCode;

use client::{Client, EventType, Execution};

use super::output::{Finished, Output, to_exit_code, unwritable};
use crate::printer;

/// Runs a program and shows what it writes.
pub(crate) async fn run(
    client: &Client,
    execution: &Execution,
    output: &Output,
) -> anyhow::Result<ExitCode> {
    if output.is_streamed {
        return stream(client, execution).await;
    }
    let result = client.execute(execution).await?;
    let code = output.show(&Finished {
        stdout: &result.stdout,
        stderr: &result.stderr,
        is_truncated: result.truncated,
        network_logs: &result.network_logs,
        exit_code: result.exit_code,
    })?;
    output.take_out(&result.files, &execution.request)?;
    Ok(code)
}

async fn stream(client: &Client, execution: &Execution) -> anyhow::Result<ExitCode> {
    let mut events = client.execute_stream(execution).await?;
    let mut code = ExitCode::SUCCESS;
    while let Some(event) = events.next().await {
        let event = event?;
        let written = match event.kind {
            EventType::Stdout => printer::raw_stdout(event.data.as_bytes()),
            EventType::Stderr => printer::raw_stderr(event.data.as_bytes()),
            EventType::Error => {
                printer::error(&event.data);
                code = ExitCode::FAILURE;
                continue;
            }
            EventType::Exit => {
                if event.data != "0" {
                    code = event.data.parse().map_or(ExitCode::FAILURE, to_exit_code);
                }
                continue;
            }
            EventType::Other => {
                tracing::debug!(data = event.data, "the server sent an event of another version");
                continue;
            }
        };
        if let Err(error) = written {
            return unwritable(error);
        }
    }
    Ok(code)
}
