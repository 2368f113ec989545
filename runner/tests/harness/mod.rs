//! Drives the real static binary in a real container, synchronously, through `docker run`.
//!
//! `ISOL8_TEST_IMAGE_PREFIX` (default `isol8:`) names the images, `ISOL8_RUNNER_DIR` a directory that
//! already holds `isol8-runner` and `prepared/`; without it the binary is built here.
#![allow(dead_code, reason = "each test binary uses its own part of the harness")]

pub(crate) mod live;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use runner::protocol::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest wait for any one frame: longer than any program may run.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// One frame from the runner.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn message<M: DeserializeOwned>(&self) -> M {
        parse_message(&self.payload).expect("the runner sends valid messages")
    }
}

/// A container with the runner as its PID 1.
pub(crate) struct Sandbox {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    frames: Receiver<Frame>,
}

/// Everything a job produced.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) started: Option<Started>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exited: Exited,
    pub(crate) failed: Option<Failed>,
}

impl Outcome {
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Container settings that some tests change.
pub(crate) struct Settings {
    pub(crate) runtime: &'static str,
    pub(crate) sandbox_size: &'static str,
    pub(crate) memory: &'static str,
    pub(crate) pids: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { runtime: "python", sandbox_size: "512m", memory: "512m", pids: 64 }
    }
}

impl Sandbox {
    /// Starts a container and takes its greeting.
    pub(crate) fn new(runtime: &'static str) -> Self {
        Self::with(&Settings { runtime, ..Settings::default() })
    }

    pub(crate) fn with(settings: &Settings) -> Self {
        let image = image(settings.runtime);
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("isol8-runner-test-{}-{number}", std::process::id());
        let mut command = Command::new("docker");
        command.args(["run", "--name", &name]);
        // Images have a user of their own; the runner is the container's root.
        command.args(["--user", "0:0", "-i", "--rm", "--cap-drop", "ALL", "--cap-add", "SETUID"]);
        command.args(["--cap-add", "SETGID", "--cap-add", "KILL", "--read-only"]);
        command.args(["--security-opt", "no-new-privileges", "--network", "none"]);
        let sandbox =
            format!("/sandbox:rw,exec,nosuid,nodev,size={},uid=100,gid=101", settings.sandbox_size);
        command.args(["--tmpfs", &sandbox, "--tmpfs", "/tmp:rw,noexec,nosuid,nodev,size=256m"]);
        command.args(["--memory", settings.memory, "--memory-swap", settings.memory]);
        command.args(["--pids-limit", &settings.pids.to_string(), "--log-driver", "none"]);
        command.args(["-v", &format!("{}:/isol8:ro", runner_directory().display())]);
        command.args(["--entrypoint", "/isol8/isol8-runner", &image]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the docker client is installed");
        let mut output = child.stdout.take().expect("stdout is piped");
        let (sender, frames) = channel();
        std::thread::spawn(move || {
            let mut header = [0; HEADER_BYTES];
            while output.read_exact(&mut header).is_ok() {
                let header = Header::parse(header).expect("the runner sends valid frames");
                let mut payload = vec![0; header.length];
                if output.read_exact(&mut payload).is_err()
                    || sender.send(Frame { kind: header.kind, payload }).is_err()
                {
                    return;
                }
            }
        });
        let mut sandbox = Self { name, input: child.stdin.take(), child, frames };
        let hello: Hello = sandbox.expect(Kind::Hello);
        assert_eq!(hello.protocol, PROTOCOL_VERSION);
        let ready: Ready = sandbox.expect(Kind::Ready);
        assert!(!ready.prepared, "nothing was asked for yet");
        sandbox
    }

    /// A python container whose fork server waits.
    pub(crate) fn prepared_python() -> Self {
        let mut sandbox = Self::new("python");
        sandbox.prepare(Interpreter::Python, &["python3", "/sandbox/main.py"]);
        sandbox
    }

    pub(crate) fn prepare(&mut self, interpreter: Interpreter, argv: &[&str]) {
        let prepare = Prepare { interpreter, argv: strings(argv), env: environment() };
        self.send(Kind::Prepare, &prepare);
        let ready: Ready = self.expect(Kind::Ready);
        assert!(ready.prepared, "no interpreter waits: {:?}", ready.detail);
    }

    pub(crate) fn send<M: Serialize>(&mut self, kind: Kind, message: &M) {
        let mut out = Vec::new();
        put_message(&mut out, kind, message).expect("test messages fit");
        self.send_raw(&out);
    }

    pub(crate) fn send_data(&mut self, kind: Kind, payload: &[u8]) {
        let mut out = Vec::new();
        put_frame(&mut out, kind, payload);
        self.send_raw(&out);
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("the link is open");
        input.write_all(bytes).expect("the runner takes the frame");
        input.flush().expect("the runner takes the frame");
    }

    /// Closes the link.
    pub(crate) fn close_input(&mut self) {
        self.input = None;
    }

    /// Closes the link and returns how the container ended.
    pub(crate) fn close(mut self) -> ExitStatus {
        self.input = None;
        self.wait()
    }

    /// Waits for the container to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("the client can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "the container does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn next(&mut self) -> Frame {
        self.next_within(PATIENCE).expect("a frame in time")
    }

