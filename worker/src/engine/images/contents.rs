//! What is in an image: one walk over its files gives a hash of them all, and the packages they came in.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tar::{Archive, EntryType, Header};
use tokio::sync::mpsc;

use super::ImageError;
use super::recipe::hex;
use crate::engine::docker::Docker;
use crate::engine::pieces::Pieces;

/// Pieces of an archive on their way.
const PIECES: usize = 16;

/// Largest file that is looked into; what lists packages is smaller.
const MAX_LISTING_BYTES: u64 = 16 << 20;
/// Files of an image; more would fill our memory with their names.
const MAX_FILES: usize = 2_000_000;
/// What Docker puts into every container, whatever its image has there.
const OF_CONTAINERS: [&str; 5] =
    [".dockerenv", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"];
/// Where it mounts things, and puts files of its own in between.
const MOUNTS: [&str; 3] = ["dev/", "proc/", "sys/"];
const DPKG_STATUS: &str = "var/lib/dpkg/status";
/// Interpreters that no package manager of the image knows.
const INTERPRETERS: [&str; 3] = ["usr/local/bin/bun", "usr/local/bin/deno", "usr/local/bin/node"];
const READ_BYTES: usize = 64 << 10;

/// What an image holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// SHA-256 of all paths, in order, each with kind, permissions, owners, and content or target: in hex. When files
    /// were changed last, and how they are spread over layers, is no part of it.
    pub hash: String,
    /// Files, folders and links.
    pub files: usize,
    /// The packages, sorted.
    pub packages: Vec<Package>,
    /// SHA-256, in hex, of the interpreters that came without a package, by their names.
    pub interpreters: BTreeMap<String, String>,
}

/// A package that is installed in an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Who installed it.
    pub ecosystem: Ecosystem,
    /// Its name there.
    pub name: String,
    /// Its exact version.
    pub version: String,
    /// The processor it is for, where that is told.
    pub architecture: Option<String>,
}

/// Package managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecosystem {
    /// Debian's, by its list of what is installed.
    Debian,
    /// npm's, by the `package.json` of each package.
    Npm,
    /// Python's, by the metadata of each distribution.
    Python,
}

impl Contents {
    /// Reads an image's files on an engine.
    ///
    /// # Errors
    /// [`ImageError::Docker`], or [`ImageError::Unreadable`].
    pub async fn of_image(docker: &Docker, image: &str) -> Result<Self, ImageError> {
        let (pieces, coming) = mpsc::channel(PIECES);
        // Ends with the channel.
        let reading = tokio::task::spawn_blocking(move || Self::read(Pieces::new(coming)));
        let (exported, contents) = tokio::join!(docker.export_image(image, pieces), reading);
        exported?;
        contents.map_err(io::Error::other).flatten().map_err(|error| ImageError::Unreadable {
            image: image.to_owned(),
            reason: error.to_string(),
        })
    }

    /// Reads the files of an image: a tar archive of its root.
    ///
    /// # Errors
    /// If it is no archive, breaks off, or has too many files.
    pub fn read(archive: impl Read) -> io::Result<Self> {
        let mut archive = Archive::new(archive);
        let (mut files, mut packages) = (BTreeMap::new(), Vec::new());
        let mut interpreters = BTreeMap::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
            let is_mounted = MOUNTS.iter().any(|mount| path.starts_with(mount));
            if path.is_empty() || is_mounted || OF_CONTAINERS.contains(&path.as_str()) {
                continue;
            }
            let target = entry.link_name_bytes().map(|target| target.into_owned());
            let (content, text) = read_content(&mut entry, lists_packages(&path))?;
            packages.extend(text.and_then(|text| packages_of(&path, &text)).into_iter().flatten());
            if INTERPRETERS.contains(&path.as_str()) && entry.header().entry_type().is_file() {
                let name = path.rsplit('/').next().unwrap_or_default();
                interpreters.insert(name.to_owned(), hex(&content));
            }
            files.insert(path, digest(entry.header(), target.as_deref(), &content)?);
            if files.len() > MAX_FILES {
                return Err(io::Error::other(format!("it has more than {MAX_FILES} files")));
            }
        }
        packages.sort();
        packages.dedup();
        let hash = hash(&files);
        Ok(Self { hash, files: files.len(), packages, interpreters })
    }
}

/// SHA-256 of a file's content, and the content itself if it is `wanted`.
fn read_content(file: &mut impl Read, wanted: bool) -> io::Result<([u8; 32], Option<Vec<u8>>)> {
    let (mut hash, mut kept) = (Sha256::new(), Vec::new());
    let mut buffer = vec![0; READ_BYTES];
    let mut left = MAX_LISTING_BYTES;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        left = left.saturating_sub(count as u64);
        if wanted && left > 0 {
            kept.extend_from_slice(&buffer[..count]);
        }
    }
    Ok((hash.finalize().into(), (wanted && left > 0).then_some(kept)))
}

