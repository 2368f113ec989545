//! Paths in a sandbox as clients write them, and where they may lead. Nothing here touches a disk.

use crate::error::Error;

/// Working directory and home of every program.
const SANDBOX: &str = "/sandbox";
/// A path longer than this is refused by Linux.
const MAX_PATH_BYTES: usize = 4096;

/// Resolves a path against `/sandbox`, removing `.` and `..`. `None` if it climbs above `/`.
fn normalise(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.starts_with('/') { "" } else { SANDBOX };
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

fn is_inside(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The working directory, which must lie inside `/sandbox`.
pub(super) fn workdir(given: Option<&str>) -> Result<String, Error> {
    let given = given.unwrap_or(SANDBOX);
    normalise(given).filter(|path| is_inside(path, SANDBOX) && is_path(path)).ok_or_else(|| {
        Error::invalid(format!("Working directory must be inside /sandbox, not \"{given}\""))
    })
}

/// Whether Linux takes it for a path.
pub(super) fn is_path(path: &str) -> bool {
    path.len() < MAX_PATH_BYTES && !path.contains('\0')
}

/// A file's path, which must lie in one of the writable places.
pub(super) fn file(field: &str, given: &str) -> Result<String, Error> {
    normalise(given)
        .filter(|path| is_path(path))
        .filter(|path| {
            ["/sandbox", "/tmp"].iter().any(|root| is_inside(path, root) && path != root)
        })
        .ok_or_else(|| {
            Error::invalid(format!("{field}: \"{given}\" is not a path inside /sandbox or /tmp"))
        })
}
