//! Answers for paths and methods that do not exist.

use http::{Method, Uri};
use shared::{Error, ErrorCode};

use crate::error::ApiError;

/// No such path.
pub(crate) async fn not_found(uri: Uri) -> ApiError {
    Error::new(ErrorCode::NotFound, format!("Not Found: there is no {}", uri.path())).into()
}

/// The path exists, the method does not; the `Allow` header lists those that do.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let message = format!("Method Not Allowed: {} does not take {method}", uri.path());
    Error::new(ErrorCode::MethodNotAllowed, message).into()
}