/// Of everything about a file that counts.
fn digest(header: &Header, target: Option<&[u8]>, content: &[u8]) -> io::Result<[u8; 32]> {
    // An old way to write the same.
    let kind = match header.entry_type() {
        EntryType::Continuous => EntryType::Regular,
        kind => kind,
    };
    let mut hash = Sha256::new();
    hash.update([kind.as_byte()]);
    for number in [u64::from(header.mode()? & 0o7777), header.uid()?, header.gid()?] {
        hash.update(number.to_le_bytes());
    }
    // Of anything else the fields may be empty.
    let device = if kind.is_character_special() || kind.is_block_special() {
        [header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)]
    } else {
        [0, 0]
    };
    hash.update(device.map(u32::to_le_bytes).concat());
    let target = target.unwrap_or_default();
    hash.update((target.len() as u64).to_le_bytes());
    hash.update(target);
    hash.update(content);
    Ok(hash.finalize().into())
}

fn hash(files: &BTreeMap<String, [u8; 32]>) -> String {
    let mut hash = Sha256::new();
    for (path, digest) in files {
        hash.update((path.len() as u64).to_le_bytes());
        hash.update(path);
        hash.update(digest);
    }
    hex(&hash.finalize())
}

fn lists_packages(path: &str) -> bool {
    path == DPKG_STATUS || is_distribution(path) || is_npm_package(path)
}

fn is_distribution(path: &str) -> bool {
    path.ends_with(".dist-info/METADATA") || path.ends_with(".egg-info/PKG-INFO")
}

/// Whether it is the description of a package, and not of a folder somewhere inside one.
fn is_npm_package(path: &str) -> bool {
    let folder = path.strip_suffix("/package.json").and_then(|it| it.rsplit_once("node_modules/"));
    folder.is_some_and(|(_, name)| {
        name.split('/').count() == if name.starts_with('@') { 2 } else { 1 }
    })
}

fn packages_of(path: &str, text: &[u8]) -> Option<Vec<Package>> {
    if is_npm_package(path) {
        return Some(npm(text).into_iter().collect());
    }
    let text = String::from_utf8_lossy(text);
    if path == DPKG_STATUS {
        return Some(text.split("\n\n").filter_map(debian).collect());
    }
    let [name, version] = ["Name", "Version"].map(|name| field(&text, name));
    Some(vec![Package {
        ecosystem: Ecosystem::Python,
        name: name?.to_owned(),
        version: version?.to_owned(),
        architecture: None,
    }])
}

fn npm(text: &[u8]) -> Option<Package> {
    #[derive(Deserialize)]
    struct Description {
        name: String,
        version: String,
    }

    let Description { name, version } = serde_json::from_slice(text).ok()?;
    Some(Package { ecosystem: Ecosystem::Npm, name, version, architecture: None })
}

fn debian(stanza: &str) -> Option<Package> {
    let is_installed = field(stanza, "Status")?.ends_with(" installed");
    is_installed.then_some(())?;
    Some(Package {
        ecosystem: Ecosystem::Debian,
        name: field(stanza, "Package")?.to_owned(),
        version: field(stanza, "Version")?.to_owned(),
        architecture: field(stanza, "Architecture").map(str::to_owned),
    })
}

/// The value of a field in the first paragraph of a text.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let head = text.split("\n\n").next().unwrap_or_default();
    head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str, u64)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text, mtime) in files {
            let mut header = Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(*mtime);
            header.set_uid(0);
            header.set_gid(0);
            builder.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn read(files: &[(&str, &str, u64)]) -> Contents {
        Contents::read(&*archive(files)).unwrap()
    }

    #[test]
    fn the_hash_is_of_what_counts_and_of_nothing_else() {
        let one = read(&[("a", "1", 5), ("b", "2", 5)]);
        assert_eq!(one, read(&[("b", "2", 6), ("./a", "1", 7), ("etc/hosts", "x", 1)]));
        for other in [
            read(&[("a", "1", 5)]),
            read(&[("a", "1", 5), ("b", "3", 5)]),
            read(&[("a", "1", 5), ("c", "2", 5)]),
        ] {
            assert_ne!(one.hash, other.hash);
        }
        assert_eq!(one.files, 2);
        assert!(Contents::read(&archive(&[("a", "1", 5)])[..513]).is_err());
    }

    #[test]
    fn packages_are_found_by_their_managers_own_lists() {
        let status = "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
        let module = "usr/local/lib/node_modules/@a/b";
        let contents = read(&[
            ("var/lib/dpkg/status", status, 0),
            (&format!("{module}/package.json"), r#"{"name":"@a/b","version":"1.0.0"}"#, 0),
            (&format!("{module}/test/package.json"), r#"{"name":"no","version":"1"}"#, 0),
            (
                "usr/lib/python3/dist-packages/x-1.dist-info/METADATA",
                "Name: x\nVersion: 1\n\nName: y",
                0,
            ),
            ("usr/local/bin/node", "ELF", 0),
        ]);
        let found: Vec<_> =
            contents.packages.iter().map(|it| (it.name.as_str(), it.version.as_str())).collect();
        assert_eq!(found, [("bash", "5.2-1"), ("@a/b", "1.0.0"), ("x", "1")]);
        assert_eq!(contents.interpreters.keys().collect::<Vec<_>>(), ["node"]);
    }
}
