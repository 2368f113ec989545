//! `--files`: the regular files of a directory.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use shared::execution::FileContent;

/// Directories that are left out, wherever they are.
pub(crate) const SKIPPED_DIRECTORIES: [&str; 6] =
    [".git", "node_modules", "__pycache__", ".venv", "venv", ".tox"];

/// Reads the files below `root`, by where they belong in the sandbox.
pub(super) fn read(root: &Path) -> anyhow::Result<BTreeMap<String, FileContent>> {
    ensure!(root.is_dir(), "--files path is not a directory: {}", root.display());
    let mut files = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        let entries = std::fs::read_dir(&directory)
            .with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", directory.display()))?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                let name = entry.file_name();
                if !SKIPPED_DIRECTORIES.iter().any(|skipped| name == *skipped) {
                    pending.push(path);
                }
            } else if kind.is_file() {
                let content = std::fs::read(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let relative = path.strip_prefix(root).expect("found below the root");
                files.insert(
                    format!("/sandbox/{}", relative.display()),
                    FileContent(content.into()),
                );
            }
        }
    }
    Ok(files)
}
