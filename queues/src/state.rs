//! Whether a queue can be used.

use std::{fmt, sync::Arc};

/// What a queue's driver is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It connects, for the first time or after a loss a moment ago. Messages wait.
    Connecting,
    /// It is connected.
    Up {
        /// The address connected to.
        address: Arc<str>,
    },
    /// It connects again and again without success. Messages are refused.
    Down {
        /// Why, for people.
        reason: Arc<str>,
    },
}

// === impl State ===

impl State {
    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up { .. } => "up",
            Self::Down { .. } => "down",
        }
    }

    /// Whether it is connected.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Up { address } => write!(f, "up ({address})"),
            Self::Down { reason } => write!(f, "down: {reason}"),
        }
    }
}
