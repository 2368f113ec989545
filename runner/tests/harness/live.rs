//! Calls of living interpreters.

use runner::protocol::*;

use super::{Outcome, Sandbox, python, with_code};

/// A call of living Python.
pub(crate) fn call(text: &str) -> Start {
    Start { live: Some(LiveInterpreter::Python), keep_background: true, ..python(text) }
}

/// A call of living bash.
pub(crate) fn bash(text: &str) -> Start {
    let path = "/sandbox/main.sh";
    let mut start = with_code(&["bash", path], path, text);
    start.env.insert("LANG".to_owned(), "C.UTF-8".to_owned());
    Start { live: Some(LiveInterpreter::Bash), keep_background: true, ..start }
}

/// Runs a call that must print this and exit with zero, in a living interpreter.
pub(crate) fn prints(sandbox: &mut Sandbox, start: &Start, expected: &str) {
    let outcome = sandbox.run(start);
    let code = start.code.as_ref().map(|code| code.text.as_str());
    assert_eq!(
        (outcome.out().as_str(), outcome.err().as_str()),
        (expected, ""),
        "{:.200}",
        format!("{code:?}")
    );
    assert_eq!((outcome.exited.exit_code, outcome.exited.state_lost), (0, false), "{code:?}");
}

/// Whether an interpreter was started for this call.
pub(crate) fn fresh(outcome: &Outcome) -> bool {
    outcome.started.as_ref().expect("it started").fresh
}
