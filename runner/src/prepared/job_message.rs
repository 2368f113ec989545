//! The job as the start-up files read it.

use runner::protocol::{Interpreter, Start};

/// Serialises what a start-up file needs of a job: a four-byte length and the body.
///
/// Python gets length-prefixed fields (`code?`, path, code, directory, then names and values), since
/// importing a JSON parser would leave traces; the others get JSON.
pub(crate) fn encode(interpreter: Interpreter, start: &Start) -> Vec<u8> {
    let body = match interpreter {
        Interpreter::Python => fields(start),
        Interpreter::Node | Interpreter::Deno => json(start),
    };
    let mut message = length(body.len()).to_vec();
    message.extend_from_slice(&body);
    message
}

fn fields(start: &Start) -> Vec<u8> {
    let mut body = Vec::new();
    let mut put = |text: &str| {
        body.extend_from_slice(&length(text.len()));
        body.extend_from_slice(text.as_bytes());
    };
    match &start.code {
        Some(code) => ["1", &code.path, &code.text].map(&mut put),
        None => ["0", "", ""].map(&mut put),
    };
    put(&start.cwd);
    for (name, value) in &start.env {
        put(name);
        put(value);
    }
    body
}

fn json(start: &Start) -> Vec<u8> {
    // Pairs, not an object: JavaScript would reorder names that look like numbers.
    let env: Vec<_> = start.env.iter().collect();
    let job = serde_json::json!({
        "argv": start.argv, "cwd": start.cwd, "env": env, "code": start.code,
    });
    job.to_string().into_bytes()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a job fits into one frame").to_le_bytes()
}
