//! Where the `isol8` binary under test is.

use std::path::PathBuf;
use std::process::Command;

use crate::node::environment;

/// The binary named by `ISOL8_BIN`, else the one next to the test executables.
///
/// # Panics
/// If there is none; says how to get one.
#[must_use]
pub fn isol8() -> PathBuf {
    let given = std::env::var_os("ISOL8_BIN").map(PathBuf::from);
    let path = given.unwrap_or_else(|| {
        // target/<profile>/deps/<test>-<hash>
        let test = std::env::current_exe().expect("a running program has a path");
        let profile = test.parent().and_then(|deps| deps.parent());
        profile.expect("test executables lie two levels deep").join("isol8")
    });
    assert!(
        path.is_file(),
        "there is no {}: build it with `cargo build -p cli`, or set ISOL8_BIN",
        path.display()
    );
    path
}

/// The `isol8` command in `directory`, which is also its home: no configuration of the machine's
/// user is read or written.
#[must_use]
pub fn command(directory: &std::path::Path) -> Command {
    let mut command = Command::new(isol8());
    command.current_dir(directory).env_clear().envs(environment()).env("HOME", directory);
    command
}
