//! Takes the body of an upload apart as it comes: what holds for the batch first, then item by item. Never
//! holds more than one of them.

use bytes::{Buf as _, Bytes};
use shared::{Error, ErrorCode};

/// A piece of an upload.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What holds for all items, as a JSON object.
    Head(Vec<u8>),
    /// An item, as JSON.
    Item(Vec<u8>),
}

/// How an upload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One JSON value per line, the head first.
    Lines,
    /// One JSON object, with the items as its last field.
    Object,
}

/// The scissors.
pub(super) struct Splitter {
    form: Form,
    max_bytes: usize,
    /// Of the part that is coming in.
    buffer: Vec<u8>,
    at: At,
    /// Lines or items so far.
    count: u64,
    has_head: bool,
    scan: Scan,
}

/// Where in the object it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    Head,
    /// Behind the name of the items.
    Name,
    Colon,
    /// Where an item or the end of all may come; whether one came before, and whether a comma did.
    Between {
        is_first: bool,
        is_comma: bool,
    },
    Item,
    /// Behind the items.
    Rest,
    End,
}

/// What the bytes of a JSON text mean so far.
#[derive(Clone, Copy, Debug, Default)]
struct Scan {
    depth: u32,
    in_string: bool,
    is_escaped: bool,
    /// Where the current string began, if it is the name of a field of the outermost object.
    name_at: Option<usize>,
    /// Where the last comma of that object was.
    comma_at: Option<usize>,
    expects_name: bool,
}

impl Splitter {
    pub(super) fn new(form: Form, max_bytes: usize) -> Self {
        let (at, scan) = (At::Start, Scan::default());
        Self { form, max_bytes, buffer: Vec::new(), at, count: 0, has_head: false, scan }
    }

    /// Bytes of the part that is coming in.
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Where the last part was, for people.
    pub(super) fn place(&self) -> String {
        match self.form {
            Form::Lines => format!("line {}", self.count),
            Form::Object if self.count == 0 => "the batch".to_owned(),
            Form::Object => format!("items[{}]", self.count - 1),
        }
    }

    /// Takes bytes off `piece` until a part is whole; `None` if there were too few.
    ///
    /// # Errors
    /// `INVALID_JSON`, `PAYLOAD_TOO_LARGE` for a single part.
    pub(super) fn next(&mut self, piece: &mut Bytes) -> Result<Option<Part>, Error> {
        match self.form {
            Form::Lines => self.next_line(piece),
            Form::Object => self.next_of_object(piece),
        }
    }

    /// The last part, at the end of the body.
    ///
    /// # Errors
    /// `INVALID_JSON` if something is missing.
    pub(super) fn finish(&mut self) -> Result<Option<Part>, Error> {
        match self.form {
            Form::Lines => Ok(self.take_line()),
            Form::Object if self.at == At::End => Ok(None),
            Form::Object if self.at == At::Head || self.at == At::Start => {
                Err(invalid("The body must be a JSON object that ends with the array \"items\""))
            }
            Form::Object => Err(invalid("The body ends in the middle of its JSON")),
        }
    }

