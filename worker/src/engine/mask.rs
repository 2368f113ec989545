//! Masking of secret values in output: every value in one pass, also in the encodings a program
//! is likely to print it in.

use std::collections::BTreeMap;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// What replaces a secret.
const MASK: &str = "***";

/// Replaces the secrets of one job.
pub(super) struct Masker {
    /// `None`: the job has no secrets, and output passes untouched.
    automaton: Option<AhoCorasick>,
    longest_bytes: usize,
}

impl Masker {
    /// Prepares for the values of `secrets`; empty ones are ignored.
    pub(super) fn new(secrets: &BTreeMap<String, String>) -> Self {
        let mut patterns: Vec<Vec<u8>> = secrets
            .values()
            .filter(|value| !value.is_empty())
            .flat_map(|value| spellings(value))
            .collect();
        patterns.sort();
        patterns.dedup();
        let longest_bytes = patterns.iter().map(Vec::len).max().unwrap_or(0);
        let automaton = (!patterns.is_empty()).then(|| {
            // Longest first: a secret that contains another must not leave its tail behind.
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&patterns)
                .expect("a request's secrets are far below the automaton's size limit")
        });
        Self { automaton, longest_bytes }
    }

    /// Length of the longest text that is masked. Output must be cut only after masking, so this
    /// many bytes more than the caller wants have to be at hand.
    pub(super) fn longest_bytes(&self) -> usize {
        self.longest_bytes
    }

    /// `data` with every secret replaced.
    pub(super) fn mask(&self, data: Vec<u8>) -> Vec<u8> {
        let Some(automaton) = &self.automaton else {
            return data;
        };
        if automaton.find(&data).is_none() {
            return data;
        }
        let mut masked = Vec::with_capacity(data.len());
        let mut from = 0;
        for found in automaton.find_iter(&data) {
            masked.extend_from_slice(&data[from..found.start()]);
            masked.extend_from_slice(MASK.as_bytes());
            from = found.end();
        }
        masked.extend_from_slice(&data[from..]);
        masked
    }
}

/// Masks a stream as it passes. Holds back as many bytes as a secret could still begin in, so a
/// value split across chunks does not leak.
pub(super) struct LiveMasker<'a> {
    masker: &'a Masker,
    held: Vec<u8>,
}

impl<'a> LiveMasker<'a> {
    pub(super) fn new(masker: &'a Masker) -> Self {
        Self { masker, held: Vec::new() }
    }

    /// Takes a chunk and returns what can be shown now.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Vec<u8> {
        let Some(automaton) = &self.masker.automaton else {
            return chunk.to_vec();
        };
        self.held.extend_from_slice(chunk);
        // Any match that starts before this point is complete in the buffer.
        let safe = (self.held.len() + 1).saturating_sub(self.masker.longest_bytes);
        let mut shown = Vec::with_capacity(safe);
        let mut from = 0;
        for found in automaton.find_iter(&self.held) {
            if found.start() >= safe {
                break;
            }
            shown.extend_from_slice(&self.held[from..found.start()]);
            shown.extend_from_slice(MASK.as_bytes());
            from = found.end();
        }
        if from < safe {
            shown.extend_from_slice(&self.held[from..safe]);
            from = safe;
        }
        self.held.drain(..from);
        shown
    }

    /// What was held back, when the stream has ended.
    pub(super) fn end(self) -> Vec<u8> {
        self.masker.mask(self.held)
    }
}

/// A value as it stands, and as base64, hex and percent encoding would print it. Encodings of very
/// short values are left out: they would match ordinary text.
fn spellings(value: &str) -> Vec<Vec<u8>> {
    const SHORTEST_ENCODED: usize = 6;
    let bytes = value.as_bytes();
    let mut spellings = vec![bytes.to_vec()];
    if bytes.len() >= SHORTEST_ENCODED {
        spellings.push(STANDARD_NO_PAD.encode(bytes).into_bytes());
        spellings.push(URL_SAFE_NO_PAD.encode(bytes).into_bytes());
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        spellings.push(hex.to_uppercase().into_bytes());
        spellings.push(hex.into_bytes());
        spellings.push(percent_encode(bytes).into_bytes());
    }
    spellings
}

fn percent_encode(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masker(values: &[&str]) -> Masker {
        Masker::new(
            &values
                .iter()
                .enumerate()
                .map(|(index, value)| (format!("S{index}"), (*value).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn values_and_their_encodings_are_masked() {
        let masker = masker(&["hunter2!", ""]);
        for text in ["hunter2!", "aHVudGVyMiE", "68756e7465723221", "hunter2%21"] {
            let masked = masker.mask(format!("<{text}>").into_bytes());
            assert_eq!(String::from_utf8(masked).unwrap(), "<***>", "{text}");
        }
    }

    #[test]
    fn the_longer_of_two_overlapping_secrets_wins() {
        let masked = masker(&["abc", "abcdef"]).mask(b"abcdef abc".to_vec());
        assert_eq!(masked, b"*** ***");
    }

    #[test]
    fn a_stream_cut_anywhere_masks_like_the_whole() {
        let masker = masker(&["secret", "secretive"]);
        let text = b"a secret, a secretive secre and a secret";
        let whole = masker.mask(text.to_vec());
        for size in 1..text.len() {
            let mut live = LiveMasker::new(&masker);
            let mut shown: Vec<u8> = text.chunks(size).flat_map(|chunk| live.feed(chunk)).collect();
            shown.extend(live.end());
            assert_eq!(shown, whole, "chunks of {size}");
        }
    }

    #[test]
    fn without_secrets_output_passes_untouched() {
        assert_eq!(masker(&[""]).mask(b"x".to_vec()), b"x");
    }
}
