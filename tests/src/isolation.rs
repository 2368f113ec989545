//! What keeps the sandboxes of a security suite apart from the machine. Named by
//! `ISOL8_TEST_ISOLATION`, so that one suite serves every kind of isolation there is.

use serde_json::{Value, json};

/// A kind of isolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// The engine's default runtime: containers on the machine's own kernel.
    Runtime,
}

impl Isolation {
    /// All there are.
    pub const ALL: [Self; 1] = [Self::Runtime];

    /// The one asked for.
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    pub fn from_environment() -> Self {
        match std::env::var("ISOL8_TEST_ISOLATION").as_deref() {
            Ok("" | "runtime") | Err(_) => Self::Runtime,
            Ok(other) => panic!("ISOL8_TEST_ISOLATION is \"{other}\"; there is: runtime"),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
        }
    }

    /// What a server's configuration needs for it, to be merged into the test's own.
    #[must_use]
    pub fn settings(self) -> Value {
        match self {
            Self::Runtime => json!({}),
        }
    }
}