    fn next_line(&mut self, piece: &mut Bytes) -> Result<Option<Part>, Error> {
        while !piece.is_empty() {
            let end = piece.iter().position(|byte| *byte == b'\n');
            self.push(&piece[..end.unwrap_or(piece.len())])?;
            piece.advance(end.map_or(piece.len(), |end| end + 1));
            if end.is_some()
                && let Some(part) = self.take_line()
            {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    fn take_line(&mut self) -> Option<Part> {
        self.count += 1;
        let line = std::mem::take(&mut self.buffer);
        if line.trim_ascii().is_empty() {
            return None;
        }
        Some(if std::mem::replace(&mut self.has_head, true) {
            Part::Item(line)
        } else {
            Part::Head(line)
        })
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.buffer.len() + bytes.len() > self.max_bytes {
            let (max, next) = (self.max_bytes, self.count + 1);
            let what = match self.form {
                Form::Lines => format!("line {next}"),
                Form::Object => format!("items[{}], or what is before the items,", self.count),
            };
            return Err(Error::new(
                ErrorCode::PayloadTooLarge,
                format!("{what} is over this server's limit of {max} bytes (gateway.maxBodyBytes)"),
            ));
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn next_of_object(&mut self, piece: &mut Bytes) -> Result<Option<Part>, Error> {
        for place in 0..piece.len() {
            let byte = piece[place];
            if let Some(part) = self.step(byte)? {
                piece.advance(place + 1);
                return Ok(Some(part));
            }
        }
        piece.clear();
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<Option<Part>, Error> {
        let is_space = byte.is_ascii_whitespace();
        match self.at {
            At::Start if is_space || [0xef, 0xbb, 0xbf].contains(&byte) => {}
            At::Start if byte == b'{' => {
                self.push(&[byte])?;
                self.scan = Scan { depth: 1, expects_name: true, ..Scan::default() };
                self.at = At::Head;
            }
            At::Start => return Err(invalid("The body must be a JSON object")),
            At::Head => return self.step_head(byte),
            At::Name | At::Colon | At::Rest | At::End if is_space => {}
            At::Name if byte == b':' => self.at = At::Colon,
            At::Colon if byte == b'[' => {
                self.at = At::Between { is_first: true, is_comma: false };
            }
            At::Name | At::Colon => return Err(invalid("\"items\" must be an array")),
            At::Between { .. } if is_space => {}
            At::Between { is_first: false, is_comma: false } if byte == b',' => {
                self.at = At::Between { is_first: false, is_comma: true };
            }
            At::Between { is_comma: false, .. } if byte == b']' => self.at = At::Rest,
            At::Between { is_first, is_comma } if (is_first || is_comma) && byte == b'{' => {
                self.push(&[byte])?;
                self.scan = Scan { depth: 1, ..Scan::default() };
                self.at = At::Item;
            }
            At::Between { .. } => {
                let count = self.count;
                return Err(invalid(&format!("items[{count}] must be a JSON object")));
            }
            At::Item => {
                self.push(&[byte])?;
                if self.scan.ends_with(byte) {
                    self.at = At::Between { is_first: false, is_comma: false };
                    self.count += 1;
                    return Ok(Some(Part::Item(std::mem::take(&mut self.buffer))));
                }
            }
            At::Rest if byte == b'}' => self.at = At::End,
            At::Rest => return Err(invalid("\"items\" must be the last field of the body")),
            At::End => return Err(invalid("Something follows the JSON object")),
        }
        Ok(None)
    }

    /// What comes before the items.
    fn step_head(&mut self, byte: u8) -> Result<Option<Part>, Error> {
        self.push(&[byte])?;
        let at = self.buffer.len() - 1;
        let was_in_string = self.scan.in_string;
        if self.scan.ends_with(byte) {
            return Err(invalid("The body has no array \"items\""));
        }
        let scan = &mut self.scan;
        if scan.depth != 1 || (was_in_string && scan.in_string) {
            return Ok(None);
        }
        match (byte, scan.name_at) {
            (b',', _) if !was_in_string => (scan.expects_name, scan.comma_at) = (true, Some(at)),
            (b'"', None) if !was_in_string && scan.expects_name => {
                (scan.expects_name, scan.name_at) = (false, Some(at));
            }
            (b'"', Some(begin)) => {
                scan.name_at = None;
                if &self.buffer[begin..] == b"\"items\"" {
                    self.buffer.truncate(scan.comma_at.unwrap_or(begin));
                    self.buffer.push(b'}');
                    self.at = At::Name;
                    return Ok(Some(Part::Head(std::mem::take(&mut self.buffer))));
                }
            }
            _ => {}
        }
        Ok(None)
    }
}

impl Scan {
    /// Takes in a byte; true if the outermost object ends with it.
    fn ends_with(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth == 0
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorCode::InvalidJson, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a body that comes in pieces of a size.
    fn split(form: Form, body: &str, size: usize) -> Result<Vec<String>, Error> {
        let (mut splitter, mut parts) = (Splitter::new(form, 100), Vec::new());
        let text = |part| match part {
            Part::Head(bytes) => format!("H{}", String::from_utf8(bytes).unwrap()),
            Part::Item(bytes) => format!("I{}", String::from_utf8(bytes).unwrap()),
        };
        for piece in body.as_bytes().chunks(size) {
            let mut piece = Bytes::copy_from_slice(piece);
            while let Some(part) = splitter.next(&mut piece)? {
                parts.push(text(part));
            }
            assert!(piece.is_empty());
        }
        parts.extend(splitter.finish()?.map(text));
        Ok(parts)
    }

    #[test]
    fn lines_and_objects_come_apart_however_they_come_in() {
        let lines = "{\"a\":1}\n\n{\"b\":2}\r\n  \n{\"c\":3}";
        let object = r#" { "a":{"items":["]"]}, "b":"\"items\":[", "items" : [ {"x":"}\"]"} , {"y":[{}]} ] } "#;
        for size in 1..object.len() {
            let parts = split(Form::Lines, lines, size).unwrap();
            assert_eq!(parts, ["H{\"a\":1}", "I{\"b\":2}\r", "I{\"c\":3}"], "{size}");
            let parts = split(Form::Object, object, size).unwrap();
            let head = r#"H{ "a":{"items":["]"]}, "b":"\"items\":["}"#;
            assert_eq!(parts, [head, r#"I{"x":"}\"]"}"#, r#"I{"y":[{}]}"#], "{size}");
            assert_eq!(split(Form::Object, r#"{"items":[]}"#, size).unwrap(), ["H{}"]);
        }
        assert_eq!(split(Form::Lines, "\n\n", 1).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        for (body, words) in [
            ("", "must be a JSON object"),
            ("[]", "must be a JSON object"),
            ("{}", "no array"),
            (r#"{"a":1"#, "must be a JSON object"),
            (r#"{"items":{}}"#, "must be an array"),
            (r#"{"items":[1]}"#, "items[0]"),
            (r#"{"items":[{}{}]}"#, "items[1]"),
            (r#"{"items":[{},]}"#, "items[1]"),
            (r#"{"items":[{}]"#, "in the middle"),
            (r#"{"items":[{}"#, "in the middle"),
            (r#"{"items":[],"a":1}"#, "last field"),
            (r#"{"items":[]}x"#, "follows"),
        ] {
            let error = split(Form::Object, body, 3).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidJson);
            assert!(error.message().contains(words), "{body}: {error}");
        }
        let long = format!("{{}}\n{{\"id\":\"{}\"}}", "x".repeat(100));
        let error = split(Form::Lines, &long, 7).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PayloadTooLarge);
        assert!(error.message().starts_with("line 2"), "{error}");
    }
}
