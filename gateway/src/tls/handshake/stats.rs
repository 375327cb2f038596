//! How handshakes end, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::tls::io::TlsError;

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The connection was handed on.
    Established,
    /// Closed at once: all places were taken.
    Full,
    /// It had its time and gave way to a newer connection.
    Evicted,
    /// Not done in time.
    TimedOut,
    /// The gateway stops.
    Stopped,
    /// The peer ended the connection.
    Gone,
    /// The socket failed.
    Socket,
    /// What came was not TLS.
    NotTls,
    /// No version, suite or signature scheme in common.
    Incompatible,
    /// No client certificate where one is needed.
    NoCertificate,
    /// A client certificate that does not verify.
    BadCertificate,
    /// The peer refused, for example our certificate.
    RefusedByPeer,
    /// Any other violation of the protocol.
    Protocol,
    /// A fault on our side.
    Panicked,
}

/// Counters by outcome.
#[derive(Debug, Default)]
pub struct HandshakeStats {
    counts: [AtomicU64; Outcome::ALL.len()],
}

// === impl Outcome ===

impl Outcome {
    /// Every outcome, in the order of its declaration.
    pub const ALL: [Self; 14] = [
        Self::Established,
        Self::Full,
        Self::Evicted,
        Self::TimedOut,
        Self::Stopped,
        Self::Gone,
        Self::Socket,
        Self::NotTls,
        Self::Incompatible,
        Self::NoCertificate,
        Self::BadCertificate,
        Self::RefusedByPeer,
        Self::Protocol,
        Self::Panicked,
    ];

    /// The word used in logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Full => "full",
            Self::Evicted => "evicted",
            Self::TimedOut => "timed_out",
            Self::Stopped => "stopped",
            Self::Gone => "gone",
            Self::Socket => "socket",
            Self::NotTls => "not_tls",
            Self::Incompatible => "incompatible",
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Protocol => "protocol",
            Self::Panicked => "panicked",
        }
    }

    pub(super) fn of(error: &TlsError) -> Self {
        match error {
            TlsError::Socket(_) => Self::Socket,
            TlsError::Protocol(rustls::Error::InvalidMessage(_)) => Self::NotTls,
            TlsError::Protocol(rustls::Error::PeerIncompatible(_)) => Self::Incompatible,
            TlsError::Protocol(rustls::Error::NoCertificatesPresented) => Self::NoCertificate,
            TlsError::Protocol(rustls::Error::InvalidCertificate(_)) => Self::BadCertificate,
            TlsError::Protocol(rustls::Error::AlertReceived(_)) => Self::RefusedByPeer,
            TlsError::Protocol(_) | TlsError::Oversized { .. } => Self::Protocol,
        }
    }
}

// === impl HandshakeStats ===

impl HandshakeStats {
    /// Handshakes that ended so.
    #[must_use]
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, outcome: Outcome) {
        self.counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_a_place_and_a_name_of_its_own() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            assert_eq!(Outcome::ALL.iter().filter(|other| other.name() == outcome.name()).count(), 1);
        }
    }
}
