//! An attempt: a program, and how it must fail.

use serde_json::{Value, json};
use tests::Reply;
use tests::case::equal;
use tests::isolation::{InGvisor, Isolation};
use tests::results::Row;

/// What every Python program of this suite begins with.
const PRELUDE: &str = include_str!("prelude.py");

/// What must come of an attempt.
#[derive(Clone, Copy)]
pub(crate) enum Expected {
    /// The program ends well and has printed exactly this.
    Prints(&'static str),
    /// The same; this is how it is shown.
    PrintsAs(&'static str, &'static str),
    /// The job ends in this way, like `timed_out`.
    Ends(&'static str),
    /// The program ends with this code; this is how it is shown.
    Exits(i64, &'static str),
    /// The output is cut at its limit.
    Cut,
    /// No requested file is given out, and the program is none the wiser.
    Withheld,
    /// The request is refused with this status and code.
    Refused(u16, &'static str),
}

use Expected::{Cut, Ends, Exits, Prints, PrintsAs, Refused, Withheld};

/// Something a program tries.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) runtime: &'static str,
    pub(crate) program: &'static str,
    /// More of the job, as JSON.
    pub(crate) more: &'static str,
    pub(crate) expected: Expected,
    pub(crate) in_gvisor: InGvisor<Expected>,
}

/// An attempt of a Python program, to be completed.
pub(crate) const PYTHON: Attempt = Attempt {
    group: "",
    name: "",
    runtime: "python",
    program: "",
    more: "{}",
    expected: Prints("EPERM"),
    in_gvisor: InGvisor::Same,
};

/// Of calls that a container's filter refuses otherwise.
pub(crate) const REFUSED: InGvisor<Expected> =
    InGvisor::Differs(Prints("EPERM"), "that is its word for whatever the filter refuses");

impl Expected {
    /// How it is shown in the document.
    fn shown(self) -> &'static str {
        match self {
            Prints(text) | PrintsAs(_, text) | Exits(_, text) => text,
            Ends("out_of_memory") => "killed at its memory limit",
            Ends("timed_out") => "killed at its time limit",
            Ends(outcome) => outcome,
            Cut => "output cut at its limit",
            Withheld => "no file given out",
            Refused(_, code) => code,
        }
    }
}

impl Attempt {
    /// How it is shown in the document.
    pub(crate) fn row(&self) -> Row {
        Row {
            group: self.group,
            name: self.name,
            expected: self.expected.shown(),
            in_gvisor: self.in_gvisor.map(Expected::shown),
        }
    }

    /// What must come of it with an isolation; `None` if it is not to be tried there.
    pub(crate) fn expected(&self, isolation: Isolation) -> Option<Expected> {
        self.in_gvisor.outcome(isolation, self.expected)
    }

    /// The job.
    pub(crate) fn body(&self) -> Value {
        let prelude = if self.runtime == "python" { PRELUDE } else { "" };
        let text = format!("{prelude}\n{}\n", self.program);
        let mut body = json!({"request": {"runtime": self.runtime, "code": text}});
        let more: Value = serde_json::from_str(self.more).expect("rows hold JSON");
        for (section, fields) in more.as_object().expect("rows hold objects") {
            for (name, value) in fields.as_object().expect("rows hold objects of objects") {
                body[section][name] = value.clone();
            }
        }
        body
    }

    /// Whether the answer is the one that must come.
    pub(crate) fn check(&self, reply: &Reply, expected: Expected) -> Result<(), String> {
        let result = reply.json();
        let outcome = match expected {
            Refused(status, code) => equal("status", &reply.status, &status)
                .and_then(|()| equal("code", &result["code"], &code)),
            Ends(outcome) => equal("outcome", &result["outcome"], &outcome),
            Exits(code, _) => equal("exitCode", &result["exitCode"], &code),
            Cut => equal("truncated", &result["truncated"], &true),
            Prints(text) | PrintsAs(text, _) => equal("stdout", &result["stdout"], &text)
                .and_then(|()| equal("stderr", &result["stderr"], &""))
                .and_then(|()| equal("exitCode", &result["exitCode"], &0)),
            Withheld => equal("files", &result["files"], &json!({}))
                .and_then(|()| equal("exitCode", &result["exitCode"], &0)),
        };
        outcome.map_err(|error| format!("{error}: {:.1500}", reply.text))
    }
}
