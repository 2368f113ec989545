//! Sealing: what is secret is encrypted before it goes to Redis, and opened where it is used. Who has a
//! copy of the queue, of its append-only file or of what goes over the wire, but no key, learns nothing
//! from it, can change nothing in it, and can move nothing to another tenant or job.
//!
//! Why it is made like this: `docs/decisions/secrets-at-rest.md`.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk};

use crate::error::{Error, ErrorCode};
use crate::id::{BatchId, JobId, ScheduleId, TenantId};

/// Bytes of a key, and of the one that is derived from it for each record.
const KEY_BYTES: usize = 32;
/// Keys in one file: enough for any rotation.
const MAX_KEYS: usize = 16;
/// What sealed bytes begin with. No JSON does, as it is not ASCII; and nothing deflated, where it would stand for
/// a kind of block that there is not (RFC 1951, 3.2.3).
const FORM: u8 = 0xe6;
const ID_BYTES: usize = 8;
const SALT_BYTES: usize = 24;
/// Form, kind of the owner, the owner, the key's name.
const HEAD_BYTES: usize = 2 + 16 + ID_BYTES;
const TEXT_AT: usize = HEAD_BYTES + SALT_BYTES;
const TAG_BYTES: usize = 16;

/// The keys of a fleet: the first one seals, all open.
#[derive(Clone)]
pub struct SecretsKeys(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: KeyName,
    source: Prk,
}

/// The name of a key, which tells nothing of it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyName([u8; ID_BYTES]);

/// Whose the sealed text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// One job's.
    Job(JobId),
    /// A schedule's; its jobs have it word for word.
    Schedule(ScheduleId),
    /// A batch's, until its items become jobs.
    Batch(BatchId),
}

/// What the sealed text is for: one cannot take another's place.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// What a job runs.
    Payload,
    /// Whom to tell of an ending.
    Webhook,
    /// What the items of a batch are told from.
    Base,
    /// A chunk of items.
    Items {
        /// Number of the first.
        first: u64,
        /// SHA-256 of the base they are told from: with another one they would be other jobs.
        base: &'a [u8],
    },
}

/// Where a sealed text belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its tenant.
    pub tenant: &'a TenantId,
    /// Its owner.
    pub owner: Owner,
    /// Its use.
    pub purpose: Purpose<'a>,
}

/// How many bytes to derive.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Owner {
    /// Its kind and its identifier.
    fn parts(self) -> (u8, [u8; 16]) {
        match self {
            Self::Job(id) => (1, id.to_bytes()),
            Self::Schedule(id) => (2, id.to_bytes()),
            Self::Batch(id) => (3, id.to_bytes()),
        }
    }
}

impl Purpose<'_> {
    fn write(self, to: &mut Vec<u8>) {
        match self {
            Self::Payload => to.push(1),
            Self::Webhook => to.push(2),
            Self::Base => to.push(3),
            Self::Items { first, base } => {
                to.push(4);
                to.extend(first.to_be_bytes());
                to.extend(base);
            }
        }
    }
}

/// Whether bytes are sealed.
#[must_use]
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&FORM)
}

