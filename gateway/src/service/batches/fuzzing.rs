//! What the fuzzer uploads as a batch (`fuzz/`).

use bytes::Bytes;
use shared::ErrorCode;

use super::merge::{Head, Item};
use super::split::{Form, Part, Splitter};
use crate::body;

/// Largest part.
const MAX_BYTES: usize = 256;

/// Takes `bytes` for an upload. It must come apart in the same way however it arrives, and no part may be larger
/// than parts may be.
///
/// # Panics
/// If that is not so.
pub fn batch(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else { return };
    for form in [Form::Lines, Form::Object] {
        let at_once = split(form, bytes, bytes.len().max(1));
        assert_eq!(split(form, bytes, 1 + usize::from(*step)), at_once);
        read(&at_once.0);
    }
}

/// The parts, and what is wrong with what follows them.
fn split(form: Form, bytes: &[u8], step: usize) -> (Vec<Part>, Option<(ErrorCode, String)>) {
    let (mut splitter, mut parts) = (Splitter::new(form, MAX_BYTES), Vec::new());
    for piece in bytes.chunks(step) {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match splitter.next(&mut piece) {
                Ok(Some(part)) => parts.push(part),
                Ok(None) => break,
                Err(error) => return (parts, Some((error.code(), error.message().to_owned()))),
            }
            assert!(splitter.buffered() <= MAX_BYTES);
        }
        assert!(piece.is_empty());
    }
    match splitter.finish() {
        Ok(last) => {
            parts.extend(last);
            (parts, None)
        }
        Err(error) => (parts, Some((error.code(), error.message().to_owned()))),
    }
}

fn read(parts: &[Part]) {
    let mut head = None;
    for part in parts {
        match part {
            Part::Head(bytes) => head = body::parse::<Head>(bytes).ok(),
            Part::Item(bytes) => {
                let item = body::parse::<Item>(bytes);
                if let (Some(head), Ok(mut item)) = (&head, item) {
                    let _ = item.name();
                    let _ = head.with(item);
                }
            }
        }
    }
}
