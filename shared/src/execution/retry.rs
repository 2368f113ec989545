//! Programs that do not end well: when they are tried again, and what is kept of each attempt.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::result::{Ending, Outcome};
use crate::error::ErrorCode;

/// How much of each stream an attempt keeps, in bytes.
pub(crate) const MAX_TAIL_BYTES: usize = 2048;

/// An ending of a program after which it may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// It ended by itself, with another exit code than 0.
    NonzeroExit,
    /// Its time was up.
    TimedOut,
    /// It ran out of memory.
    OutOfMemory,
    /// Its setup script failed.
    SetupFailed,
}

impl RetryOn {
    /// All there are.
    pub(super) const ALL: [Self; 4] =
        [Self::NonzeroExit, Self::TimedOut, Self::OutOfMemory, Self::SetupFailed];

    /// The word for an ending; `None` for one after which nothing is tried again.
    fn of(ending: &Ending) -> Option<Self> {
        match ending {
            Ending::Result(result) => match result.outcome {
                Outcome::Exited if result.exit_code != 0 => Some(Self::NonzeroExit),
                Outcome::TimedOut => Some(Self::TimedOut),
                Outcome::OutOfMemory => Some(Self::OutOfMemory),
                Outcome::Exited | Outcome::Cancelled => None,
            },
            Ending::Error(failure) if failure.code == ErrorCode::SetupFailed => {
                Some(Self::SetupFailed)
            }
            Ending::Error(_) | Ending::File(_) => None,
        }
    }
}

/// When a program that does not end well is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// How often it is tried in all.
    pub max_attempts: u32,
    /// Pause before the second try, in milliseconds; doubled for each further one.
    pub backoff_ms: u64,
    /// Longest pause.
    pub max_backoff_ms: u64,
    /// After which endings.
    pub retry_on: Vec<RetryOn>,
}

impl RetryPolicy {
    /// How long to pause before the program is tried again that ended so after `tries` earlier tries;
    /// `None` if it is not. `chance` is any number: of the pause, half is left to it, so that what
    /// failed together is not tried together.
    #[must_use]
    pub fn pause_after(&self, ending: &Ending, tries: u32, chance: u64) -> Option<Duration> {
        let why = RetryOn::of(ending)?;
        if tries.saturating_add(1) >= self.max_attempts || !self.retry_on.contains(&why) {
            return None;
        }
        Some(backoff(self.backoff_ms, self.max_backoff_ms, tries, chance))
    }
}

/// How long to pause after `tries` earlier pauses: `first_ms`, doubled each time, up to `longest_ms`.
/// `chance` is any number: of the pause, half is left to it.
#[must_use]
pub fn backoff(first_ms: u64, longest_ms: u64, tries: u32, chance: u64) -> Duration {
    let pause = first_ms.saturating_mul(1 << tries.min(30)).min(longest_ms);
    let half = pause / 2;
    Duration::from_millis(pause - half + chance % (half + 1))
}

/// How one attempt ended that was not the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Who made it.
    pub worker: String,
    /// When it began, in milliseconds since the epoch.
    pub started_ms: u64,
    /// When it ended, or was given up.
    pub ended_ms: u64,
    /// `exited`, `timed_out`, `out_of_memory`, `failed`, or `worker_lost`.
    pub outcome: String,
    /// Exit code of a program that ran; over 128 it was killed by a signal, mostly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it could not be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The end of its standard output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// The end of its standard error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// Which events of the job it wrote, from this number on, if its worker could tell nothing of it.
    #[serde(default, skip_serializing)]
    pub first_event: u64,
    /// The number behind its last event.
    #[serde(default, skip_serializing)]
    pub end_event: u64,
}

impl Attempt {
    /// An attempt as its worker saw it.
    #[must_use]
    pub fn ended(worker: String, started_ms: u64, ended_ms: u64, ending: &Ending) -> Self {
        let summary = ending.summary();
        let (message, stdout, stderr) = match ending {
            Ending::Result(result) => (None, tail(&result.stdout), tail(&result.stderr)),
            Ending::Error(failure) => (Some(failure.message.clone()), String::new(), String::new()),
            Ending::File(_) => (None, String::new(), String::new()),
        };
        Self {
            worker,
            started_ms,
            ended_ms,
            outcome: summary.outcome,
            exit_code: summary.exit_code,
            code: summary.code,
            message,
            stdout,
            stderr,
            first_event: 0,
            end_event: 0,
        }
    }
}

/// Its end, as an attempt has it.
pub(crate) fn tail(text: &str) -> String {
    let mut start = text.len().saturating_sub(MAX_TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::Failure;

    fn ending(code: ErrorCode) -> Ending {
        Ending::Error(Failure::new(code, ""))
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_vary_by_half() {
        let policy = RetryPolicy {
            max_attempts: 5,
            backoff_ms: 100,
            max_backoff_ms: 300,
            retry_on: vec![RetryOn::SetupFailed],
        };
        let pause = |tries, chance| {
            let pause = policy.pause_after(&ending(ErrorCode::SetupFailed), tries, chance);
            pause.map(|pause| pause.as_millis())
        };
        assert_eq!([pause(0, 0), pause(0, 50)], [Some(50), Some(100)]);
        assert_eq!([pause(1, 0), pause(1, 100)], [Some(100), Some(200)]);
        assert_eq!([pause(3, 0), pause(3, 150)], [Some(150), Some(300)]);
        assert_eq!(pause(4, 0), None, "the fifth is the last");
        for code in [ErrorCode::WorkerLost, ErrorCode::Cancelled, ErrorCode::StartFailed] {
            assert_eq!(policy.pause_after(&ending(code), 0, 0), None, "{code}");
        }
    }

    #[test]
    fn tails_begin_between_characters() {
        let text = format!("a{}", "é".repeat(MAX_TAIL_BYTES));
        assert_eq!(tail(&text), "é".repeat(MAX_TAIL_BYTES / 2));
        assert_eq!(tail("short"), "short");
    }
}
