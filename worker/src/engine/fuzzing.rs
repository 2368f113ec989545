//! What the fuzzer sends a worker's engine (`fuzz/`): the frames of a runner here, archives beside their reader.

pub use super::packages::fuzzing::archive;

use bytes::Bytes;
use futures_util::stream;
use runner::protocol::{HEADER_BYTES, Kind, first_frame};

use super::docker::Attached;
use super::link::{Link, LinkError};
use crate::egress::Tunnels;

/// Has a runner send `bytes`, in pieces that the first of them decides on. The frames that come out must be those
/// that are in there, however they were cut.
///
/// # Panics
/// If they are not.
pub fn link(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let mut expected = Vec::new();
    let mut rest = bytes;
    while let Ok(Some((kind, payload))) = first_frame(rest) {
        rest = &rest[HEADER_BYTES + payload.len()..];
        match kind {
            Kind::Fatal => break,
            kind if kind.is_of_tunnel() => {}
            kind => expected.push((kind, payload)),
        }
    }

    let pieces: Vec<Bytes> =
        bytes.chunks(1 + usize::from(*step)).map(Bytes::copy_from_slice).collect();
    let mut link = Link::new(Attached {
        output: Box::pin(stream::iter(pieces.into_iter().map(Ok))),
        input: Box::pin(tokio::io::sink()),
    });
    link.tunnels = Some(Box::new(Tunnels::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime can be made");
    runtime.block_on(async {
        let mut frames = expected.iter();
        let error = loop {
            match link.next().await {
                Ok(frame) => {
                    assert_eq!(frames.next(), Some(&(frame.kind, frame.payload.as_ref())));
                }
                Err(error) => break error,
            }
        };
        // What a tunnel must not say ends a link before its time.
        assert!(!matches!(error, LinkError::Closed) || frames.next().is_none());
    });
}

#[cfg(test)]
mod tests {
    use crate::replay::replay;

    #[test]
    fn kept_frames() {
        replay("link", super::link);
    }
}
