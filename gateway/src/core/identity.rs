//! What the core asks of whoever decides on identities, so that it needs neither files nor cryptography.

use std::sync::Arc;

use frontier_wire::error::ErrorCode;

use crate::core::Bound;

/// What a dialer shows.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The listener it came in by.
    pub bound: Bound,
    /// Bytes of `Hello.token`, empty if none.
    pub token: &'a [u8],
    /// The subject of its client certificate.
    pub subject: Option<&'a Arc<Subject>>,
    /// The ID it wishes for, 0 = none.
    pub wished_id: u64,
    /// Its resume ticket, empty if none.
    pub ticket: &'a [u8],
    /// Seconds since 1970.
    pub now: u64,
    /// A ticket of a greater epoch is none.
    pub latest_epoch: u64,
}

/// Names in a verified client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Common name first, then the subject alternative names.
    pub names: Vec<String>,
}

/// Bytes of a [`Holder`].
pub const HOLDER_LEN: usize = 16;

/// The identity that a resume ticket is given to, as a number that tells nothing about it; zeros = nobody in particular.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder(pub [u8; HOLDER_LEN]);

/// What it gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The ID it is entitled to; 0 = ask the ID service or allocate.
    pub id: u64,
    /// The session's epoch must be greater than this.
    pub epoch: u64,
    /// Reserved methods it may call as an edge, which never offers any, or offer as a service; `None` = what its role may by default.
    pub reserved: Option<Arc<[String]>>,
    /// Who may show the ticket that it is given.
    pub holder: Holder,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Denied {
    /// The code the peer is told.
    pub code: ErrorCode,
    /// The text the peer is told.
    pub text: &'static str,
}

/// Decides on identities.
pub trait Gatekeeper: Send + Sync {
    /// Who is this, and which ID may it have?
    ///
    /// # Errors
    /// When it may not come in.
    fn admit(&self, claim: &Claim<'_>) -> Result<Grant, Denied>;

    /// A resume ticket for an edge, which [`Gatekeeper::admit`] accepts from its holder alone; `now` in seconds since 1970.
    fn ticket(&self, edge: u64, epoch: u64, holder: Holder, now: u64) -> Vec<u8>;

    /// 64 random bits for the ID of a new edge. `drawn` is the shard's own draw: repeatable, but whoever knows one of them can work
    /// out the others. Good enough where nobody attacks; a real gatekeeper has better.
    fn random(&self, drawn: u64) -> u64 {
        drawn
    }
}

/// Lets everybody in and knows no tickets: the default of tests.
#[derive(Debug, Default)]
pub struct OpenHouse;

// === impl OpenHouse ===

impl Gatekeeper for OpenHouse {
    fn admit(&self, _: &Claim<'_>) -> Result<Grant, Denied> {
        Ok(Grant::default())
    }

    fn ticket(&self, _: u64, _: u64, _: Holder, _: u64) -> Vec<u8> {
        Vec::new()
    }
}
