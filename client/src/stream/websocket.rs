//! WebSocket over the same HTTP connections as everything else: proxies, TLS and keys are the HTTP
//! client's, only the frames are new.

use futures_util::stream::{self, SplitSink, SplitStream};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use reqwest::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Method, StatusCode, Upgraded};
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::{Delivery, EventStream, StreamEvent};
use crate::client::Client;
use crate::error::{ClientError, innermost};
use crate::execute::Execution;

type Socket = WebSocketStream<Upgraded>;

/// The way into a running program.
pub struct Input {
    sink: SplitSink<Socket, Message>,
}

impl Input {
    /// Writes to its standard input.
    ///
    /// # Errors
    /// [`ClientError::WebSocket`] if the connection is gone, as it is when the program has ended.
    pub async fn stdin(&mut self, data: &str) -> Result<(), ClientError> {
        self.send(&json!({"type": "stdin", "data": data})).await
    }

    /// Ends its standard input.
    ///
    /// # Errors
    /// As for [`Self::stdin`].
    pub async fn end_stdin(&mut self) -> Result<(), ClientError> {
        self.send(&json!({"type": "stdin_end"})).await
    }

    /// Sends it a signal, such as `SIGINT`.
    ///
    /// # Errors
    /// As for [`Self::stdin`].
    pub async fn signal(&mut self, signal: &str) -> Result<(), ClientError> {
        self.send(&json!({"type": "signal", "signal": signal})).await
    }

    async fn send(&mut self, message: &serde_json::Value) -> Result<(), ClientError> {
        self.sink.send(Message::text(message.to_string())).await.map_err(broken)
    }
}

/// Opens a connection.
pub(super) async fn open(client: &Client) -> Result<Socket, ClientError> {
    let key = generate_key();
    let request = client
        .request(Method::GET, &["execute", "ws"])
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key);
    let response = client.send(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let response = client.check("Stream failed", response).await?;
        let reason = format!("the server answered {} instead of switching", response.status());
        return Err(ClientError::WebSocket { reason });
    }
    let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT);
    if accepted.is_none_or(|accepted| *accepted != derive_accept_key(key.as_bytes())) {
        return Err(ClientError::WebSocket {
            reason: "the server's handshake is not valid".into(),
        });
    }
    let connection = response.upgrade().await.map_err(|error| client.unreachable(error))?;
    Ok(WebSocketStream::from_raw_socket(connection, Role::Client, None).await)
}

/// Asks for an execution on an open connection.
pub(super) async fn execute(
    client: &Client,
    mut socket: Socket,
    execution: &Execution,
    interactive: bool,
) -> Result<(EventStream, Input), ClientError> {
    let message = execution.to_message(interactive, client.session_of(execution))?;
    socket.send(Message::text(message)).await.map_err(broken)?;
    let (sink, frames) = socket.split();
    Ok((EventStream::new(events(frames).boxed()), Input { sink }))
}

fn events(
    frames: SplitStream<Socket>,
) -> impl futures_util::Stream<Item = Result<Delivery<StreamEvent>, ClientError>> {
    stream::unfold(frames, |mut frames| async move {
        loop {
            let delivery = match frames.next().await {
                // A frame that is no event is passed over, as isol8's client does.
                Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                    Ok(event) => Ok(Delivery::Event(event)),
                    Err(_) => continue,
                },
                Some(Ok(Message::Close(frame))) => {
                    // Sends our side of the goodbye; whether it arrives is nobody's loss.
                    let _ = frames.next().now_or_never();
                    Ok(Delivery::End(match frame {
                        Some(frame) => format!("close code {}: {}", frame.code, frame.reason),
                        None => "closed without a code".into(),
                    }))
                }
                // Pings are answered by the library.
                Some(Ok(_)) => continue,
                Some(Err(error)) => Err(broken(error)),
                None => Ok(Delivery::End("the connection was closed".into())),
            };
            return Some((delivery, frames));
        }
    })
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn broken(error: tokio_tungstenite::tungstenite::Error) -> ClientError {
    ClientError::WebSocket { reason: innermost(&error) }
}
