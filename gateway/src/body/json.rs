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
/// The same for what holds others.
const KINDS: [(&str, &str); 4] = [
    ("invalid type: map,", "invalid type: an object,"),
    ("invalid type: sequence,", "invalid type: an array,"),
    ("expected a map", "expected an object"),
    ("expected a sequence", "expected an array"),
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
        let message = format!("The request body is not valid JSON: {error}");
        return Err(Error::new(ErrorCode::InvalidJson, message));
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
    let mut said = said.strip_suffix(&place).unwrap_or(&said).to_owned();
    for (name, words) in NUMBERS {
        if let Some(found) = said.strip_suffix(&format!("expected {name}")) {
            said = format!("{found}expected {words}");
            break;
        }
    }
    for (name, words) in KINDS {
        said = said.replacen(name, words, 1);
    }
    let at = if path.is_empty() { String::new() } else { format!("{path}: ") };
    Error::invalid(format!("{at}{said}"))
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
        let modes = "expected one of `none`, `host`, `filtered`";
        for (said, field, expected) in [
            (refusal::<NetworkChange>(r#"{"mode":5}"#), "mode: invalid type: integer `5`", modes),
            (
                refusal::<NetworkChange>(r#"{"mode":{"none":1}}"#),
                "mode: invalid type: an object",
                modes,
            ),
            (refusal::<NetworkChange>(r#"{"whitelist":"a"}"#), "whitelist: ", "expected an array"),
            (refusal::<NetworkChange>(r#"{"whitelist":["a",{}]}"#), "whitelist[1]: ", "a string"),
            (
                refusal::<JobEnvelope>(r#"{"request":{},"queue":{"priority":1}}"#),
                "queue.priority: invalid type: integer `1`",
                "expected one of `high`, `normal`, `low`",
            ),
            (
                refusal::<JobEnvelope>(r#"{"request":{},"queue":{"retryOn":[true]}}"#),
                "queue.retryOn[0]: invalid type: boolean `true`",
                "`nonzero_exit`",
            ),
            (
                refusal::<JobEnvelope>(r#"{"request":{},"queue":{"priority":"hihg"}}"#),
                "queue.priority: unknown variant `hihg`",
                "`high`",
            ),
            (refusal::<NewSchedule>(r#"{"request":{},"missed":null}"#), "missed: ", "`once`"),
            (refusal::<NewKey>(r#"{"scopes":[7]}"#), "scopes[0]: ", "`execute`"),
            (
                refusal::<NewKey>(r#"{"ttlMs":"7"}"#),
                "ttlMs: invalid type: string \"7\"",
                "expected a whole number that is not negative",
            ),
            (
                refusal::<ExecuteEnvelope>(
                    r#"{"request":{},"options":{"security":{"seccomp":1}}}"#,
                ),
                "options.security.seccomp: ",
                "`strict`",
            ),
            (refusal::<NewKey>(r#"{"ttlMs":-1}"#), "ttlMs: ", "not negative"),
            (refusal::<NewKey>(r#"{"name":[]}"#), "name: invalid type: an array", "a string"),
        ] {
            assert!(said.starts_with(field) && said.contains(expected), "{said}");
            assert!(!said.contains(" at line "), "{said}");
        }
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
