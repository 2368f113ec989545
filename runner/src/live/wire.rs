//! What the runner and the driver of a living interpreter say to each other.
//!
//! Commands are lines of JSON, for `bash` a script; reports are short lines of JSON. The drivers are
//! in `runner/live/`. User code can write reports too, but only about its own session.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use runner::protocol::LiveInterpreter;

/// Longest report; a longer one is no report.
pub(super) const MAX_REPORT_BYTES: usize = 4096;

/// One piece of code to run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Command<'a> {
    pub(super) call: u64,
    pub(super) path: &'a str,
    pub(super) code: &'a str,
    /// Variables to set, or to remove, since the last call.
    pub(super) env: BTreeMap<&'a str, Option<&'a str>>,
    /// Where to go first; stay where the program is without one.
    pub(super) cwd: Option<&'a str>,
    pub(super) stdin: bool,
    /// A FIFO to read standard input from; without one there is none.
    pub(super) stdin_path: Option<&'a str>,
}

impl Command<'_> {
    /// The command as the driver reads it.
    pub(super) fn encode(&self, kind: LiveInterpreter) -> Vec<u8> {
        if kind == LiveInterpreter::Bash {
            return self.script();
        }
        // Strings and numbers: serialising them cannot fail.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// Assignments for `bash.sh` to evaluate, behind their length in eight digits.
    fn script(&self) -> Vec<u8> {
        let variables = self.env.iter().filter(|(name, _)| is_name(name));
        let environment = variables.map(|(name, value)| match value {
            Some(value) => format!("export {name}={}\n", quoted(value)),
            None => format!("unset -v {name}\n"),
        });
        let script = format!(
            "__isol8_call={}\n__isol8_path={}\n__isol8_cwd={}\n__isol8_stdin={}\n__isol8_code={}\n{}",
            self.call,
            quoted(self.path),
            quoted(self.cwd.unwrap_or_default()),
            quoted(self.stdin_path.unwrap_or_default()),
            quoted(self.code),
            environment.collect::<String>(),
        );
        // No shell variable can hold a zero byte.
        let script = script.replace('\0', "");
        format!("{:08}{script}", script.len()).into_bytes()
    }

    /// The changes that lead from one environment to the next.
    pub(super) fn changes<'a>(
        before: &'a BTreeMap<String, String>,
        now: &'a BTreeMap<String, String>,
    ) -> BTreeMap<&'a str, Option<&'a str>> {
        let gone = before.keys().filter(|name| !now.contains_key(*name));
        let gone = gone.map(|name| (name.as_str(), None));
        let changed = now.iter().filter(|(name, value)| before.get(*name) != Some(*value));
        let changed = changed.map(|(name, value)| (name.as_str(), Some(value.as_str())));
        gone.chain(changed).collect()
    }
}

/// Whether a shell can have a variable of this name.
fn is_name(name: &str) -> bool {
    let head = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    head && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What a driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// It has started.
    Ready,
    /// The FIFO of this call is open.
    StdinOpen(u64),
    /// This call is over, with this exit code.
    Done(u64, i32),
    /// The working directory of this call could not be entered, for this error number.
    Failed(u64, i32),
}

/// All fields a report may have.
#[derive(Deserialize)]
struct Line {
    ready: Option<bool>,
    stdin: Option<u64>,
    done: Option<u64>,
    #[serde(default)]
    exit: i32,
    failed: Option<u64>,
    #[serde(default)]
    errno: i32,
}

impl Report {
    /// Reads one line; `None` if it is no report.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let line: Line = serde_json::from_slice(line).ok()?;
        match line {
            Line { done: Some(call), exit, .. } => Some(Self::Done(call, exit & 0xff)),
            Line { failed: Some(call), errno, .. } => Some(Self::Failed(call, errno)),
            Line { stdin: Some(call), .. } => Some(Self::StdinOpen(call)),
            Line { ready: Some(true), .. } => Some(Self::Ready),
            Line { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_changes_of_the_environment_are_sent() {
        let before = environment(&[("SAME", "1"), ("OLD", "1"), ("NEW", "1")]);
        let now = environment(&[("SAME", "1"), ("NEW", "2"), ("MORE", "3")]);
        let changes: Vec<_> = Command::changes(&before, &now).into_iter().collect();
        assert_eq!(changes, [("MORE", Some("3")), ("NEW", Some("2")), ("OLD", None)]);
    }

    #[test]
    fn a_script_cannot_be_broken_out_of() {
        let command = Command {
            call: 7,
            path: "/sandbox/it's",
            code: "echo '\0'",
            env: BTreeMap::from([("A", Some("'$(x)")), ("B;x", Some("")), ("C", None)]),
            cwd: None,
            stdin: false,
            stdin_path: None,
        };
        let script = String::from_utf8(command.encode(LiveInterpreter::Bash)).unwrap();
        assert_eq!(
            script,
            "00000139__isol8_call=7\n__isol8_path='/sandbox/it'\\''s'\n__isol8_cwd=''\n__isol8_stdin=''\n\
             __isol8_code='echo '\\'''\\'''\nexport A=''\\''$(x)'\nunset -v C\n"
        );
    }

    #[test]
    fn reports_are_read_and_noise_is_not() {
        let parse = |line: &str| Report::parse(line.as_bytes());
        assert_eq!(parse(r#"{"ready":true}"#), Some(Report::Ready));
        assert_eq!(parse(r#"{"done":3,"exit":259}"#), Some(Report::Done(3, 3)));
        assert_eq!(parse(r#"{"failed":4,"errno":2}"#), Some(Report::Failed(4, 2)));
        assert_eq!(parse(r#"{"stdin":5}"#), Some(Report::StdinOpen(5)));
        for noise in ["", "hello", "{}", "[]", r#"{"ready":false}"#, r#"{"done":-1}"#] {
            assert_eq!(parse(noise), None, "{noise}");
        }
    }
}
