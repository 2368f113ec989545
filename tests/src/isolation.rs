//! What keeps the sandboxes of a suite apart from the machine. Named by `ISOL8_TEST_ISOLATION`, so that one
//! suite serves every kind of isolation there is.

use serde_json::{Value, json};

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
