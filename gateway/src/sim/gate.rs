//! Identities of a simulation: a wish is granted, a ticket says who, when and to whom it was given, one token is nobody's.

use frontier_wire::error::ErrorCode;

use crate::core::{
    Bound,
    identity::{Claim, Denied, Gatekeeper, Grant, HOLDER_LEN, Holder},
};

/// The token that is refused.
pub const BAD_TOKEN: &[u8] = b"bad";
/// The token of an edge that may call one reserved method, and of a service that may offer it.
pub const TRUSTED_TOKEN: &[u8] = b"trusted";

/// See the module documentation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gate;

// === impl Gate ===

impl Gatekeeper for Gate {
    fn admit(&self, claim: &Claim<'_>) -> Result<Grant, Denied> {
        if claim.token == BAD_TOKEN {
            return Err(Denied { code: ErrorCode::Unauthenticated, text: "unknown token" });
        }
        let reserved = (claim.token == TRUSTED_TOKEN).then(|| ["get_edge_id".to_owned()].into());
        let number = |at: usize| {
            claim.ticket.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
        };
        let holder = holder(claim.token);
        let own = claim.ticket.get(16..) == Some(holder.0.as_slice());
        let (id, epoch) = if own { (number(0), number(8)) } else { (claim.wished_id, 0) };
        let id = if claim.bound == Bound::Edge { id } else { 0 };
        Ok(Grant { id, epoch, reserved, holder })
    }

    fn ticket(&self, edge: u64, epoch: u64, holder: Holder, _now: u64) -> Vec<u8> {
        [&edge.to_be_bytes()[..], &epoch.to_be_bytes(), &holder.0].concat()
    }
}

/// The beginning of a token.
fn holder(token: &[u8]) -> Holder {
    let mut holder = [0; HOLDER_LEN];
    holder.iter_mut().zip(token).for_each(|(to, from)| *to = *from);
    Holder(holder)
}
