//! One output stream of a job, from raw chunks to the text in its result: masked, then cut to the
//! limit with a marker that tells the true size, then freed of trailing white space.

use bytes::Bytes;

use super::mask::Masker;

/// Collects one stream. The runner forwards a bounded number of bytes, so this is bounded too.
#[derive(Default)]
pub(super) struct Collected {
    data: Vec<u8>,
}

/// A finished stream.
pub(super) struct Text {
    pub(super) text: String,
    pub(super) truncated: bool,
}

impl Collected {
    pub(super) fn push(&mut self, chunk: &Bytes) {
        self.data.extend_from_slice(chunk);
    }

    /// How much was collected so far.
    pub(super) fn bytes(&self) -> u64 {
        self.data.len() as u64
    }

    /// The text for the result. `total_bytes` is what the program wrote, forwarded or not.
    pub(super) fn finish(self, masker: &Masker, limit_bytes: u64, total_bytes: u64) -> Text {
        let is_cut = (self.data.len() as u64) < total_bytes;
        let mut data = masker.mask(self.data);
        if is_cut {
            // The last bytes may be the beginning of a secret whose end was not forwarded.
            data.truncate(data.len().saturating_sub(masker.longest_bytes().saturating_sub(1)));
        }
        let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
        let truncated = total_bytes > limit_bytes || data.len() > limit;
        if truncated {
            data.truncate(limit);
            data.truncate(complete_characters(&data));
        }
        let mut text = match String::from_utf8(data) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        if truncated {
            text.push_str(&truncation_marker(total_bytes, limit_bytes));
        }
        text.truncate(text.trim_end().len());
        Text { text, truncated }
    }
}

/// What a stream that was cut ends with.
pub(super) fn truncation_marker(total_bytes: u64, limit_bytes: u64) -> String {
    format!("\n\n--- OUTPUT TRUNCATED ({total_bytes} bytes, limit: {limit_bytes}) ---")
}

/// Length of `data` without the beginning of a character whose rest is not there.
pub(crate) fn complete_characters(data: &[u8]) -> usize {
    let is_continuation = |at: &usize| data[*at] & 0b1100_0000 == 0b1000_0000;
    let last = (data.len().saturating_sub(4)..data.len()).rev().find(|at| !is_continuation(at));
    match last.map(|at| (at, std::str::from_utf8(&data[at..]))) {
        Some((at, Err(error))) if error.error_len().is_none() => at,
        _ => data.len(),
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn finish(chunks: &[&str], limit: u64, secret: &str) -> Text {
        let masker = Masker::of_values(std::iter::once(secret));
        let mut collected = Collected::default();
        for chunk in chunks {
            collected.push(&Bytes::copy_from_slice(chunk.as_bytes()));
        }
        let total = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        collected.finish(&masker, limit, total)
    }

    #[test]
    fn short_output_is_only_trimmed() {
        let text = finish(&["hello", " \n\n"], 100, "");
        assert_eq!((text.text.as_str(), text.truncated), ("hello", false));
    }

    #[test]
    fn long_output_is_cut_and_says_how_much_there_was() {
        let text = finish(&["0123456789"], 4, "");
        assert!(text.truncated);
        assert_eq!(text.text, "0123\n\n--- OUTPUT TRUNCATED (10 bytes, limit: 4) ---");
    }

    #[test]
    fn a_secret_across_chunks_or_the_cut_does_not_leak() {
        assert_eq!(finish(&["pass", "word"], 100, "password").text, "***");
        assert!(!finish(&["xxpassword"], 6, "password").text.contains("pass"));
    }

    #[test]
    fn a_character_is_never_cut_in_half() {
        assert!(finish(&["aé"], 2, "").text.starts_with("a\n\n---"));
        assert!(finish(&["aé"], 3, "").text == "aé");
        // The runner forwards no more than the limit, so the rest need not be at hand.
        let mut collected = Collected::default();
        collected.push(&Bytes::from_static(b"a\xc3"));
        let masker = Masker::of_values(std::iter::empty());
        assert!(collected.finish(&masker, 2, 3).text.starts_with("a\n\n---"));
    }
}
