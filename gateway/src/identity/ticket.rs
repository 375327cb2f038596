//! Resume tickets: what an edge shows to get its ID again.
//!
//! ```text
//!  0         1          9         17         25         41                 73
//!  ┌─────────┬──────────┬─────────┬──────────┬──────────┬──────────────────┐
//!  │ version │ edge ID  │ epoch   │ expiry   │ holder   │ HMAC-SHA256      │   big-endian; expiry in seconds since 1970
//!  └─────────┴──────────┴─────────┴──────────┴──────────┴──────────────────┘
//! ```
//!
//! A ticket is opaque to edges and good at every gateway that has the key, for the identity that got it: the holder is made of its
//! token or of the names in its certificate by a keyed hash, which tells nothing about either. Zeros are an edge that had to show none.
//! Version 1, without a holder, is good for nobody any more.

use std::{fmt, time::Duration};

use aws_lc_rs::hmac;

use crate::core::identity::{HOLDER_LEN, Holder};

/// The version that has a holder.
const VERSION: u8 = 2;

const HOLDER_AT: usize = 1 + 8 + 8 + 8;
const SIGNED_LEN: usize = HOLDER_AT + HOLDER_LEN;

/// Bytes of a ticket.
pub const TICKET_LEN: usize = SIGNED_LEN + 32;

/// Long enough for a device that sleeps overnight, short enough that a stolen ticket is of little use.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Keeps the ticket key apart from any other use of `identity.key`.
const PURPOSE: &[u8] = b"frontier resume ticket";
/// The same for the key that makes holders.
const HOLDER_PURPOSE: &[u8] = b"frontier ticket holder";

/// What a ticket vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The edge, never 0.
    pub edge: u64,
    /// Of the session that got the ticket; the next has a greater one.
    pub epoch: u64,
    /// Not good any more from this second since 1970 on.
    pub expires: u64,
    /// Who may show it.
    pub holder: Holder,
}

/// Why a ticket is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not a ticket of this version.
    #[error("not a resume ticket")]
    Malformed,
    /// Not signed with our key.
    #[error("signed with an unknown key")]
    Forged,
    /// Too old.
    #[error("expired")]
    Expired,
    /// Shown by somebody else than the identity that got it.
    #[error("another identity's")]
    Foreign,
    /// Of a session later than any can be.
    #[error("from the future")]
    Future,
}

/// The key that signs and verifies.
pub struct TicketKey {
    tickets: hmac::Key,
    holders: hmac::Key,
}

// === impl TicketError ===

impl TicketError {
    /// A word from a closed set, for metric labels.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::Expired => "expired",
            Self::Foreign => "foreign",
            Self::Future => "future",
        }
    }
}

// === impl TicketKey ===

impl TicketKey {
    /// From a secret of any length; 32 random bytes are right.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self { tickets: derive(secret, PURPOSE), holders: derive(secret, HOLDER_PURPOSE) }
    }

    /// The holder that somebody is by what it shows: `kind` keeps tokens and names of certificates apart.
    #[must_use]
    pub fn holder<'a>(&self, kind: u8, shown: impl IntoIterator<Item = &'a [u8]>) -> Holder {
        let mut context = hmac::Context::with_key(&self.holders);
        context.update(&[kind]);
        for part in shown {
            // With its length, so that parts cannot run into each other.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let tag = context.sign();
        let mut holder = [0; HOLDER_LEN];
        holder.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        Holder(holder)
    }

    /// The bytes of a ticket.
    #[must_use]
    pub fn mint(&self, ticket: &Ticket) -> [u8; TICKET_LEN] {
        let mut bytes = [0; TICKET_LEN];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&ticket.edge.to_be_bytes());
        bytes[9..17].copy_from_slice(&ticket.epoch.to_be_bytes());
        bytes[17..HOLDER_AT].copy_from_slice(&ticket.expires.to_be_bytes());
        bytes[HOLDER_AT..SIGNED_LEN].copy_from_slice(&ticket.holder.0);
        let tag = hmac::sign(&self.tickets, &bytes[..SIGNED_LEN]);
        bytes[SIGNED_LEN..].copy_from_slice(tag.as_ref());
        bytes
    }

    /// What the bytes that `holder` shows vouch for; `now` in seconds since 1970. The comparison takes the same time wherever a forgery
    /// differs.
    ///
    /// # Errors
    /// When it vouches for nothing.
    pub fn verify(&self, bytes: &[u8], holder: Holder, now: u64) -> Result<Ticket, TicketError> {
        let bytes: &[u8; TICKET_LEN] = bytes.try_into().map_err(|_| TicketError::Malformed)?;
        let (signed, tag) = bytes.split_at(SIGNED_LEN);
        if signed.first() != Some(&VERSION) {
            return Err(TicketError::Malformed);
        }
        hmac::verify(&self.tickets, signed, tag).map_err(|_| TicketError::Forged)?;
        let mut fields = signed[1..HOLDER_AT].chunks_exact(8).map(|field| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(field);
            u64::from_be_bytes(bytes)
        });
        let mut field = || fields.next().ok_or(TicketError::Malformed);
        let ticket = Ticket { edge: field()?, epoch: field()?, expires: field()?, holder };
        if ticket.expires <= now {
            Err(TicketError::Expired)
        } else if signed[HOLDER_AT..] != holder.0 {
            Err(TicketError::Foreign)
        } else {
            Ok(ticket)
        }
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey")
    }
}

