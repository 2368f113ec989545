//! Masking of secret values in output: every value in one pass, also in the encodings a program
//! is likely to print it in.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::spellings::spellings_of;

/// What replaces a secret.
const MASK: &str = "***";

/// Replaces the secrets of one job.
pub(super) struct Masker {
    /// `None`: the job has no secrets, and output passes untouched.
    automaton: Option<AhoCorasick>,
    /// Every text that is masked, sorted.
    patterns: Vec<Vec<u8>>,
    longest_bytes: usize,
}

impl Masker {
    /// Prepares for values; empty ones are ignored.
    pub(super) fn of_values<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut patterns: Vec<Vec<u8>> = spellings_of(values);
        patterns.sort();
        patterns.dedup();
        let longest_bytes = patterns.iter().map(Vec::len).max().unwrap_or(0);
        let automaton = (!patterns.is_empty()).then(|| {
            // Longest first: a secret that contains another must not leave its tail behind.
            // A table of all states would take a kilobyte for each byte of a secret's spellings.
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(&patterns)
                .expect("a request's secrets are far below the automaton's size limit")
        });
        Self { automaton, patterns, longest_bytes }
    }

    /// Length of the longest text that is masked. Output must be cut only after masking, so this
    /// many bytes more than the caller wants have to be at hand.
    pub(super) fn longest_bytes(&self) -> usize {
        self.longest_bytes
    }

    /// Where, from `from` on, the longest end of `data` begins that may be the beginning of a secret.
    fn first_open(&self, data: &[u8], from: usize) -> usize {
        let first = data.len().saturating_sub(self.longest_bytes.saturating_sub(1)).max(from);
        let is_open = |at: &usize| {
            let end = &data[*at..];
            let next = self.patterns.partition_point(|pattern| pattern.as_slice() <= end);
            self.patterns.get(next).is_some_and(|pattern| pattern.starts_with(end))
        };
        (first..data.len()).find(is_open).unwrap_or(data.len())
    }

    /// Length of `text` without an end that may be the beginning of a secret: for what was cut before
    /// it was masked.
    pub(super) fn closed_length(&self, text: &str) -> usize {
        (0..=self.first_open(text.as_bytes(), 0))
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or_default()
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

/// Masks a stream as it passes. Holds back only an end that is the beginning of a secret, so a value
/// split across chunks does not leak, and a prompt appears at once.
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
        let mut shown = Vec::with_capacity(self.held.len());
        let mut from = 0;
        let mut open = self.masker.first_open(&self.held, 0);
        // A match that begins before the open end cannot become another one, whatever follows.
        while let Some(found) =
            automaton.find(aho_corasick::Input::new(&self.held).span(from..self.held.len()))
            && found.start() < open
        {
            shown.extend_from_slice(&self.held[from..found.start()]);
            shown.extend_from_slice(MASK.as_bytes());
            from = found.end();
            if open < from {
                open = self.masker.first_open(&self.held, from);
            }
        }
        shown.extend_from_slice(&self.held[from..open]);
        self.held.drain(..open);
        shown
    }

    /// What was held back, when the stream has ended.
    pub(super) fn end(self) -> Vec<u8> {
        self.masker.mask(self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masker(values: &[&str]) -> Masker {
        Masker::of_values(values.iter().copied())
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
    fn what_was_cut_does_not_end_in_a_secret_begun() {
        let masker = masker(&["hunter2!"]);
        for (text, shown) in [("/a?k=hunt", "/a?k="), ("/a?k=h", "/a?k="), ("/a?k=x", "/a?k=x")] {
            assert_eq!(&text[..masker.closed_length(text)], shown);
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
    fn only_the_beginning_of_a_secret_is_held_back() {
        let masker = masker(&["a-long-secret-value"]);
        let mut live = LiveMasker::new(&masker);
        assert_eq!(live.feed(b"Your name? "), b"Your name? ");
        assert_eq!(live.feed(b"the a-lo"), b"the ");
        assert_eq!(live.feed(b"t"), b"a-lot");
        assert_eq!(live.feed(b" a-long-secret-value"), b" ***");
        assert_eq!(live.feed(b"a-long"), b"");
        assert_eq!(live.end(), b"a-long");
    }

    #[test]
    fn the_longest_secrets_take_bounded_memory() {
        let value: String = ('!'..='~').cycle().take(shared::execution::MAX_SECRET_BYTES).collect();
        let masker = masker(&[&value]);
        let bytes = masker.automaton.as_ref().unwrap().memory_usage();
        assert!(bytes < 64 << 20, "{bytes}");
        assert_eq!(masker.mask(format!("<{value}>").into_bytes()), b"<***>");
    }

    #[test]
    fn without_secrets_output_passes_untouched() {
        assert_eq!(masker(&[""]).mask(b"x".to_vec()), b"x");
    }
}
