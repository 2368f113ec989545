//! Where the `isol8` binary under test is.

use std::path::PathBuf;
use std::process::Command;

use crate::node::environment;

/// The binary named by `ISOL8_BIN`, else the one of the same build.
///
/// # Panics
/// If there is none; says how to get one.
#[must_use]
pub fn isol8() -> PathBuf {
    let given = std::env::var_os("ISOL8_BIN").map(PathBuf::from);
    let path = given.unwrap_or_else(|| {
        // target/<profile>/deps/<test>-<hash>, or a program of ours, which is where isol8 is.
        let program = std::env::current_exe().expect("a running program has a path");
        let beside = program.with_file_name("isol8");
        let profile = program.parent().and_then(|deps| deps.parent());
        let above = profile.expect("test executables lie two levels deep").join("isol8");
        if beside.is_file() { beside } else { above }
    });
    assert!(
        path.is_file(),
        "there is no {}: build it with `cargo build -p cli`, or set ISOL8_BIN",
        path.display()
    );
    // Programs are started in directories of their own.
    path.canonicalize().expect("it is there")
}

/// The `isol8` command in `directory`, which is also its home: no configuration of the machine's
/// user is read or written.
#[must_use]
pub fn command(directory: &std::path::Path) -> Command {
    let mut command = Command::new(isol8());
    command.current_dir(directory).env_clear().envs(environment()).env("HOME", directory);
    command
}