    pub(crate) fn next_within(&mut self, limit: Duration) -> Result<Frame, RecvTimeoutError> {
        self.frames.recv_timeout(limit)
    }

    /// The next frame, which must be of this kind.
    pub(crate) fn expect<M: DeserializeOwned>(&mut self, kind: Kind) -> M {
        let frame = self.next();
        let text = String::from_utf8_lossy(&frame.payload).into_owned();
        assert_eq!(frame.kind, kind, "unexpected frame: {text}");
        frame.message()
    }

    /// Starts a program and collects all it does.
    pub(crate) fn run(&mut self, start: &Start) -> Outcome {
        self.send(Kind::Start, start);
        self.collect()
    }

    /// Collects up to the end of the running program.
    pub(crate) fn collect(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            let frame = self.next();
            match frame.kind {
                Kind::Started => outcome.started = Some(frame.message()),
                Kind::Stdout => outcome.stdout.extend_from_slice(&frame.payload),
                Kind::Stderr => outcome.stderr.extend_from_slice(&frame.payload),
                Kind::StdinAck | Kind::Ready => {}
                Kind::Exited => {
                    outcome.exited = frame.message();
                    return outcome;
                }
                Kind::Failed => {
                    outcome.failed = Some(frame.message());
                    return outcome;
                }
                kind => panic!("unexpected {kind:?}: {}", String::from_utf8_lossy(&frame.payload)),
            }
        }
    }

    /// Resets; the sandbox must come back clean and ready.
    pub(crate) fn reset(&mut self) -> Ready {
        let done = self.try_reset();
        assert!(done.verified, "reset not verified: {:?}", done.detail);
        self.expect(Kind::Ready)
    }

    pub(crate) fn try_reset(&mut self) -> ResetDone {
        self.send_data(Kind::Reset, b"");
        self.expect(Kind::ResetDone)
    }

    /// CPU time the whole container has used, in milliseconds.
    pub(crate) fn cpu_ms(&self) -> f64 {
        let output =
            Command::new("docker").args(["inspect", "--format", "{{.Id}}", &self.name]).output();
        let output = output.expect("the docker client is installed").stdout;
        let id = String::from_utf8_lossy(&output).trim().to_owned();
        let v1 = format!("/sys/fs/cgroup/cpuacct/docker/{id}/cpuacct.usage");
        let nanoseconds = std::fs::read_to_string(v1).unwrap_or_default();
        nanoseconds.trim().parse::<f64>().unwrap_or(f64::NAN) / 1e6
    }

    /// Runs a Python program as the container's root, beside the runner: a hole is played.
    pub(crate) fn as_root(&self, text: &str) {
        let mut command = Command::new("docker");
        command.args(["exec", "--user", "0:0", &self.name, "python3", "-c", text]);
        let output = command.output().expect("the docker client is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Sends one file.
    pub(crate) fn put_file(&mut self, path: &str, content: &[u8]) {
        let size_bytes = content.len() as u64;
        self.send(Kind::FileBegin, &FileBegin { path: path.to_owned(), mode: 0o644, size_bytes });
        for chunk in content.chunks(DATA_CHUNK_BYTES) {
            self.send_data(Kind::FileData, chunk);
        }
        self.send_data(Kind::FileEnd, b"");
    }

    /// Asks for one file.
    pub(crate) fn get_file(&mut self, path: &str) -> Result<Vec<u8>, FileError> {
        self.send(Kind::ReadFile, &ReadFile { path: path.to_owned(), max_bytes: 1 << 30 });
        let mut content = Vec::new();
        loop {
            let frame = self.next();
            match frame.kind {
                Kind::FileBegin => {}
                Kind::FileData => content.extend_from_slice(&frame.payload),
                Kind::FileEnd => return Ok(content),
                Kind::FileError => return Err(frame.message()),
                kind => panic!("unexpected {kind:?}"),
            }
        }
    }

    /// Runs a shell script.
    pub(crate) fn shell(&mut self, script: &str) -> Outcome {
        self.run(&shell(script))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.input = None;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
    }
}

/// The environment programs get.
pub(crate) fn environment() -> BTreeMap<String, String> {
    [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("HOME", "/sandbox")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

pub(crate) fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A start of these words with the usual limits.
pub(crate) fn start(argv: &[&str]) -> Start {
    Start {
        argv: strings(argv),
        env: environment(),
        cwd: "/sandbox".to_owned(),
        timeout_ms: 50_000,
        output_limit_bytes: 1 << 30,
        ..Start::default()
    }
}

pub(crate) fn shell(script: &str) -> Start {
    start(&["sh", "-c", script])
}

/// A start of a main file with this text.
pub(crate) fn with_code(argv: &[&str], path: &str, text: &str) -> Start {
    let code = CodeFile { path: path.to_owned(), text: text.to_owned() };
    Start { code: Some(code), ..start(argv) }
}

pub(crate) fn python(text: &str) -> Start {
    with_code(&["python3", "/sandbox/main.py"], "/sandbox/main.py", text)
}

/// The image of a runtime, which must exist.
fn image(runtime: &str) -> String {
    let prefix = std::env::var("ISOL8_TEST_IMAGE_PREFIX").unwrap_or_else(|_| "isol8:".to_owned());
    let image = format!("{prefix}{runtime}");
    let known = Command::new("docker")
        .args(["image", "inspect", "--format", "{{.Id}}", &image])
        .output()
        .expect("the docker client is installed");
    assert!(
        known.status.success(),
        "image {image} is missing: build it, or name others with ISOL8_TEST_IMAGE_PREFIX"
    );
    image
}

/// A directory with the static binary and the start-up files, made once.
fn runner_directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| match std::env::var_os("ISOL8_RUNNER_DIR") {
        Some(directory) => directory.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = crate_directory.join("../target/runner-static");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "runner", "--bin", "isol8-runner"])
        .args(["--profile", "runner", "--target", "x86_64-unknown-linux-gnu", "--target-dir"])
        .arg(&target)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(crate_directory)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the static runner does not build");
    let directory = target.join("isol8");
    let binary = target.join("x86_64-unknown-linux-gnu/runner/isol8-runner");
    install(&binary, crate_directory, &directory);
    directory
}

/// Puts the files where containers see them, replacing each in one step, since other test binaries
/// may do the same now.
fn install(binary: &Path, crate_directory: &Path, directory: &Path) {
    let script = "set -e; mkdir -p \"$3\"; \
         put() { mkdir -p \"${2%/*}\"; cp -p \"$1\" \"$2.$$\"; mv -f \"$2.$$\" \"$2\"; }; \
         put \"$1\" \"$3/isol8-runner\"; cd \"$2\"; \
         find prepared live -type f | while read -r f; do put \"$f\" \"$3/$f\"; done";
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .args([binary, crate_directory, directory])
        .status()
        .expect("sh runs");
    assert!(status.success(), "the runner's files cannot be installed");
}
