//! Parses request bodies. What is wrong with one is said once, here, for every route: the field, what was expected there
//! and what was found.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_json::{Deserializer, Value};
use shared::{Error, ErrorCode};

use super::strict::Strict;

/// What Rust calls its kinds of numbers, and what people do.
const NUMBERS: [(&str, &str); 7] = [
    ("u8", "a whole number from 0 to 255"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u64", "a whole number that is not negative"),
    ("usize", "a whole number that is not negative"),
    ("i32", "a whole number"),
    ("i64", "a whole number"),
    ("f64", "a number"),
];
/// The same for what was expected besides, and for what was found.
const EXPECTED: [(&str, &str); 2] = [("a map", "an object"), ("a sequence", "an array")];
const FOUND: [(&str, &str); 7] = [
    ("map", "an object"),
    ("sequence", "an array"),
    ("unit value", "null"),
    ("string ", "the text "),
    ("integer ", "the number "),
    ("floating point ", "the number "),
    ("boolean ", ""),
];
/// How much of what was found is told.
const MAX_TOLD_CHARS: usize = 80;
/// What is wrong with JSON, as the parser says it, and as people do.
const SYNTAX: [(&str, &str); 12] = [
    ("expected value", "there is no value"),
    ("expected ident", "there is no value"),
    ("expected `:`", "there is no colon behind a name"),
    ("expected `,` or `}`", "there is neither a comma nor the end of an object"),
    ("expected `,` or `]`", "there is neither a comma nor the end of an array"),
    ("key must be a string", "a name is not in double quotes"),
    ("trailing comma", "there is a comma too many"),
    ("trailing characters", "something follows the end"),
    ("control character", "a control character stands in a text; write it as \\n, \\t or \\u0000"),
    ("invalid escape", "a text has a backslash that begins nothing known"),
    ("number out of range", "a number is too large"),
    ("recursion limit exceeded", "it is nested too deeply"),
];

/// Parses a JSON object.
///
/// # Errors
/// `INVALID_JSON` if it is not JSON, `INVALID_REQUEST` naming the field if a value does not fit.
pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Error> {
    // JavaScript's own parser takes a byte order mark, serde_json does not.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // Of fields that are passed over serde_json would not look at the letters.
    let body = str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        let message = format!("The request body is not valid JSON: no UTF-8 from byte {at} on");
        Error::new(ErrorCode::InvalidJson, message)
    })?;
    let error = match read(body) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if error.classify() != Category::Data {
        return Err(Error::new(ErrorCode::InvalidJson, syntax(&error)));
    }
    if !body.trim_ascii_start().starts_with('{') {
        return Err(Error::invalid("The request body must be a JSON object"));
    }
    // Parsed once more to learn which field was at fault; the good path does not pay for it.
    let mut json = Deserializer::from_str(body);
    let found = serde_path_to_error::deserialize::<_, T>(Strict::new(&mut json));
    Err(found.map_or_else(field_error, |_| in_words(&error, "")))
}

/// The same for JSON that was read before.
///
/// # Errors
/// `INVALID_REQUEST` naming the field if a value does not fit.
pub(crate) fn of_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_path_to_error::deserialize(Strict::new(value)).map_err(field_error)
}

fn read<'a, T: Deserialize<'a>>(body: &'a str) -> serde_json::Result<T> {
    let mut json = Deserializer::from_str(body);
    let value = T::deserialize(Strict::new(&mut json))?;
    json.end()?;
    Ok(value)
}

fn field_error(error: serde_path_to_error::Error<serde_json::Error>) -> Error {
    let path = error.path().to_string();
    in_words(error.inner(), if path == "." { "" } else { &path })
}

fn in_words(error: &serde_json::Error, path: &str) -> Error {
    let said = error.to_string();
    // The field says where it is.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let said = said.strip_suffix(&place).unwrap_or(&said);
    let said = unfit(said).unwrap_or_else(|| said.to_owned());
    let at = if path.is_empty() { String::new() } else { format!("{path}: ") };
    Error::invalid(format!("{at}{said}"))
}

