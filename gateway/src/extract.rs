//! Parts of the address, as types; what does not fit is answered in the shape of every other error.

use axum::extract::FromRequestParts;
use http::Uri;
use http::request::Parts;
use serde::Deserialize;
use serde::de::value::{Error as Unfit, MapDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use shared::Error;

use crate::body::{fields_of, nearest};
use crate::error::ApiError;

/// Where a parameter that nobody reads is refused: it would be a wish that nobody hears. isol8's own routes
/// pass it over, as isol8 does.
const OURS: &str = "/v1/";
/// How much of a wrong value is told.
const MAX_TOLD_CHARS: usize = 64;

/// What the route's path names, percent-decoded.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        // They are strings, all of them.
        path.map(|path| Self(path.0))
            .map_err(|_| Error::invalid("The path is no UTF-8, once its %XX are decoded").into())
    }
}

/// What follows the question mark.
pub(crate) struct Query<T>(pub(crate) T);

/// Of a route that takes no parameters.
pub(crate) type NoQuery = Query<NoParameters>;

/// None.
#[derive(Deserialize)]
pub(crate) struct NoParameters {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Ok(Self(read(&parts.uri)?))
    }
}

/// Reads a query.
///
/// # Errors
/// An invalid-request error that names the parameter.
fn read<T: DeserializeOwned>(uri: &Uri) -> Result<T, Error> {
    let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
    let pairs =
        pairs.map_err(|_| Error::invalid("The query must be like ?name=value&other=value"))?;
    let known = fields_of::<T>();
    for (index, (name, _)) in pairs.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            if uri.path().starts_with(OURS) {
                return Err(unknown(name, known));
            }
        } else if pairs[..index].iter().any(|(before, _)| before == name) {
            return Err(Error::invalid(format!("{name}: given more than once in the query")));
        }
    }
    let pairs = pairs.0.into_iter().map(|(name, value)| (name, Parameter(value)));
    serde_path_to_error::deserialize(MapDeserializer::<_, Unfit>::new(pairs)).map_err(|error| {
        let said = error.inner().to_string();
        match said.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            Some(name) => Error::invalid(format!("{name} is missing from the query")),
            None => Error::invalid(format!("{}: {said}", error.path())),
        }
    })
}

fn unknown(name: &str, known: &[&str]) -> Error {
    let advice = match (nearest(name, known.iter().copied()), known) {
        (Some(meant), _) => format!("did you mean {meant}?"),
        (None, []) => "this route takes none".to_owned(),
        (None, _) => format!("this route takes {}", known.join(", ")),
    };
    Error::invalid(format!("{}: unknown query parameter; {advice}", told(name)))
}

/// As much of what a caller sent as an answer repeats.
fn told(text: &str) -> String {
    let end = text.char_indices().nth(MAX_TOLD_CHARS).map_or(text.len(), |(end, _)| end);
    let more = if end < text.len() { "…" } else { "" };
    format!("{}{more}", text[..end].escape_debug())
}

/// The value of one parameter.
struct Parameter(String);

impl Parameter {
    fn unfit(&self, expected: &str) -> Unfit {
        Unfit::custom(format_args!("expected {expected}, not \"{}\"", told(&self.0)))
    }
}

impl IntoDeserializer<'_, Unfit> for Parameter {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Parameter {
    type Error = Unfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_string(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_some(self)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self.0.parse() {
            Ok(number) => visitor.visit_u64(number),
            Err(_) => Err(self.unfit("a whole number that is not negative")),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self.0.as_str() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(self.unfit("true or false")),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq, Eq)]
    #[serde(rename_all = "camelCase")]
    struct Wanted {
        before: u64,
        limit: Option<usize>,
        follow: Option<bool>,
        tenant_id: Option<String>,
    }

    fn wanted(address: &str) -> Result<Wanted, String> {
        read(&address.parse().unwrap()).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn what_is_there_is_read() {
        let all = wanted("/v1/x?before=7&limit=5&follow=true&tenantId=a%2Fb+c").unwrap();
        let tenant_id = Some("a/b c".to_owned());
        assert_eq!(all, Wanted { before: 7, limit: Some(5), follow: Some(true), tenant_id });
        let some = Wanted { before: 0, limit: None, follow: None, tenant_id: None };
        assert_eq!(wanted("/v1/x?before=0"), Ok(some));
    }

    #[test]
    fn what_does_not_fit_is_named_in_plain_words() {
        for (query, words) in [
            (
                "before=1&limit=many",
                "limit: expected a whole number that is not negative, not \"many\"",
            ),
            ("before=-1", "before: expected a whole number that is not negative, not \"-1\""),
            ("before=", "before: expected a whole number that is not negative, not \"\""),
            ("before=1&follow=yes", "follow: expected true or false, not \"yes\""),
            ("limit=5", "before is missing from the query"),
            ("before=1&before=2", "before: given more than once in the query"),
            ("before=1&limits=2", "limits: unknown query parameter; did you mean limit?"),
            (
                "before=1&state=queued",
                "state: unknown query parameter; this route takes before, limit, follow, tenantId",
            ),
        ] {
            assert_eq!(wanted(&format!("/v1/x?{query}")).unwrap_err(), words);
        }
        let long = wanted(&format!("/v1/x?before={}", "x".repeat(1000))).unwrap_err();
        assert!(long.len() < 200, "{long}");
        let none = read::<NoParameters>(&"/v1/x?a=1".parse().unwrap()).err().unwrap();
        assert_eq!(none.message(), "a: unknown query parameter; this route takes none");
    }

    #[test]
    fn what_isol8s_own_routes_do_not_know_is_passed_over() {
        for address in ["/sessions?before=1&state=a&state=b", "/file?before=1&x"] {
            assert_eq!(wanted(address).unwrap().before, 1);
        }
        read::<NoParameters>(&"/session/a?b=c".parse().unwrap()).unwrap();
    }
}
