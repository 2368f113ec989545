//! What clients say over a WebSocket, read leniently: whatever is not
//! understood is answered, and only what is no JSON at all ends the conversation.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::error::Category;
use shared::Error;
use shared::execution::{ExecuteEnvelope, Input};

use crate::body;

/// Largest piece of standard input that goes through the queue in one go.
const INPUT_PIECE_BYTES: usize = 64 << 10;

/// Most standard input in one message.
const MAX_STDIN_BYTES: usize = 1 << 20;

/// One message.
#[derive(Debug)]
pub(super) enum ClientMessage {
    /// Run this.
    Execute(Box<Execute>),
    /// Run something that cannot even be read.
    Unreadable(Error),
    /// Bytes for the program, or the end of them.
    Stdin(VecDeque<Input>),
    /// A signal for the program.
    Signal(Input),
    /// Nothing that can be done; the answer says why.
    Refused(String),
    /// No JSON.
    NotJson,
}

/// What to run.
#[derive(Debug)]
pub(super) struct Execute {
    pub(super) envelope: ExecuteEnvelope,
    /// Whether standard input stays open for messages.
    pub(super) is_interactive: bool,
    /// Whether the client believes that it has a session: isol8's client sends the mode, but over a
    /// WebSocket never the session.
    pub(super) expects_session: bool,
}

/// The parts that decide what a message is.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: Option<Value>,
    request: Option<IgnoredAny>,
    #[serde(default)]
    options: Option<Options>,
    #[serde(default)]
    interactive: Option<Value>,
    #[serde(default)]
    data: Option<Value>,
    #[serde(default)]
    eof: Option<Value>,
    #[serde(default)]
    signal: Option<Value>,
}

/// The one option that means something here; options of any shape are let pass.
#[derive(Deserialize)]
#[serde(from = "Value")]
struct Options {
    is_persistent: bool,
}

impl From<Value> for Options {
    fn from(options: Value) -> Self {
        Self { is_persistent: options["mode"] == "persistent" }
    }
}

/// Reads a text message.
pub(super) fn parse(text: &str) -> ClientMessage {
    let head = match serde_json::from_str::<Head>(text) {
        Ok(head) if text.trim_start().starts_with('{') => head,
        Err(error) if error.classify() != Category::Data => return ClientMessage::NotJson,
        // Some other JSON value, or one field given twice.
        Ok(_) | Err(_) => return unknown(None),
    };
    match head.kind.as_ref().and_then(Value::as_str) {
        Some("execute") => execute(text, &head),
        Some("stdin") => stdin(&head),
        Some("stdin_end") => ClientMessage::Stdin([Input::StdinEnd].into()),
        Some("signal") => signal(&head),
        _ => unknown(head.kind),
    }
}

fn execute(text: &str, head: &Head) -> ClientMessage {
    if head.request.is_none() {
        return ClientMessage::Refused("execute: missing field `request`".into());
    }
    match body::parse::<ExecuteEnvelope>(text.as_bytes()) {
        Err(error) => ClientMessage::Unreadable(error),
        Ok(envelope) => {
            let has_session = envelope.session_id.as_ref().is_some_and(|id| !id.is_empty());
            let is_persistent = head.options.as_ref().is_some_and(|options| options.is_persistent);
            ClientMessage::Execute(Box::new(Execute {
                expects_session: is_persistent && !has_session,
                is_interactive: head.interactive == Some(Value::Bool(true)),
                envelope,
            }))
        }
    }
}

fn stdin(head: &Head) -> ClientMessage {
    let mut inputs = VecDeque::new();
    match &head.data {
        None | Some(Value::Null) => {}
        Some(Value::String(data)) if data.len() > MAX_STDIN_BYTES => {
            let words = format!("stdin: data must be at most {MAX_STDIN_BYTES} bytes a message");
            return ClientMessage::Refused(words);
        }
        Some(Value::String(data)) => {
            let data = Bytes::from(data.clone());
            let pieces = (0..data.len()).step_by(INPUT_PIECE_BYTES);
            inputs.extend(pieces.map(|start| {
                let end = data.len().min(start + INPUT_PIECE_BYTES);
                Input::Stdin(data.slice(start..end))
            }));
        }
        Some(_) => return ClientMessage::Refused("stdin: data must be a string".into()),
    }
    if head.eof == Some(Value::Bool(true)) {
        inputs.push_back(Input::StdinEnd);
    }
    ClientMessage::Stdin(inputs)
}

