//! Fields of a request that may be written in more than one form. Read by hand: an untagged enum would
//! only say that nothing fitted, not what was got, at which place, and what is allowed there.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, de};

use super::egress::BoundSecret;
use super::request::{Network, NetworkChoice, SecretOption};

impl<'de> Deserialize<'de> for NetworkChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ModeOrPhases)
    }
}

struct ModeOrPhases;

impl<'de> Visitor<'de> for ModeOrPhases {
    type Value = NetworkChoice;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(
            "\"none\", \"filtered\" or \"host\", or one for each part: {\"setup\": …, \"run\": …}",
        )
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<NetworkChoice, E> {
        let known = [Network::None, Network::Filtered, Network::Host];
        let network = known.into_iter().find(|network| network.name() == name);
        let network = network.ok_or_else(|| E::invalid_value(Unexpected::Str(name), &self))?;
        Ok(NetworkChoice::Always(network))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NetworkChoice, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Phases {
            setup: Network,
            run: Network,
        }
        let Phases { setup, run } = Phases::deserialize(MapAccessDeserializer::new(map))?;
        Ok(NetworkChoice::Phases { setup, run })
    }
}

impl<'de> Deserialize<'de> for SecretOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Secret { may_be_bound: true })
    }
}

struct Secret {
    may_be_bound: bool,
}

impl<'de> Visitor<'de> for Secret {
    type Value = SecretOption;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")?;
        if self.may_be_bound {
            formatter.write_str(", or {\"value\": string, \"hosts\": [string, …]}")?;
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<SecretOption, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<SecretOption, E> {
        Ok(SecretOption::Plain(value))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SecretOption, A::Error> {
        if !self.may_be_bound {
            return Err(unshown("an object", &self));
        }
        BoundSecret::deserialize(MapAccessDeserializer::new(map)).map(SecretOption::Bound)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<SecretOption, E> {
        Err(unshown("a boolean", &self))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<SecretOption, E> {
        Err(unshown("a number", &self))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<SecretOption, E> {
        Err(unshown("a number", &self))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<SecretOption, E> {
        Err(unshown("a number", &self))
    }
}

/// What may be a secret is not repeated in an error: those are logged.
fn unshown<E: Error>(kind: &str, expected: &dyn de::Expected) -> E {
    E::invalid_type(Unexpected::Other(kind), expected)
}

/// Reads the value of a bound secret, which no error repeats either.
pub(super) fn secret_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match deserializer.deserialize_any(Secret { may_be_bound: false })? {
        SecretOption::Plain(value) | SecretOption::Bound(BoundSecret { value, .. }) => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_form_is_read_and_written_back() {
        for text in [r#""none""#, r#""host""#, r#"{"setup":"filtered","run":"none"}"#] {
            let choice: NetworkChoice = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&choice).unwrap(), text);
        }
        let bound = r#"{"B":{"value":"v","hosts":["api.test"],"tls":true},"P":"v"}"#;
        let secrets: BTreeMap<String, SecretOption> = serde_json::from_str(bound).unwrap();
        assert_eq!(serde_json::to_string(&secrets).unwrap(), bound);
    }
}
