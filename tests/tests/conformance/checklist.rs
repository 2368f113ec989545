//! The checklist of isol8's contract, as far as it can be seen over plain HTTP. WebSockets are
//! checked by `remote` and by `tests/tests/streams.rs`, the command line by `tests/tests/cli`.

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::case::{equal, is_error};
use tests::{Api, Case, Findings, code, command, run_cases};

use super::{fleet, settings};

async fn ask(api: &Api, method: Method, path: &str, body: Value) -> Result<tests::Reply, String> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    api.send(method, path, Some(&format!("Bearer {KEY}")), body).await
}

/// The events of a stream, each as `phase:type:data`; a line that is none is an error. Pieces of one
/// output that follow each other are joined: where a program's writes are cut is nobody's promise.
async fn events(api: &Api, body: Value) -> Result<Vec<String>, String> {
    let reply = ask(api, Method::POST, "/execute/stream", body).await?;
    equal("status", &reply.status, &200)?;
    equal("content type", &reply.header("content-type"), &"text/event-stream")?;
    equal("cache control", &reply.header("cache-control"), &"no-cache")?;
    equal("buffering", &reply.header("x-accel-buffering"), &"no")?;
    let mut events: Vec<String> = Vec::new();
    for block in reply.text.split_terminator("\n\n") {
        let Some(json) = block.strip_prefix("data: ").filter(|json| !json.contains('\n')) else {
            if block.starts_with(':') {
                continue;
            }
            return Err(format!("not an event: {block:?}"));
        };
        let event: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let data = event["data"].as_str().ok_or_else(|| format!("data is no string: {json}"))?;
        let phase = event["phase"].as_str().unwrap_or("none");
        let kind = event["type"].as_str().unwrap_or_default();
        let places = ["type", "data", "phase"].map(|key| json.find(&format!("\"{key}\":")));
        if !places.into_iter().flatten().is_sorted() {
            return Err(format!("fields out of order: {json}"));
        }
        let label = format!("{phase}:{kind}:");
        match events.last_mut() {
            Some(last) if kind.starts_with("std") && last.starts_with(&label) => {
                last.push_str(data)
            }
            _ => events.push(label + data),
        }
    }
    Ok(events)
}

fn with(mut body: Value, part: &str, fields: Value) -> Value {
    for (name, value) in fields.as_object().expect("fields are an object") {
        body[part][name] = value.clone();
    }
    body
}

