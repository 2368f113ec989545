//! When a schedule's runs are due: cron patterns in time zones, or one moment; and what becomes of runs
//! whose time has passed while nobody was there.

use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How late a run may be before it counts as missed.
const LATE_MS: u64 = 60_000;
/// Most missed runs that are made up for.
const MAX_MADE_UP: usize = 100;
/// Most entries for missed runs: as many as a schedule keeps of all its runs.
const MAX_NOTED: usize = 50;
/// Most missed runs that are counted for one entry: they may be millions.
const MAX_COUNTED: u64 = 1000;
/// Longest pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 256;
const UTC: &str = "UTC";
/// Patterns that have a name.
const NICKNAMES: [&str; 6] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly"];
/// The fields of a pattern, and what may stand in each; the first may be missing.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0 to 59"),
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    (
        "day of the month",
        "1 to 31, L (the last one), or a number and W (the weekday nearest to it)",
    ),
    ("month", "1 to 12, or JAN to DEC"),
    (
        "day of the week",
        "0 (Sunday) to 7, or SUN to SAT; behind it # and a number (which one of the month), or L (the last one)",
    ),
];

/// What becomes of runs that were missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// Nothing.
    Skip,
    /// One run stands for all of them.
    #[default]
    Once,
    /// Each is made up for, the last hundred of them.
    All,
}

/// What becomes of a run that is due while the job of the one before has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It is submitted all the same.
    #[default]
    Allow,
    /// It is left out.
    Skip,
    /// The job before is cancelled, and it is submitted.
    Replace,
}

impl Overlap {
    /// Its word on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::Replace => "replace",
        }
    }
}

/// When a schedule's jobs are to be submitted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timetable {
    /// Cron pattern; one of five fields, or six with seconds in front.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The one moment, instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<DateTime<Utc>>,
    /// Where the pattern's clock hangs: a name of the IANA's database.
    pub timezone: String,
    /// What becomes of runs that were missed.
    pub missed: Missed,
    /// What becomes of runs that would overlap.
    pub overlap: Overlap,
}

/// What is to be done about a run that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Whether a job is to be submitted; else the run was missed.
    pub is_to_run: bool,
    /// When the next run is due, in milliseconds since the epoch.
    pub next_ms: Option<u64>,
}

