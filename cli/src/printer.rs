//! The only place that writes to the terminal: data to standard output, all else to standard error.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is what the module is for")]

use std::io::{self, Write as _};

/// A line of data.
pub(crate) fn line(text: impl std::fmt::Display) {
    println!("{text}");
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

/// Asks a yes-or-no question; no answer is a no.
///
/// # Errors
/// If standard input cannot be read.
pub(crate) fn confirm(question: &str) -> io::Result<bool> {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
