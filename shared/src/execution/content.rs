//! File content on the wire: text as a string, bytes as the JSON form of a Node `Buffer` (isol8's
//! clients) or as base64 (ours).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileContent(pub Bytes);

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
        deserializer.deserialize_any(AnyForm)
    }
}

/// Reads each form. Written by hand so that an error says what was got, and so that bytes are never
/// held as numbers of a generic value.
struct AnyForm;

impl<'de> Visitor<'de> for AnyForm {
    type Value = FileContent;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .write_str("a string, {\"type\": \"Buffer\", \"data\": [bytes]} or {\"base64\": text}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<FileContent, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<FileContent, E> {
        Ok(FileContent(text.into_bytes().into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FileContent, A::Error> {
        let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
        let bytes = match fields {
            Fields { kind: Some(BufferKind::Buffer), data: Some(data), .. } => data,
            Fields { base64: Some(text), .. } => {
                STANDARD.decode(text).map_err(|_| Error::custom("base64 that cannot be read"))?
            }
            _ => return Err(Error::invalid_value(Unexpected::Other("another object"), &self)),
        };
        Ok(FileContent(bytes.into()))
    }
}

/// Fields of the forms that are objects.
#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "type")]
    kind: Option<BufferKind>,
    data: Option<Vec<u8>>,
    base64: Option<String>,
}

#[derive(Deserialize)]
enum BufferKind {
    Buffer,
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
