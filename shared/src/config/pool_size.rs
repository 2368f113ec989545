//! The size of the pool, which a file may give as one number or as two.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Warm sandboxes; a plain number in the file sets both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PoolSize {
    /// Fresh ones kept ready for anybody, per runtime.
    pub clean: usize,
    /// Whether used ones are kept for their tenant: 0 means no, as `poolStrategy` `secure` does.
    pub dirty: usize,
}

impl Default for PoolSize {
    fn default() -> Self {
        Self { clean: 1, dirty: 1 }
    }
}

/// The form with two numbers.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "PoolSizes")]
struct Each {
    /// Fresh ones kept ready for anybody, per runtime.
    clean: usize,
    /// Whether used ones are kept for their tenant: 0 means no, as `poolStrategy` `secure` does.
    dirty: usize,
}

impl Default for Each {
    fn default() -> Self {
        let PoolSize { clean, dirty } = PoolSize::default();
        Self { clean, dirty }
    }
}

/// Reads either form; written by hand so that a wrong key is named, which untagged enums do not.
struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = PoolSize;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number, or an object of clean and dirty")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<PoolSize, E> {
        let size = usize::try_from(number).map_err(E::custom)?;
        Ok(PoolSize { clean: size, dirty: size })
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<PoolSize, E> {
        u64::try_from(number)
            .map_err(|_| E::custom(format!("{number} is not a number of sandboxes")))
            .and_then(|number| self.visit_u64(number))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PoolSize, A::Error> {
        let Each { clean, dirty } = Each::deserialize(MapAccessDeserializer::new(map))?;
        Ok(PoolSize { clean, dirty })
    }
}

impl<'de> Deserialize<'de> for PoolSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for PoolSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PoolSize".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let number = generator.subschema_for::<usize>();
        let each = generator.subschema_for::<Each>();
        schemars::json_schema!({"anyOf": [number, each]})
    }
}
