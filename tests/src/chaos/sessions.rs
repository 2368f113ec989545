//! Sessions: a counter in a live interpreter goes up by one with each call, whichever gateway it came
//! through; if it does not, its caller was told why.

use std::collections::BTreeMap;

use super::check::{Case, Verdict};
use super::journal::{Exchange, Purpose};

/// What a session's only caller knows.
#[derive(Default)]
struct Known {
    /// The counter after the last call that was answered.
    count: u64,
    /// Calls since then of which it is not known whether they ran.
    unknown: u64,
}

/// Checks all calls, in the order in which they were made.
pub(super) fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let mut sessions: BTreeMap<&str, Known> = BTreeMap::new();
    for it in case.exchanges.iter().filter(|it| it.purpose == Purpose::Call) {
        let known = sessions.entry(&it.key).or_default();
        if let Err(what) = known.hear(it) {
            let (key, answer) = (&it.key, &it.answer);
            verdict.wrong(format!("session {key}: {what}: {answer}"));
        }
        verdict.count("sessions lost, and told so", usize::from(it.status == 410));
    }
    verdict.count("sessions", sessions.len());
}

impl Known {
    fn hear(&mut self, call: &Exchange) -> Result<(), String> {
        match call.status {
            200 => {}
            // Refused before it was queued.
            429 => return Ok(()),
            410 => {
                *self = Self::default();
                return Ok(());
            }
            // It may have run, or may have been told of a loss that nobody heard.
            _ => {
                self.unknown += 1;
                return Ok(());
            }
        }
        let answer = &call.answer;
        let count = answer["stdout"].as_str().and_then(|text| text.trim().parse::<u64>().ok());
        let before = std::mem::take(&mut self.unknown);
        let Some(count) = count else {
            // Cancelled, for the gateway of an earlier call went.
            self.unknown = before + 1;
            let is_excused = before > 0 && answer["outcome"] != "exited";
            return if is_excused { Ok(()) } else { Err("the answer is no number".to_owned()) };
        };
        let expected = self.count + 1;
        self.count = count;
        let is_told = answer["session"]["stateLost"] == true;
        if before == 0 && !is_told && count != expected {
            return Err(format!("{count} comes where {expected} should"));
        }
        if count > expected + before {
            return Err(format!("{count} comes where it can be {} at most", expected + before));
        }
        Ok(())
    }
}