fn derive(secret: &[u8], purpose: &[u8]) -> hmac::Key {
    let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, purpose).as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ME: Holder = Holder([7; HOLDER_LEN]);
    const TICKET: Ticket = Ticket { edge: 7, epoch: 1 << 60, expires: 1_000, holder: ME };

    fn key(of: u8) -> TicketKey {
        TicketKey::new(&[of; 32])
    }

    #[test]
    fn a_ticket_is_good_until_its_last_second() {
        let key = key(1);
        let bytes = key.mint(&TICKET);
        assert_eq!(key.verify(&bytes, ME, 999), Ok(TICKET));
        assert_eq!(key.verify(&bytes, ME, 1_000), Err(TicketError::Expired));
    }

    #[test]
    fn a_ticket_is_good_for_its_holder_alone() {
        let key = key(1);
        let bytes = key.mint(&TICKET);
        assert_eq!(key.verify(&bytes, Holder::default(), 999), Err(TicketError::Foreign));
        let anybodys = key.mint(&Ticket { holder: Holder::default(), ..TICKET });
        assert_eq!(key.verify(&anybodys, ME, 999), Err(TicketError::Foreign));
        assert!(key.verify(&anybodys, Holder::default(), 999).is_ok());
    }

    #[test]
    fn holders_differ_by_key_kind_and_every_part() {
        let holder = |of: u8, kind, parts: &[&str]| key(of).holder(kind, parts.iter().map(|p| p.as_bytes()));
        let all = [
            holder(1, 1, &["ab", "c"]),
            holder(2, 1, &["ab", "c"]),
            holder(1, 2, &["ab", "c"]),
            holder(1, 1, &["a", "bc"]),
            holder(1, 1, &["abc"]),
            holder(1, 1, &[]),
            Holder::default(),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one), "{at}");
        }
        assert_eq!(holder(1, 1, &["ab", "c"]), all[0]);
    }

    #[test]
    fn a_ticket_of_the_first_version_is_none() {
        let key = key(1);
        let mut old = vec![1];
        old.extend([7_u64, 1, 1_000].iter().flat_map(|field| field.to_be_bytes()));
        let tag = hmac::sign(&key.tickets, &old);
        old.extend_from_slice(tag.as_ref());
        assert_eq!(key.verify(&old, Holder::default(), 0), Err(TicketError::Malformed));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let key = key(1);
        let bytes = key.mint(&TICKET);
        for bit in 0..TICKET_LEN * 8 {
            let mut forged = bytes;
            forged[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 8 { TicketError::Malformed } else { TicketError::Forged };
            assert_eq!(key.verify(&forged, ME, 0), Err(expected), "bit {bit}");
        }
    }

    #[test]
    fn another_key_vouches_for_nothing() {
        let bytes = key(1).mint(&TICKET);
        assert_eq!(key(2).verify(&bytes, ME, 0), Err(TicketError::Forged));
    }

    #[test]
    fn a_forged_and_expired_ticket_is_forged() {
        // Else a forger would learn which of its guesses are right.
        let bytes = key(1).mint(&TICKET);
        assert_eq!(key(2).verify(&bytes, ME, 5_000), Err(TicketError::Forged));
    }

    #[test]
    fn a_key_does_not_show_in_logs() {
        assert_eq!(format!("{:?}", key(1)), "TicketKey");
    }

    proptest! {
        #[test]
        fn what_is_minted_verifies(edge: u64, epoch: u64, expires in 1_u64.., holder: [u8; HOLDER_LEN]) {
            let ticket = Ticket { edge, epoch, expires, holder: Holder(holder) };
            let key = key(9);
            prop_assert_eq!(key.verify(&key.mint(&ticket), ticket.holder, expires - 1), Ok(ticket));
        }

        #[test]
        fn no_bytes_verify(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(key(9).verify(&bytes, Holder::default(), 0).is_err());
        }
    }
}
