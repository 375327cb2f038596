//! What errors of Redis and of its client mean to us.

use fred::prelude::{Error, ErrorKind};

use crate::store::StoreError;

/// Where Redis Cluster sends us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot is there now.
    Moved(u16, String),
    /// This key may be there already.
    Ask(String),
    /// Keys of one command are at two places for now.
    Later,
}

/// Whether an error is about where to ask.
pub(super) fn redirect(error: &Error) -> Option<Redirect> {
    let mut words = error.details().split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some("MOVED"), Some(slot), Some(server)) => {
            Some(Redirect::Moved(slot.parse().ok()?, server.to_owned()))
        }
        (Some("ASK"), Some(_), Some(server)) => Some(Redirect::Ask(server.to_owned())),
        (Some("TRYAGAIN"), ..) => Some(Redirect::Later),
        _ => None,
    }
}

/// Whether the server does not have a script any more.
pub(super) fn is_unknown_script(error: &Error) -> bool {
    error.details().starts_with("NOSCRIPT")
}

/// Whether the server takes no writes because it is a replica.
pub(super) fn is_read_only(error: &Error) -> bool {
    details(error).starts_with("READONLY")
}

/// Whether nothing was heard from the server itself: the connection is of no use any more.
pub(super) fn is_silence(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Tls)
}

/// What Redis said; what a script's command said comes with a `-` on some versions.
fn details(error: &Error) -> &str {
    error.details().trim_start_matches('-')
}

/// To us.
pub(super) fn store_error(error: &Error) -> StoreError {
    let details = details(error);
    let word = details.split(' ').next().unwrap_or_default();
    match word {
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => return StoreError::Denied(details.to_owned()),
        "OOM" | "READONLY" | "MISCONF" | "NOREPLICAS" => return StoreError::ReadOnly(details.to_owned()),
        "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" | "BUSY" | "UNBLOCKED" => {
            return StoreError::Unreachable(details.to_owned());
        }
        "ERR" if details.contains("AUTH") || details.contains("invalid password") => {
            return StoreError::Denied(details.to_owned());
        }
        "ERR" if details.contains("max number of clients") => {
            return StoreError::Unreachable(details.to_owned());
        }
        _ => {}
    }
    match error.kind() {
        ErrorKind::Auth => StoreError::Denied(details.to_owned()),
        ErrorKind::Backpressure => StoreError::Busy,
        ErrorKind::IO
        | ErrorKind::Timeout
        | ErrorKind::Canceled
        | ErrorKind::Cluster
        | ErrorKind::Sentinel
        | ErrorKind::Routing
        | ErrorKind::Tls => StoreError::Unreachable(error.to_string()),
        _ => StoreError::Nonsense(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_redis_have_a_meaning() {
        let kind = |details: &'static str| store_error(&Error::new(ErrorKind::Unknown, details)).kind();
        for (details, wanted) in [
            ("NOAUTH Authentication required.", "denied"),
            ("WRONGPASS invalid username-password pair", "denied"),
            ("NOPERM this user has no permissions", "denied"),
            ("ERR Client sent AUTH, but no password is set", "denied"),
            ("OOM command not allowed when used memory > 'maxmemory'.", "read_only"),
            ("-READONLY You can't write against a read only replica.", "read_only"),
            ("MISCONF Redis is configured to save RDB snapshots", "read_only"),
            ("LOADING Redis is loading the dataset in memory", "unreachable"),
            ("CLUSTERDOWN The cluster is down", "unreachable"),
            ("MOVED 1 10.0.0.1:1", "unreachable"),
            ("ERR max number of clients reached", "unreachable"),
            ("WRONGTYPE Operation against a key", "nonsense"),
            ("ERR syntax error", "nonsense"),
        ] {
            assert_eq!(kind(details), wanted, "{details}");
        }
        for (error, wanted) in [(ErrorKind::Timeout, "unreachable"), (ErrorKind::Backpressure, "busy")] {
            assert_eq!(store_error(&Error::new(error, "x")).kind(), wanted);
        }
    }

    #[test]
    fn redirections_are_read_and_nothing_else() {
        let of = |details: &'static str| redirect(&Error::new(ErrorKind::Cluster, details));
        assert_eq!(of("MOVED 7 h:1"), Some(Redirect::Moved(7, "h:1".into())));
        assert_eq!(of("ASK 7 h:1"), Some(Redirect::Ask("h:1".into())));
        assert_eq!(of("TRYAGAIN Multiple keys"), Some(Redirect::Later));
        for none in ["MOVED", "MOVED x h:1", "MOVED 99999 h:1", "ASK", "MOVEDX 1 h:1", ""] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
