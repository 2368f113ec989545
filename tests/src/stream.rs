//! Output as it comes, over server-sent events and over a WebSocket, as a client sees it.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::api::{Api, KEY};

/// Nothing may be silent for longer: heartbeats come every five seconds.
const SILENCE: Duration = Duration::from_secs(60);

/// A stream of events. Dropped before its end, the client has left.
pub enum Events {
    /// Server-sent events: the answer, and what was read of it but not yet taken out.
    Sse(Response, Vec<u8>),
    /// A WebSocket.
    Socket(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
}

impl Events {
    /// Starts a request over server-sent events.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn sse(api: &Api, body: &Value) -> Self {
        let url = format!("{}/execute/stream", api.address());
        let request = reqwest::Client::new().post(url).bearer_auth(KEY).json(body);
        let response = request.send().await.expect("there is an answer");
        assert_eq!(response.status(), 200);
        Self::Sse(response, Vec::new())
    }

    /// Starts a request over a WebSocket.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn socket(api: &Api, body: &Value) -> Self {
        let url = format!("{}/execute/ws", api.address()).replacen("http", "ws", 1);
        let mut request = url.into_client_request().expect("it is an address");
        let key = format!("Bearer {KEY}").parse().expect("it is a header");
        request.headers_mut().insert("authorization", key);
        let (socket, _) = connect_async(request).await.expect("the upgrade is granted");
        let mut events = Self::Socket(Box::new(socket));
        let mut message = body.clone();
        message["type"] = json!("execute");
        events.say(&message).await;
        events
    }

    /// Says something; a WebSocket can.
    ///
    /// # Panics
    /// If it cannot.
    pub async fn say(&mut self, message: &Value) {
        let Self::Socket(socket) = self else { panic!("nobody listens to an SSE client") };
        socket.send(Message::text(message.to_string())).await.expect("the socket is open");
    }

    /// The next event; none after the last one.
    ///
    /// # Panics
    /// If nothing comes for long, or what comes is no event.
    pub async fn next(&mut self) -> Option<Value> {
        let text = match self {
            Self::Sse(response, unread) => next_line(response, unread).await?,
            Self::Socket(socket) => next_message(socket).await?,
        };
        Some(serde_json::from_str(&text).unwrap_or_else(|_| panic!("no event: {text}")))
    }

    /// All that are left.
    pub async fn rest(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    /// Waits for output that contains `text`; returns all that came until then.
    ///
    /// # Panics
    /// If the stream ends first.
    pub async fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let event = self.next().await;
            let event = event.unwrap_or_else(|| panic!("ended before \"{text}\": {seen}"));
            seen.push_str(event["data"].as_str().unwrap_or_default());
        }
        seen
    }
}

async fn next_line(response: &mut Response, unread: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let line = String::from_utf8(line).expect("events are UTF-8");
            match line.strip_prefix("data: ") {
                Some(data) => return Some(data.to_owned()),
                // Between events, or a comment.
                None => continue,
            }
        }
        let chunk = timeout(SILENCE, response.chunk()).await.expect("the stream is not silent");
        match chunk.expect("the stream is not cut") {
            Some(chunk) => unread.extend_from_slice(&chunk),
            None => return None,
        }
    }
}

async fn next_message(socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>) -> Option<String> {
    loop {
        let message = timeout(SILENCE, socket.next()).await.expect("the socket is not silent");
        match message?.expect("the socket is not cut") {
            Message::Text(text) => return Some(text.to_string()),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(frame) => {
                let end = frame.map(|frame| (u16::from(frame.code), frame.reason.to_string()));
                assert_eq!(end, Some((1000, "Execution complete".to_owned())));
            }
            other => panic!("{other:?} is no event"),
        }
    }
}

/// All data of one type and phase, joined.
#[must_use]
pub fn joined(events: &[Value], kind: &str, phase: &str) -> String {
    let wanted = |event: &&Value| event["type"] == kind && event["phase"] == phase;
    events.iter().filter(wanted).filter_map(|event| event["data"].as_str()).collect()
}

/// What a stream came to: its events without output.
#[must_use]
pub fn course(events: &[Value]) -> Vec<String> {
    let told = events.iter().filter(|event| event["type"] == "exit" || event["type"] == "error");
    told.map(|event| {
        let word = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
        format!("{} {} {}", word("phase"), word("type"), word("data"))
    })
    .collect()
}
