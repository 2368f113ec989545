//! Tables of requests with what must come of each. All rows are tried, and all that fail are
//! reported together.

use std::time::Duration;

use serde_json::Value;

use crate::api::{Api, Reply};

/// What a slow, busy machine may add to any time limit; less than programs that must be ended sleep.
const SLACK: Duration = Duration::from_secs(25);

type Check = Box<dyn Fn(&Reply) -> Result<(), String>>;

/// A request, and what must come of it.
pub struct Case {
    name: String,
    body: String,
    checks: Vec<Check>,
}

impl Case {
    /// A request that must be answered with a result.
    #[must_use]
    pub fn new(name: impl Into<String>, body: &Value) -> Self {
        Self { name: name.into(), body: body.to_string(), checks: Vec::new() }.with(|reply| {
            equal("status", &reply.status, &200).map_err(|error| format!("{error}: {}", reply.text))
        })
    }

    /// A body, whatever it is, that must be refused with this status, code and text.
    #[must_use]
    pub fn refused(
        name: impl Into<String>,
        body: impl Into<String>,
        (status, code, text): (u16, &'static str, &'static str),
    ) -> Self {
        let case = Self { name: name.into(), body: body.into(), checks: Vec::new() };
        case.with(move |reply| is_error(reply, status, code, text))
    }

    /// Adds a check of the whole reply.
    #[must_use]
    pub fn with(mut self, check: impl Fn(&Reply) -> Result<(), String> + 'static) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// Adds a check of the result.
    #[must_use]
    pub fn result(self, check: impl Fn(&Value) -> Result<(), String> + 'static) -> Self {
        self.with(move |reply| check(&reply.json()))
    }

    /// Ends by itself with this code and this standard output.
    #[must_use]
    pub fn prints(self, stdout: impl Into<String>) -> Self {
        let stdout = stdout.into();
        self.exits(0).result(move |result| equal("stdout", &result["stdout"], &stdout.as_str()))
    }

    /// Ends by itself with this code.
    #[must_use]
    pub fn exits(self, exit_code: i64) -> Self {
        self.outcome("exited").result(move |result| {
            equal("exitCode", &result["exitCode"], &exit_code)
                .map_err(|error| format!("{error}, stderr: {}", result["stderr"]))
        })
    }

    /// Ends with any code but 0.
    #[must_use]
    pub fn fails(self) -> Self {
        self.result(|result| match result["exitCode"].as_i64() {
            Some(0) | None => Err(format!("exitCode is {}", result["exitCode"])),
            Some(_) => Ok(()),
        })
    }

    /// How it ends.
    #[must_use]
    pub fn outcome(self, outcome: &'static str) -> Self {
        self.result(move |result| equal("outcome", &result["outcome"], &outcome))
    }

    /// Is killed at its time limit, with all the signs, and not much later.
    #[must_use]
    pub fn times_out(self, limit: Duration) -> Self {
        self.outcome("timed_out")
            .result(|result| equal("exitCode", &result["exitCode"], &137))
            .has("stderr", "--- EXECUTION TIMED OUT ---")
            .within(limit + Duration::from_secs(1))
    }

    /// Standard output or error contains a text.
    #[must_use]
    pub fn has(self, stream: &'static str, text: &'static str) -> Self {
        self.result(move |result| match result[stream].as_str() {
            Some(found) if found.contains(text) => Ok(()),
            _ => Err(format!("{stream} lacks \"{text}\": {}", shorten(&result[stream]))),
        })
    }

    /// Standard output or error does not contain a text.
    #[must_use]
    pub fn lacks(self, stream: &'static str, text: &'static str) -> Self {
        self.result(move |result| match result[stream].as_str() {
            Some(found) if !found.contains(text) => Ok(()),
            _ => Err(format!("{stream} has \"{text}\": {}", shorten(&result[stream]))),
        })
    }

    /// Nothing on standard error.
    #[must_use]
    pub fn quietly(self) -> Self {
        self.result(|result| equal("stderr", &result["stderr"], &""))
    }

    /// Is answered within a time, give or take what a busy machine needs.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        self.with(move |reply| {
            if reply.took <= limit + SLACK { Ok(()) } else { Err(format!("took {:?}", reply.took)) }
        })
    }

    /// Sends it.
    ///
    /// # Errors
    /// Everything that is not as it must be.
    pub async fn run(&self, api: &Api) -> Result<Reply, String> {
        let reply =
            api.post(self.body.clone()).await.map_err(|error| format!("no answer: {error}"))?;
        let wrong: Vec<String> =
            self.checks.iter().filter_map(|check| check(&reply).err()).collect();
        if wrong.is_empty() { Ok(reply) } else { Err(wrong.join("; ")) }
    }
}

