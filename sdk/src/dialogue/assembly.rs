//! Joins the fragments of one body.

use bytes::{Bytes, BytesMut};
use frontier_wire::native::frame::INITIAL_CREDIT;

use crate::{
    budget::{Budget, Charge},
    error::{Error, ErrorCode, Result},
};

/// Bytes that came are granted back in steps of so many: a quarter of what may be under way, so the sender never has to stop.
const CREDIT_STEP: u64 = INITIAL_CREDIT as u64 / 4;

/// One body on its way in.
#[derive(Debug)]
pub(super) struct Assembly {
    total: usize,
    /// Grows with what has come, never with what was announced.
    bytes: BytesMut,
    granted: u64,
    charge: Charge,
}

/// What a fragment came to.
pub(super) enum Joined {
    /// More is to come; the sender is to be granted so many bytes, if not 0.
    Credit(u32),
    /// That was the last one.
    Whole(Bytes, Charge),
}

// === impl Assembly ===

impl Assembly {
    /// A body of `total` announced bytes, of which at most `max` are accepted.
    pub(super) fn new(total: u64, max: usize, budget: &Budget) -> Result<Self> {
        let total = usize::try_from(total).ok().filter(|total| *total <= max).ok_or_else(|| {
            Error::new(
                ErrorCode::PayloadTooLarge,
                format!("a body of {total} bytes, at most {max} are accepted"),
            )
        })?;
        let charge =
            budget.charge(total).ok_or_else(|| Error::overloaded("too many large bodies at once"))?;
        Ok(Self { total, bytes: BytesMut::new(), granted: INITIAL_CREDIT.into(), charge })
    }

    /// Appends a fragment; `more` tells whether another one follows.
    pub(super) fn push(&mut self, fragment: &[u8]) -> Result<()> {
        let len = self.bytes.len().saturating_add(fragment.len());
        if len > self.total {
            return Err(Error::invalid("the body is longer than was announced"));
        }
        self.bytes.extend_from_slice(fragment);
        Ok(())
    }

    /// What the sender may send more, once enough has come to be worth a frame.
    pub(super) fn credit(&mut self) -> u32 {
        let came = self.bytes.len() as u64;
        let due = came.saturating_add(INITIAL_CREDIT.into()).saturating_sub(self.granted);
        if due < CREDIT_STEP || self.granted >= self.total as u64 {
            return 0;
        }
        self.granted = self.granted.saturating_add(due);
        u32::try_from(due).unwrap_or(u32::MAX)
    }

    /// Goes on after a fragment: with the body, if it was the last one.
    pub(super) fn join(mut self: Box<Self>, more: bool) -> Result<(Joined, Option<Box<Self>>)> {
        if more {
            let credit = self.credit();
            return Ok((Joined::Credit(credit), Some(self)));
        }
        if self.bytes.len() < self.total {
            return Err(Error::invalid("the body is shorter than was announced"));
        }
        let Self { bytes, charge, .. } = *self;
        Ok((Joined::Whole(bytes.freeze(), charge), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_that_uses_its_credit_is_never_stopped_for_good() {
        let total = 3 * 1024 * 1024 + 17;
        let budget = Budget::new(total);
        let mut assembly = Assembly::new(total as u64, total, &budget).unwrap();
        let (mut sent, mut credit) = (0_usize, INITIAL_CREDIT as usize);
        while sent < total {
            let len = credit.min(65_536).min(total - sent);
            assert!(len > 0, "stopped at {sent}");
            sent += len;
            credit -= len;
            assembly.push(&vec![1; len]).unwrap();
            credit += assembly.credit() as usize;
            assert!(credit <= INITIAL_CREDIT as usize);
        }
        assert_eq!(budget.left(), 0);
    }

    #[test]
    fn too_long_and_too_many_are_refused_before_anything_is_held() {
        let budget = Budget::new(100);
        assert_eq!(Assembly::new(101, 100, &budget).unwrap_err().code(), ErrorCode::PayloadTooLarge);
        assert_eq!(Assembly::new(u64::MAX, 100, &budget).unwrap_err().code(), ErrorCode::PayloadTooLarge);
        let _first = Assembly::new(60, 100, &budget).unwrap();
        assert_eq!(Assembly::new(60, 100, &budget).unwrap_err().code(), ErrorCode::Overloaded);
    }

    #[test]
    fn a_body_that_breaks_its_announcement_is_an_error() {
        let budget = Budget::new(100);
        let mut long = Assembly::new(3, 100, &budget).unwrap();
        assert!(long.push(b"four").is_err());
        let mut short = Box::new(Assembly::new(5, 100, &budget).unwrap());
        short.push(b"four").unwrap();
        assert!(short.join(false).is_err());
        drop(long);
        assert_eq!(budget.left(), 100);
    }
}
