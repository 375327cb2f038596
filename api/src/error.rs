//! Errors of the control planes: one code, and what it is called in HTTP and gRPC.

use std::collections::BTreeMap;

use frontier_wire::error::ErrorCode;
use serde::Serialize;
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

/// gRPC trailer that carries the name of the [`ErrorCode`]: gRPC's own codes are coarser.
pub const REASON_TRAILER: &str = "frontier-reason";

/// Why a request of a control plane failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The kind.
    pub code: ErrorCode,
    /// For people; nothing about our inside.
    pub message: String,
    /// Details by name.
    pub metadata: BTreeMap<String, String>,
}

/// The body of an HTTP error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// The HTTP status.
    pub code: u16,
    /// The name of the [`ErrorCode`].
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Details by name.
    pub metadata: BTreeMap<String, String>,
}

// === impl ApiError ===

impl ApiError {
    /// An error without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), metadata: BTreeMap::new() }
    }

    /// A request that is wrong in itself.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.metadata.insert(name.to_owned(), value.to_string());
        self
    }

    /// The HTTP status.
    #[must_use]
    pub const fn http_status(&self) -> u16 {
        http_status(self.code)
    }

    /// The HTTP body.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            code: self.http_status(),
            reason: self.code.name(),
            message: self.message.clone(),
            metadata: self.metadata.clone(),
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let mut trailers = MetadataMap::new();
        trailers.insert(REASON_TRAILER, MetadataValue::from_static(error.code.name()));
        Self::with_metadata(grpc_code(error.code), error.message, trailers)
    }
}

/// The HTTP status of a code.
#[must_use]
pub const fn http_status(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::EdgeNotOnline
        | ErrorCode::ServiceNotOnline
        | ErrorCode::MethodNotFound
        | ErrorCode::TopicNotOnline => 404,
        ErrorCode::DeadlineExceeded => 504,
        // Nginx's "client closed request": there is no standard one.
        ErrorCode::Cancelled => 499,
        ErrorCode::Overloaded | ErrorCode::GatewayDraining => 503,
        ErrorCode::PayloadTooLarge => 413,
        ErrorCode::PermissionDenied => 403,
        ErrorCode::Unauthenticated => 401,
        ErrorCode::InvalidArgument => 400,
        ErrorCode::SessionClosed => 502,
        ErrorCode::Internal | ErrorCode::Application => 500,
    }
}

/// The gRPC code of a code.
#[must_use]
pub const fn grpc_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::EdgeNotOnline | ErrorCode::ServiceNotOnline | ErrorCode::TopicNotOnline => Code::NotFound,
        ErrorCode::MethodNotFound => Code::Unimplemented,
        ErrorCode::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorCode::Cancelled => Code::Cancelled,
        ErrorCode::Overloaded | ErrorCode::PayloadTooLarge => Code::ResourceExhausted,
        ErrorCode::PermissionDenied => Code::PermissionDenied,
        ErrorCode::Unauthenticated => Code::Unauthenticated,
        ErrorCode::InvalidArgument => Code::InvalidArgument,
        ErrorCode::SessionClosed | ErrorCode::GatewayDraining => Code::Unavailable,
        ErrorCode::Internal => Code::Internal,
        // What plain errors of the Go system are.
        ErrorCode::Application => Code::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_an_error_in_http_and_grpc() {
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&http_status(code)), "{code}");
            assert_ne!(grpc_code(code), Code::Ok, "{code}");
        }
    }

    #[test]
    fn what_a_client_may_try_again_is_told_apart_from_its_own_faults() {
        // Proxies and gRPC clients retry on these.
        let again = ErrorCode::ALL.into_iter().filter(|code| http_status(*code) == 503);
        assert_eq!(again.collect::<Vec<_>>(), [ErrorCode::Overloaded, ErrorCode::GatewayDraining]);
        for code in [ErrorCode::InvalidArgument, ErrorCode::Unauthenticated, ErrorCode::PermissionDenied] {
            assert!(http_status(code) < 500);
            assert_ne!(grpc_code(code), Code::Unavailable);
        }
    }

    #[test]
    fn bodies_have_all_four_fields() {
        let error = ApiError::new(ErrorCode::EdgeNotOnline, "edge not online");
        assert_eq!(
            serde_json::to_string(&error.body()).unwrap(),
            r#"{"code":404,"reason":"edge_not_online","message":"edge not online","metadata":{}}"#
        );
        let body = serde_json::to_value(error.with("edge_id", 7).body()).unwrap();
        assert_eq!(body["metadata"]["edge_id"], "7");
    }

    #[test]
    fn statuses_carry_the_code_by_name() {
        let status = Status::from(ApiError::invalid("page is no number"));
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "page is no number"));
        assert_eq!(status.metadata().get(REASON_TRAILER).unwrap(), "invalid_argument");
    }
}
