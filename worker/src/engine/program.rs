//! One program inside a sandbox, from its start to its end: its input within the runner's window, its
//! output collected for the result and shown as it comes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use runner::protocol::{
    Exited, Failed, INTERRUPT_GRACE, Kind, LINGER_LIMIT, MAX_PAYLOAD_BYTES, ProtocolError,
    STDIN_WINDOW_BYTES, Signal, Start, Started, StdinAck, put_message,
};
use shared::execution::{Input, Phase, Stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fault::JobError;
use super::link::{LinkError, put_data};
use super::mask::Masker;
use super::output::Collected;
use super::sandbox::{Sandbox, parse};
use super::shown::Shown;
use super::{Console, EngineError, Live};

/// Bound on the start of a program, and how much longer it may take for each MiB of files sent ahead
/// of it. A job has three attempts: a silent engine must not keep its caller waiting much longer.
const START_LIMIT: Duration = Duration::from_secs(5);
const START_LIMIT_PER_MIB: Duration = Duration::from_secs(1);
/// How much longer than the runner takes for an end its report may take to arrive. A longer silence
/// means that the sandbox itself is broken.
const REPORT_GRACE: Duration = Duration::from_secs(1);
/// What ends a program that is killed: signal 9, and the exit code that tells of it.
const KILLED: (i32, i32) = (9, 137);
/// Live input taken from its caller and not yet passed on.
const MAX_UNSENT_INPUT_BYTES: usize = 1 << 20;
/// What the caller of a session is told when its interpreter is another one.
const STATE_LOST: &str =
    "[isol8] The interpreter of this session was restarted: variables of earlier calls are gone.\n";

/// An order to start a program, ready to be sent.
#[derive(Clone)]
pub(super) struct Order {
    frame: Vec<u8>,
    timeout: Duration,
    has_stdin: bool,
    is_live: bool,
}

impl Order {
    /// # Errors
    /// [`JobError::TooLong`] if no frame can carry it.
    pub(super) fn new(start: &Start) -> Result<Self, EngineError> {
        let mut frame = Vec::with_capacity(1024);
        put_message(&mut frame, Kind::Start, start).map_err(|error| match error {
            ProtocolError::TooLong(size_bytes) => {
                EngineError::from(JobError::TooLong { size_bytes, max_bytes: MAX_PAYLOAD_BYTES })
            }
            error => LinkError::from(error).into(),
        })?;
        Ok(Self {
            frame,
            timeout: Duration::from_millis(start.timeout_ms),
            has_stdin: start.stdin,
            is_live: start.live.is_some(),
        })
    }

    /// Longest time from a program's killing until its end is known.
    fn end_limit(&self) -> Duration {
        let interrupt = if self.is_live { INTERRUPT_GRACE } else { Duration::ZERO };
        interrupt + LINGER_LIMIT + REPORT_GRACE
    }
}

/// A program to run.
pub(super) struct Program<'a> {
    pub(super) order: Order,
    /// Its standard input, or the beginning of it.
    pub(super) stdin: Option<Bytes>,
    /// Whether more of it may come.
    pub(super) stdin_stays_open: bool,
    pub(super) phase: Phase,
    pub(super) masker: &'a Masker,
    /// Bytes of each output stream that are shown.
    pub(super) limit_bytes: u64,
    /// What the session remembers of its interpreter, if the program runs in it.
    pub(super) interpreter: Option<&'a mut Interpreter>,
}

/// What a session remembers of its living interpreter.
#[derive(Debug, Default)]
pub(super) struct Interpreter {
    has_run: bool,
    /// It was started anew, and no caller has been told yet.
    is_loss_untold: bool,
}

impl Interpreter {
    fn started(&mut self, is_fresh: bool) -> bool {
        self.is_loss_untold |= is_fresh && self.has_run;
        self.has_run = true;
        self.is_loss_untold
    }
}

/// A program's end and what it wrote.
pub(super) struct Ended {
    pub(super) exited: Exited,
    pub(super) stdout: Collected,
    pub(super) stderr: Collected,
    /// To be put in front of standard error; it was shown already.
    pub(super) notice: &'static str,
}

