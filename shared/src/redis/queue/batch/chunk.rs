//! Chunks: how items wait. Lines of JSON, deflated: items of one batch are much alike.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode};
use crate::execution::JobDelta;

/// A chunk is closed with so many items, or so many bytes of them before they are compressed.
const MAX_ITEMS: u64 = 512;
const MAX_BYTES: usize = 256 << 10;

/// An item as a line of its chunk.
#[derive(Serialize, Deserialize)]
pub(super) struct Line {
    /// The client's own name of it; '' if it has none.
    #[serde(rename = "n", default, skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    #[serde(rename = "d")]
    pub(super) delta: JobDelta,
}

/// A chunk that is being filled.
pub(super) struct ChunkWriter {
    lines: DeflateEncoder<Vec<u8>>,
    items: u64,
    bytes: usize,
}

impl ChunkWriter {
    pub(super) fn new() -> Self {
        let lines = DeflateEncoder::new(Vec::new(), Compression::fast());
        Self { lines, items: 0, bytes: 0 }
    }

    /// Adds an item; true if the chunk is full now.
    pub(super) fn push(&mut self, line: &Line) -> Result<bool, Error> {
        let mut text = serde_json::to_vec(line).map_err(|error| unwritable().with_source(error))?;
        text.push(b'\n');
        self.lines.write_all(&text).map_err(|error| unwritable().with_source(error))?;
        self.items += 1;
        self.bytes += text.len();
        Ok(self.items >= MAX_ITEMS || self.bytes >= MAX_BYTES)
    }

    pub(super) const fn items(&self) -> u64 {
        self.items
    }

    /// The chunk; a new one begins.
    pub(super) fn take(&mut self) -> Result<Vec<u8>, Error> {
        let full = std::mem::replace(self, Self::new());
        full.lines.finish().map_err(|error| unwritable().with_source(error))
    }
}

/// The lines of a chunk.
pub(super) fn read(chunk: &[u8]) -> Result<Vec<String>, Error> {
    let mut text = String::new();
    let read = DeflateDecoder::new(chunk).read_to_string(&mut text);
    read.map_err(|error| unreadable().with_source(error))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Reads a line.
pub(super) fn parse(line: &str) -> Result<Line, Error> {
    serde_json::from_str(line).map_err(|error| unreadable().with_source(error))
}

fn unwritable() -> Error {
    Error::new(ErrorCode::Internal, "Items of a batch cannot be written.")
}

fn unreadable() -> Error {
    Error::new(ErrorCode::Internal, "Items of a batch cannot be read.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back_in_order_and_take_little() {
        let mut chunk = ChunkWriter::new();
        for number in 0..MAX_ITEMS {
            let delta = serde_json::from_str(&format!(r#"{{"stdin":"line {number}\n"}}"#)).unwrap();
            let is_full = chunk.push(&Line { name: String::new(), delta }).unwrap();
            assert_eq!(is_full, number + 1 == MAX_ITEMS);
        }
        let bytes = chunk.take().unwrap();
        assert!(bytes.len() < 12 * 512, "{}", bytes.len());
        assert_eq!(chunk.items(), 0);
        let lines = read(&bytes).unwrap();
        assert_eq!(lines.len(), 512);
        assert_eq!(lines[511], r#"{"d":{"stdin":"line 511\n"}}"#);
        assert_eq!(parse(&lines[0]).unwrap().name, "");
    }

    #[test]
    fn a_large_item_closes_its_chunk() {
        let delta = serde_json::from_str(&format!(r#"{{"stdin":"{}"}}"#, "x".repeat(MAX_BYTES)));
        let line = Line { name: "big".into(), delta: delta.unwrap() };
        assert!(ChunkWriter::new().push(&line).unwrap());
    }
}
