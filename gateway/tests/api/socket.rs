//! A WebSocket client that says whatever a test wants said.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::harness::{Harness, KEY};
use crate::streamer::request;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Socket(pub(crate) WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    pub(crate) async fn open(harness: &Harness) -> Self {
        Self::connect(harness.address, Some(KEY)).await.unwrap()
    }

    pub(crate) async fn connect(address: SocketAddr, key: Option<&str>) -> Result<Self, Error> {
        let mut request = format!("ws://{address}/execute/ws").into_client_request().unwrap();
        if let Some(key) = key {
            let value = format!("Bearer {key}").parse().unwrap();
            request.headers_mut().insert("authorization", value);
        }
        let config = WebSocketConfig::default();
        Ok(Self(connect_async_with_config(request, Some(config), true).await?.0))
    }

    pub(crate) async fn say(&mut self, message: impl Into<Message>) {
        self.0.send(message.into()).await.unwrap();
    }

    pub(crate) async fn say_json(&mut self, message: Value) {
        self.say(message.to_string()).await;
    }

    pub(crate) async fn execute(&mut self, program: &str) {
        self.execute_with(program, json!({})).await;
    }

    pub(crate) async fn execute_with(&mut self, program: &str, more: Value) {
        let mut message = request(program);
        message["type"] = json!("execute");
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.say_json(message).await;
    }

    /// The next message but pings.
    pub(crate) async fn hear(&mut self) -> Message {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let message = timeout_at(deadline, self.0.next()).await.expect("something is said");
            match message.expect("the socket is open").unwrap() {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    pub(crate) async fn event(&mut self) -> Value {
        match self.hear().await {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?} is no event"),
        }
    }

    /// All events to the end, and the end.
    pub(crate) async fn rest(&mut self) -> (Vec<Value>, u16, String) {
        let mut events = Vec::new();
        loop {
            match self.hear().await {
                Message::Text(text) => events.push(serde_json::from_str(&text).unwrap()),
                Message::Close(Some(frame)) => {
                    return (events, frame.code.into(), frame.reason.to_string());
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// To the end, which must be that of an execution.
    pub(crate) async fn completion(&mut self) -> Vec<Value> {
        let (events, code, reason) = self.rest().await;
        assert_eq!((code, reason.as_str()), (1000, "Execution complete"), "{events:?}");
        events
    }
}

pub(crate) fn out(text: &str) -> Value {
    json!({"type": "stdout", "data": text, "phase": "code"})
}

pub(crate) fn exit(code: &str) -> Value {
    json!({"type": "exit", "data": code, "phase": "code"})
}

pub(crate) fn complaint(text: &str) -> Value {
    json!({"type": "error", "data": text})
}