/// Starts a program and follows it to its end. Of one whose sandbox does not even report that its time
/// is up, that much is known: its result says so, and [`Sandbox::is_lost`].
pub(super) async fn drive(
    sandbox: &mut Sandbox,
    program: Program<'_>,
    console: &mut Console<'_>,
    cancel: &CancellationToken,
) -> Result<Ended, EngineError> {
    let Program { order, stdin, stdin_stays_open, phase, masker, limit_bytes, mut interpreter } =
        program;
    let end_limit = order.end_limit();
    let run_limit = order.timeout + end_limit;
    // The runner counts from when it has the order, which may be long after it was queued here.
    let unsent_mib = u32::try_from(sandbox.link.unsent_bytes() >> 20).unwrap_or(u32::MAX);
    let mut deadline =
        Instant::now() + START_LIMIT + START_LIMIT_PER_MIB.saturating_mul(unsent_mib);
    let mut started_at = None;
    let mut is_input_live = phase == Phase::Code && console.input.is_some();
    sandbox.link.queue(order.frame);
    let beginning = order.has_stdin.then(|| stdin.unwrap_or_default());
    let mut feed = Feed::new(beginning, stdin_stays_open && is_input_live);
    feed.send(sandbox);
    let mut output = Output::new(masker, phase, limit_bytes, console.live.as_deref_mut());
    let mut no_input = None;
    let input = if is_input_live { &mut console.input } else { &mut no_input };
    let mut is_cancelled = false;
    let mut notice = "";
    loop {
        let frame = tokio::select! {
            biased;
            frame = sandbox.link.next() => match frame {
                Ok(frame) => frame,
                Err(error) => {
                    let Some(started_at) = started_at else { return Err(error.into()) };
                    if !sandbox.died_of_memory().await {
                        return Err(error.into());
                    }
                    sandbox.is_lost = true;
                    let exited = Exited {
                        out_of_memory: true,
                        timed_out: false,
                        ..unreported(started_at, is_cancelled, &output)
                    };
                    let (stdout, stderr) = output.end(&exited);
                    return Ok(Ended { exited, stdout, stderr, notice });
                }
            },
            () = cancel.cancelled(), if !is_cancelled => {
                is_cancelled = true;
                if started_at.is_some() {
                    deadline = deadline.min(Instant::now() + end_limit);
                }
                sandbox.link.queue_empty(Kind::Kill);
                continue;
            }
            () = tokio::time::sleep_until(deadline) => {
                let Some(started_at) = started_at else {
                    return Err(LinkError::Silent("starting a program").into());
                };
                sandbox.is_lost = true;
                let exited = unreported(started_at, is_cancelled, &output);
                let (stdout, stderr) = output.end(&exited);
                return Ok(Ended { exited, stdout, stderr, notice });
            }
            received = receive(input), if is_input_live && feed.has_room() => {
                is_input_live = received.is_some();
                match received {
                    Some(Input::Signal(number)) => {
                        sandbox.link.queue_message(Kind::Signal, &Signal { number })?;
                    }
                    Some(Input::Stdin(data)) => feed.push(&data),
                    // Whoever could have sent more is gone.
                    Some(Input::StdinEnd) | None => feed.close(),
                }
                feed.send(sandbox);
                continue;
            }
        };
        match frame.kind {
            Kind::Stdout => output.push(Stream::Stdout, &frame.payload),
            Kind::Stderr => output.push(Stream::Stderr, &frame.payload),
            Kind::StdinAck => {
                let ack: StdinAck = parse(&frame)?;
                feed.credit(ack.bytes);
                feed.send(sandbox);
            }
            Kind::Started => {
                let started: Started = parse(&frame)?;
                tracing::trace!(pid = started.pid, prepared = started.prepared, "started");
                let now = Instant::now();
                started_at = Some(now);
                deadline = now + if is_cancelled { end_limit } else { run_limit };
                if interpreter.as_mut().is_some_and(|it| it.started(started.fresh)) {
                    notice = STATE_LOST;
                    output.say(notice);
                }
            }
            Kind::Exited => {
                let exited: Exited = parse(&frame)?;
                if let Some(interpreter) = interpreter {
                    interpreter.is_loss_untold = exited.state_lost;
                }
                let (stdout, stderr) = output.end(&exited);
                return Ok(Ended { exited, stdout, stderr, notice });
            }
            Kind::Failed => {
                let failed: Failed = parse(&frame)?;
                return Err(EngineError::Job(failed.into()));
            }
            kind => return Err(LinkError::OutOfTurn(kind).into()),
        }
    }
}

/// The end of a program that its sandbox did not report in time.
fn unreported(started_at: Instant, is_cancelled: bool, output: &Output<'_>) -> Exited {
    let (signal, exit_code) = KILLED;
    let (stdout_bytes, stderr_bytes) = (output.stdout.bytes(), output.stderr.bytes());
    Exited {
        exit_code,
        signal: Some(signal),
        timed_out: !is_cancelled,
        killed: is_cancelled,
        state_lost: true,
        wall_us: u64::try_from(started_at.elapsed().as_micros()).unwrap_or(u64::MAX),
        stdout_bytes,
        stderr_bytes,
        ..Exited::default()
    }
}

