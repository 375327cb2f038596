//! Resume tickets: what an edge shows to get its ID again.
//!
//! ```text
//!  0         1          9         17         25                 57
//!  ┌─────────┬──────────┬─────────┬──────────┬──────────────────┐
//!  │ version │ edge ID  │ epoch   │ expiry   │ HMAC-SHA256      │   big-endian; expiry in seconds since 1970
//!  └─────────┴──────────┴─────────┴──────────┴──────────────────┘
//! ```
//!
//! A ticket is opaque to edges and good at every gateway that has the key.

use std::{fmt, time::Duration};

use aws_lc_rs::hmac;

/// The only version so far.
const VERSION: u8 = 1;

const SIGNED_LEN: usize = 1 + 8 + 8 + 8;

/// Bytes of a ticket.
pub const TICKET_LEN: usize = SIGNED_LEN + 32;

/// Long enough for a device that sleeps overnight, short enough that a stolen ticket is of little use.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Keeps the ticket key apart from any other use of `identity.key`.
const PURPOSE: &[u8] = b"frontier resume ticket";

/// What a ticket vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The edge, never 0.
    pub edge: u64,
    /// Of the session that got the ticket; the next has a greater one.
    pub epoch: u64,
    /// Not good any more from this second since 1970 on.
    pub expires: u64,
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
}

/// The key that signs and verifies.
pub struct TicketKey(hmac::Key);

// === impl TicketError ===

impl TicketError {
    /// A word from a closed set, for metric labels.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Forged => "forged",
            Self::Expired => "expired",
        }
    }
}

// === impl TicketKey ===

impl TicketKey {
    /// From a secret of any length; 32 random bytes are right.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(derive(secret))
    }

    /// The bytes of a ticket.
    #[must_use]
    pub fn mint(&self, ticket: &Ticket) -> [u8; TICKET_LEN] {
        let mut bytes = [0; TICKET_LEN];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&ticket.edge.to_be_bytes());
        bytes[9..17].copy_from_slice(&ticket.epoch.to_be_bytes());
        bytes[17..SIGNED_LEN].copy_from_slice(&ticket.expires.to_be_bytes());
        let tag = hmac::sign(&self.0, &bytes[..SIGNED_LEN]);
        bytes[SIGNED_LEN..].copy_from_slice(tag.as_ref());
        bytes
    }

    /// What the bytes vouch for; `now` in seconds since 1970. The comparison takes the same time wherever a forgery differs.
    ///
    /// # Errors
    /// When it vouches for nothing.
    pub fn verify(&self, bytes: &[u8], now: u64) -> Result<Ticket, TicketError> {
        let bytes: &[u8; TICKET_LEN] = bytes.try_into().map_err(|_| TicketError::Malformed)?;
        let (signed, tag) = bytes.split_at(SIGNED_LEN);
        if signed.first() != Some(&VERSION) {
            return Err(TicketError::Malformed);
        }
        hmac::verify(&self.0, signed, tag).map_err(|_| TicketError::Forged)?;
        let mut fields = signed[1..].chunks_exact(8).map(|field| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(field);
            u64::from_be_bytes(bytes)
        });
        let mut field = || fields.next().ok_or(TicketError::Malformed);
        let ticket = Ticket { edge: field()?, epoch: field()?, expires: field()? };
        if ticket.expires <= now { Err(TicketError::Expired) } else { Ok(ticket) }
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey")
    }
}

fn derive(secret: &[u8]) -> hmac::Key {
    let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, PURPOSE).as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICKET: Ticket = Ticket { edge: 7, epoch: 1 << 60, expires: 1_000 };

    fn key(of: u8) -> TicketKey {
        TicketKey::new(&[of; 32])
    }

    #[test]
    fn a_ticket_is_good_until_its_last_second() {
        let key = key(1);
        let bytes = key.mint(&TICKET);
        assert_eq!(key.verify(&bytes, 999), Ok(TICKET));
        assert_eq!(key.verify(&bytes, 1_000), Err(TicketError::Expired));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let key = key(1);
        let bytes = key.mint(&TICKET);
        for bit in 0..TICKET_LEN * 8 {
            let mut forged = bytes;
            forged[bit / 8] ^= 1 << (bit % 8);
            let expected = if bit < 8 { TicketError::Malformed } else { TicketError::Forged };
            assert_eq!(key.verify(&forged, 0), Err(expected), "bit {bit}");
        }
    }

    #[test]
    fn another_key_vouches_for_nothing() {
        let bytes = key(1).mint(&TICKET);
        assert_eq!(key(2).verify(&bytes, 0), Err(TicketError::Forged));
    }

    #[test]
    fn a_forged_and_expired_ticket_is_forged() {
        // Else a forger would learn which of its guesses are right.
        let bytes = key(1).mint(&TICKET);
        assert_eq!(key(2).verify(&bytes, 5_000), Err(TicketError::Forged));
    }

    #[test]
    fn a_key_does_not_show_in_logs() {
        assert_eq!(format!("{:?}", key(1)), "TicketKey");
    }

    proptest! {
        #[test]
        fn what_is_minted_verifies(edge: u64, epoch: u64, expires in 1_u64..) {
            let ticket = Ticket { edge, epoch, expires };
            let key = key(9);
            prop_assert_eq!(key.verify(&key.mint(&ticket), expires - 1), Ok(ticket));
        }

        #[test]
        fn no_bytes_verify(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(key(9).verify(&bytes, 0).is_err());
        }
    }
}
