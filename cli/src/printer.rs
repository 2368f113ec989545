//! The only place that writes to the terminal: data and answers to standard output, all else to
//! standard error.

#![expect(clippy::print_stderr, reason = "this is what the module is for")]

use std::io::{self, IsTerminal as _, Write as _};

/// A line of data, or of an answer.
pub(crate) fn line(text: impl std::fmt::Display) {
    // A reader that has seen enough, as `head` has, is no reason to fail.
    if let Err(problem) = writeln!(io::stdout().lock(), "{text}")
        && problem.kind() != io::ErrorKind::BrokenPipe
    {
        error(format!("cannot write to standard output: {problem}"));
    }
}

/// An error line.
pub(crate) fn error(text: impl std::fmt::Display) {
    eprintln!("[ERR] {text}");
}

/// A warning line.
pub(crate) fn warning(text: impl std::fmt::Display) {
    eprintln!("[WARN] {text}");
}

/// A line about what is going on.
pub(crate) fn info(text: impl std::fmt::Display) {
    eprintln!("[INFO] {text}");
}

/// A line about what is going on, in words of its own.
pub(crate) fn note(text: impl std::fmt::Display) {
    eprintln!("{text}");
}

/// Program output, byte by byte as it came.
///
/// # Errors
/// If the stream is closed.
pub(crate) fn raw_stdout(data: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(data)?;
    stdout.flush()
}

/// Program error output, likewise.
///
/// # Errors
/// If the stream is closed.
pub(crate) fn raw_stderr(data: &[u8]) -> io::Result<()> {
    io::stderr().lock().write_all(data)
}

/// Whether somebody is there to be asked.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Whether progress can be drawn.
pub(crate) fn is_error_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Asks a yes-or-no question; no answer is a no, and so is nobody to ask.
///
/// # Errors
/// If standard input cannot be read.
pub(crate) fn confirm(question: &str) -> io::Result<bool> {
    if !is_interactive() {
        return Ok(false);
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