/// Whether a reply is an error of the agreed shape.
///
/// # Errors
/// What is wrong with it.
pub fn is_error(reply: &Reply, status: u16, code: &str, text: &str) -> Result<(), String> {
    let body = reply.json();
    equal("status", &reply.status, &status).map_err(|error| format!("{error}: {}", reply.text))?;
    equal("code", &body["code"], &code)?;
    equal("content type", &reply.header("content-type"), &"application/json")?;
    match (body["error"].as_str(), body["requestId"].as_str()) {
        (Some(message), Some(request)) if message.contains(text) && !request.is_empty() => Ok(()),
        _ => Err(format!("\"{text}\" or a request id is missing: {}", reply.text)),
    }
}

/// Compares, in words.
///
/// # Errors
/// If they differ.
pub fn equal<L, R>(what: &str, found: &L, expected: &R) -> Result<(), String>
where
    L: std::fmt::Debug + PartialEq<R>,
    R: std::fmt::Debug,
{
    if found == expected {
        return Ok(());
    }
    Err(format!("{what} is {}, not {}", shorten(found), shorten(expected)))
}

fn shorten(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(600) {
        None => text,
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
    }
}

/// What a test has found wrong so far.
#[derive(Debug, Default)]
pub struct Findings {
    tried: usize,
    wrong: Vec<String>,
}

impl Findings {
    /// Notes how a row went.
    pub fn note<T>(&mut self, name: &str, outcome: Result<T, String>) -> Option<T> {
        self.tried += 1;
        outcome.map_err(|why| self.wrong.push(format!("{name}: {why}"))).ok()
    }

    /// Notes whether something holds.
    pub fn check(&mut self, name: &str, holds: bool, found: impl std::fmt::Debug) {
        self.note(name, if holds { Ok(()) } else { Err(format!("found {}", shorten(&found))) });
    }

    /// Fails the test if anything was wrong.
    ///
    /// # Panics
    /// With all that was.
    pub fn report(self) {
        let (count, tried) = (self.wrong.len(), self.tried);
        assert!(self.wrong.is_empty(), "{count} of {tried} wrong:\n- {}", self.wrong.join("\n- "));
    }
}

/// Runs cases one after the other; all are tried.
pub async fn run_cases(api: &Api, cases: impl IntoIterator<Item = Case>) -> Findings {
    let mut findings = Findings::default();
    for case in cases {
        let outcome = case.run(api).await;
        findings.note(&case.name, outcome);
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(case: &Case, status: u16, body: &Value) -> usize {
        let reply = Reply {
            status,
            headers: [("content-type", "application/json")]
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .into_iter()
                .collect(),
            text: body.to_string(),
            took: Duration::from_secs(27),
        };
        case.checks.iter().filter(|check| check(&reply).is_err()).count()
    }

    #[test]
    fn every_check_can_fail() {
        let good = json!({"stdout": "a", "stderr": "", "exitCode": 0, "outcome": "exited"});
        let bad = json!({"stdout": "b", "stderr": "x", "exitCode": 2, "outcome": "timed_out"});
        let case = || Case::new("", &json!({})).prints("a").quietly().has("stdout", "a");
        assert_eq!(wrong(&case(), 200, &good), 0);
        assert_eq!(wrong(&case(), 200, &bad), 5);
        assert_eq!(wrong(&case(), 500, &good), 1);
        assert_eq!(wrong(&case().lacks("stdout", "a").within(Duration::ZERO), 200, &good), 2);
        assert_eq!(wrong(&Case::new("", &json!({})).fails(), 200, &good), 1);
        assert_eq!(wrong(&case(), 200, &json!({})), 5);
    }

    #[test]
    fn errors_need_all_their_parts() {
        let case = Case::refused("", "", (400, "CODE", "why"));
        let error = json!({"error": "that is why", "code": "CODE", "requestId": "1"});
        assert_eq!(wrong(&case, 400, &error), 0);
        assert_eq!(wrong(&case, 500, &error), 1);
        for field in ["error", "code", "requestId"] {
            let mut error = error.clone();
            error[field] = Value::Null;
            assert_eq!(wrong(&case, 400, &error), 1, "{field}");
        }
    }

    #[test]
    #[should_panic(expected = "1 of 2 wrong")]
    fn findings_fail_the_test() {
        let mut findings = Findings::default();
        findings.check("good", true, 1);
        findings.check("bad", false, 2);
        findings.report();
    }
}