/// Runs that were missed and are not made up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MissedRuns {
    /// When the first of them was due, in milliseconds since the epoch.
    pub due_ms: u64,
    /// How many they are; of a thousand and more, a thousand. Absent if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Timetable {
    /// Checks it.
    ///
    /// # Errors
    /// An invalid-request error that names the field.
    pub fn check(&self) -> Result<(), Error> {
        match (&self.cron, &self.at) {
            (Some(_), Some(_)) | (None, None) => {
                return Err(Error::invalid("Give cron or at: one of them"));
            }
            (Some(pattern), None) => {
                if pattern.len() > MAX_PATTERN_BYTES {
                    let message = format!("cron is longer than {MAX_PATTERN_BYTES} bytes");
                    return Err(Error::invalid(message));
                }
                check_pattern(pattern).map_err(|why| {
                    Error::invalid(format!("cron \"{}\": {why}", pattern.escape_debug()))
                })?;
            }
            (None, Some(_)) => {}
        }
        self.zone().map(drop)
    }

    /// The name of the time zone where none is given.
    #[must_use]
    pub fn default_timezone() -> String {
        UTC.to_owned()
    }

    fn pattern(&self) -> Result<Option<Cron>, Error> {
        let parse = |pattern: &String| {
            Cron::from_str(pattern).map_err(|error| {
                let message = format!("cron \"{}\" cannot be read", pattern.escape_debug());
                Error::invalid(message).with_source(error)
            })
        };
        self.cron.as_ref().map(parse).transpose()
    }

    fn zone(&self) -> Result<Tz, Error> {
        self.timezone.parse().map_err(|_| {
            let name = self.timezone.escape_debug();
            Error::invalid(format!(
                "timezone \"{name}\" is unknown; give a name like Europe/Paris, or UTC"
            ))
        })
    }

    /// When the first run after a moment is due, in milliseconds since the epoch; `None` if there is none.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn next_after(&self, after_ms: u64) -> Result<Option<u64>, Error> {
        if let Some(at) = self.at {
            return Ok(Some(milliseconds(at)).filter(|at_ms| *at_ms > after_ms));
        }
        let Some(pattern) = self.pattern()? else { return Ok(None) };
        let after = moment(after_ms).with_timezone(&self.zone()?);
        // Its only other error is that there is none before the year 5000.
        let next = pattern.find_next_occurrence(&after, false).ok();
        Ok(next.map(|next| milliseconds(next.to_utc())))
    }

    /// What to do about the run that was due at `due_ms`, now that it is `now_ms`.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn step(&self, due_ms: u64, now_ms: u64) -> Result<Step, Error> {
        if now_ms.saturating_sub(due_ms) <= LATE_MS {
            return Ok(Step { is_to_run: true, next_ms: self.next_after(due_ms)? });
        }
        match self.missed {
            Missed::Skip => {
                // What was due within the last minute is not missed.
                let next_ms = self.next_after(now_ms.saturating_sub(LATE_MS + 1))?;
                Ok(Step { is_to_run: false, next_ms })
            }
            Missed::Once => Ok(Step { is_to_run: true, next_ms: self.next_after(now_ms)? }),
            Missed::All => {
                let first_ms = self.first_made_up(now_ms)?;
                let is_to_run = first_ms.is_none_or(|first_ms| due_ms >= first_ms);
                let next_ms = if is_to_run { self.next_after(due_ms)? } else { first_ms };
                Ok(Step { is_to_run, next_ms })
            }
        }
    }

    /// The runs from the one at `first_ms` on that a step from there to `next_ms` leaves out, oldest first. If
    /// they are more than a schedule keeps, one entry stands for the oldest of them.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn left_out(
        &self,
        first_ms: u64,
        next_ms: Option<u64>,
        now_ms: u64,
    ) -> Result<Vec<MissedRuns>, Error> {
        let one = |due_ms| MissedRuns { due_ms, count: None };
        let Some(pattern) = self.pattern()? else { return Ok(vec![one(first_ms)]) };
        let zone = self.zone()?;
        let end_ms = next_ms.unwrap_or(now_ms);
        let first = moment(first_ms).with_timezone(&zone);
        let mut due = [first_ms].into_iter().chain(
            pattern
                .iter_after(first)
                .map(|it| milliseconds(it.to_utc()))
                .take_while(|due_ms| *due_ms < end_ms),
        );
        let runs: Vec<MissedRuns> = due.by_ref().take(MAX_NOTED + 1).map(one).collect();
        if runs.len() <= MAX_NOTED {
            return Ok(runs);
        }
        let end = moment(end_ms).with_timezone(&zone);
        let last = pattern.iter_before(end).map(|it| milliseconds(it.to_utc()));
        let mut noted: Vec<MissedRuns> = last.take(MAX_NOTED - 1).map(one).collect();
        let noted_from_ms = noted.last().map_or(end_ms, |it| it.due_ms);
        let due_ms = runs.iter().map(|it| it.due_ms).chain(due);
        let count =
            due_ms.take_while(|due_ms| *due_ms < noted_from_ms).zip(1..=MAX_COUNTED).count();
        noted.push(MissedRuns { due_ms: first_ms, count: Some(count as u64) });
        noted.reverse();
        Ok(noted)
    }

    /// The first of the missed runs that are made up for, if there are as many as may be.
    fn first_made_up(&self, now_ms: u64) -> Result<Option<u64>, Error> {
        let Some(pattern) = self.pattern()? else { return Ok(None) };
        let now = moment(now_ms).with_timezone(&self.zone()?);
        let first = pattern.iter_before(now).nth(MAX_MADE_UP - 1);
        Ok(first.map(|first| milliseconds(first.to_utc())))
    }
}

