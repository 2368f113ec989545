//! How a secret may look in output: as it stands, and in the encodings that programs print values
//! in - base64 (also in the midst of a longer text), hex, percent encoding and JSON.

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Encodings of shorter values are left out: they would match ordinary text.
const SHORTEST_ENCODED: usize = 6;
/// Columns after which `base64` and Python, and `openssl`, begin a new line.
const BASE64_COLUMNS: [usize; 2] = [76, 64];
/// Columns after which `xxd -p` begins a new line.
const HEX_COLUMNS: usize = 60;
/// What percent encodings leave as it is besides letters and digits, and how they write a space:
/// RFC 3986 and Python, JavaScript's `encodeURIComponent` and `encodeURI`, Python's `quote`, forms.
const PERCENT_STYLES: [(&[u8], &str); 6] = [
    (b"-_.~", "%20"),
    (b"-_.~!'()*", "%20"),
    (b"-_.~!'()*;/?:@&=+$,#", "%20"),
    (b"-_.~/", "%20"),
    (b"-_.~", "+"),
    (b"*-._", "+"),
];

/// Bytes of values whose encodings are looked for; each takes some twenty times its size in patterns.
/// What is beyond is masked only as it stands.
const MAX_ENCODED_BYTES: usize = 64 << 10;

/// Everything to be masked on account of `values`; the shortest come first.
pub(super) fn spellings_of<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Vec<u8>> {
    let mut values: Vec<&str> = values.collect();
    values.sort_by_key(|value| value.len());
    let mut encoded_bytes = 0;
    let spellings = values.into_iter().flat_map(|value| {
        encoded_bytes += value.len();
        spellings(value, encoded_bytes <= MAX_ENCODED_BYTES)
    });
    spellings.collect()
}

/// A value as it stands and, unless it is too short, encoded; nothing for an empty one.
fn spellings(value: &str, is_encoded: bool) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    // A value read from a file often has a line break at its end that its users cut off.
    for value in [value, value.trim()] {
        if !value.is_empty() {
            found.push(value.as_bytes().to_vec());
        }
        if is_encoded && value.len() >= SHORTEST_ENCODED {
            found.extend(encoded(value).into_iter().map(String::into_bytes));
        }
    }
    found
}

fn encoded(value: &str) -> Vec<String> {
    let bytes = value.as_bytes();
    let mut found = json(value);
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        let whole = engine.encode(bytes);
        found.extend(BASE64_COLUMNS.map(|columns| wrapped(&whole, columns)));
        found.push(whole);
        found.extend((0..3).map(|before| embedded(engine, bytes, before)));
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    found.push(hex.to_uppercase());
    found.push(wrapped(&hex, HEX_COLUMNS));
    found.push(hex);
    for (kept, space) in PERCENT_STYLES {
        let upper = percent_encoded(bytes, kept, space, |byte| format!("%{byte:02X}"));
        let lower = percent_encoded(bytes, kept, space, |byte| format!("%{byte:02x}"));
        found.extend([upper, lower]);
    }
    found
}

/// The part of a longer base64 text that tells of `bytes` alone, when `before` bytes (modulo 3)
/// precede them.
fn embedded(engine: &GeneralPurpose, bytes: &[u8], before: usize) -> String {
    let text = engine.encode([&[0; 2][..before], bytes].concat());
    // The characters at both ends also depend on the bytes next to the value.
    let start = (before * 8).div_ceil(6);
    let end = (before + bytes.len()) * 8 / 6;
    text[start..end].to_owned()
}

/// `text` in lines of `columns`; itself if it fits into one.
fn wrapped(text: &str, columns: usize) -> String {
    // Encodings are ASCII, so any place is a character border.
    let lines: Vec<&str> = (0..text.len())
        .step_by(columns)
        .map(|start| &text[start..(start + columns).min(text.len())])
        .collect();
    lines.join("\n")
}

/// As a JSON string says it, with and without escapes for what is not ASCII.
fn json(value: &str) -> Vec<String> {
    let quoted = serde_json::Value::from(value).to_string();
    let plain = quoted[1..quoted.len() - 1].to_owned();
    let mut ascii = String::with_capacity(plain.len());
    for character in plain.chars() {
        if character.is_ascii() {
            ascii.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    vec![plain, ascii]
}

fn percent_encoded(
    bytes: &[u8],
    kept: &[u8],
    space: &str,
    escape: impl Fn(u8) -> String,
) -> String {
    bytes
        .iter()
        .map(|&byte| match byte {
            b' ' => space.to_owned(),
            byte if byte.is_ascii_alphanumeric() || kept.contains(&byte) => {
                char::from(byte).to_string()
            }
            byte => escape(byte),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn is_known(value: &str, text: &str) -> bool {
        spellings_of(std::iter::once(value)).iter().any(|spelling| {
            text.as_bytes().windows(spelling.len()).any(|window| window == spelling.as_slice())
        })
    }

    #[test]
    fn base64_is_known_wherever_the_value_lies_in_the_text() {
        for before in 0..7 {
            for after in 0..4 {
                let text = format!("{}s3cret-value{}", "x".repeat(before), "y".repeat(after));
                let encoded = STANDARD.encode(&text);
                assert!(is_known("s3cret-value", &encoded), "{text}");
            }
        }
    }

    #[test]
    fn long_values_are_known_over_line_breaks() {
        let value = "0123456789".repeat(12);
        let whole = STANDARD.encode(&value);
        let lines: Vec<_> =
            whole.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        assert!(is_known(&value, &lines.join("\n")));
    }

    #[test]
    fn common_writings_are_known() {
        let value = "p\u{e4}ss w/\"ord\"!";
        for text in [
            "p%C3%A4ss%20w%2F%22ord%22%21",
            "p%c3%a4ss%20w%2f%22ord%22%21",
            "p%C3%A4ss%20w%2F%22ord%22!",
            "p%C3%A4ss%20w/%22ord%22!",
            "p%C3%A4ss+w%2F%22ord%22%21",
            "70c3a4737320772f226f72642221",
            "70C3A4737320772F226F72642221",
            "p\u{e4}ss w/\\\"ord\\\"!",
            "p\\u00e4ss w/\\\"ord\\\"!",
        ] {
            assert!(is_known(value, text), "{text}");
        }
        assert!(is_known("from-a-file\n", "<from-a-file>"));
        assert!(spellings("", true).is_empty());
        assert!(spellings("abc", true).iter().all(|spelling| spelling == b"abc"));
    }

    #[test]
    fn very_long_values_do_not_take_memory_for_their_encodings() {
        let long = "x".repeat(MAX_ENCODED_BYTES);
        let found = spellings_of([long.as_str(), "a-secret"].into_iter());
        assert!(found.contains(&STANDARD_NO_PAD.encode("a-secret").into_bytes()));
        let bytes: usize = found.iter().map(Vec::len).sum();
        assert!(bytes < 3 * MAX_ENCODED_BYTES, "{bytes}");
    }
}
