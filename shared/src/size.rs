//! Size strings of the isol8 contract: `512m`, `1g`, `1.5gb`, `1024`.

use crate::error::Error;

/// Parses a size string into bytes: a decimal number, an optional `k`, `m`, `g` or `t` (powers of
/// 1024, any case) and an optional `b`. No unit means bytes.
///
/// # Errors
/// An invalid-request error with the contract's words, naming `what`.
pub fn parse_bytes(what: &str, text: &str) -> Result<u64, Error> {
    parse(text).ok_or_else(|| {
        Error::invalid(format!(
            "Invalid {what} format: \"{text}\". Use a number with an optional unit, like 512m or 1g."
        ))
    })
}

fn parse(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let without_b = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, exponent) = match without_b.as_bytes().last()? {
        b'k' => (&without_b[..without_b.len() - 1], 1),
        b'm' => (&without_b[..without_b.len() - 1], 2),
        b'g' => (&without_b[..without_b.len() - 1], 3),
        b't' => (&without_b[..without_b.len() - 1], 4),
        _ => (without_b, 0),
    };
    let is_decimal = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    if !is_decimal {
        return None;
    }
    let number: f64 = digits.parse().ok()?;
    let bytes = (number * 1024_f64.powi(exponent)).floor();
    // 2^53: beyond it a float no longer counts single bytes, and no machine has that much.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be within 0..2^53"
    )]
    (bytes < 9_007_199_254_740_992.0).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_examples_parse() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("1g", 1 << 30),
            ("256k", 256 << 10),
            ("1024", 1024),
            ("512mb", 512 << 20),
            ("1.5G", 3 << 29),
            ("7b", 7),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_contracts_words() {
        for text in ["", "m", "-1", "1e9", "lots", "1.2.3", "99999999t", "inf", "1 g"] {
            let error = parse_bytes("memory limit", text).unwrap_err();
            assert!(error.message().contains("Invalid memory limit format"), "{text}");
        }
    }
}
