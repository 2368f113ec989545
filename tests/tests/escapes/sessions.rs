//! Links in the way of a session's files, which are written, read, listed and removed while programs of
//! the session may be alive; and the living interpreter's own line to the runner.

use reqwest::Method;
use serde_json::{Value, json};
use tests::api::KEY;
use tests::case::equal;
use tests::isolation::InGvisor::{self, Differs, Same};
use tests::isolation::Isolation;
use tests::results::Row;
use tests::{Api, Reply};

/// Something a session prepares, and a request that meets it.
pub(crate) struct Trap {
    name: &'static str,
    /// A shell command that prepares it.
    set: &'static str,
    ask: Ask,
    expected: Outcome,
    in_gvisor: InGvisor<Outcome>,
}

/// What must come of it.
#[derive(Clone, Copy)]
struct Outcome {
    /// Status, and code of the error.
    answer: (u16, &'static str),
    /// A shell command that tells whether all is well in the end.
    proof: &'static str,
    /// How it is shown.
    shown: &'static str,
}

enum Ask {
    Put(&'static str),
    Get(&'static str),
    List(&'static str),
    Remove(&'static str),
    /// A call with a setup script.
    Setup,
    /// A call in the living Python.
    Run(&'static str),
}

use Ask::{Get, List, Put, Remove, Run, Setup};

const REFUSED: Outcome =
    Outcome { answer: (422, "FILE_FAILED"), proof: "true", shown: "FILE_FAILED" };
const DONE: (u16, &str) = (200, "");

/// Whatever is written takes the place of the link.
const fn replaced(proof: &'static str) -> Outcome {
    Outcome { answer: DONE, proof, shown: "the link is replaced" }
}

/// One whose request is refused, to be completed.
const TRAP: Trap = Trap { name: "", set: "true", ask: Setup, expected: REFUSED, in_gvisor: Same };

pub(crate) const TRAPS: &[Trap] = &[
    Trap {
        name: "a file written through a linked folder",
        set: "ln -s /etc etc",
        ask: Put("etc/evil"),
        expected: Outcome { proof: "test ! -e /etc/evil", ..REFUSED },
        ..TRAP
    },
    Trap {
        name: "a file written through a link to the runner",
        set: "ln -s /isol8/isol8-runner r",
        ask: Put("r"),
        in_gvisor: Differs(
            replaced("test ! -L r && grep -q written r && ! grep -q written /isol8/isol8-runner"),
            "what may not be written to is replaced; it says so before it says that all there is read-only",
        ),
        ..TRAP
    },
    Trap {
        name: "a file written through a link to the output of process 1",
        set: "ln -s /proc/1/fd/1 o",
        ask: Put("o"),
        expected: replaced("test ! -L o && grep -q written o"),
        in_gvisor: Differs(REFUSED, "that output is /dev/null, which is no file"),
    },
    Trap {
        name: "a file written through a link to the writer's own line",
        set: "ln -s /proc/self/fd/3 s",
        ask: Put("s"),
        ..TRAP
    },
    Trap {
        name: "a file read through a link to /etc/shadow",
        set: "ln -s /etc/shadow p",
        ask: Get("p"),
        ..TRAP
    },
    Trap {
        name: "a file read through a link to the environment of process 1",
        set: "ln -s /proc/1/environ e",
        ask: Get("e"),
        ..TRAP
    },
    Trap {
        name: "a file read through a link to the memory of its reader",
        set: "ln -s /proc/self/mem m",
        ask: Get("m"),
        ..TRAP
    },
    Trap { name: "a device without end, read", set: "ln -s /dev/zero z", ask: Get("z"), ..TRAP },
    Trap { name: "a named pipe, read", set: "mkfifo f", ask: Get("f"), ..TRAP },
    Trap {
        name: "a folder listed through a link to the descriptors of process 1",
        set: "ln -s /proc/1/fd l",
        ask: List("l"),
        ..TRAP
    },
    Trap {
        name: "a file removed through a linked folder",
        set: "mkdir keep; touch keep/x; ln -s keep way",
        ask: Remove("way/x"),
        expected: Outcome { proof: "test -e keep/x", ..REFUSED },
        ..TRAP
    },
    Trap { name: "a file removed outside", ask: Remove("/etc/passwd"), ..TRAP },
    Trap {
        name: "a setup script written through a link to the output of process 1",
        set: "ln -sf /proc/1/fd/1 /tmp/.isol8-setup.sh",
        ask: Setup,
        expected: replaced("test ! -L /tmp/.isol8-setup.sh"),
        in_gvisor: Differs(
            Outcome {
                answer: (422, "FILE_WRITE_FAILED"),
                proof: "true",
                shown: "FILE_WRITE_FAILED",
            },
            "that output is /dev/null, which is no file",
        ),
    },
    Trap {
        name: "noise and descriptors into the interpreter's line to the runner",
        ask: Run("
import os, socket
for number in range(3, 1100):
    try: socket.send_fds(socket.socket(fileno=os.dup(number)), [b'\\xff' * 1000], [0] * 200)
    except OSError: pass
    try: os.write(number, b'{\"exited\": 0}\\n' * 100)
    except OSError: pass"),
        expected: Outcome { answer: DONE, proof: "true", shown: "hurts its own session alone" },
        ..TRAP
    },
];

impl Trap {
    /// How it is shown in the document.
    pub(crate) fn row(&self) -> Row {
        Row {
            group: "files of sessions",
            name: self.name,
            expected: self.expected.shown,
            in_gvisor: self.in_gvisor.map(|outcome| outcome.shown),
        }
    }

    /// Sets it, asks, and closes the session.
    pub(crate) async fn run(&self, api: &Api, isolation: Isolation) -> Result<(), String> {
        let Some(expected) = self.in_gvisor.outcome(isolation, self.expected) else {
            return Ok(());
        };
        let set = call(api, json!({"runtime": "python", "cmd": self.set})).await?;
        equal("exitCode of the trap", &set.json()["exitCode"], &0)?;
        let reply = self.ask(api).await?;
        let (status, code) = expected.answer;
        let found = (reply.status, reply.json()["code"].as_str().unwrap_or_default().to_owned());
        let proof = call(api, json!({"runtime": "python", "cmd": expected.proof})).await?;
        send(api, Method::DELETE, "/session/trap", "").await?;
        equal("answer", &found, &(status, code.to_owned()))
            .map_err(|error| format!("{error}: {:.800}", reply.text))?;
        equal("exitCode of the proof", &proof.json()["exitCode"], &0)
    }

    async fn ask(&self, api: &Api) -> Result<Reply, String> {
        let files = "/v1/sessions/trap/files";
        match self.ask {
            Put(path) => send(api, Method::PUT, &format!("{files}?path={path}"), "written").await,
            Get(path) => send(api, Method::GET, &format!("{files}?path={path}"), "").await,
            List(path) => send(api, Method::GET, &format!("{files}/list?path={path}"), "").await,
            Remove(path) => send(api, Method::DELETE, &format!("{files}?path={path}"), "").await,
            Setup => {
                call(api, json!({"runtime": "python", "cmd": "true", "setupScript": "true"})).await
            }
            Run(text) => call(api, json!({"runtime": "python", "code": text})).await,
        }
    }
}

async fn call(api: &Api, request: Value) -> Result<Reply, String> {
    api.post(json!({"request": request, "sessionId": "trap"}).to_string()).await
}

async fn send(api: &Api, method: Method, path: &str, body: &'static str) -> Result<Reply, String> {
    api.send(method, path, Some(&format!("Bearer {KEY}")), body).await
}
