//! Sessions: a counter in a live interpreter goes up by one with each call, whichever gateway it came
//! through; if it does not, its caller was told why.

use std::collections::BTreeMap;

use super::check::{Case, Verdict};
use super::journal::{Exchange, Purpose};

/// What a session's only caller knows.
#[derive(Default)]
struct Known {
    /// The counter after the last call that was answered.
    count: usize,
    /// When calls ended of which it is not known whether they ran, or still will.
    unknown: Vec<u64>,
}

/// For how long such a call may still come: its gateway may have sent it over a connection that stalls, and a
/// call that was made later may overtake it through another one.
const LATE_MS: u64 = 30_000;

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
                self.unknown.push(call.at_ms + call.took_ms);
                return Ok(());
            }
        }
        self.unknown.retain(|ended_ms| call.at_ms < ended_ms + LATE_MS);
        let answer = &call.answer;
        let count = answer["stdout"].as_str().and_then(|text| text.trim().parse::<usize>().ok());
        let Some(count) = count else {
            // Cancelled, for the gateway of an earlier call went.
            let is_excused = !self.unknown.is_empty() && answer["outcome"] != "exited";
            self.unknown.push(call.at_ms + call.took_ms);
            return if is_excused { Ok(()) } else { Err("the answer is no number".to_owned()) };
        };
        let expected = self.count + 1;
        self.count = count;
        let is_told = answer["session"]["stateLost"] == true;
        if self.unknown.is_empty() && !is_told && count != expected {
            return Err(format!("{count} comes where {expected} should"));
        }
        let most = expected + self.unknown.len();
        if count > most {
            return Err(format!("{count} comes where it can be {most} at most"));
        }
        // Each explains one step more, or one loss that nobody heard of, and no other.
        let is_silent_loss = count < expected && !is_told;
        let explained = count.saturating_sub(expected).max(usize::from(is_silent_loss));
        self.unknown.drain(..explained.min(self.unknown.len()));
        Ok(())
    }
}