/// What is wrong with a pattern, if something is. The parser alone would let pass more than is promised to be
/// understood: years, for one.
fn check_pattern(pattern: &str) -> Result<(), String> {
    let pattern = pattern.trim();
    if pattern.starts_with('@') {
        return match NICKNAMES.iter().any(|name| name.eq_ignore_ascii_case(pattern)) {
            true => Ok(()),
            false => Err(format!("unknown name; there are {}", NICKNAMES.join(", "))),
        };
    }
    let fields: Vec<&str> = pattern.split_whitespace().collect();
    let Some(first) = FIELDS.len().checked_sub(fields.len()).filter(|first| *first <= 1) else {
        return Err(format!(
            "has {} fields; expected five (minute, hour, day of the month, month, day of the week), or six \
             with the second in front",
            fields.len()
        ));
    };
    for (place, field) in (first..).zip(&fields) {
        let mut alone = ["*"; FIELDS.len()];
        alone[place] = field;
        if field.contains(['+', '@']) || Cron::from_str(&alone.join(" ")).is_err() {
            let (name, values) = FIELDS[place];
            return Err(format!(
                "the {name} cannot be \"{}\"; expected *, or {values}; also lists (1,2), ranges (1-5) and steps \
                 (*/5, 1-20/5)",
                field.escape_debug()
            ));
        }
    }
    Cron::from_str(pattern).map(drop).map_err(|_| "cannot be read".to_owned())
}

