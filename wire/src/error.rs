//! The closed set of error codes, the same in frames, SDK, gRPC, REST and metric labels.

use std::fmt;

/// Why an operation failed. Numbers are those of `docs/protocol.md` section 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ErrorCode {
    /// The edge addressed has no session.
    EdgeNotOnline = 1,
    /// No instance of the service addressed has a session.
    ServiceNotOnline = 2,
    /// Nobody offers the method.
    MethodNotFound = 3,
    /// Nobody takes the topic.
    TopicNotOnline = 4,
    /// The deadline passed before the answer came.
    DeadlineExceeded = 5,
    /// The requester cancelled.
    Cancelled = 6,
    /// A limit or a full queue on the way; nothing was done.
    Overloaded = 7,
    /// The body is longer than a limit allows.
    PayloadTooLarge = 8,
    /// The identity may not do this.
    PermissionDenied = 9,
    /// No valid identity was shown.
    Unauthenticated = 10,
    /// The request itself is wrong.
    InvalidArgument = 11,
    /// The session or stream ended before the answer came.
    SessionClosed = 12,
    /// The gateway is about to stop.
    GatewayDraining = 13,
    /// A fault on our side.
    Internal = 14,
    /// The application's own error, with its own text.
    Application = 15,
}

// === impl ErrorCode ===

impl ErrorCode {
    /// Every code, in the order of its number.
    pub const ALL: [Self; 15] = [
        Self::EdgeNotOnline,
        Self::ServiceNotOnline,
        Self::MethodNotFound,
        Self::TopicNotOnline,
        Self::DeadlineExceeded,
        Self::Cancelled,
        Self::Overloaded,
        Self::PayloadTooLarge,
        Self::PermissionDenied,
        Self::Unauthenticated,
        Self::InvalidArgument,
        Self::SessionClosed,
        Self::GatewayDraining,
        Self::Internal,
        Self::Application,
    ];

    /// The name used in metric labels, JSON and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdgeNotOnline => "edge_not_online",
            Self::ServiceNotOnline => "service_not_online",
            Self::MethodNotFound => "method_not_found",
            Self::TopicNotOnline => "topic_not_online",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::Overloaded => "overloaded",
            Self::PayloadTooLarge => "payload_too_large",
            Self::PermissionDenied => "permission_denied",
            Self::Unauthenticated => "unauthenticated",
            Self::InvalidArgument => "invalid_argument",
            Self::SessionClosed => "session_closed",
            Self::GatewayDraining => "gateway_draining",
            Self::Internal => "internal",
            Self::Application => "application",
        }
    }

    /// The code of a number from the wire; a number of a later version counts as [`ErrorCode::Internal`].
    #[must_use]
    pub fn from_wire(number: u32) -> Self {
        number
            .checked_sub(1)
            .and_then(|index| usize::try_from(index).ok())
            .and_then(|index| Self::ALL.get(index).copied())
            .unwrap_or(Self::Internal)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn to_wire(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::native::proto;

    #[test]
    fn codes_are_those_of_the_document() {
        let document = include_str!("../../docs/protocol.md");
        let section = document.split("## 10. Errors").nth(1).unwrap();
        let documented: Vec<(u32, &str)> = section
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| ")?.split(" | ");
                Some((cells.next()?.parse().ok()?, cells.next()?))
            })
            .collect();
        let ours: Vec<(u32, &str)> =
            ErrorCode::ALL.iter().map(|code| (code.to_wire(), code.name())).collect();
        assert_eq!(documented, ours);
    }

    #[test]
    fn codes_are_those_of_the_proto() {
        for code in ErrorCode::ALL {
            let generated = proto::ErrorCode::try_from(code.to_wire().cast_signed()).unwrap();
            assert_eq!(generated.as_str_name().to_lowercase(), code.name());
        }
    }

    #[test]
    fn numbers_survive_the_wire_and_unknown_ones_are_internal() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_wire(code.to_wire()), code);
        }
        for unknown in [0, 16, 17, u32::MAX] {
            assert_eq!(ErrorCode::from_wire(unknown), ErrorCode::Internal);
        }
    }

    #[test]
    fn names_are_unique_and_shown() {
        let names: HashSet<String> = ErrorCode::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        assert!(names.contains("deadline_exceeded"));
    }
}
