//! What to say of a field that is not known. isol8's own clients send fields that mean nothing here, so most are passed
//! over; but a field of ours that is misspelt, or stands in the wrong part of a request, would be a wish that nobody hears.

use serde::de::value::Error as NoValue;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use shared::execution::{ExecutionOptions, ExecutionRequest, QueueOptions};
use strsim::osa_distance;

/// Options of isol8 that mean nothing to a server, wherever they stand.
const IDLE: [&str; 7] =
    ["mode", "debug", "persist", "audit", "remoteCode", "poolStrategy", "poolSize"];
/// No name of ours is near a longer one.
const MAX_NAME_BYTES: usize = 64;
/// The part of a request that names what to run; what has it is a request to run something.
const REQUEST: &str = "request";

/// What is known of where in a request a field stands.
#[derive(Clone, Copy, Default)]
pub(super) struct Surroundings {
    /// The fields of the whole, if it is a request to run something.
    whole: Option<&'static [&'static str]>,
}

impl Surroundings {
    /// The same inside an object that has these fields.
    pub(super) fn within(self, fields: &'static [&'static str]) -> Self {
        Self { whole: self.whole.or_else(|| fields.contains(&REQUEST).then_some(fields)) }
    }

    /// The parts of the whole, and what is in them. Where one name stands in two, the first is told.
    fn parts(self) -> Vec<(&'static str, &'static [&'static str])> {
        let Some(whole) = self.whole else { return Vec::new() };
        let mut parts = vec![("in `request`", fields_of::<ExecutionRequest>())];
        if whole.contains(&"options") {
            parts.push(("in `options`", fields_of::<ExecutionOptions>()));
        }
        if whole.contains(&"queue") {
            parts.push(("in `queue`", fields_of::<QueueOptions>()));
        }
        parts.push(("beside `request`", whole));
        parts
    }
}

/// What is to be said of the name of a field that is none of `fields`; `None` if that is nothing in particular.
pub(super) fn on(name: &str, fields: &[&str], surroundings: Surroundings) -> Option<String> {
    if IDLE.contains(&name) || name.len() > MAX_NAME_BYTES {
        return None;
    }
    let parts = surroundings.parts();
    let elsewhere =
        || parts.iter().flat_map(|(place, known)| known.iter().map(move |it| (place, *it)));
    if let Some((place, _)) = elsewhere().find(|(_, known)| *known == name) {
        return Some(format!("it belongs {place}"));
    }
    if let Some(known) = nearest(name, fields.iter().copied()) {
        return Some(format!("did you mean `{known}`?"));
    }
    let known = nearest(name, elsewhere().map(|(_, known)| known))?;
    let (place, _) = elsewhere().find(|(_, it)| *it == known)?;
    Some(format!("did you mean `{known}` {place}?"))
}

/// The name that differs least, if it is hardly another one.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.replace(['_', '-'], "").to_lowercase();
    let meant = plain(name);
    let distance = |known: &str| {
        let known = plain(known);
        // Short names differ in a letter or two without being meant.
        let most = (meant.len().max(known.len()) / 4).min(2);
        let is_near = meant.len().abs_diff(known.len()) <= most;
        is_near.then(|| osa_distance(&meant, &known)).filter(|distance| *distance <= most)
    };
    known.filter_map(|known| Some((distance(known)?, known))).min().map(|(_, known)| known)
}

/// The names of the fields of a type, as its derived code knows them.
pub(crate) fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // It is told of them, and given nothing.
    let _ = T::deserialize(Probe(&mut fields));
    fields
}

/// Asked for an object, keeps the names of its fields.
struct Probe<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = NoValue;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, NoValue> {
        Err(NoValue::custom("there is no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NoValue> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_hardly_another_name_is_taken_for_one() {
        let near = |name: &str| nearest(name, ["env", "code", "files", "timeoutMs"].into_iter());
        for (name, known) in [
            ("envs", Some("env")),
            ("cod", Some("code")),
            ("file", Some("files")),
            ("timeout_ms", Some("timeoutMs")),
            ("TIMEOUTMS", Some("timeoutMs")),
            ("timeoutMsec", Some("timeoutMs")),
            ("end", None),
            ("nodes", None),
            ("profile", None),
            ("time", None),
        ] {
            assert_eq!(near(name), known, "{name}");
        }
    }

    #[test]
    fn names_are_those_of_the_derived_code() {
        let fields = fields_of::<ExecutionRequest>();
        assert!(fields.contains(&"installPackages") && fields.contains(&"runtime"), "{fields:?}");
        assert!(fields_of::<String>().is_empty());
    }
}
