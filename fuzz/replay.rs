//! Feeds a function with the inputs that are kept for it in `fuzz/seeds/`: what the fuzzer is fed with first stays right
//! without the fuzzer too. Included by the crates whose functions these are.

use std::fs;
use std::path::Path;

/// Runs `target` on each input of the folder called `name`.
///
/// # Panics
/// If there is none, or `target` does.
pub(crate) fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        // Shown if it fails, and only then.
        println!("{}", path.display());
        target(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}
