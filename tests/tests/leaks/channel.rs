//! A channel: how one job could leave something, and how the next one would find it.

use serde_json::{Value, json};
use tests::isolation::{InGvisor, Isolation};
use tests::results::Row;

/// What every Python program of this suite begins with.
const PRELUDE: &str = include_str!("prelude.py");

/// A way from one job to the next.
#[derive(Clone, Copy)]
pub(crate) struct Channel {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) runtime: &'static str,
    /// Leaves something. What it prints, if anything, is why it could not.
    pub(crate) plant: &'static str,
    /// Prints what it finds, and nothing where there is nothing.
    pub(crate) probe: &'static str,
    /// More of the job that plants, as JSON.
    pub(crate) request: &'static str,
    /// More of the job that probes, as JSON.
    pub(crate) asks: &'static str,
    /// Why it cannot even be planted.
    pub(crate) refusal: Refusal,
    pub(crate) in_gvisor: InGvisor<Refusal>,
}

/// What a program that wants to leave something prints instead; `None` if it can be left.
pub(crate) type Refusal = Option<&'static str>;

/// A channel of Python programs, to be completed.
pub(crate) const PYTHON: Channel = Channel {
    group: "",
    name: "",
    runtime: "python",
    plant: "",
    probe: "print_if(left())",
    request: "{}",
    asks: "{}",
    refusal: None,
    in_gvisor: InGvisor::Same,
};

impl Channel {
    /// How it is shown in the document.
    pub(crate) fn row(&self) -> Row {
        let shown = |refusal: Refusal| refusal.unwrap_or("nothing found");
        let Self { group, name, refusal, in_gvisor, .. } = *self;
        Row { group, name, expected: shown(refusal), in_gvisor: in_gvisor.map(shown) }
    }

    /// Why it cannot be planted with an isolation, if it cannot; nothing at all if it is not to be tried there.
    pub(crate) fn refusal(&self, isolation: Isolation) -> Option<Refusal> {
        self.in_gvisor.outcome(isolation, self.refusal)
    }

    /// The job that leaves something.
    pub(crate) fn planting(&self, refusal: Refusal) -> Value {
        let last = if refusal.is_some() { "" } else { self.say_planted() };
        self.body(&[self.plant, last], &[self.request])
    }

    /// The job that looks for it.
    pub(crate) fn probing(&self) -> Value {
        self.body(&[self.probe], &[self.asks])
    }

    /// Both in one job: there it must be found, or the probe would show nothing.
    pub(crate) fn control(&self) -> Value {
        let programs = [self.plant, self.say_planted(), self.probe];
        self.body(&programs, &[self.request, self.asks])
    }

    fn say_planted(&self) -> &'static str {
        match self.runtime {
            "bash" => "echo planted",
            "node" => "console.log('planted')",
            _ => "print('planted', flush=True)",
        }
    }

    fn body(&self, programs: &[&str], more: &[&str]) -> Value {
        let prelude = if self.runtime == "python" { PRELUDE } else { "" };
        let text = format!("{prelude}\n{}\n", programs.join("\n"));
        let mut body = json!({"request": {"runtime": self.runtime, "code": text}});
        for part in more {
            let part: Value = serde_json::from_str(part).expect("rows hold JSON");
            for (section, fields) in part.as_object().expect("rows hold objects") {
                for (name, value) in fields.as_object().expect("rows hold objects of objects") {
                    body[section][name] = value.clone();
                }
            }
        }
        body
    }
}