/// What was expected, and what was found; `None` if the error is about something else.
fn unfit(said: &str) -> Option<String> {
    let kinds = ["invalid type: ", "invalid value: ", "unknown variant "];
    let rest = kinds.iter().find_map(|kind| said.strip_prefix(kind))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let known = NUMBERS.iter().chain(&EXPECTED).find(|(name, _)| *name == expected);
    let expected = known.map_or(expected, |(_, words)| words);
    let renamed = FOUND.iter().find_map(|(name, words)| {
        let rest = found.strip_prefix(name)?;
        (rest.is_empty() || name.ends_with(' ')).then(|| format!("{words}{rest}"))
    });
    let found = renamed.unwrap_or_else(|| found.to_owned());
    let cut =
        found.char_indices().nth(MAX_TOLD_CHARS).map(|(end, _)| format!("{}…", &found[..end]));
    Some(format!("expected {expected}, not {}", cut.unwrap_or(found)))
}

/// What is wrong with a body that is no JSON, and where.
fn syntax(error: &serde_json::Error) -> String {
    if error.classify() == Category::Eof {
        return "The request body is not valid JSON: it ends too early".to_owned();
    }
    let said = error.to_string();
    let known = SYNTAX.iter().find(|(name, _)| said.starts_with(name));
    let words = known.map_or("it cannot be read", |(_, words)| words);
    let (line, column) = (error.line(), error.column());
    format!("The request body is not valid JSON: {words} (line {line}, column {column})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::execution::{ExecuteEnvelope, NetworkChange};

    use crate::service::jobs::JobEnvelope;
    use crate::service::keys::NewKey;
    use crate::service::schedules::NewSchedule;

    fn error(json: &str) -> Error {
        parse::<ExecuteEnvelope>(json.as_bytes()).unwrap_err()
    }

    #[test]
    fn what_is_not_json_says_so() {
        for body in ["", "{", "nope", "{\"request\":{}}x", "\u{1}", "{'a':1}"] {
            assert_eq!(error(body).code(), ErrorCode::InvalidJson, "{body:?}");
        }
        for (body, words) in [
            ("{", "it ends too early"),
            ("{'a':1}", "a name is not in double quotes (line 1, column 2)"),
            ("{\n\"a\":}", "there is no value (line 2, column 5)"),
            ("{\"a\":1,}", "there is a comma too many (line 1, column 8)"),
            ("{\"request\":{}}x", "something follows the end (line 1, column 15)"),
            ("{\"a\" 1}", "there is no colon behind a name (line 1, column 6)"),
            ("{\"a\":\"\t\"}", "a control character stands in a text; write it as \\n, \\t or"),
        ] {
            let said = error(body).message().to_owned();
            let whole = format!("The request body is not valid JSON: {words}");
            assert!(said.starts_with(&whole), "{body}: {said}");
        }
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        for (body, expected) in [
            (r#"{"request":{"runtime":"bash","timeoutMs":"1s"}}"#, "request.timeoutMs"),
            (r#"{"request":{"runtime":"bash","env":{"A":1}}}"#, "request.env.A"),
            (r#"{"request":{"runtime":7}}"#, "request.runtime"),
            (r#"{"request":{},"options":{"network":"bridge"}}"#, "options.network"),
            (r#"{"request":{"runtime":"bash","outputPaths":["a",3]}}"#, "request.outputPaths[1]"),
        ] {
            let error = error(body);
            assert_eq!(error.code(), ErrorCode::InvalidRequest, "{body}");
            assert!(error.message().starts_with(expected), "{}", error.message());
        }
    }

    #[test]
    fn a_field_of_several_forms_says_what_was_got_and_what_is_allowed() {
        let network =
            |value: &str| format!(r#"{{"request":{{}},"options":{{"network":{value}}}}}"#);
        let secret = |value: &str| {
            format!(r#"{{"request":{{}},"options":{{"secrets":{{"KEY":{value}}}}}}}"#)
        };
        let file = |value: &str| format!(r#"{{"request":{{"files":{{"a":{value}}}}}}}"#);
        let modes = r#""none", "filtered" or "host", or one for each part"#;
        let mode = "`none`, `host`, `filtered`";
        let bound = r#"a string, or {"value": string, "hosts": [string, …]}"#;
        let bytes = r#"a string, {"type": "Buffer", "data": [bytes]} or {"base64": text}"#;
        for (body, path, got, allowed) in [
            (network(r#""bridge""#), "options.network: ", "\"bridge\"", modes),
            (network("7"), "options.network: ", "`7`", modes),
            (network("[]"), "options.network: ", "an array", modes),
            (network(r#"{"setup":"none"}"#), "options.network: ", "missing", "`run`"),
            (network(r#"{"setup":"none","run":"x"}"#), "options.network.run: ", "`x`", mode),
            (secret("4711"), "options.secrets.KEY: ", "a number", bound),
            (secret("true"), "options.secrets.KEY: ", "a boolean", bound),
            (secret("null"), "options.secrets.KEY: ", "null", bound),
            (secret(r#"{"value":4711}"#), "options.secrets.KEY.value: ", "a number", "a string"),
            (secret(r#"{"value":"v"}"#), "options.secrets.KEY: ", "missing", "`hosts`"),
            (
                secret(r#"{"value":"v","hosts":["a",1]}"#),
                "options.secrets.KEY.hosts[1]: ",
                "`1`",
                "a string",
            ),
            (
                secret(r#"{"value":"v","hosts":[],"port":1}"#),
                "options.secrets.KEY.port: ",
                "`port`",
                "`tls`",
            ),
            (file("7"), "request.files.a: ", "`7`", bytes),
            (file("{}"), "request.files.a: ", "another object", bytes),
            (
                file(r#"{"type":"Buffer","data":[300]}"#),
                "request.files.a.data[0]: ",
                "300",
                "from 0 to 255",
            ),
            (file(r#"{"base64":"?"}"#), "request.files.a: ", "base64", "cannot be read"),
        ] {
            let error = error(&body);
            assert_eq!(error.code(), ErrorCode::InvalidRequest, "{body}");
            let said = error.message();
            assert!(said.starts_with(path), "{body}: {said}");
            assert!(said.contains(got) && said.contains(allowed), "{body}: {said}");
            assert!(!said.contains("4711") && !said.contains("untagged"), "{body}: {said}");
        }
    }

    #[test]
    fn a_missing_request_is_named() {
        for body in ["{}", r#"{"options":{}}"#] {
            assert!(error(body).message().contains("missing field `request`"));
        }
        assert_eq!(error("[]").code(), ErrorCode::InvalidRequest);
        assert_eq!(error("null").code(), ErrorCode::InvalidRequest);
        assert_eq!(error(r#"[{"runtime":"bash"}]"#).code(), ErrorCode::InvalidRequest);
    }

    #[test]
    fn a_byte_order_mark_does_no_harm() {
        let body = b"\xef\xbb\xbf{\"request\":{\"runtime\":\"bash\"}}";
        assert_eq!(parse::<ExecuteEnvelope>(body).unwrap().request.runtime, "bash");
    }

    #[test]
    fn bytes_that_are_no_text_are_no_json_even_in_a_field_that_is_passed_over() {
        for body in [
            &b"{\"request\":{\"runtime\":\"bash\"},\"unknown\":\"\xe9\"}"[..],
            b"{\"request\":{\"runtime\":\"b\xe9\"}}",
        ] {
            let error = parse::<ExecuteEnvelope>(body).err().unwrap();
            assert_eq!(error.code(), ErrorCode::InvalidJson);
            assert!(error.message().contains("UTF-8"), "{error}");
        }
    }

    fn refusal<T: DeserializeOwned>(body: &str) -> String {
        let error = parse::<T>(body.as_bytes()).err().unwrap();
        assert_eq!(error.code(), ErrorCode::InvalidRequest, "{body}: {error}");
        error.message().to_owned()
    }

    #[test]
    fn a_word_of_another_type_is_json_all_the_same() {
        for (said, field, expected) in [
            (
                refusal::<NetworkChange>(r#"{"mode":5}"#),
                "mode: expected one of",
                "not the number `5`",
            ),
            (
                refusal::<NetworkChange>(r#"{"mode":{"none":1}}"#),
                "mode: expected one of `none`, `host`, `filtered`, not an object",
                "",
            ),
            (refusal::<NetworkChange>(r#"{"whitelist":"a"}"#), "whitelist: ", "expected an array"),
            (refusal::<NetworkChange>(r#"{"whitelist":["a",{}]}"#), "whitelist[1]: ", "a string"),
            (
                refusal::<JobEnvelope>(r#"{"request":{},"queue":{"priority":1}}"#),
                "queue.priority: expected one of `high`, `normal`, `low`",
                ", not the number `1`",
            ),
            (
                refusal::<JobEnvelope>(r#"{"request":{},"queue":{"retryOn":[true]}}"#),
                "queue.retryOn[0]: expected one of `nonzero_exit`",
                ", not `true`",
            ),
            (
                refusal::<JobEnvelope>(r#"{"request":{},"queue":{"priority":"hihg"}}"#),
                "queue.priority: expected one of `high`, `normal`, `low`, not `hihg`",
                "",
            ),
            (refusal::<NewSchedule>(r#"{"request":{},"missed":null}"#), "missed: ", "`once`"),
            (refusal::<NewKey>(r#"{"scopes":[7]}"#), "scopes[0]: ", "`execute`"),
            (
                refusal::<NewKey>(r#"{"ttlMs":"7"}"#),
                "ttlMs: expected a whole number that is not negative",
                ", not the text \"7\"",
            ),
            (
                refusal::<ExecuteEnvelope>(
                    r#"{"request":{},"options":{"security":{"seccomp":1}}}"#,
                ),
                "options.security.seccomp: ",
                "`strict`",
            ),
            (refusal::<NewKey>(r#"{"ttlMs":-1}"#), "ttlMs: ", "not negative"),
            (refusal::<NewKey>(r#"{"name":[]}"#), "name: expected a string, not an array", ""),
            (refusal::<NewKey>(r#"{"ttlMs":0.5}"#), "ttlMs: ", ", not the number `0.5`"),
        ] {
            assert!(said.starts_with(field) && said.contains(expected), "{said}");
            assert!(!said.contains(" at line "), "{said}");
        }
    }

    #[test]
    fn no_more_is_repeated_of_what_was_found_than_helps() {
        let said = refusal::<NewKey>(&format!(r#"{{"ttlMs":"{}"}}"#, "x".repeat(1000)));
        assert!(said.len() < 200 && said.contains("not the text \"xxx"), "{said}");
        let said = refusal::<NewKey>(r#"{"ttlMs":"1, expected u64"}"#);
        assert_eq!(
            said,
            "ttlMs: expected a whole number that is not negative, not the text \"1, expected u64\""
        );
    }

    #[test]
    fn an_array_is_no_object() {
        for (body, field) in [
            (r#"{"request":["bash"]}"#, "request: "),
            (r#"{"request":{},"options":[]}"#, "options: "),
            (r#"{"request":{},"options":{"networkFilter":[]}}"#, "options.networkFilter: "),
            (r#"{"request":{},"options":{"networkFilter":[["a"],[]]}}"#, "options.networkFilter: "),
            (r#"{"request":{},"options":{"security":["strict"]}}"#, "options.security: "),
            (
                r#"{"request":{},"options":{"secrets":{"A":{"value":"v","hosts":{}}}}}"#,
                "options.secrets.A.hosts: ",
            ),
            (r#"{"request":{},"queue":["fast"]}"#, "queue: "),
            (r#"{"request":{},"queue":{"labels":[]}}"#, "queue.labels: "),
            (r#"{"request":{"env":[]}}"#, "request.env: "),
            (r#"{"request":{"files":[]}}"#, "request.files: "),
        ] {
            let said = refusal::<ExecuteEnvelope>(body);
            assert!(said.starts_with(field) && said.contains("expected an "), "{body}: {said}");
        }
        let webhook = r#"{"request":{},"queue":{"webhook":["https://hooks.example"]}}"#;
        assert!(refusal::<JobEnvelope>(webhook).starts_with("queue.webhook: "));
        assert!(of_value::<NewKey>(serde_json::json!(["ci"])).is_err());
    }

    #[test]
    fn a_field_that_is_nearly_ours_is_refused_with_its_name() {
        for (said, expected) in [
            (
                refusal::<NetworkChange>(r#"{"whitelists":["a"]}"#),
                "whitelists: unknown field `whitelists`; did you mean `whitelist`?",
            ),
            (
                refusal::<ExecuteEnvelope>(r#"{"request":{},"options":{"installPackages":["a"]}}"#),
                "options.installPackages: unknown field `installPackages`; it belongs in `request`",
            ),
            (
                refusal::<ExecuteEnvelope>(r#"{"request":{"installPackage":["a"]}}"#),
                "request.installPackage: unknown field `installPackage`; did you mean `installPackages`?",
            ),
            (
                refusal::<JobEnvelope>(r#"{"request":{"network":"none"}}"#),
                "request.network: unknown field `network`; it belongs in `options`",
            ),
            (
                refusal::<JobEnvelope>(r#"{"runtime":"bash","code":"x"}"#),
                "runtime: unknown field `runtime`; it belongs in `request`",
            ),
            (
                refusal::<JobEnvelope>(r#"{"request":{"priority":"high"}}"#),
                "request.priority: unknown field `priority`; it belongs in `queue`",
            ),
            (
                refusal::<JobEnvelope>(r#"{"request":{"sessionId":"s"}}"#),
                "request.sessionId: unknown field `sessionId`; it belongs beside `request`",
            ),
            (
                refusal::<NewSchedule>(r#"{"request":{},"options":{"cron":"* * * * *"}}"#),
                "options.cron: unknown field `cron`; it belongs beside `request`",
            ),
            (
                refusal::<ExecuteEnvelope>(r#"{"request":{"timeout":5}}"#),
                "request.timeout: unknown field `timeout`; did you mean `timeoutMs`?",
            ),
            (
                refusal::<ExecuteEnvelope>(r#"{"request":{},"options":{"install_packages":[]}}"#),
                "options.install_packages: unknown field `install_packages`; did you mean \
                 `installPackages` in `request`?",
            ),
            (
                refusal::<JobEnvelope>(r#"{"request":{},"queue":{"prioritty":"high"}}"#),
                "queue.prioritty: unknown field `prioritty`; did you mean `priority`?",
            ),
            (
                refusal::<NewKey>(r#"{"name":"a","tenantid":"b"}"#),
                "tenantid: unknown field `tenantid`; did you mean `tenantId`?",
            ),
            (
                refusal::<NetworkChange>(r#"{"allow":["a"]}"#),
                "allow: unknown field `allow`, expected one of `mode`, `whitelist`, `blacklist`",
            ),
        ] {
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn all_that_isol8s_own_client_sends_is_taken() {
        let body = r#"{
            "type": "execute",
            "request": {
                "runtime": "python", "timeoutMs": 30000, "code": "1", "fileExtension": ".py", "cmd": "",
                "codeUrl": "", "codeHash": "", "allowInsecureCodeUrl": false, "stdin": "", "env": {},
                "installPackages": [], "setupScript": "", "workdir": ".", "agentFlags": "",
                "files": {"a": {"type": "Buffer", "data": [1, 2]}}, "outputPaths": [], "metadata": {}
            },
            "options": {
                "mode": "ephemeral", "network": "none", "networkFilter": {"whitelist": [], "blacklist": []},
                "memoryLimit": "512m", "cpuLimit": 1, "timeoutMs": 30000, "debug": false, "persist": false,
                "pidsLimit": 64, "readonlyRootFs": true, "maxOutputSize": 1, "secrets": {}, "image": "",
                "sandboxSize": "1m", "tmpSize": "1m", "logNetwork": false, "poolStrategy": "fast",
                "security": {"seccomp": "strict", "customProfilePath": "/x"},
                "audit": {"enabled": true, "code": 1}, "poolSize": {"clean": 1, "dirty": 1},
                "remoteCode": {"enabled": false, "allowedSchemes": ["https"], "timeoutMs": "x"}
            },
            "sessionId": "s", "later": 1
        }"#;
        parse::<ExecuteEnvelope>(body.as_bytes()).unwrap();
        // What nobody reads is not looked into, in whatever depth.
        let body = format!(r#"{{"request":{{}},"x":{{"options":[{}]}}}}"#, r#"{"reqest":1}"#);
        parse::<ExecuteEnvelope>(body.as_bytes()).unwrap();
    }
}
