//! Starting a program: three pipes, a fork, and everything between the fork and the exec.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{chdir, execve, pipe2, setsid};

use runner::protocol::{CodeFile, Failed, Stage};

use crate::identity::{become_sandbox_user, limit_resources, volunteer_for_oom};
use crate::sys::{self, Fork};

/// Where a prepared interpreter finds its control socket: out of the way of the numbers that the
/// interpreter hands out to its own files.
pub(crate) const CONTROL_FD: RawFd = 1000;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to start.
pub(crate) struct Program<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) env: &'a BTreeMap<String, String>,
    pub(crate) cwd: &'a str,
    pub(crate) code: Option<&'a CodeFile>,
    /// Stay root: only for the interpreter's fork server.
    pub(crate) as_root: bool,
    /// Further descriptors the program gets, and under which numbers.
    pub(crate) descriptors: &'a [(&'a OwnedFd, RawFd)],
}

/// The runner's ends of a program's standard streams; output ends do not block.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The program's ends of its standard streams, in order.
pub(crate) type Ends = [OwnedFd; 3];

/// Makes the pipes of one program.
pub(crate) fn make_pipes() -> nix::Result<(Pipes, Ends)> {
    let (child_in, stdin) = pipe2(OFlag::O_CLOEXEC)?;
    let (stdout, child_out) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, child_err) = pipe2(OFlag::O_CLOEXEC)?;
    for fd in [&stdin, &stdout, &stderr] {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    Ok((Pipes { stdin, stdout, stderr }, [child_in, child_out, child_err]))
}

/// Forks a child that becomes the program.
///
/// The child tells a failed step on `report`, as [`encode_failure`] writes it. `report` closes when
/// the program starts, unless `control` asks for it to stay open under [`CONTROL_FD`] or 3.
///
/// # Errors
/// The step that failed before there was a child.
pub(crate) fn spawn(
    program: &Program<'_>,
    ends: &Ends,
    report: &OwnedFd,
    control: Option<RawFd>,
) -> Result<i32, Failed> {
    let argv = c_strings(program.argv.iter().cloned(), program.argv.first())?;
    let environment = program.env.iter().map(|(name, value)| format!("{name}={value}"));
    let environment = c_strings(environment, program.argv.first())?;
    match sys::fork() {
        Ok(Fork::Parent(pid)) => Ok(pid),
        Err(error) => Err(failed(Stage::Fork, "", &error)),
        Ok(Fork::Child) => {
            let failure = become_program(program, &argv, &environment, ends, report, control);
            // Nothing can be done for a report that cannot be written; the exit code remains.
            let _ = nix::unistd::write(report, &encode_failure(&failure));
            sys::exit_now(127)
        }
    }
}

fn become_program(
    program: &Program<'_>,
    argv: &[CString],
    environment: &[CString],
    ends: &Ends,
    report: &OwnedFd,
    control: Option<RawFd>,
) -> Failed {
    if let Err(error) = isolate(program, ends, report, control) {
        return failed(Stage::Fork, "", &error);
    }
    if let Some(code) = program.code
        && let Err(error) = write_code(code)
    {
        return failed(Stage::File, &code.path, &error);
    }
    if let Err(error) = chdir(program.cwd) {
        return failed(Stage::Cwd, program.cwd, &error.into());
    }
    let name = program.argv.first().map_or("", String::as_str);
    let error = execute(name, program.env.get("PATH").map(String::as_str), argv, environment);
    failed(Stage::Exec, name, &error.into())
}

fn isolate(
    program: &Program<'_>,
    ends: &Ends,
    report: &OwnedFd,
    control: Option<RawFd>,
) -> io::Result<()> {
    sys::default_signals();
    setsid()?;
    for (target, end) in (0..).zip(ends) {
        sys::place(end.as_raw_fd(), target)?;
    }
    for (descriptor, target) in program.descriptors {
        sys::place(descriptor.as_raw_fd(), *target)?;
    }
    limit_resources();
    if let Some(target) = control {
        sys::place(report.as_raw_fd(), target)?;
    }
    if program.as_root {
        return Ok(());
    }
    volunteer_for_oom();
    become_sandbox_user()
}

fn write_code(code: &CodeFile) -> io::Result<()> {
    let path = Path::new(&code.path);
    // Looked for first: a system-call filter may forbid making directories.
    if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
        fs::create_dir_all(parent)?;
    }
    let mut file = fs::File::create(path)?;
    // A setup script may have put anything in its place, and what is none would not be run.
    if !file.metadata()?.is_file() {
        return Err(Errno::EINVAL.into());
    }
    file.write_all(code.text.as_bytes())
}

/// Tries each directory of `PATH`, the way a shell does.
fn execute(name: &str, path: Option<&str>, argv: &[CString], environment: &[CString]) -> Errno {
    if name.contains('/') {
        return try_execute(name, argv, environment);
    }
    let mut outcome = Errno::ENOENT;
    for directory in path.unwrap_or(DEFAULT_PATH).split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        match try_execute(&format!("{directory}/{name}"), argv, environment) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => outcome = Errno::EACCES,
            error => return error,
        }
    }
    outcome
}

fn try_execute(path: &str, argv: &[CString], environment: &[CString]) -> Errno {
    let Ok(path) = CString::new(path) else {
        return Errno::EINVAL;
    };
    match execve(&path, argv, environment) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn c_strings(
    strings: impl Iterator<Item = String>,
    name: Option<&String>,
) -> Result<Vec<CString>, Failed> {
    let path = name.cloned().unwrap_or_default();
    let strings: Result<Vec<_>, _> = strings.map(CString::new).collect();
    strings.map_err(|_| Failed {
        stage: Stage::Exec,
        path,
        message: "an argument or variable contains a zero byte".to_owned(),
        errno: Errno::EINVAL as i32,
    })
}

/// A failure in the operating system's words.
pub(crate) fn failed(stage: Stage, path: &str, error: &io::Error) -> Failed {
    let errno = error.raw_os_error().unwrap_or(Errno::EIO as i32);
    Failed { stage, path: path.to_owned(), message: describe(error), errno }
}

/// The operating system's words for an error, without the number that `io::Error` appends.
pub(crate) fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

/// A failure as it crosses from a starting program to the runner: `stage NUL errno NUL path`.
pub(crate) fn encode_failure(failure: &Failed) -> Vec<u8> {
    let stage = match failure.stage {
        Stage::File => "file",
        Stage::Cwd => "cwd",
        Stage::Exec => "exec",
        Stage::Fork => "fork",
    };
    // Short enough to be one unsplit write to a pipe.
    let path: String = failure.path.chars().take(900).collect();
    format!("{stage}\0{}\0{path}", failure.errno).into_bytes()
}

/// Reads what `encode_failure` (or the like of it in a prepared interpreter) wrote.
pub(crate) fn decode_failure(bytes: &[u8]) -> Failed {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(3, '\0');
    let stage = match parts.next() {
        Some("file") => Stage::File,
        Some("cwd") => Stage::Cwd,
        Some("exec") => Stage::Exec,
        _ => Stage::Fork,
    };
    let errno = parts.next().and_then(|text| text.parse().ok()).unwrap_or(Errno::EIO as i32);
    let path = parts.next().unwrap_or_default();
    failed(stage, path, &io::Error::from_raw_os_error(errno))
}
