//! The decision who is admitted and which ID it is entitled to.
//!
//! With no identities configured everybody is admitted, as in the Go system. Else a peer must show a token that is known, or without
//! a token a certificate that an entry fits; a wrong token is refused even next to a good certificate. Then, for the ID:
//!
//! 1. An edge with a good resume ticket gets that ID again: one that was given to the same token or certificate subject, or to nobody
//!    in particular while no identities were configured, as they still are not. Tickets that are not good are no error: a gateway that
//!    was restarted with a new key must not refuse its whole fleet.
//! 2. An identity with listed IDs gets the one it wishes for, or the only one there is.
//! 3. An identity that may have any ID gets the one it wishes for, and so does a service where no identities are configured.
//! 4. Everybody else gets none here: the ID service or the allocator chooses for an edge, and a service has one by its instance.
//!
//! A ticket or wish outside of the listed IDs is refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use frontier_wire::{error::ErrorCode, native::hello::Role};
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::{
    core::{
        Bound,
        identity::{Claim, Denied, Gatekeeper, Grant, Holder},
    },
    identity::{
        grants::{Entry, Grants, IdSet, TokenHash},
        random::{Random, SeededRandom},
        ticket::{Ticket, TicketError, TicketKey},
    },
};

/// Kinds of what holders of tickets are told apart by.
const BY_TOKEN: u8 = 1;
const BY_SUBJECT: u8 = 2;

/// Why somebody is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// Identities are configured and none was shown.
    NoIdentity,
    /// The token is not known.
    UnknownToken,
    /// No entry fits the certificate.
    UnknownSubject,
    /// The identity is for the other role.
    Role,
    /// The ID wished for or resumed is not among its IDs.
    Id,
    /// It has several IDs and wishes for none of them.
    NoWish,
}

/// See the module documentation. Shared by all shards; never waits.
#[derive(Debug)]
pub struct Authority {
    /// `None` = everybody is admitted.
    grants: ArcSwapOption<Grants>,
    key: TicketKey,
    ticket_life: Duration,
    ids: Mutex<SeededRandom>,
    resumed: AtomicU64,
    tickets_ignored: [AtomicU64; 5],
}

// === impl Objection ===

impl Objection {
    /// The code the peer is told.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::NoIdentity | Self::UnknownToken | Self::UnknownSubject => ErrorCode::Unauthenticated,
            Self::Role | Self::Id | Self::NoWish => ErrorCode::PermissionDenied,
        }
    }

    /// The text the peer is told.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoIdentity => "no identity was shown",
            Self::UnknownToken => "unknown token",
            Self::UnknownSubject => "unknown certificate subject",
            Self::Role => "this identity is for the other role",
            Self::Id => "this identity may not have this id",
            Self::NoWish => "this identity has several ids and must wish for one",
        }
    }
}

impl From<Objection> for Denied {
    fn from(objection: Objection) -> Self {
        Self { code: objection.code(), text: objection.text() }
    }
}

// === impl Authority ===

impl Authority {
    /// Without `grants` everybody is admitted. Tickets are good for `ticket_life` (default
    /// [`DEFAULT_LIFE`](crate::identity::ticket::DEFAULT_LIFE)).
    #[must_use]
    pub fn new(grants: Option<Grants>, key: TicketKey, ticket_life: Duration, ids: SeededRandom) -> Self {
        Self {
            grants: ArcSwapOption::from_pointee(grants),
            key,
            ticket_life,
            ids: Mutex::new(ids),
            resumed: AtomicU64::new(0),
            tickets_ignored: Default::default(),
        }
    }

    /// Says once, at start, who is admitted.
    pub fn announce(&self) {
        match &*self.grants.load() {
            None => warn!("no identities are configured: everybody who can connect is admitted"),
            Some(grants) => info!(entries = grants.len(), "only configured identities are admitted"),
        }
    }

    /// Replaces the identities, for new sessions; those there are stay.
    pub fn set_grants(&self, grants: Option<Grants>) {
        self.grants.store(grants.map(Arc::new));
    }

    /// Sessions that showed a good ticket.
    #[must_use]
    pub fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// Tickets that did not count for this reason.
    #[must_use]
    pub fn tickets_ignored(&self, why: TicketError) -> u64 {
        self.tickets_ignored[why as usize].load(Ordering::Relaxed)
    }