impl SecretsKeys {
    /// Keys as text: one a line, 32 bytes in base64; blank lines and those that begin with `#` are passed
    /// over.
    ///
    /// # Errors
    /// An invalid-request error that repeats none of it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in lines {
            let bytes = STANDARD.decode(line).ok().filter(|bytes| bytes.len() == KEY_BYTES);
            let bytes = bytes.ok_or_else(|| {
                Error::invalid(format!(
                    "line {} is no key: a key is {KEY_BYTES} bytes in base64, as `head -c {KEY_BYTES} \
                     /dev/urandom | base64` makes one",
                    number + 1
                ))
            })?;
            let key = Key::new(&bytes)?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(Error::invalid(format!("line {} repeats a key", number + 1)));
            }
            keys.push(key);
        }
        if keys.is_empty() || keys.len() > MAX_KEYS {
            return Err(Error::invalid(format!(
                "there are {} keys, not 1 to {MAX_KEYS}",
                keys.len()
            )));
        }
        Ok(Self(keys))
    }

    /// The keys in a file.
    ///
    /// # Errors
    /// An invalid-request error that names the setting and the file.
    pub fn read(setting: &str, path: &Path) -> Result<Self, Error> {
        let place = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::invalid(format!("{setting} {place} cannot be read: {error}"))
        })?;
        Self::parse(&text)
            .map_err(|error| Error::invalid(format!("{setting} {place}: {}", error.message())))
    }

    /// A new key as text.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if the system has no randomness.
    pub fn generate() -> Result<String, Error> {
        Ok(STANDARD.encode(random::<KEY_BYTES>()?))
    }

    /// The names of the keys, that of the sealing one first.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|key| key.id.to_string())
    }

    /// Seals a text for its place.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if the system has no randomness.
    pub fn seal(&self, place: Place<'_>, text: &[u8]) -> Result<Vec<u8>, Error> {
        let key = self.0.first().ok_or_else(broken)?;
        let salt = random::<SALT_BYTES>()?;
        let (kind, owner) = place.owner.parts();
        let mut sealed = Vec::with_capacity(TEXT_AT + text.len() + TAG_BYTES);
        sealed.extend([FORM, kind]);
        sealed.extend(owner);
        sealed.extend(key.id.0);
        let bound = bind(&sealed, place);
        sealed.extend(salt);
        sealed.extend(text);
        let (cipher, nonce) = key.of_record(&salt)?;
        let tag =
            cipher.seal_in_place_separate_tag(nonce, Aad::from(bound), &mut sealed[TEXT_AT..]);
        sealed.extend(tag.map_err(|_| broken())?.as_ref());
        Ok(sealed)
    }

    /// Opens what was sealed for a place, where it lies. A job may have what its schedule had sealed.
    ///
    /// # Errors
    /// [`ErrorCode::SecretsUnreadable`]: none of the keys is the one that it was sealed with, or it was
    /// changed, or moved from another place.
    pub fn open<'a>(&self, place: Place<'_>, sealed: &'a mut [u8]) -> Result<&'a [u8], Error> {
        if sealed.len() < TEXT_AT + TAG_BYTES || !is_sealed(sealed) {
            return Err(forged("it is cut short"));
        }
        let name = name_in(sealed);
        let key = self.0.iter().find(|key| key.id == name).ok_or_else(|| missing(sealed))?;
        let (kind, owner) = place.owner.parts();
        let is_own = sealed[1] == kind && sealed[2..18] == owner;
        let is_of_schedule = sealed[1] == 2 && kind == 1;
        if !is_own && !is_of_schedule {
            return Err(forged("it belongs to another job"));
        }
        let bound = bind(&sealed[..HEAD_BYTES], place);
        let (head, text) = sealed.split_at_mut(TEXT_AT);
        let (cipher, nonce) = key.of_record(&head[HEAD_BYTES..])?;
        let opened = cipher.open_in_place(nonce, Aad::from(bound), text);
        opened
            .map(|text| &*text)
            .map_err(|_| forged("it was changed, or belongs to another tenant or record"))
    }
}

impl fmt::Debug for SecretsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Key {
    fn new(bytes: &[u8]) -> Result<Self, Error> {
        let source = Prk::new_less_safe(HKDF_SHA256, bytes);
        let mut id = [0; ID_BYTES];
        derive(&source, &[b"isol8 name of a key"], &mut id)?;
        Ok(Self { id: KeyName(id), source })
    }

    /// The key and the nonce of one record. As each has a key of its own, the nonce is used once, however
    /// many records there will be.
    fn of_record(&self, salt: &[u8]) -> Result<(LessSafeKey, Nonce), Error> {
        let mut bytes = [0; KEY_BYTES + NONCE_LEN];
        derive(&self.source, &[b"isol8 sealed record", salt], &mut bytes)?;
        let (key, nonce) = bytes.split_at(KEY_BYTES);
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| broken())?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken())?;
        Ok((LessSafeKey::new(key), nonce))
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn derive(source: &Prk, about: &[&[u8]], to: &mut [u8]) -> Result<(), Error> {
    let derived = source.expand(about, Length(to.len())).map_err(|_| broken())?;
    derived.fill(to).map_err(|_| broken())
}

/// What must be the same when it is opened.
fn bind(head: &[u8], place: Place<'_>) -> Vec<u8> {
    let mut bound = head.to_vec();
    place.purpose.write(&mut bound);
    bound.extend(place.tenant.as_str().as_bytes());
    bound
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::new(ErrorCode::Internal, "The system has no random numbers.").with_source(error)
    })?;
    Ok(bytes)
}

fn name_in(sealed: &[u8]) -> KeyName {
    let mut name = [0; ID_BYTES];
    let written = sealed.get(HEAD_BYTES - ID_BYTES..HEAD_BYTES);
    name.copy_from_slice(written.unwrap_or(&[0; ID_BYTES]));
    KeyName(name)
}

/// The name of the key that something was sealed with.
#[must_use]
pub fn key_of(sealed: &[u8]) -> String {
    name_in(sealed).to_string()
}

/// The error of a member that lacks the key of something sealed.
pub(crate) fn missing(sealed: &[u8]) -> Error {
    Error::new(
        ErrorCode::SecretsUnreadable,
        format!(
            "It is encrypted with key {}, which is not here. Give all members of the fleet the same keys \
             (redis.secretsKeyFile), and keep a key that was replaced until nothing needs it.",
            name_in(sealed)
        ),
    )
}

fn forged(how: &str) -> Error {
    let message = format!("What is encrypted in the queue cannot be opened: {how}.");
    Error::new(ErrorCode::SecretsUnreadable, message)
}

fn broken() -> Error {
    Error::new(ErrorCode::Internal, "The cipher of secrets does not work.")
}

#[cfg(test)]
mod tests;
