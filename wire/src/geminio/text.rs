//! The error texts of the Go system. Its SDKs hand them to applications as they are, and those compare them.

use crate::error::ErrorCode;

/// The caller's own deadline has passed, as opposed to the gateway's.
pub const CONTEXT_DEADLINE: &str = "context deadline exceeded";
/// In front of the method's name when the session that was to carry out a call does not know it.
pub const NO_SUCH_RPC: &str = "no such rpc: ";
/// An ID service has answered with something that is no ID.
pub const ILLEGAL_EDGE_ID: &str = "illegal edgeID";

/// What a Go peer is told of an error of the gateway. An application's error goes with its own text instead.
#[must_use]
pub const fn of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::EdgeNotOnline => "edge not online",
        ErrorCode::ServiceNotOnline => "service not online",
        ErrorCode::MethodNotFound => "record not found",
        ErrorCode::TopicNotOnline => "topic not online",
        ErrorCode::DeadlineExceeded => "timeout",
        ErrorCode::Cancelled => "context canceled",
        ErrorCode::Overloaded => "overloaded",
        ErrorCode::PayloadTooLarge => "packet payload too large",
        ErrorCode::PermissionDenied => "permission denied",
        ErrorCode::Unauthenticated => "unauthenticated",
        ErrorCode::InvalidArgument => "invalid argument",
        ErrorCode::SessionClosed => "force closed",
        ErrorCode::GatewayDraining => "gateway draining",
        ErrorCode::Internal => "internal error",
        ErrorCode::Application => "application error",
    }
}

/// What an error of a Go peer means to others; anything unknown is the application's own.
#[must_use]
pub fn code(text: &str) -> ErrorCode {
    let known = ErrorCode::ALL.into_iter().find(|code| of(*code) == text);
    match text {
        CONTEXT_DEADLINE => ErrorCode::DeadlineExceeded,
        "EOF" => ErrorCode::SessionClosed,
        _ if text.starts_with(NO_SUCH_RPC) => ErrorCode::MethodNotFound,
        _ => known.unwrap_or(ErrorCode::Application),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_text_that_comes_back() {
        for known in ErrorCode::ALL {
            assert_eq!(code(of(known)), known);
        }
    }

    #[test]
    fn other_texts_of_go_are_known() {
        assert_eq!(code("no such rpc: echo"), ErrorCode::MethodNotFound);
        assert_eq!(code("context deadline exceeded"), ErrorCode::DeadlineExceeded);
        assert_eq!(code("EOF"), ErrorCode::SessionClosed);
        assert_eq!(code("the disk is full"), ErrorCode::Application);
        assert_eq!(code(""), ErrorCode::Application);
    }

    /// Those that applications of the Go system compare, letter by letter.
    #[test]
    fn texts_are_those_of_the_transcripts() {
        let transcripts = [
            include_str!("../../testdata/geminio/gatewayC_sdkC/gw_rpc.txt"),
            include_str!("../../testdata/geminio/gatewayC_sdkC/gw_message.txt"),
            include_str!("../../testdata/geminio/gatewayC_sdkC/gw_edge_alone_noalloc.txt"),
            include_str!("../../testdata/geminio/C/rpc_timeout.txt"),
        ]
        .concat();
        for code in [
            ErrorCode::EdgeNotOnline,
            ErrorCode::ServiceNotOnline,
            ErrorCode::MethodNotFound,
            ErrorCode::TopicNotOnline,
            ErrorCode::DeadlineExceeded,
            ErrorCode::Cancelled,
        ] {
            assert!(transcripts.contains(of(code)), "{code}");
        }
        assert!(transcripts.contains(CONTEXT_DEADLINE) && transcripts.contains(NO_SUCH_RPC));
    }
}
