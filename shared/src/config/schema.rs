//! The JSON Schema of the configuration file, for editors. The published copy is
//! `docs/isol8.config.schema.json`.

use schemars::generate::SchemaSettings;

use super::Config;

/// The schema, draft 07, from the types themselves.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    SchemaSettings::draft07().into_generator().into_root_schema_for::<Config>().to_value()
}
