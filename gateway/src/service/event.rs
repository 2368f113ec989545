//! What a stream tells its client: the events of isol8's contract, and which of them an ending
//! becomes.

use serde::{Deserialize, Serialize};
use shared::execution::{Event, EventKind, Failure, NetworkLogEntry, Outcome, Phase, Stream};
use shared::{Error, ErrorCode};

const SETUP_TIMED_OUT: &str = "SETUP SCRIPT TIMED OUT";

/// One event as clients see it. The order of the fields is that of the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct StreamEvent {
    #[serde(rename = "type")]
    kind: Kind,
    data: String,
    /// Absent from errors that are not a part of the job's own course.
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    /// What went wrong, for programs; only where `phase` is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<ErrorCode>,
    /// What the program asked of the network, if that was to be told; in its last event.
    #[serde(rename = "networkLogs", skip_serializing_if = "Vec::is_empty")]
    network_logs: Vec<NetworkLogEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Stdout,
    Stderr,
    Exit,
    Error,
}

impl StreamEvent {
    fn new(kind: Kind, data: impl Into<String>, phase: Option<Phase>) -> Self {
        Self { kind, data: data.into(), phase, code: None, network_logs: Vec::new() }
    }

    /// An exit code.
    pub(crate) fn exit(code: i32, phase: Phase) -> Self {
        Self::new(Kind::Exit, code.to_string(), Some(phase))
    }

    /// Something that went wrong in the job's own course.
    pub(crate) fn trouble(message: impl Into<String>, phase: Phase) -> Self {
        Self::new(Kind::Error, message, Some(phase))
    }

    /// The server's own words, among the program's.
    pub(crate) fn notice(words: &str) -> Self {
        Self::new(Kind::Stderr, format!("[isol8] {words}\n"), Some(Phase::Code))
    }

    /// A message about the conversation, not about a job.
    pub(crate) fn complaint(message: impl Into<String>) -> Self {
        Self::new(Kind::Error, message, None)
    }

    /// As JSON, in one line.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and words are always JSON")
    }
}

impl From<&Error> for StreamEvent {
    fn from(error: &Error) -> Self {
        Self { code: Some(error.code()), ..Self::complaint(error.message()) }
    }
}

impl From<Event> for StreamEvent {
    fn from(event: Event) -> Self {
        let (kind, data) = match event.kind {
            EventKind::Output { stream, data, .. } => {
                let kind = match stream {
                    Stream::Stdout => Kind::Stdout,
                    Stream::Stderr => Kind::Stderr,
                };
                (kind, String::from_utf8_lossy(&data).into_owned())
            }
            EventKind::SetupEnded => (Kind::Exit, "0".to_owned()),
            EventKind::Restarted => return Self::notice("the job begins anew"),
        };
        Self::new(kind, data, Some(event.phase))
    }
}

/// What a stream needs to know of a result.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    pub(crate) exit_code: i32,
    pub(crate) outcome: Outcome,
    #[serde(default)]
    pub(crate) events: u64,
    #[serde(default)]
    network_logs: Vec<NetworkLogEntry>,
}

impl Summary {
    /// The last events of a program that ran.
    pub(crate) fn last_words(&self) -> Vec<StreamEvent> {
        let mut words = Vec::new();
        let exit_code = match self.outcome {
            Outcome::Exited | Outcome::OutOfMemory => self.exit_code,
            Outcome::TimedOut => {
                words.push(StreamEvent::trouble("EXECUTION TIMED OUT", Phase::Code));
                137
            }
            Outcome::Cancelled => {
                words.push(StreamEvent::trouble("Execution cancelled", Phase::Code));
                137
            }
        };
        let network_logs = self.network_logs.clone();
        words.push(StreamEvent { network_logs, ..StreamEvent::exit(exit_code, Phase::Code) });
        words
    }
}

/// The last events of a job that could not be run. A setup script that failed is a part of its
/// course; whatever else went wrong is not.
pub(crate) fn last_words_of_failure(failure: &Failure) -> Vec<StreamEvent> {
    let Some(exit_code) = failure.setup_exit_code else {
        let code = Some(failure.code);
        return vec![StreamEvent { code, ..StreamEvent::complaint(&failure.message) }];
    };
    // A script can end with 137 by itself too: the words tell them apart.
    let message = if failure.message.contains(SETUP_TIMED_OUT) {
        SETUP_TIMED_OUT.to_owned()
    } else {
        format!("Setup script failed (exit code {exit_code})")
    };
    let phase = Phase::Setup;
    vec![StreamEvent::trouble(message, phase), StreamEvent::exit(exit_code, phase)]
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn json(events: &[StreamEvent]) -> String {
        events.iter().map(StreamEvent::to_json).collect::<Vec<_>>().join(" ")
    }

    fn summary(outcome: &str, exit_code: i32) -> Summary {
        let json = format!(r#"{{"stdout":"","exitCode":{exit_code},"outcome":"{outcome}"}}"#);
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn output_keeps_the_contracts_order_of_keys() {
        let data = Bytes::from_static(b"a\n\"\xff");
        let kind = EventKind::Output { stream: Stream::Stderr, offset: 3, data };
        let event = StreamEvent::from(Event { number: 1, phase: Phase::Setup, kind });
        assert_eq!(event.to_json(), r#"{"type":"stderr","data":"a\n\"�","phase":"setup"}"#);
        let ended = Event { number: 1, phase: Phase::Setup, kind: EventKind::SetupEnded };
        let event = StreamEvent::from(ended);
        assert_eq!(event.to_json(), r#"{"type":"exit","data":"0","phase":"setup"}"#);
    }

    #[test]
    fn endings_become_the_contracts_events() {
        let exit = |code| format!(r#"{{"type":"exit","data":"{code}","phase":"code"}}"#);
        let error = |text| format!(r#"{{"type":"error","data":"{text}","phase":"code"}}"#);
        for (outcome, code, expected) in [
            ("exited", 3, exit(3)),
            ("out_of_memory", 137, exit(137)),
            ("timed_out", 130, format!("{} {}", error("EXECUTION TIMED OUT"), exit(137))),
            ("cancelled", 137, format!("{} {}", error("Execution cancelled"), exit(137))),
        ] {
            assert_eq!(json(&summary(outcome, code).last_words()), expected, "{outcome}");
        }
    }

    #[test]
    fn failures_become_the_contracts_events() {
        let plain = Failure::new(ErrorCode::WorkerLost, "gone");
        let expected = r#"{"type":"error","data":"gone","code":"WORKER_LOST"}"#;
        assert_eq!(json(&last_words_of_failure(&plain)), expected);
        for (exit_code, message, text) in [
            (2, "Setup script failed (exit code 2): why", "Setup script failed (exit code 2)"),
            (137, "Setup script failed (exit code 137): ", "Setup script failed (exit code 137)"),
            (137, "Setup script failed (exit code 137): SETUP SCRIPT TIMED OUT", SETUP_TIMED_OUT),
        ] {
            let message = message.to_owned();
            let failure = Failure { setup_exit_code: Some(exit_code), message, ..plain.clone() };
            let expected = format!(
                r#"{{"type":"error","data":"{text}","phase":"setup"}} {{"type":"exit","data":"{exit_code}","phase":"setup"}}"#
            );
            assert_eq!(json(&last_words_of_failure(&failure)), expected);
        }
    }
}