fn moment(ms: u64) -> DateTime<Utc> {
    let moment = i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis);
    moment.unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn milliseconds(moment: DateTime<Utc>) -> u64 {
    u64::try_from(moment.timestamp_millis()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timetable(cron: &str, timezone: &str) -> Timetable {
        Timetable {
            cron: Some(cron.into()),
            at: None,
            timezone: timezone.into(),
            missed: Missed::Once,
            overlap: Overlap::Allow,
        }
    }

    fn ms(text: &str) -> u64 {
        milliseconds(DateTime::parse_from_rfc3339(text).unwrap().to_utc())
    }

    /// The runs after a moment, in UTC.
    fn runs(table: &Timetable, after: &str, count: usize) -> Vec<String> {
        let mut at = ms(after);
        let mut found = Vec::new();
        while found.len() < count {
            at = table.next_after(at).unwrap().unwrap();
            found.push(moment(at).format("%m-%dT%H:%M:%S").to_string());
        }
        found
    }

    #[test]
    fn what_is_wrong_is_named() {
        let at = || Some(Utc::now());
        for (table, words) in [
            (timetable("* * *", UTC), "cron \"* * *\": has 3 fields; expected five (minute, "),
            (timetable("61 * * * *", UTC), "the minute cannot be \"61\"; expected *, or 0 to 59;"),
            (timetable("0 61 * * * *", UTC), "the minute cannot be \"61\""),
            (timetable("x 0 * * * *", UTC), "the second cannot be \"x\""),
            (timetable("0 0 32 * *", UTC), "the day of the month cannot be \"32\""),
            (
                timetable("0 0 * MAI *", UTC),
                "the month cannot be \"MAI\"; expected *, or 1 to 12, or JAN to DEC",
            ),
            (timetable("0 0 * * +MON", UTC), "the day of the week cannot be \"+MON\""),
            (timetable("0 0 0 1 1 * 2030", UTC), "has 7 fields"),
            (timetable("@midnight", UTC), "unknown name; there are @yearly, "),
            (timetable("", UTC), "has 0 fields"),
            (timetable(&"*,".repeat(200), UTC), "256 bytes"),
            (timetable("0 0 * * *", "Mars/Olympus"), "timezone \"Mars/Olympus\""),
            (Timetable { at: at(), ..timetable("0 0 * * *", UTC) }, "cron or at"),
            (Timetable { cron: None, ..timetable("", UTC) }, "cron or at"),
        ] {
            let error = table.check().unwrap_err();
            assert!(error.message().contains(words), "{error}");
        }
        let never = timetable("0 0 30 2 *", UTC);
        never.check().unwrap();
        assert_eq!(never.next_after(ms("2026-01-01T00:00:00Z")).unwrap(), None);
    }

    #[test]
    fn patterns_have_five_fields_or_six_with_seconds() {
        let after = "2026-03-01T10:00:00Z";
        let minutes = timetable("*/15 * * * *", UTC);
        assert_eq!(runs(&minutes, after, 2), ["03-01T10:15:00", "03-01T10:30:00"]);
        let seconds = timetable("*/20 * * * * *", UTC);
        assert_eq!(runs(&seconds, after, 2), ["03-01T10:00:20", "03-01T10:00:40"]);
        let weekdays = timetable("30 9 * * MON-FRI", "America/New_York");
        assert_eq!(runs(&weekdays, after, 1), ["03-02T14:30:00"]);
        assert_eq!(runs(&timetable("@daily", UTC), after, 1), ["03-02T00:00:00"]);
        let last_friday = timetable("0 12 ? * FRI#L", UTC);
        assert_eq!(runs(&last_friday, after, 1), ["03-27T12:00:00"]);
        for pattern in
            ["0 9 15W * *", "0 9 L jan-mar mon", "@Weekly", " 0 9 * * 1-5/2 ", "0 0 * * FRI#2"]
        {
            timetable(pattern, UTC).check().unwrap();
        }
    }

    #[test]
    fn where_clocks_go_forward_a_fixed_time_runs_once_behind_the_gap() {
        // On 2026-03-29 in Berlin, 02:00 to 03:00 is left out: 01:00 UTC is 03:00.
        let daily = timetable("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            runs(&daily, "2026-03-27T12:00:00Z", 3),
            ["03-28T01:30:00", "03-29T01:00:00", "03-30T00:30:00"]
        );
        // What is not at a fixed time leaves the gap out.
        let half_hours = timetable("*/30 * * * *", "Europe/Berlin");
        assert_eq!(
            runs(&half_hours, "2026-03-29T00:29:00Z", 3),
            ["03-29T00:30:00", "03-29T01:00:00", "03-29T01:30:00"]
        );
    }

    #[test]
    fn where_clocks_go_back_a_fixed_time_runs_once_and_intervals_go_on() {
        // On 2026-10-25 in Berlin, 02:00 to 03:00 comes twice: at 00:00 and at 01:00 UTC.
        let daily = timetable("30 2 * * *", "Europe/Berlin");
        assert_eq!(runs(&daily, "2026-10-24T12:00:00Z", 2), ["10-25T00:30:00", "10-26T01:30:00"]);
        let half_hours = timetable("*/30 * * * *", "Europe/Berlin");
        assert_eq!(
            runs(&half_hours, "2026-10-24T23:59:00Z", 5),
            [
                "10-25T00:00:00",
                "10-25T00:30:00",
                "10-25T01:00:00",
                "10-25T01:30:00",
                "10-25T02:00:00"
            ]
        );
    }

    #[test]
    fn a_run_on_time_is_followed_by_the_next_one_even_if_that_is_late_too() {
        let table = timetable("* * * * * *", UTC);
        let due = ms("2026-03-01T10:00:00Z");
        let step = table.step(due, due + 30_000).unwrap();
        assert_eq!(step, Step { is_to_run: true, next_ms: Some(due + 1000) });
    }

    #[test]
    fn missed_runs_are_skipped_stood_for_or_made_up_for() {
        let due = ms("2026-03-01T10:00:00Z");
        let now = ms("2026-03-01T13:20:00Z");
        let step =
            |missed| Timetable { missed, ..timetable("0 * * * *", UTC) }.step(due, now).unwrap();
        let next = Some(ms("2026-03-01T14:00:00Z"));
        assert_eq!(step(Missed::Skip), Step { is_to_run: false, next_ms: next });
        assert_eq!(step(Missed::Once), Step { is_to_run: true, next_ms: next });
        let hour = Some(ms("2026-03-01T11:00:00Z"));
        assert_eq!(step(Missed::All), Step { is_to_run: true, next_ms: hour });
    }

    #[test]
    fn a_run_within_the_last_minute_is_on_time_whatever_was_missed_before_it() {
        let table = Timetable { missed: Missed::Skip, ..timetable("* * * * *", UTC) };
        let (due, now) = (ms("2026-03-01T10:00:00Z"), ms("2026-03-01T10:05:20Z"));
        let last = ms("2026-03-01T10:05:00Z");
        assert_eq!(table.step(due, now).unwrap(), Step { is_to_run: false, next_ms: Some(last) });
        let step = table.step(last, now).unwrap();
        assert_eq!(step, Step { is_to_run: true, next_ms: Some(last + 60_000) });
    }

    #[test]
    fn each_run_that_is_left_out_is_named_and_of_many_the_oldest_are_counted() {
        let left_out = |cron, from, now| {
            let table = Timetable { missed: Missed::Skip, ..timetable(cron, "Europe/Berlin") };
            let (from, now) = (ms(from), ms(now));
            let step = table.step(from, now).unwrap();
            assert!(!step.is_to_run);
            table.left_out(from, step.next_ms, now).unwrap()
        };
        let from = "2026-03-01T10:00:00Z";
        let hours = left_out("0 * * * *", from, "2026-03-01T13:20:00Z");
        let hour = |number: u64| MissedRuns { due_ms: ms(from) + number * 3_600_000, count: None };
        assert_eq!(hours, [0, 1, 2, 3].map(hour));

        // From 10:00 on: 50 of them are named, of one more the two oldest are one entry.
        assert_eq!(left_out("* * * * *", from, "2026-03-01T10:50:30Z").len(), 50);
        for (now, count) in [("2026-03-01T10:51:30Z", 2), ("2026-03-02T10:00:30Z", 1391)] {
            let minutes = left_out("* * * * *", from, now);
            let oldest = MissedRuns { due_ms: ms(from), count: Some(count.min(1000)) };
            assert_eq!((minutes.len(), minutes[0]), (50, oldest));
            let named: Vec<u64> = minutes[1..].iter().map(|it| it.due_ms).collect();
            let minute = |number| ms(from) + (count + number) * 60_000;
            assert_eq!(named, (0..49).map(minute).collect::<Vec<_>>());
        }
        let at = DateTime::from_timestamp_millis(5).unwrap();
        let table = Timetable { cron: None, at: Some(at), ..timetable("", UTC) };
        assert_eq!(table.left_out(5, None, 9).unwrap(), [MissedRuns { due_ms: 5, count: None }]);
    }

    #[test]
    fn no_more_than_a_hundred_missed_runs_are_made_up_for() {
        let table = Timetable { missed: Missed::All, ..timetable("* * * * *", UTC) };
        let due = ms("2026-02-01T10:00:00Z");
        let now = ms("2026-03-01T10:00:30Z");
        let mut step = table.step(due, now).unwrap();
        assert!(!step.is_to_run);
        let mut made_up = 0;
        while let Some(next_ms) = step.next_ms.filter(|next_ms| *next_ms <= now) {
            step = table.step(next_ms, now).unwrap();
            assert!(step.is_to_run);
            made_up += 1;
        }
        assert_eq!(made_up, 100);
        assert_eq!(step.next_ms, Some(ms("2026-03-01T10:01:00Z")));
    }

    #[test]
    fn one_moment_comes_once() {
        let at = DateTime::parse_from_rfc3339("2026-03-01T10:00:00Z").unwrap().to_utc();
        let table = Timetable { cron: None, at: Some(at), ..timetable("", UTC) };
        table.check().unwrap();
        let at = milliseconds(at);
        assert_eq!(table.next_after(at - 1).unwrap(), Some(at));
        assert_eq!(table.step(at, at + 5).unwrap(), Step { is_to_run: true, next_ms: None });
        let late = |missed| Timetable { missed, ..table.clone() }.step(at, at + 3_600_000).unwrap();
        assert_eq!(late(Missed::Skip), Step { is_to_run: false, next_ms: None });
        assert_eq!(late(Missed::All), Step { is_to_run: true, next_ms: None });
    }
}