/// Points 3, 4, 5, 14 to 18, 21: what goes in, what comes out.
#[tokio::test(flavor = "multi_thread")]
async fn requests_and_results() {
    let (stack, [first, second]) = fleet(&settings());
    // As the command line sends it, with everything that means nothing to a server.
    let options = json!({
        "mode": "ephemeral", "network": "none",
        "networkFilter": {"whitelist": [], "blacklist": []},
        "memoryLimit": "512m", "cpuLimit": 1, "timeoutMs": 30000, "debug": false, "persist": false,
        "remoteCode": {"enabled": false, "allowedSchemes": ["https"], "maxCodeSize": 10_485_760},
        "somethingNew": [1, 2, 3],
    });
    let full = json!({
        "request": {"runtime": "python", "timeoutMs": 30000, "code": "print('x \\n')", "fileExtension": ".py"},
        "options": options,
    });
    let mut cases = vec![
        Case::new("3 unknown options", &full).prints("x").quietly(),
        Case::new("4 a failing program", &code("bash", "exit 7")).exits(7),
        Case::refused("4 an error of the caller", "{", (400, "INVALID_JSON", "JSON")),
        Case::new("5 trailing white space goes", &code("bash", "printf 'a\\n \\t\\n'")).prints("a"),
        Case::new(
            "14 text and buffers, parents made",
            &with(
                code("bash", "cat a/b/c d"),
                "request",
                json!({"files": {
                    "/sandbox/a/b/c": {"type": "Buffer", "data": [104, 105, 10]}, "d": "text",
                }}),
            ),
        )
        .prints("hi\ntext"),
        Case::new(
            "14 outputPaths",
            &with(
                code("bash", "mkdir -p o && printf '\\000\\377' > o/x"),
                "request",
                json!({"outputPaths": ["/sandbox/o/x", "o/x", "none"]}),
            ),
        )
        .result(|result| {
            equal("files", &result["files"], &json!({"/sandbox/o/x": "AP8=", "o/x": "AP8="}))
        }),
        Case::new(
            "16 timeout",
            &with(code("bash", "echo a; sleep 60"), "request", json!({"timeoutMs": 2000})),
        )
        .times_out(std::time::Duration::from_millis(2000))
        .has("stdout", "a"),
        Case::new(
            "17 truncation",
            &with(code("bash", "yes | head -c 5000"), "options", json!({"maxOutputSize": 1024})),
        )
        .has("stdout", "--- OUTPUT TRUNCATED (5000 bytes, limit: 1024) ---")
        .result(|result| equal("truncated", &result["truncated"], &true)),
        Case::new(
            "18 masking",
            &with(
                code("bash", "echo \"$KEY\"; echo \"$KEY\" >&2"),
                "options",
                json!({"secrets": {"KEY": "hush-hush"}}),
            ),
        )
        .prints("***")
        .has("stderr", "***"),
        Case::new(
            "21 the user and its places",
            &command("bash", "id -un; id -u; pwd; echo $HOME; kill -9 1 2>/dev/null; echo $?"),
        )
        .prints("sandbox\n100\n/sandbox\n/sandbox\n1"),
        Case::new(
            "21 /sandbox runs programs, /tmp does not",
            &command(
                "bash",
                "for d in /sandbox /tmp; do printf '#!/bin/sh\\necho ran' > $d/p; chmod +x $d/p; \
                 $d/p 2>/dev/null || echo refused; done",
            ),
        )
        .prints("ran\nrefused"),
    ];
    for runtime in ["python", "node", "bun", "deno", "bash"] {
        let name = format!("15 cmd with {runtime}");
        let echo = runtime.to_owned();
        cases.push(
            Case::new(name, &command(runtime, "echo one | tr a-z A-Z"))
                .prints("ONE")
                .result(move |result| equal("runtime", &result["runtime"], &echo.as_str())),
        );
    }
    let (half, rest): (Vec<_>, Vec<_>) =
        cases.into_iter().enumerate().partition(|(index, _)| index % 2 == 0);
    run_cases(&first, half.into_iter().map(|(_, case)| case)).await.report();
    run_cases(&second, rest.into_iter().map(|(_, case)| case)).await.report();
    stack.finish();
}

/// Points 6, 8, 9: streams.
#[tokio::test(flavor = "multi_thread")]
async fn streams() {
    let (stack, [first, second]) = fleet(&settings());
    let mut findings = Findings::default();
    let setup = |script: &str| json!({"setupScript": script});
    let rows = [
        ("plain", code("bash", "echo hi"), vec!["code:stdout:hi\n", "code:exit:0"]),
        ("fails", code("bash", "echo e >&2; exit 9"), vec!["code:stderr:e\n", "code:exit:9"]),
        (
            "setup",
            with(code("bash", "echo c"), "request", setup("echo s")),
            vec!["setup:stdout:s\n", "setup:exit:0", "code:stdout:c\n", "code:exit:0"],
        ),
        (
            "setup fails",
            with(code("bash", "echo c"), "request", setup("echo s; exit 4")),
            vec![
                "setup:stdout:s\n",
                "setup:error:Setup script failed (exit code 4)",
                "setup:exit:4",
            ],
        ),
        (
            "setup hangs",
            with(
                with(code("bash", "echo c"), "request", setup("sleep 60")),
                "request",
                json!({"timeoutMs": 400}),
            ),
            vec!["setup:error:SETUP SCRIPT TIMED OUT", "setup:exit:137"],
        ),
        (
            "code hangs",
            with(code("bash", "echo c; sleep 60"), "request", json!({"timeoutMs": 2000})),
            vec!["code:stdout:c\n", "code:error:EXECUTION TIMED OUT", "code:exit:137"],
        ),
    ];
    for (name, body, expected) in rows {
        for api in [&first, &second] {
            let seen = events(api, body.clone()).await;
            findings.note(name, seen.and_then(|seen| equal("events", &seen, &expected)));
        }
    }
    // A character of three bytes, written one byte at a time.
    let slowly = "printf '\\342'; sleep 0.1; printf '\\202'; sleep 0.1; printf '\\254'";
    let seen = events(&first, code("bash", slowly)).await.map(|seen| {
        seen.iter().filter_map(|event| event.strip_prefix("code:stdout:")).collect::<String>()
    });
    findings.note("characters stay whole", seen.and_then(|seen| equal("text", &seen, &"€")));
    // Thrown errors have no phase and no exit.
    let absent = with(code("bash", "1"), "options", json!({"image": "isol8:no-such-image"}));
    let seen = events(&first, absent).await;
    let is_right = matches!(seen.as_deref(), Ok([only]) if only.starts_with("none:error:"));
    findings.check("an error without a phase", is_right, seen);
    let refused = ask(&first, Method::POST, "/execute/stream", json!({"request": 1})).await;
    findings.note(
        "bad requests are refused before the stream",
        refused.and_then(|reply| is_error(&reply, 400, "INVALID_REQUEST", "request")),
    );
    findings.report();
    stack.finish();
}

