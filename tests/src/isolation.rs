//! What keeps the sandboxes of a suite apart from the machine. Named by `ISOL8_TEST_ISOLATION`, so that one
//! suite serves every kind of isolation there is.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{Api, KEY};
use crate::node::START_TIMEOUT;

const POLL: Duration = Duration::from_millis(50);

/// Waits until a gateway knows a worker that has gVisor: one says so a moment after it is there.
///
/// # Panics
/// If there is none.
pub fn await_gvisor(gateway: &Api) {
    let deadline = Instant::now() + START_TIMEOUT;
    while !workers(gateway).is_ok_and(|text| text.contains(r#""isol8.gvisor":"yes""#)) {
        assert!(Instant::now() < deadline, "no worker has gVisor");
        std::thread::sleep(POLL);
    }
}

/// The gateway's list of workers, with its heads.
fn workers(gateway: &Api) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(gateway.address().trim_start_matches("http://"))?;
    connection.set_read_timeout(Some(START_TIMEOUT))?;
    write!(
        connection,
        "GET /v1/workers HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(text)
}

/// A kind of isolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// The engine's default runtime: containers on the machine's own kernel.
    Runtime,
    /// gVisor: a kernel of the sandbox's own, in user space.
    Gvisor,
}

impl Isolation {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Runtime, Self::Gvisor];

    /// The one asked for.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    pub fn from_environment() -> Self {
        match std::env::var("ISOL8_TEST_ISOLATION").as_deref() {
            Ok("" | "runtime") | Err(_) => Self::Runtime,
            Ok("gvisor") => Self::Gvisor,
            Ok(other) => {
                panic!("ISOL8_TEST_ISOLATION is \"{other}\"; there are: runtime, gvisor")
            }
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Gvisor => "gvisor",
        }
    }

    /// What a server's configuration needs for it, to be merged into the test's own.
    #[must_use]
    pub fn settings(self) -> Value {
        match self {
            Self::Runtime => json!({}),
            Self::Gvisor => json!({"defaults": {"isolation": "gvisor"}}),
        }
    }
}

/// What comes of a row of a suite in gVisor, as against a container on the machine's own kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InGvisor<T> {
    /// The same.
    Same,
    /// Something else, and why that harms nobody.
    Differs(T, &'static str),
    /// Nobody knows: why it cannot be tried there.
    Untried(&'static str),
}

impl<T> InGvisor<T> {
    /// The same, of something else.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> InGvisor<U> {
        match self {
            Self::Same => InGvisor::Same,
            Self::Differs(outcome, why) => InGvisor::Differs(convert(outcome), why),
            Self::Untried(why) => InGvisor::Untried(why),
        }
    }

    /// What comes of the row in the isolation at hand, if it is `usual` elsewhere; `None` if it is not to be tried.
    pub fn outcome(self, isolation: Isolation, usual: T) -> Option<T> {
        match (isolation, self) {
            (Isolation::Runtime, _) | (Isolation::Gvisor, Self::Same) => Some(usual),
            (Isolation::Gvisor, Self::Differs(outcome, _)) => Some(outcome),
            (Isolation::Gvisor, Self::Untried(_)) => None,
        }
    }
}