fn signal(head: &Head) -> ClientMessage {
    let name = head.signal.as_ref().and_then(Value::as_str).unwrap_or_default();
    // Linux numbers; they are the same on every architecture that sandboxes run on.
    let number = match name {
        "SIGHUP" => 1,
        "SIGINT" => 2,
        "SIGQUIT" => 3,
        "SIGKILL" => 9,
        "SIGUSR1" => 10,
        "SIGUSR2" => 12,
        "SIGTERM" => 15,
        _ => {
            return ClientMessage::Refused(format!(
                "Unknown signal: {}. Known: SIGINT, SIGTERM, SIGKILL, SIGHUP, SIGQUIT, SIGUSR1, \
                 SIGUSR2",
                in_javascript(head.signal.as_ref())
            ));
        }
    };
    ClientMessage::Signal(Input::Signal(number))
}

fn unknown(kind: Option<Value>) -> ClientMessage {
    ClientMessage::Refused(format!("Unknown message type: {}", in_javascript(kind.as_ref())))
}

/// A value as isol8 would have printed it.
fn in_javascript(value: Option<&Value>) -> String {
    match value {
        None => "undefined".into(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        match parse(text) {
            ClientMessage::Refused(words) => words,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn stdin(text: &str) -> Vec<Input> {
        match parse(text) {
            ClientMessage::Stdin(inputs) => inputs.into(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn only_what_is_not_json_is_not_json() {
        for text in ["", "{", "not json", "{\"type\":", "{'type':1}", "{} {}"] {
            assert!(matches!(parse(text), ClientMessage::NotJson), "{text}");
        }
    }

    #[test]
    fn unknown_types_are_named_as_isol8_names_them() {
        for (text, name) in [
            (r#"{"type":"bogus"}"#, "bogus"),
            ("{}", "undefined"),
            ("null", "undefined"),
            ("[]", "undefined"),
            ("5", "undefined"),
            (r#""execute""#, "undefined"),
            (r#"{"type":7}"#, "7"),
        ] {
            assert_eq!(refusal(text), format!("Unknown message type: {name}"), "{text}");
        }
    }

    #[test]
    fn execute_needs_a_request() {
        for text in [r#"{"type":"execute"}"#, r#"{"type":"execute","request":null}"#] {
            assert!(refusal(text).contains("missing field `request`"), "{text}");
        }
        let odd = parse(r#"{"type":"execute","request":{"timeoutMs":"1s"}}"#);
        assert!(
            matches!(odd, ClientMessage::Unreadable(error) if error.message().starts_with("request.timeoutMs"))
        );
    }

    #[test]
    fn a_session_is_expected_only_if_none_is_named() {
        for (more, expected) in [
            (r#""options":{"mode":"persistent"}"#, true),
            (r#""options":{"mode":"persistent"},"sessionId":"""#, true),
            (r#""options":{"mode":"persistent"},"sessionId":"s""#, false),
            (r#""options":{"mode":"ephemeral"}"#, false),
            (r#""later":1"#, false),
        ] {
            let text = format!(r#"{{"type":"execute","request":{{"runtime":"bash"}},{more}}}"#);
            let ClientMessage::Execute(execute) = parse(&text) else { panic!("{text}") };
            assert_eq!(execute.expects_session, expected, "{text}");
            assert!(!execute.is_interactive);
        }
    }

    #[test]
    fn standard_input_comes_in_pieces_and_ends() {
        assert_eq!(stdin(r#"{"type":"stdin"}"#), []);
        assert_eq!(stdin(r#"{"type":"stdin_end"}"#), [Input::StdinEnd]);
        let both = stdin(r#"{"type":"stdin","data":"a\n","eof":true}"#);
        assert_eq!(both, [Input::Stdin(Bytes::from_static(b"a\n")), Input::StdinEnd]);
        let long = format!(r#"{{"type":"stdin","data":"{}"}}"#, "x".repeat(150_000));
        assert_eq!(stdin(&long).len(), 3);
        let too_long = format!(r#"{{"type":"stdin","data":"{}"}}"#, "x".repeat((1 << 20) + 1));
        assert!(refusal(&too_long).contains("at most 1048576 bytes"));
        assert!(refusal(r#"{"type":"stdin","data":5}"#).contains("must be a string"));
    }

    #[test]
    fn signals_have_names() {
        let signal = parse(r#"{"type":"signal","signal":"SIGTERM"}"#);
        assert!(matches!(signal, ClientMessage::Signal(Input::Signal(15))));
        assert!(refusal(r#"{"type":"signal","signal":"SIGSTOP"}"#).contains("SIGSTOP"));
        assert!(refusal(r#"{"type":"signal"}"#).contains("undefined"));
    }
}