/// Points 10 to 13: sessions, files, cleanup, keys.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_files_and_keys() {
    let (stack, [first, second]) = fleet(&settings());
    let mut findings = Findings::default();
    let status = |reply: Result<tests::Reply, String>, status: u16, body: Value| {
        reply.and_then(|reply| {
            equal("status", &reply.status, &status).map_err(|e| format!("{e}: {}", reply.text))?;
            if body.is_null() { Ok(()) } else { equal("body", &reply.json(), &body) }
        })
    };
    let unknown = |reply: Result<tests::Reply, String>| {
        reply.and_then(|reply| is_error(&reply, 404, "SESSION_NOT_FOUND", "Session not found"))
    };
    let empty = ask(&first, Method::GET, "/sessions", Value::Null).await;
    findings.note("no session yet", status(empty, 200, json!({"sessions": []})));
    let put = json!({"sessionId": "s", "path": "/sandbox/f", "content": "AP8="});
    findings.note(
        "11 file of no session",
        unknown(ask(&first, Method::POST, "/file", put.clone()).await),
    );
    let get = "/file?sessionId=s&path=%2Fsandbox%2Ff";
    findings.note("11 nor read", unknown(ask(&first, Method::GET, get, Value::Null).await));
    for path in ["/file", "/file?sessionId=s", "/file?path=x", "/file?sessionId=&path=x"] {
        let reply = ask(&first, Method::GET, path, Value::Null).await;
        let refused = reply.and_then(|reply| {
            is_error(&reply, 400, "INVALID_REQUEST", "Missing sessionId or path")
        });
        findings.note(path, refused);
    }

    let in_session = |text: &str| {
        let mut body = code("python", text);
        body["sessionId"] = json!("s");
        body
    };
    findings.check(
        "10 opened by the first call",
        first.run(in_session("x = 1")).await["exitCode"] == 0,
        "",
    );
    let result = second.run(in_session("x += 1; print(x)")).await;
    findings.note("10 the same one", equal("stdout", &result["stdout"], &"2"));
    let seen = events(&first, in_session("x += 1; print(x)")).await;
    findings.note(
        "10 also over SSE",
        seen.and_then(|seen| equal("events", &seen, &["code:stdout:3\n", "code:exit:0"])),
    );
    let mut other = code("bash", "echo 1");
    other["sessionId"] = json!("s");
    let switch = second.post(other.to_string()).await;
    findings.note(
        "10 bound to its runtime",
        switch.and_then(|reply| {
            let text = "Cannot switch runtime from \"python\" to \"bash\"";
            is_error(&reply, 400, "INVALID_REQUEST", text)
        }),
    );
    findings.note(
        "11 write",
        status(ask(&second, Method::POST, "/file", put).await, 200, json!({"ok": true})),
    );
    let read = ask(&first, Method::GET, get, Value::Null).await;
    findings.note("11 read", status(read, 200, json!({"content": "AP8="})));
    let list = ask(&second, Method::GET, "/sessions", Value::Null).await.map(|reply| reply.json());
    let listed = list.as_ref().map(|list| &list["sessions"][0]);
    let is_listed = listed.as_ref().is_ok_and(|it| {
        it["id"] == "s"
            && it["isActive"] == false
            && it["lastAccessedAt"].as_str().is_some_and(|at| at.ends_with('Z'))
    });
    findings.check("10 listed", is_listed, &list);
    for _ in 0..2 {
        let gone = ask(&second, Method::DELETE, "/session/s", Value::Null).await;
        findings.note("10 ended, twice", status(gone, 200, json!({"ok": true})));
    }
    findings.note("10 and gone", unknown(ask(&first, Method::GET, get, Value::Null).await));

    first.run(in_session("y = 1")).await;
    let cleaned = ask(&second, Method::POST, "/cleanup", json!({"images": false})).await;
    let shape = cleaned.as_ref().map(tests::Reply::json);
    let is_shaped = shape.as_ref().is_ok_and(|it| {
        it["ok"] == true
            && it["sessions"] == json!({"removed": 1, "failed": 0, "errors": []})
            && it["containers"]["failed"] == 0
            && it["images"].is_null()
    });
    findings.check("12 cleanup", is_shaped, &shape);

    let made =
        ask(&first, Method::POST, "/auth/keys", json!({"name": "n", "tenantId": "acme"})).await;
    let key = made.as_ref().map(tests::Reply::json).unwrap_or_default();
    let text = key["key"].as_str().unwrap_or_default().to_owned();
    let is_key = text.len() == 70
        && text
            .strip_prefix("isol8_")
            .is_some_and(|hex| hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')))
        && key["keyPrefix"] == format!("{}...", &text[..10])
        && key["name"] == "n"
        && key["tenantId"] == "acme";
    findings.check(
        "13 a key",
        made.as_ref().is_ok_and(|it| it.status == 201) && is_key,
        &key["name"],
    );
    let body = command("bash", "echo in").to_string();
    let used = second.send(Method::POST, "/execute", Some(&text), body).await;
    findings.note("13 it opens the other gateway too", status(used, 200, Value::Null));
    let denied = second.send(Method::GET, "/auth/keys", Some(&text), "").await;
    findings.note(
        "13 but not the master's routes",
        denied.and_then(|it| {
            is_error(&it, 403, "FORBIDDEN", "Master key required for this operation")
        }),
    );
    let nameless = ask(&first, Method::POST, "/auth/keys", json!({})).await;
    findings.note(
        "13 a key needs a name",
        nameless.and_then(|it| is_error(&it, 400, "INVALID_REQUEST", "name is required")),
    );
    let login = ask(&first, Method::POST, "/auth/login", Value::Null).await;
    let token = login.as_ref().map(tests::Reply::json).unwrap_or_default();
    let has_all = ["token", "expiresAt", "keyId"].iter().all(|field| token[*field].is_string());
    findings.check("13 login", login.is_ok_and(|it| it.status == 200) && has_all, "");
    let listed = ask(&second, Method::GET, "/auth/keys?tenantId=acme", Value::Null).await;
    let listed = listed.map(|reply| reply.json()["keys"].clone()).unwrap_or_default();
    let shown = listed[0].as_object().cloned().unwrap_or_default();
    let is_clean = listed.as_array().is_some_and(|keys| keys.len() == 1)
        && shown["lastUsedAt"] != json!(text)
        && !listed.to_string().contains(&text[10..])
        && shown["revoked"] == false;
    findings.check("13 listed without its secret", is_clean, &listed);
    let id = key["id"].as_str().unwrap_or_default();
    let revoked = ask(&first, Method::DELETE, &format!("/auth/keys/{id}"), Value::Null).await;
    findings.note("13 revoked", status(revoked, 200, json!({"ok": true, "id": id})));
    let absent = ask(&first, Method::DELETE, "/auth/keys/none", Value::Null).await;
    findings
        .note("13 unknown", absent.and_then(|it| is_error(&it, 404, "NOT_FOUND", "Key not found")));
    let mut refused = Ok(());
    for _ in 0..400 {
        let reply = second.send(Method::GET, "/sessions", Some(&text), "").await;
        refused = reply.and_then(|it| is_error(&it, 403, "FORBIDDEN", "Invalid API key"));
        if refused.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    findings.note("13 of no use soon after, anywhere", refused);
    findings.report();
    stack.finish();
}
