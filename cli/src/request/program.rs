//! Where the program comes from: the first of a command, an address, a text,
//! a file and standard input that is given.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use anyhow::{Context as _, ensure};
use shared::runtime::Runtime;

use crate::args::{ProgramArgs, RequestArgs};
use crate::printer;

/// Hosts that serve single files of repositories and gists.
const GITHUB: &str = "https://raw.githubusercontent.com";
const GIST: &str = "https://gist.githubusercontent.com";

/// A program, and the runtime it is for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) runtime: String,
    pub(super) code: Option<String>,
    pub(super) code_url: Option<String>,
    pub(super) cmd: Option<String>,
    pub(super) extension: Option<String>,
}

/// The program that the flags name.
pub(super) fn of_request(args: &RequestArgs) -> anyhow::Result<Program> {
    let Some(url) = address(args)? else {
        return of_program(&args.program);
    };
    let ProgramArgs { cmd, file, eval, runtime, .. } = &args.program;
    ensure!(
        cmd.is_none(),
        "--cmd cannot be combined with a file, --eval, --url, --github or --gist"
    );
    ensure!(
        file.is_none() && eval.is_none(),
        "--url, --github and --gist cannot be combined with a file or --eval"
    );
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let runtime = match runtime {
        Some(runtime) => runtime.clone(),
        None => detect(path, &url)?,
    };
    Ok(Program { runtime, code_url: Some(url), ..Program::default() })
}

/// A program that does not come from the network.
fn of_program(args: &ProgramArgs) -> anyhow::Result<Program> {
    let or = |default: Runtime| args.runtime.clone().unwrap_or_else(|| default.name().to_owned());
    if let Some(cmd) = &args.cmd {
        ensure!(
            args.file.is_none() && args.eval.is_none(),
            "--cmd cannot be combined with a file, --eval, --url, --github or --gist"
        );
        return Ok(Program {
            runtime: or(Runtime::Bash),
            cmd: Some(cmd.clone()),
            ..Program::default()
        });
    }
    let code = if let Some(code) = args.eval.as_ref().filter(|code| !code.is_empty()) {
        code.clone()
    } else if let Some(file) = &args.file {
        return of_file(file, args.runtime.clone());
    } else {
        from_stdin()?
    };
    Ok(Program { runtime: or(Runtime::Python), code: Some(code), ..Program::default() })
}

fn from_stdin() -> anyhow::Result<String> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        printer::info("Reading the program from the terminal; end it with Ctrl-D");
    }
    let mut code = String::new();
    stdin.read_to_string(&mut code).context("cannot read the program from standard input")?;
    Ok(code)
}

fn of_file(file: &Path, runtime: Option<String>) -> anyhow::Result<Program> {
    let shown = file.display();
    ensure!(file.is_file(), "File not found: {shown}");
    let code = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
    let name = file.to_string_lossy();
    let runtime = match runtime {
        Some(runtime) => runtime,
        None => detect(&name, &name)?,
    };
    let extension = file.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
    Ok(Program { runtime, code: Some(code), extension, ..Program::default() })
}

fn detect(path: &str, shown: &str) -> anyhow::Result<String> {
    let runtime = Runtime::from_path(path)
        .with_context(|| format!("Cannot detect runtime for {shown}. Use --runtime to specify."))?;
    Ok(runtime.name().to_owned())
}

/// Where on the network the program is, if it is there.
fn address(args: &RequestArgs) -> anyhow::Result<Option<String>> {
    if let Some(url) = &args.url {
        return Ok(Some(url.clone()));
    }
    if let Some(place) = &args.github {
        ensure!(
            is_place(place, 4),
            "--github \"{}\" is not OWNER/REPO/REF/PATH",
            place.escape_debug()
        );
        return Ok(Some(format!("{GITHUB}/{place}")));
    }
    let Some(place) = &args.gist else { return Ok(None) };
    let parts = place.split_once('/').filter(|_| is_place(place, 2));
    let (id, file) =
        parts.with_context(|| format!("--gist \"{}\" is not ID/FILE", place.escape_debug()))?;
    Ok(Some(format!("{GIST}/{id}/raw/{file}")))
}

/// Whether it has at least so many parts, and the address made of it leads to them: no part may mean
/// another directory, or end the path, once it is part of an address.
fn is_place(place: &str, parts: usize) -> bool {
    let leads_there = |part: &str| {
        let plain = part.to_ascii_lowercase().replace("%2e", ".");
        let ends_the_path = |letter: char| "?#\\".contains(letter) || letter.is_control();
        !matches!(plain.as_str(), "" | "." | "..") && !part.contains(ends_the_path)
    };
    place.split('/').count() >= parts && place.split('/').all(leads_there)
}
