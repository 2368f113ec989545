//! What the fuzzer feeds with bytes (`fuzz/`), and a test feeds with those that the fuzzer found worth keeping.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::protocol::{
    Directory, Exited, Failed, Fatal, FileBegin, FileError, HEADER_BYTES, Hello, Kind,
    ListDirectory, Listen, Listening, Prepare, ReadFile, Ready, RemoveFile, ResetDone, Signal,
    Start, Started, StdinAck, first_frame, parse_credit, parse_message, put_frame, put_message,
    put_tunnel_frame, split_tunnel_payload,
};

/// Takes `bytes` for what either end of a link sends. What can be read must come out the same when it is
/// written and read once more.
///
/// # Panics
/// If it does not.
pub fn frames(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((kind, payload))) = first_frame(rest) {
        rest = &rest[HEADER_BYTES + payload.len()..];
        let mut again = Vec::new();
        put_frame(&mut again, kind, payload);
        assert_eq!(first_frame(&again), Ok(Some((kind, payload))));
        take(kind, payload);
    }
}

fn take(kind: Kind, payload: &[u8]) {
    match kind {
        Kind::Prepare => message::<Prepare>(kind, payload),
        Kind::FileBegin => message::<FileBegin>(kind, payload),
        Kind::Start => message::<Start>(kind, payload),
        Kind::Signal => message::<Signal>(kind, payload),
        Kind::ReadFile => message::<ReadFile>(kind, payload),
        Kind::ListDirectory => message::<ListDirectory>(kind, payload),
        Kind::RemoveFile => message::<RemoveFile>(kind, payload),
        Kind::Listen => message::<Listen>(kind, payload),
        Kind::Hello => message::<Hello>(kind, payload),
        Kind::Ready => message::<Ready>(kind, payload),
        Kind::Started => message::<Started>(kind, payload),
        Kind::Exited => message::<Exited>(kind, payload),
        Kind::Failed => message::<Failed>(kind, payload),
        Kind::StdinAck => message::<StdinAck>(kind, payload),
        Kind::FileError => message::<FileError>(kind, payload),
        Kind::ResetDone => message::<ResetDone>(kind, payload),
        Kind::Fatal => message::<Fatal>(kind, payload),
        Kind::Directory => message::<Directory>(kind, payload),
        Kind::Listening => message::<Listening>(kind, payload),
        kind if kind.is_of_tunnel() => tunnel(kind, payload),
        // Raw bytes, or none.
        _ => {}
    }
}

fn message<M: Serialize + DeserializeOwned + Debug + PartialEq>(kind: Kind, payload: &[u8]) {
    let Ok(message) = parse_message::<M>(payload) else { return };
    let mut again = Vec::new();
    // Escapes can make it longer than a frame may be; that is told, not sent.
    if put_message(&mut again, kind, &message).is_ok() {
        assert_eq!(parse_message::<M>(&again[HEADER_BYTES..]), Ok(message));
    }
}

fn tunnel(kind: Kind, payload: &[u8]) {
    let Ok((id, rest)) = split_tunnel_payload(payload) else { return };
    let mut again = Vec::new();
    put_tunnel_frame(&mut again, kind, id, rest);
    assert_eq!(first_frame(&again), Ok(Some((kind, payload))));
    if let Ok(credit) = parse_credit(rest) {
        assert_eq!(u32::try_from(credit).map(u32::to_le_bytes).ok().as_ref(), rest.first_chunk());
    }
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn kept_frames() {
        super::replay::replay("frames", super::frames);
    }
}
