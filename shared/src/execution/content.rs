//! File content on the wire: text as a string, bytes as the JSON form of a Node `Buffer` (isol8's
//! clients) or as base64 (ours).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileContent(pub Bytes);

/// The forms accepted from clients and from ourselves.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a file must be a string, {\"type\": \"Buffer\", \"data\": [bytes]} or {\"base64\": text}"
)]
enum Wire {
    Text(String),
    Buffer {
        #[serde(rename = "type")]
        kind: BufferKind,
        data: Vec<u8>,
    },
    Base64 {
        base64: String,
    },
}

#[derive(Deserialize)]
enum BufferKind {
    Buffer,
}

impl Serialize for FileContent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Base64 {
            base64: String,
        }
        match std::str::from_utf8(&self.0) {
            Ok(text) => text.serialize(serializer),
            Err(_) => Base64 { base64: STANDARD.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for FileContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = match Wire::deserialize(deserializer)? {
            Wire::Text(text) => text.into_bytes(),
            Wire::Buffer { kind: BufferKind::Buffer, data } => data,
            Wire::Base64 { base64 } => STANDARD.decode(base64).map_err(serde::de::Error::custom)?,
        };
        Ok(Self(bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wire_forms_give_the_same_bytes() {
        for json in
            [r#""hi\n""#, r#"{"type":"Buffer","data":[104,105,10]}"#, r#"{"base64":"aGkK"}"#]
        {
            let content: FileContent = serde_json::from_str(json).unwrap();
            assert_eq!(&content.0[..], b"hi\n", "{json}");
        }
    }

    #[test]
    fn text_and_arbitrary_bytes_survive_our_own_form() {
        let text = FileContent("é\n".as_bytes().to_vec().into());
        assert_eq!(serde_json::to_string(&text).unwrap(), "\"é\\n\"");
        let content = FileContent((0..=255).collect::<Vec<u8>>().into());
        let json = serde_json::to_string(&content).unwrap();
        assert_eq!(serde_json::from_str::<FileContent>(&json).unwrap(), content);
    }
}
