//! The key with which `isol8 serve` encrypts secrets in a Redis of its own: made at the first start, and kept
//! beside the data, for its own user alone.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use shared::sealing::SecretsKeys;

/// The file with the key in a data directory that is this process's alone; made if it is not there.
pub(crate) fn own_secrets_key(directory: &Path) -> anyhow::Result<PathBuf> {
    let path = directory.join("secrets.key");
    if !path.exists() {
        make(directory, &path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    Ok(path)
}

/// Whole or not at all: what is encrypted with a key that got lost cannot be had any more.
fn make(directory: &Path, path: &Path) -> anyhow::Result<()> {
    let new = path.with_extension("key.new");
    let mut options = OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(SecretsKeys::generate()?.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(directory)?.sync_all()?;
    Ok(())
}
