//! REST answers that are errors: JSON bodies under their status, whatever the error.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use frontier_api::error::{ApiError, ErrorBody};

/// An [`ApiError`] on its way out.
#[derive(Debug)]
pub struct RestError(pub ApiError);

impl From<ApiError> for RestError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for RestError {
    fn into_response(self) -> Response {
        error_response(&self.0)
    }
}

/// The JSON body of an error under its status.
#[must_use]
pub fn error_response(error: &ApiError) -> Response {
    let body = error.body();
    let status = StatusCode::from_u16(body.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(body)).into_response();
    match status {
        StatusCode::UNAUTHORIZED => {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    response
}

/// A path that is none; with a slash too many, the way to the one that was meant.
#[expect(clippy::unused_async, reason = "axum takes only such handlers")]
pub async fn not_found(uri: Uri) -> Response {
    // Only below these: a redirect made of a whole path such as `//host/` would lead to another host.
    let ours = |path: &&str| ["/v1/", "/cluster/v1/"].iter().any(|below| path.starts_with(below));
    let path = uri.path();
    if let Some(meant) = path.strip_suffix('/').filter(ours) {
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        if let Ok(location) = HeaderValue::try_from(format!("{meant}{query}")) {
            return (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, location)]).into_response();
        }
    }
    plain_error(StatusCode::NOT_FOUND, "no such path; /openapi.json describes those there are")
}

/// A method that the path does not have.
#[expect(clippy::unused_async, reason = "axum takes only such handlers")]
pub async fn method_not_allowed() -> Response {
    plain_error(
        StatusCode::METHOD_NOT_ALLOWED,
        "the path has no such method; /openapi.json describes those there are",
    )
}

/// An error of HTTP itself, which has no reason of ours.
fn plain_error(status: StatusCode, message: &str) -> Response {
    let metadata = Default::default();
    let body = ErrorBody { code: status.as_u16(), reason: "", message: message.to_owned(), metadata };
    (status, Json(body)).into_response()
}
