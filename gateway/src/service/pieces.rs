//! A file on its way to a client, as the body of an answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{Stream, unfold};
use shared::{Error, ErrorCode};
use tokio::sync::mpsc;

/// Bytes that become whole groups of base64.
const GROUP: usize = 3;

/// The pieces of a file; `None` is its end. A channel that closes without is a file cut short.
pub(crate) struct Pieces(mpsc::Receiver<Option<Bytes>>);

impl Pieces {
    /// What comes through a channel.
    pub(super) const fn new(pieces: mpsc::Receiver<Option<Bytes>>) -> Self {
        Self(pieces)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let cut = || Error::new(ErrorCode::FileFailed, "The file was cut short");
        self.0.recv().await.ok_or_else(cut)
    }

    /// The file as it is.
    pub(crate) fn into_bytes(self) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        unfold(Some(self), async |pieces| {
            let mut pieces = pieces?;
            match pieces.next().await {
                Ok(piece) => Some((Ok(piece?), Some(pieces))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// The file as `{"content":"<base64>"}`.
    pub(crate) fn into_base64_json(self) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        let start = Base64 { pieces: self, rest: BytesMut::new(), has_begun: false };
        unfold(Some(start), async |base64| {
            let mut base64 = base64?;
            match base64.pieces.next().await {
                Ok(Some(piece)) => Some((Ok(base64.encode(&piece)), Some(base64))),
                Ok(None) => Some((Ok(base64.end()), None)),
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

struct Base64 {
    pieces: Pieces,
    /// Fewer than a group, kept for the next piece.
    rest: BytesMut,
    has_begun: bool,
}

impl Base64 {
    fn encode(&mut self, piece: &[u8]) -> Bytes {
        self.rest.extend_from_slice(piece);
        let whole = self.rest.split_to(self.rest.len() / GROUP * GROUP);
        self.text(&whole).into()
    }

    fn end(&mut self) -> Bytes {
        let rest = self.rest.split();
        let mut text = self.text(&rest);
        text.push_str("\"}");
        text.into()
    }

    fn text(&mut self, bytes: &[u8]) -> String {
        let begin = if self.has_begun { "" } else { "{\"content\":\"" };
        self.has_begun = true;
        let mut text = String::with_capacity(begin.len() + bytes.len().div_ceil(GROUP) * 4 + 2);
        text.push_str(begin);
        STANDARD.encode_string(bytes, &mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt as _, TryStreamExt as _};

    async fn pieces(lengths: &[usize], is_whole: bool) -> (Vec<u8>, Pieces) {
        let (sender, receiver) = mpsc::channel(lengths.len() + 1);
        let mut all = Vec::new();
        for length in lengths {
            let piece: Vec<u8> = (0..*length).map(|at| (at % 251).to_le_bytes()[0]).collect();
            all.extend_from_slice(&piece);
            sender.send(Some(piece.into())).await.unwrap();
        }
        if is_whole {
            sender.send(None).await.unwrap();
        }
        (all, Pieces::new(receiver))
    }

    #[tokio::test]
    async fn pieces_of_any_size_are_one_base64_text() {
        for lengths in [&[][..], &[1], &[2, 2], &[3, 1, 1, 1], &[1000, 7, 0, 1]] {
            let (all, pieces) = pieces(lengths, true).await;
            let parts: Vec<Bytes> = pieces.into_base64_json().try_collect().await.unwrap();
            let json: serde_json::Value = serde_json::from_slice(&parts.concat()).unwrap();
            assert_eq!(json["content"], STANDARD.encode(all), "{lengths:?}");
        }
    }

    #[tokio::test]
    async fn a_file_cut_short_does_not_look_whole() {
        let parts: Vec<_> = pieces(&[5], false).await.1.into_bytes().collect().await;
        assert_eq!(parts.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
        let parts: Vec<_> = pieces(&[5], false).await.1.into_base64_json().collect().await;
        assert!(parts.last().unwrap().is_err());
        let (all, pieces) = pieces(&[5, 6], true).await;
        let parts: Vec<Bytes> = pieces.into_bytes().try_collect().await.unwrap();
        assert_eq!(parts.concat(), all);
    }
}
