//! `GET /execute/ws`: one execution over a WebSocket: output one way; program, input and signals
//! the other.

mod message;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Extension, State as FromState};
use axum::response::Response;
use bytes::Bytes;
use futures_util::SinkExt as _;
use http::header::UPGRADE;
use http::{HeaderMap, Uri};
use shared::Error;
use shared::execution::Input;
use shared::id::JobId;
use shared::redis::Taking;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite;
use tracing::debug;

use self::message::{ClientMessage, Execute};
use super::fallback::not_found;
use crate::auth::Caller;
use crate::body::Room;
use crate::error::ApiError;
use crate::service::event::StreamEvent;
use crate::service::execute::{Following, submit};
use crate::service::slots::Slot;
use crate::service::stream;
use crate::state::State;

/// Events that are written in one go, if so many are there.
const MOST_AT_ONCE: usize = 16;
/// Pings in a row that may stay unanswered.
const MOST_UNANSWERED: u32 = 3;
/// How long a client may take to say what to run.
const FIRST_EXECUTE: Duration = Duration::from_secs(60);
/// Pieces of standard input, and signals, that wait for the queue before no more is read. What is
/// read until then may hold a signal, which goes ahead of the rest.
const MOST_INPUTS: usize = 16;
/// Before input that found no room is offered again.
const INPUT_PAUSE: Duration = Duration::from_millis(50);
/// How long the peer's own close is waited for: closing at once could reset the connection before
/// it has read ours.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

const NO_SESSION: &str = "No session was kept: the request asks for persistent mode, but names no \
                          sessionId, which isol8's client never sends over a WebSocket. Add \
                          --no-stream, or send a sessionId.";
const STDIN_CLOSED: &str = "Standard input is closed. To send some while the program runs, add \
                            \"interactive\": true to the execute message.";

/// `GET /execute/ws`.
pub(crate) async fn ws(
    FromState(state): FromState<State>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(_) if !headers.contains_key(UPGRADE) => return Err(not_found(uri).await),
        Err(rejection) => return Err(Error::invalid(rejection.to_string()).into()),
    };
    let slot = state.streaming.slots.take(&caller.tenant).await?;
    let connection = state.connections.token();
    let max_bytes = state.streaming.max_message_bytes;
    let upgrade = upgrade.max_message_size(max_bytes).max_frame_size(max_bytes);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let _connection = connection;
        let cut = state.cut.clone();
        let conversation = Conversation {
            state,
            caller,
            socket,
            running: None,
            inputs: VecDeque::new(),
            signals: VecDeque::new(),
            rooms: Vec::new(),
            unanswered_pings: 0,
            _slot: slot,
        };
        cut.run_until_cancelled(Box::pin(conversation.run())).await;
    }))
}

/// One client. Dropping it ends its job too.
struct Conversation {
    state: State,
    caller: Caller,
    socket: WebSocket,
    running: Option<Running>,
    /// Standard input that the queue has not taken yet. While it is much, nothing more is read.
    inputs: VecDeque<Input>,
    /// The same for signals.
    signals: VecDeque<Input>,
    /// What large messages among the waiting input take up.
    rooms: Vec<Slot>,
    unanswered_pings: u32,
    _slot: Slot,
}

struct Running {
    job: JobId,
    events: mpsc::Receiver<StreamEvent>,
    is_interactive: bool,
}

/// What happens next.
enum Step {
    Heard(Option<Result<Message, axum::Error>>),
    /// Events, or none: there will be no more.
    Events(Vec<StreamEvent>),
    Input,
    Ping,
    Late,
    Stopping,
}

