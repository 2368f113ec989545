//! Filters of system calls that the operator keeps on this machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::{Map, Value};
use shared::config::{Config, Seccomp};
use worker::engine::SeccompProfiles;

/// Largest profile, and most of them: each is in memory, and sent with every sandbox that has it.
const MAX_BYTES: u64 = 256 << 10;
const MAX_PROFILES: usize = 64;
const SUFFIX: &str = ".json";

/// The profiles that `config` speaks of.
pub(crate) fn profiles(config: &Config) -> anyhow::Result<SeccompProfiles> {
    let security = &config.security;
    let custom = security.custom_profile_path.as_deref();
    let custom = custom.map(|path| read(Path::new(path), "security.customProfilePath"));
    let directory = security.profile_directory.as_deref();
    let named = directory.map(|path| read_all(Path::new(path), "security.profileDirectory"));
    Ok(SeccompProfiles {
        custom: custom.transpose()?,
        named: named.transpose()?.unwrap_or_default(),
    })
}

fn read_all(directory: &Path, setting: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let shown = directory.display();
    let unreadable = || format!("cannot read {setting} {shown}");
    let mut profiles = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(unreadable)? {
        let name = entry.with_context(unreadable)?.file_name();
        // What else lies there is none of ours.
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
        let is_name = matches!(name.parse(), Ok(Seccomp::Named(_)));
        ensure!(
            is_name,
            "{setting} {shown}: {name}{SUFFIX} cannot be asked for; use small letters, digits, - and _, and none \
             of strict, unconfined and custom"
        );
        ensure!(
            profiles.len() < MAX_PROFILES,
            "{setting} {shown} has more than {MAX_PROFILES} profiles"
        );
        let profile = read(&directory.join(format!("{name}{SUFFIX}")), setting)?;
        profiles.insert(name.to_owned(), profile);
    }
    Ok(profiles)
}

fn read(path: &Path, setting: &str) -> anyhow::Result<String> {
    let shown = path.display();
    let mut profile = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut profile))
        .with_context(|| format!("cannot read {setting} {shown}"))?;
    ensure!(
        profile.len() as u64 <= MAX_BYTES,
        "{setting} {shown} is larger than {MAX_BYTES} bytes"
    );
    serde_json::from_str::<Map<String, Value>>(&profile)
        .with_context(|| format!("{setting} {shown} is not a seccomp profile"))?;
    Ok(profile)
}