/// The next live input; never comes if there is none.
async fn receive(input: &mut Option<&mut tokio::sync::mpsc::Receiver<Input>>) -> Option<Input> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// Standard input on its way, within the window the runner grants.
struct Feed {
    unsent: BytesMut,
    window: usize,
    state: FeedState,
}

#[derive(PartialEq, Eq)]
enum FeedState {
    /// More may come.
    Open,
    /// What is unsent is all there is.
    Ending,
    /// The end was sent, or there never was any input.
    Ended,
}

impl Feed {
    fn new(beginning: Option<Bytes>, is_live: bool) -> Self {
        let state = match (&beginning, is_live) {
            (None, _) => FeedState::Ended,
            (Some(_), true) => FeedState::Open,
            (Some(_), false) => FeedState::Ending,
        };
        let unsent = beginning.map(BytesMut::from).unwrap_or_default();
        Self { unsent, window: STDIN_WINDOW_BYTES, state }
    }

    /// Whether live input may be taken from its caller. Signals are welcome to the end.
    fn has_room(&self) -> bool {
        self.unsent.len() < MAX_UNSENT_INPUT_BYTES
    }

    fn push(&mut self, data: &[u8]) {
        if self.state == FeedState::Open {
            self.unsent.extend_from_slice(data);
        }
    }

    fn close(&mut self) {
        if self.state == FeedState::Open {
            self.state = FeedState::Ending;
        }
    }

    fn credit(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.window = self.window.saturating_add(bytes).min(STDIN_WINDOW_BYTES);
    }

    fn send(&mut self, sandbox: &mut Sandbox) {
        if self.state == FeedState::Ended {
            return;
        }
        let chunk = self.unsent.split_to(self.unsent.len().min(self.window));
        self.window -= chunk.len();
        let mut frames = Vec::new();
        put_data(&mut frames, Kind::Stdin, &chunk);
        sandbox.link.queue(frames);
        if self.unsent.is_empty() && self.state == FeedState::Ending {
            sandbox.link.queue_empty(Kind::StdinEnd);
            self.state = FeedState::Ended;
        }
    }
}

/// Both output streams: collected for the result, and shown as they come to whoever watches.
struct Output<'a> {
    stdout: Collected,
    stderr: Collected,
    watched: Option<Watched<'a>>,
}

struct Watched<'a> {
    live: &'a mut (dyn Live + 'a),
    phase: Phase,
    stdout: Shown<'a>,
    stderr: Shown<'a>,
}

impl<'a> Output<'a> {
    fn new(
        masker: &'a Masker,
        phase: Phase,
        limit_bytes: u64,
        live: Option<&'a mut (dyn Live + '_)>,
    ) -> Self {
        Self {
            stdout: Collected::default(),
            stderr: Collected::default(),
            watched: live.map(|live| Watched {
                live,
                phase,
                stdout: Shown::new(masker, limit_bytes),
                stderr: Shown::new(masker, limit_bytes),
            }),
        }
    }

    fn push(&mut self, stream: Stream, chunk: &Bytes) {
        if let Some(Watched { live, phase, stdout, stderr }) = &mut self.watched {
            let shown = match stream {
                Stream::Stdout => stdout,
                Stream::Stderr => stderr,
            };
            let piece = shown.feed(chunk);
            if !piece.is_empty() {
                live.output(*phase, stream, &piece);
            }
        }
        match stream {
            Stream::Stdout => self.stdout.push(chunk),
            Stream::Stderr => self.stderr.push(chunk),
        }
    }

    /// Says something on standard error that is not the program's.
    fn say(&mut self, notice: &str) {
        if let Some(Watched { live, phase, .. }) = &mut self.watched {
            live.output(*phase, Stream::Stderr, notice.as_bytes());
        }
    }

    fn end(self, exited: &Exited) -> (Collected, Collected) {
        if let Some(Watched { live, phase, stdout, stderr }) = self.watched {
            let last = [
                (Stream::Stdout, stdout.end(exited.stdout_bytes)),
                (Stream::Stderr, stderr.end(exited.stderr_bytes)),
            ];
            for (stream, piece) in last {
                if !piece.is_empty() {
                    live.output(phase, stream, &piece);
                }
            }
        }
        (self.stdout, self.stderr)
    }
}