/// How a conversation ends.
enum End {
    /// With a close of ours.
    Close(u16, &'static str),
    /// The peer is gone, or closes.
    Gone,
}

type Flow = ControlFlow<End>;

impl Conversation {
    /// On cancel: says so, unless a program runs, which has until the gateway closes. On error: the
    /// connection ends.
    async fn run(mut self) {
        let mut heartbeat = interval(self.state.streaming.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        let stopping = self.state.stopping.clone();
        let latest = Instant::now() + FIRST_EXECUTE;
        let end = loop {
            let is_idle = self.running.is_none();
            let (is_listening, has_input) = (self.is_listening(), self.has_input());
            let step = tokio::select! {
                heard = self.socket.recv(), if is_listening => Step::Heard(heard),
                events = next_events(&mut self.running) => Step::Events(events),
                () = sleep(INPUT_PAUSE), if has_input => Step::Input,
                _ = heartbeat.tick() => Step::Ping,
                () = sleep_until(latest), if is_idle => Step::Late,
                () = stopping.cancelled(), if is_idle => Step::Stopping,
            };
            let flow = match step {
                Step::Heard(heard) => self.hear(heard).await,
                Step::Events(events) => self.pass(events).await,
                Step::Input => self.deliver().await,
                Step::Ping => self.ping().await,
                Step::Late => {
                    let seconds = FIRST_EXECUTE.as_secs();
                    let words = format!("No program to run was sent within {seconds} s");
                    self.say_last(StreamEvent::complaint(words), close_code::POLICY, "Too late")
                        .await
                }
                Step::Stopping => {
                    let words = StreamEvent::complaint("This gateway is shutting down");
                    self.say_last(words, close_code::AWAY, "Shutting down").await
                }
            };
            if let ControlFlow::Break(end) = flow {
                break end;
            }
        };
        self.end(end).await;
    }

    /// Whether there is room for what the client may say next.
    fn is_listening(&self) -> bool {
        self.inputs.len().max(self.signals.len()) < MOST_INPUTS
    }

    fn has_input(&self) -> bool {
        !self.inputs.is_empty() || !self.signals.is_empty()
    }

    async fn hear(&mut self, heard: Option<Result<Message, axum::Error>>) -> Flow {
        self.unanswered_pings = 0;
        match heard {
            Some(Ok(Message::Text(text))) => {
                match self.state.intake.room(&self.caller.tenant, text.len()).await {
                    Ok(room) => self.obey(message::parse(&text), room).await,
                    Err(error) => self.fail(&error).await,
                }
            }
            Some(Ok(Message::Binary(_))) => self.obey(ClientMessage::NotJson, None).await,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Flow::Continue(()),
            Some(Ok(Message::Close(_))) | None => Flow::Break(End::Gone),
            Some(Err(error)) => {
                debug!(%error, "a socket broke");
                // If it is no WebSocket any more, nobody hears this.
                let words = StreamEvent::complaint(format!("The message cannot be read: {error}"));
                let (code, reason) = if is_too_large(error) {
                    (close_code::SIZE, "Message too large")
                } else {
                    (close_code::POLICY, "Unreadable message")
                };
                self.say_last(words, code, reason).await
            }
        }
    }

    async fn obey(&mut self, message: ClientMessage, room: Room) -> Flow {
        match message {
            ClientMessage::NotJson => {
                let words = StreamEvent::complaint("Invalid JSON message");
                self.say_last(words, close_code::UNSUPPORTED, "Invalid JSON").await
            }
            ClientMessage::Refused(words) => self.say(StreamEvent::complaint(words)).await,
            ClientMessage::Execute(_) | ClientMessage::Unreadable(_) if self.running.is_some() => {
                let words = "An execution is already running on this connection";
                self.say(StreamEvent::complaint(words)).await
            }
            ClientMessage::Unreadable(error) => self.fail(&error).await,
            ClientMessage::Execute(execute) => self.execute(*execute).await,
            ClientMessage::Stdin(inputs) => match &self.running {
                // As isol8 does.
                None => Flow::Continue(()),
                Some(running) if !running.is_interactive => {
                    self.say(StreamEvent::complaint(STDIN_CLOSED)).await
                }
                Some(_) => {
                    self.inputs.extend(inputs);
                    self.rooms.extend(room);
                    self.deliver().await
                }
            },
            ClientMessage::Signal(signal) => {
                self.signals.extend(self.running.is_some().then_some(signal));
                self.deliver().await
            }
        }
    }

    async fn execute(&mut self, execute: Execute) -> Flow {
        if let Err(error) = self.caller.require_valid(&self.state).await {
            return self.say_last((&*error).into(), close_code::POLICY, "Not authorized").await;
        }
        let Execute { envelope, is_interactive, expects_session } = execute;
        let following = if is_interactive { Following::Conversation } else { Following::Signals };
        match submit(&self.state, &self.caller.tenant, envelope, following).await {
            Ok(queued) => {
                let notice = expects_session.then(|| StreamEvent::notice(NO_SESSION));
                let job = queued.job();
                let events = stream::start(queued, notice);
                self.running = Some(Running { job, events, is_interactive });
                Flow::Continue(())
            }
            Err(error) => self.fail(&error).await,
        }
    }

    /// The execution comes to nothing, and that is the end of it.
    async fn fail(&mut self, error: &Error) -> Flow {
        debug!(%error, "an execution over a socket was refused");
        self.say_last(error.into(), close_code::NORMAL, "Execution complete").await
    }

    /// Hands waiting input to the queue, signals first, as far as it takes it.
    async fn deliver(&mut self) -> Flow {
        let Some(running) = &self.running else { return Flow::Continue(()) };
        for waiting in [&mut self.signals, &mut self.inputs] {
            while let Some(input) = waiting.front() {
                match self.state.queue.send_input(&self.caller.tenant, running.job, input).await {
                    Ok(Taking::Taken) => drop(waiting.pop_front()),
                    // The job's last events are on their way.
                    Ok(Taking::Over) => waiting.clear(),
                    Ok(Taking::Full) => break,
                    Err(error) => {
                        debug!(%error, "input waits for the queue");
                        break;
                    }
                }
            }
        }
        if self.inputs.is_empty() {
            self.rooms.clear();
        }
        Flow::Continue(())
    }

    async fn pass(&mut self, events: Vec<StreamEvent>) -> Flow {
        if events.is_empty() {
            return Flow::Break(End::Close(close_code::NORMAL, "Execution complete"));
        }
        for event in events {
            let message = Message::Text(event.to_json().into());
            gone_if_failed(self.socket.feed(message).await)?;
        }
        gone_if_failed(self.socket.flush().await)
    }

    async fn ping(&mut self) -> Flow {
        // While nothing is read, a pong would not be noticed.
        if self.is_listening() {
            if self.unanswered_pings == MOST_UNANSWERED {
                debug!("a client does not answer pings any more");
                return Flow::Break(End::Gone);
            }
            self.unanswered_pings += 1;
        }
        gone_if_failed(self.socket.send(Message::Ping(Bytes::new())).await)
    }

    async fn say(&mut self, event: StreamEvent) -> Flow {
        gone_if_failed(self.socket.send(Message::Text(event.to_json().into())).await)
    }

    /// Says something and closes.
    async fn say_last(&mut self, event: StreamEvent, code: u16, reason: &'static str) -> Flow {
        self.say(event).await?;
        Flow::Break(End::Close(code, reason))
    }

    async fn end(mut self, end: End) {
        // The job, if one still runs, ends now, not when the peer is done with closing.
        drop(self.running.take());
        if let End::Close(code, reason) = end {
            let frame = CloseFrame { code, reason: reason.into() };
            if self.socket.send(Message::Close(Some(frame))).await.is_err() {
                return;
            }
        }
        let closed = async { while let Some(Ok(_)) = self.socket.recv().await {} };
        // A peer that does not close has had its time.
        let _ = timeout(CLOSE_PATIENCE, closed).await;
    }
}

/// Events of what runs; waits for ever if nothing does.
async fn next_events(running: &mut Option<Running>) -> Vec<StreamEvent> {
    let Some(running) = running else { return std::future::pending().await };
    let mut events = Vec::new();
    running.events.recv_many(&mut events, MOST_AT_ONCE).await;
    events
}

fn is_too_large(error: axum::Error) -> bool {
    let error = error.into_inner().downcast::<tungstenite::Error>();
    error.is_ok_and(|error| matches!(*error, tungstenite::Error::Capacity(_)))
}

fn gone_if_failed(outcome: Result<(), axum::Error>) -> Flow {
    match outcome {
        Ok(()) => Flow::Continue(()),
        Err(error) => {
            debug!(%error, "cannot write to a socket");
            Flow::Break(End::Gone)
        }
    }
}
