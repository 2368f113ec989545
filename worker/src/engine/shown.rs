//! One output stream on its way to whoever watches: secrets masked, characters kept whole, and cut at
//! the limit with the same marker as in the result.

use super::mask::{LiveMasker, Masker};
use super::output::{complete_characters, truncation_marker};

/// What of a stream has been shown.
pub(super) struct Shown<'a> {
    masker: LiveMasker<'a>,
    /// The beginning of a character whose rest has not come.
    held: Vec<u8>,
    received_bytes: u64,
    room: Room,
}

/// How much more may be shown.
struct Room {
    limit_bytes: u64,
    left_bytes: u64,
    is_exceeded: bool,
}

impl<'a> Shown<'a> {
    pub(super) fn new(masker: &'a Masker, limit_bytes: u64) -> Self {
        Self {
            masker: LiveMasker::new(masker),
            held: Vec::new(),
            received_bytes: 0,
            room: Room { limit_bytes, left_bytes: limit_bytes, is_exceeded: false },
        }
    }

    /// Takes a chunk and returns what is to be shown of it now.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Vec<u8> {
        self.received_bytes += chunk.len() as u64;
        self.held.extend_from_slice(&self.masker.feed(chunk));
        let rest = self.held.split_off(complete_characters(&self.held));
        self.room.fit(std::mem::replace(&mut self.held, rest))
    }

    /// What is left to show when the stream has ended, and the marker if not all of it was shown.
    /// `total_bytes` is what the program wrote, forwarded or not.
    pub(super) fn end(self, total_bytes: u64) -> Vec<u8> {
        let Self { masker, held: mut rest, received_bytes, mut room } = self;
        // Of a stream that was not forwarded to its end, what the masker holds back may be the
        // beginning of a secret.
        if received_bytes >= total_bytes {
            rest.extend(masker.end());
        }
        let mut shown = room.fit(rest);
        if room.is_exceeded || total_bytes > room.limit_bytes {
            shown.extend_from_slice(truncation_marker(total_bytes, room.limit_bytes).as_bytes());
        }
        shown
    }
}

impl Room {
    fn fit(&mut self, mut data: Vec<u8>) -> Vec<u8> {
        if self.is_exceeded {
            return Vec::new();
        }
        if data.len() as u64 > self.left_bytes {
            self.is_exceeded = true;
            data.truncate(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
            data.truncate(complete_characters(&data));
        }
        self.left_bytes -= data.len() as u64;
        data
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    /// All pieces of a stream, the last one being what its end brings.
    fn show(chunks: &[&[u8]], total_bytes: u64, limit_bytes: u64, secret: &str) -> Vec<Vec<u8>> {
        let masker = Masker::of_values(std::iter::once(secret));
        let mut shown = Shown::new(&masker, limit_bytes);
        let mut pieces: Vec<_> = chunks.iter().map(|chunk| shown.feed(chunk)).collect();
        pieces.push(shown.end(total_bytes));
        pieces
    }

    #[test]
    fn no_piece_ends_within_a_character_and_invalid_bytes_pass() {
        assert_eq!(show(&[b"a\xc3", b"\xa9"], 3, 9, ""), [&b"a"[..], "\u{e9}".as_bytes(), b""]);
        assert_eq!(show(&[b"a\xff", b"\xc3"], 3, 9, ""), [&b"a\xff"[..], b"", b"\xc3"]);
    }

    #[test]
    fn a_stream_is_cut_at_a_character_and_told_its_true_size() {
        let marker = b"\n\n--- OUTPUT TRUNCATED (9 bytes, limit: 4) ---".to_vec();
        assert_eq!(
            show(&[b"123", b"45"], 9, 4, ""),
            [b"123".to_vec(), b"4".to_vec(), marker.clone()]
        );
        let accent = show(&["123\u{e9}".as_bytes(), b"6"], 9, 4, "");
        assert_eq!(accent, [b"123".to_vec(), vec![], marker.clone()]);
        // The runner need not have forwarded all of it.
        assert_eq!(show(&[b"1234"], 9, 4, ""), [b"1234".to_vec(), marker]);
    }

    #[test]
    fn the_cut_does_not_show_the_beginning_of_a_secret() {
        let pieces = show(&[b"x pass"], 10, 100, "password");
        assert_eq!(pieces[..2].concat(), b"x ");
        assert_eq!(show(&[b"x pass"], 6, 100, "password").concat(), b"x pass");
    }
}
