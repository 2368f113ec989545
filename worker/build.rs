//! Builds the runner as a static binary and packs it, with the interpreter start-up files, into
//! the archive that the worker carries inside itself. So one `cargo build` gives one binary.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let runner = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../runner");
    for watched in ["src", "prepared", "live", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", runner.join(watched).display());
    }
    let binary = build_runner(&runner, &out)?;
    pack(&binary, &runner, &out.join("runner.tar"))
}

fn build_runner(runner: &Path, out: &Path) -> Outcome<PathBuf> {
    let target = env::var("TARGET")?;
    let target_dir = out.join("runner-target");
    // A target directory of its own: cargo holds a lock on the outer one while this runs.
    let status = Command::new(env::var("CARGO")?)
        .args(["build", "--locked", "--bin", "isol8-runner", "--profile", "runner"])
        .args(["--target", &target])
        .arg("--manifest-path")
        .arg(runner.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        // Static, as it must run in any image. Flags and wrappers meant for the outer build
        // (clippy sets some) do not fit this one.
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("CLIPPY_ARGS")
        .status()?;
    if !status.success() {
        return Err(format!("building the runner failed: {status}").into());
    }
    Ok(target_dir.join(target).join("runner").join("isol8-runner"))
}

fn pack(binary: &Path, runner: &Path, archive: &Path) -> Outcome<()> {
    let mut tar = tar::Builder::new(fs::File::create(archive)?);
    append(&mut tar, binary, "isol8-runner", 0o755)?;
    let mut files = Vec::new();
    for directory in ["prepared", "live"] {
        collect(&runner.join(directory), &mut files)?;
    }
    files.sort();
    for file in files {
        let name = file.strip_prefix(runner)?.to_string_lossy();
        append(&mut tar, &file, &name, 0o644)?;
    }
    tar.into_inner()?.sync_all()?;
    Ok(())
}

/// Adds a file with fixed owner and time, so that the archive's hash depends on content only.
fn append(tar: &mut tar::Builder<fs::File>, file: &Path, name: &str, mode: u32) -> Outcome<()> {
    let content = fs::read(file)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, content.as_slice())?;
    Ok(())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Outcome<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
