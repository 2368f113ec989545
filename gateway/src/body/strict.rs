//! A deserializer around another one that takes a request at its word. Derived code reads an array as an object, field
//! by field, a word out of an object, and passes over names that it does not know; this one does not, and an error of
//! its own says what was expected there.

use std::cell::Cell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Error, IntoDeserializer as _, MapAccess, SeqAccess, Visitor,
};

use super::advice::{self, Surroundings};

/// Names of one object that are thought about though nobody knows them. All others are passed over as they are, so
/// that a long request of them costs no more than another.
const MOST_UNKNOWN: u32 = 16;

/// Reads what it is given for more than the types say.
pub(super) struct Strict<D> {
    inner: D,
    surroundings: Surroundings,
}

impl<D> Strict<D> {
    /// For a whole request.
    pub(super) fn new(inner: D) -> Self {
        Self { inner, surroundings: Surroundings::default() }
    }
}

/// Values that hold no others.
macro_rules! plain {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        }
    )*};
}

/// Values that may.
macro_rules! nested {
    ($($method:ident($($name:ident: $type:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            let Self { inner, surroundings } = self;
            inner.$method($($name,)* Inside { visitor, surroundings })
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    plain! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32
        deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    nested! {
        deserialize_any()
        deserialize_option()
        deserialize_seq()
        deserialize_map()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(length: usize)
        deserialize_tuple_struct(name: &'static str, length: usize)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let surroundings = self.surroundings.within(fields);
        self.inner.deserialize_map(Object { visitor, fields, surroundings })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(Word { visitor, variants })
    }
}

/// Passes on what it is shown, and stays around what is inside.
struct Inside<V> {
    visitor: V,
    surroundings: Surroundings,
}

macro_rules! pass {
    ($($method:ident: $type:ty,)*) => {$(
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Inside<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(formatter)
    }

    pass! {
        visit_bool: bool,
        visit_i64: i64,
        visit_u64: u64,
        visit_f64: f64,
        visit_str: &str,
        visit_borrowed_str: &'de str,
        visit_string: String,
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Strict { inner, surroundings: self.surroundings })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Strict { inner, surroundings: self.surroundings })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Elements { inner, surroundings: self.surroundings })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Entries { inner, names: None, surroundings: self.surroundings })
    }
}

/// An object, and nothing else, whose fields have these names.
struct Object<V> {
    visitor: V,
    fields: &'static [&'static str],
    surroundings: Surroundings,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Object<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let Self { visitor, fields, surroundings } = self;
        let names = Some(Names { fields, unknown: Cell::new(0), surroundings });
        visitor.visit_map(Entries { inner, names, surroundings })
    }
}

/// One of some words. No enum of a request has more to it.
struct Word<V> {
    visitor: V,
    variants: &'static [&'static str],
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Word<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.variants.iter().map(|word| format!("`{word}`")).collect();
        let one_of = if words.len() > 1 { "one of " } else { "" };
        write!(formatter, "{one_of}{}", words.join(", "))
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<V::Value, E> {
        let word: StrDeserializer<'_, E> = word.into_deserializer();
        self.visitor.visit_enum(word)
    }
}

struct Elements<A> {
    inner: A,
    surroundings: Surroundings,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.inner.next_element_seed(Around { seed, surroundings: self.surroundings })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// The entries of an object; `names` is `None` where all names are the caller's own.
struct Entries<A> {
    inner: A,
    names: Option<Names>,
    surroundings: Surroundings,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        match &self.names {
            None => self.inner.next_key_seed(seed),
            Some(names) => self.inner.next_key_seed(Name { inner: seed, names }),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Around { seed, surroundings: self.surroundings })
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

/// A value inside another.
struct Around<S> {
    seed: S,
    surroundings: Surroundings,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Around<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(Strict { inner, surroundings: self.surroundings })
    }
}

/// The names that mean something in one object.
struct Names {
    fields: &'static [&'static str],
    /// How many have come that are none of them.
    unknown: Cell<u32>,
    surroundings: Surroundings,
}

impl Names {
    /// Refuses a name that is none, if there is something better to say than that.
    fn check<V, E: Error>(&self, name: &str, read: Result<V, E>) -> Result<V, E> {
        if self.fields.contains(&name) || self.unknown.get() == MOST_UNKNOWN {
            return read;
        }
        self.unknown.set(self.unknown.get() + 1);
        match advice::on(name, self.fields, self.surroundings) {
            Some(advice) => Err(E::custom(format_args!("unknown field `{name}`; {advice}"))),
            None => read,
        }
    }
}

/// The name of a field: as a seed, then as the deserializer that the seed gets, then as its visitor.
struct Name<'a, T> {
    inner: T,
    names: &'a Names,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Name<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Name { inner, names: self.names })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Name<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_identifier(Name { inner: visitor, names: self.names })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Name<'_, V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<V::Value, E> {
        self.names.check(name, self.inner.visit_str(name))
    }
}