    /// Who is this, and which ID may it have?
    ///
    /// # Errors
    /// When it may not come in.
    pub fn decide(&self, claim: &Claim<'_>) -> Result<Grant, Objection> {
        let grants = self.grants.load();
        let entry = grants.as_deref().map(|grants| identify(grants, claim)).transpose()?;
        let holder = if entry.is_some() { self.holder(claim) } else { Holder::default() };
        let ticket = self.resume(claim, holder);
        let id = entitled(entry.map(|entry| &entry.ids), claim, ticket.as_ref())?;
        if ticket.is_some() {
            self.resumed.fetch_add(1, Ordering::Relaxed);
        }
        let epoch = ticket.map_or(0, |ticket| ticket.epoch);
        Ok(Grant { id, epoch, reserved: entry.and_then(|entry| entry.reserved.clone()), holder })
    }

    /// Whom the ticket of somebody is given to who is identified, as [`identify`] does it. An entry may fit many certificates, so it is
    /// not the entry.
    fn holder(&self, claim: &Claim<'_>) -> Holder {
        match (claim.token, claim.subject) {
            ([], Some(subject)) => self.key.holder(BY_SUBJECT, subject.names.iter().map(String::as_bytes)),
            (token, _) => self.key.holder(BY_TOKEN, [TokenHash::of(token).as_bytes()]),
        }
    }

    /// The ticket, if there is one and it counts.
    fn resume(&self, claim: &Claim<'_>, holder: Holder) -> Option<Ticket> {
        if claim.ticket.is_empty() || claim.bound != Bound::Edge {
            return None;
        }
        self.key
            .verify(claim.ticket, holder, claim.now)
            .and_then(
                |ticket| {
                    if ticket.epoch > claim.latest_epoch { Err(TicketError::Future) } else { Ok(ticket) }
                },
            )
            .inspect_err(|why| {
                self.tickets_ignored[*why as usize].fetch_add(1, Ordering::Relaxed);
            })
            .ok()
    }
}

impl Gatekeeper for Authority {
    fn admit(&self, claim: &Claim<'_>) -> Result<Grant, Denied> {
        Ok(self.decide(claim)?)
    }

    fn ticket(&self, edge: u64, epoch: u64, holder: Holder, now: u64) -> Vec<u8> {
        let expires = now.saturating_add(self.ticket_life.as_secs());
        self.key.mint(&Ticket { edge, epoch, expires, holder }).to_vec()
    }

    fn random(&self, _: u64) -> u64 {
        self.ids.lock().next_u64()
    }
}

/// The entry of whoever makes the claim.
fn identify<'a>(grants: &'a Grants, claim: &Claim<'_>) -> Result<&'a Entry, Objection> {
    let entry = match (claim.token, claim.subject) {
        ([], None) => return Err(Objection::NoIdentity),
        ([], Some(subject)) => grants.by_subject(subject).ok_or(Objection::UnknownSubject)?,
        (token, _) => grants.by_token(token).ok_or(Objection::UnknownToken)?,
    };
    let role = if claim.bound == Bound::Edge { Role::Edge } else { Role::Service };
    if entry.role == role { Ok(entry) } else { Err(Objection::Role) }
}

/// The ID that the claim is good for, 0 = none in particular. Without `ids` nobody has an identity.
fn entitled(ids: Option<&IdSet>, claim: &Claim<'_>, ticket: Option<&Ticket>) -> Result<u64, Objection> {
    let wanted = ticket.map_or(claim.wished_id, |ticket| ticket.edge);
    let Some(ids) = ids else {
        let free = ticket.is_some() || claim.bound == Bound::Service;
        return Ok(if free { wanted } else { 0 });
    };
    if wanted != 0 && ids.forbids(wanted) {
        return Err(Objection::Id);
    }
    match ids {
        _ if ticket.is_some() => Ok(wanted),
        IdSet::Listed(_) if wanted == 0 => ids.only().ok_or(Objection::NoWish),
        IdSet::Listed(_) | IdSet::Any => Ok(wanted),
        IdSet::Unlisted => Ok(0),
    }
}

#[cfg(test)]
mod tests;
