//! Running a program and watching it: WebSocket first, Server-Sent Events where that cannot be had.
//!
//! As in isol8's client, a session is streamed over SSE, since isol8's own server ignores it in a
//! WebSocket message. Unlike it, a stream that ends without telling how the program did is an error.

pub(crate) mod sse;
mod websocket;

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use shared::execution::Phase;

use crate::client::Client;
use crate::error::ClientError;
use crate::execute::Execution;

pub use websocket::Input;

/// What is known of a server's WebSocket, nothing at first; isol8's client calls it `wsAvailable`.
mod known {
    pub(super) const WORKS: u8 = 1;
    pub(super) const FAILS: u8 = 2;
}

/// Something that happened in a running program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEvent {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Output, message, or exit code in decimal.
    #[serde(default)]
    pub data: String,
    /// The part of the job it belongs to; absent if it could not be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What went wrong, for programs; isol8's own server sends none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// The program wrote to its standard output.
    Stdout,
    /// The program wrote to its standard error.
    Stderr,
    /// A part of the job ended.
    Exit,
    /// The job failed.
    Error,
    /// Something this version does not know.
    #[serde(other)]
    Other,
}

impl StreamEvent {
    /// Whether the job is over with this. A setup script that ended well is not the end, nor is a
    /// complaint about a message.
    #[must_use]
    pub fn is_last(&self) -> bool {
        match self.kind {
            EventType::Error => !self.is_complaint(),
            EventType::Exit => self.phase != Some(Phase::Setup) || self.data != "0",
            _ => false,
        }
    }

    /// Whether this is an error of no phase and no code: a message that was not understood, after
    /// which the program runs on, or, from isol8's own server, a job that could not be run.
    fn is_complaint(&self) -> bool {
        self.kind == EventType::Error && self.phase.is_none() && self.code.is_none()
    }
}

/// How a transport delivers: events, then why it ended.
type Source = BoxStream<'static, Result<Delivery<StreamEvent>, ClientError>>;

pub(crate) enum Delivery<T> {
    Event(T),
    /// The transport is at its end, in these words.
    End(String),
}

/// The events of a running program, in order. Dropped, with its [`Input`] if it has one, it hangs up,
/// which cancels the program on servers that are set so.
pub struct EventStream {
    source: Source,
    /// Whether an event told how the program did.
    is_told: bool,
    /// Whether the last event was a complaint: if the server says goodbye after it, that was why.
    is_complaint: bool,
    is_over: bool,
}

impl EventStream {
    fn new(source: Source) -> Self {
        Self { source, is_told: false, is_complaint: false, is_over: false }
    }

    /// The next event; `None` once the program's end was told and the stream is at its end.
    ///
    /// # Errors
    /// [`ClientError::StreamEnded`] instead of a silent end, [`ClientError::Unreachable`] or
    /// [`ClientError::WebSocket`] if the connection breaks before the end was told.
    pub async fn next(&mut self) -> Option<Result<StreamEvent, ClientError>> {
        futures_util::StreamExt::next(self).await
    }
}

impl Stream for EventStream {
    type Item = Result<StreamEvent, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let delivery = std::task::ready!(self.source.poll_next_unpin(context));
        let problem = match delivery {
            Some(Ok(Delivery::Event(event))) => {
                self.is_told |= event.is_last();
                self.is_complaint = event.is_complaint();
                return Poll::Ready(Some(Ok(event)));
            }
            Some(Ok(Delivery::End(reason))) => {
                self.is_told |= self.is_complaint;
                ClientError::StreamEnded { reason }
            }
            Some(Err(error)) => error,
            None => ClientError::StreamEnded { reason: "the server said no more".into() },
        };
        self.is_over = true;
        // What breaks after the end was told is nobody's loss.
        Poll::Ready((!self.is_told).then_some(Err(problem)))
    }
}

impl Client {
    /// Runs a program and returns its events as they come.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the server refuses before it streams,
    /// [`ClientError::Unreachable`], [`ClientError::WebSocket`].
    pub async fn execute_stream(&self, execution: &Execution) -> Result<EventStream, ClientError> {
        let is_known = self.websocket.load(Ordering::Relaxed);
        if self.session_of(execution).is_none() && is_known != known::FAILS {
            match self.connect(execution, false).await {
                Ok((events, _input)) => return Ok(events),
                Err(error) if is_known == known::WORKS => return Err(error),
                // SSE works where this did not, or tells better why nothing does.
                Err(_) => self.websocket.store(known::FAILS, Ordering::Relaxed),
            }
        }
        sse::execute(self, execution).await
    }

    /// Runs a program over WebSocket, so that it can be written and signalled to. A session goes
    /// with it, which isol8's own server ignores, as it does all input.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`], [`ClientError::WebSocket`].
    pub async fn execute_interactive(
        &self,
        execution: &Execution,
    ) -> Result<(EventStream, Input), ClientError> {
        self.connect(execution, true).await
    }

    async fn connect(
        &self,
        execution: &Execution,
        interactive: bool,
    ) -> Result<(EventStream, Input), ClientError> {
        let socket = websocket::open(self).await?;
        self.websocket.store(known::WORKS, Ordering::Relaxed);
        websocket::execute(self, socket, execution, interactive).await
    }
}
