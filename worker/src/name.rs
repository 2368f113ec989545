//! The name of a worker on its machine: the first free one, held by a lock on a file. A worker
//! that restarts takes the name its dead self held, and so finds the containers it left.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use shared::{Error, ErrorCode};

/// More workers than this on one machine is a runaway script.
const MOST_WORKERS: usize = 256;

/// A name, ours while this value lives.
#[derive(Debug)]
pub struct Name {
    name: String,
    /// The lock goes with the open file, also when the process is killed.
    _lock: File,
}

impl Name {
    /// Takes the first free name `<prefix>-<n>`; lock files live in `directory`.
    ///
    /// # Errors
    /// If the directory cannot be used, or no name is free.
    pub fn take(directory: &Path, prefix: &str) -> Result<Self, Error> {
        let broken = |error: std::io::Error| {
            Error::new(
                ErrorCode::Internal,
                format!("cannot lock a worker name in {}: {error}", directory.display()),
            )
        };
        std::fs::create_dir_all(directory).map_err(broken)?;
        for number in 0..MOST_WORKERS {
            let name = format!("{prefix}-{number}");
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(directory.join(format!("{name}.lock")))
                .map_err(broken)?;
            match lock.try_lock() {
                Ok(()) => return Ok(Self { name, _lock: lock }),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(broken(error)),
            }
        }
        Err(Error::new(ErrorCode::Internal, format!("{MOST_WORKERS} workers run here already")))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Where lock files live: a directory that only this user can write, and that is cleared at
    /// boot where the machine has one.
    #[must_use]
    pub fn default_directory(home: Option<&Path>) -> PathBuf {
        let boot = PathBuf::from("/run/isol8");
        match (std::fs::create_dir_all(&boot), home) {
            (Err(_), Some(home)) => home.join(".isol8/run"),
            _ => boot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_get_two_names_and_a_dead_ones_is_free_again() {
        let directory = tempfile::tempdir().unwrap();
        let first = Name::take(directory.path(), "worker").unwrap();
        let second = Name::take(directory.path(), "worker").unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("worker-0", "worker-1"));
        drop(first);
        assert_eq!(Name::take(directory.path(), "worker").unwrap().as_str(), "worker-0");
    }
}
