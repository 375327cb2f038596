//! Payloads that can be told apart and checked: a stamp that says whose and which one it is, then a repeating table shifted by it.

use anyhow::{Result, ensure};

/// Bytes of the stamp in front: line and number, both `u64`.
pub const STAMP: usize = 16;
/// The table repeats after so many bytes. Odd, so that no power of two that something may lose or double looks right.
const PERIOD: usize = 4_093;
/// Longest piece that is handed out.
const LONGEST: usize = 65_536;
/// From this length on only samples are compared: a full comparison of megabytes would be what is measured.
const FULL: usize = 1_024;
/// Bytes of one sample, and how many there are in a piece.
const SAMPLE: usize = 32;
const SAMPLES: usize = 8;

/// Makes and checks payloads.
#[derive(Debug)]
pub struct Pattern {
    table: Box<[u8]>,
    scratch: Vec<u8>,
}

// === impl Pattern ===

impl Default for Pattern {
    fn default() -> Self {
        Self::new()
    }
}

impl Pattern {
    /// The one pattern there is: both ends make the same.
    #[must_use]
    pub fn new() -> Self {
        // xorshift64*: no need for more than that neighbouring bytes differ without order.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
            })
            .collect();
        let table = period.iter().copied().cycle().take(PERIOD + LONGEST).collect();
        Self { table, scratch: Vec::new() }
    }

    /// Bytes `at..at + len` of payload `number` of `line`; `len` is at most 64 KiB. A payload shorter than its stamp is all stamp.
    pub fn piece(&mut self, line: u64, number: u64, at: u64, len: usize) -> &[u8] {
        let len = len.min(LONGEST);
        let from = offset(line, number, at);
        if at >= STAMP as u64 {
            return &self.table[from..from + len];
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(&self.table[from..from + len]);
        let stamp = stamp(line, number);
        for (byte, stamped) in self.scratch.iter_mut().zip(&stamp[at as usize..]) {
            *byte = *stamped;
        }
        &self.scratch
    }

    /// Compares bytes `at..` of a payload with what they must be: all of them, or samples of a long piece, its ends included.
    ///
    /// # Errors
    /// If they differ.
    pub fn check(&self, line: u64, number: u64, at: u64, found: &[u8]) -> Result<()> {
        let stamp = stamp(line, number);
        let stamped = (STAMP as u64).saturating_sub(at).min(found.len() as u64) as usize;
        let same = found[..stamped] == stamp[STAMP.min(at as usize)..][..stamped]
            && self.tail_is(line, number, at, found, stamped);
        ensure!(same, "payload {number} of line {line} differs near byte {at}");
        Ok(())
    }

    fn tail_is(&self, line: u64, number: u64, at: u64, found: &[u8], stamped: usize) -> bool {
        let equal = |from: usize, to: usize| {
            let start = offset(line, number, at + from as u64);
            found[from..to].chunks(LONGEST).enumerate().all(|(n, chunk)| {
                let start = (start + n * LONGEST) % PERIOD;
                self.table[start..start + chunk.len()] == *chunk
            })
        };
        let len = found.len();
        if len - stamped <= FULL {
            return equal(stamped, len);
        }
        let step = (len - stamped - SAMPLE) / (SAMPLES - 1);
        (0..SAMPLES).all(|n| equal(stamped + n * step, stamped + n * step + SAMPLE))
            && equal(len - SAMPLE, len)
    }
}

/// The line and number in the stamp of a payload's beginning; `None` if it is too short.
#[must_use]
pub fn read_stamp(payload: &[u8]) -> Option<(u64, u64)> {
    let (line, rest) = payload.split_first_chunk()?;
    Some((u64::from_be_bytes(*line), u64::from_be_bytes(*rest.first_chunk()?)))
}

fn stamp(line: u64, number: u64) -> [u8; STAMP] {
    let mut stamp = [0; STAMP];
    stamp[..8].copy_from_slice(&line.to_be_bytes());
    stamp[8..].copy_from_slice(&number.to_be_bytes());
    stamp
}

/// Where in the table byte `at` of a payload lies.
const fn offset(line: u64, number: u64, at: u64) -> usize {
    (line.wrapping_mul(31).wrapping_add(number).wrapping_add(at) % PERIOD as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_same_payload() {
        let mut pattern = Pattern::new();
        let whole = pattern.piece(3, 9, 0, 50_000).to_vec();
        let mut joined = Vec::new();
        for (at, len) in [(0, 5), (5, 20), (25, 9_975), (10_000, 40_000)] {
            joined.extend_from_slice(pattern.piece(3, 9, at, len));
        }
        assert!(joined == whole);
        assert_eq!(read_stamp(&whole), Some((3, 9)));
        for cut in [0, 1, 16, 17, 1_000, 49_999] {
            pattern.check(3, 9, 0, &whole[..cut]).unwrap();
            pattern.check(3, 9, cut as u64, &whole[cut..]).unwrap();
        }
        assert_eq!(read_stamp(&whole[..15]), None);
    }

    #[test]
    fn wrong_payloads_are_found_out() {
        let mut pattern = Pattern::new();
        let right = pattern.piece(1, 2, 0, 64).to_vec();
        for at in 0..64 {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert!(pattern.check(1, 2, 0, &wrong).is_err(), "byte {at}");
        }
        assert!(pattern.check(1, 3, 0, &right).is_err());
        assert!(pattern.check(2, 2, 0, &right).is_err());
        // Long pieces: a shift by one byte, and the tail of another payload, are caught by the samples.
        let long = pattern.piece(1, 2, 0, 65_536).to_vec();
        let shifted: Vec<u8> = long[..30_000].iter().chain(&long[29_999..65_535]).copied().collect();
        assert!(pattern.check(1, 2, 0, &shifted).is_err());
        let mut spliced = long;
        spliced.truncate(32_768);
        spliced.extend_from_slice(pattern.piece(1, 4, 32_768, 32_768));
        assert!(pattern.check(1, 2, 0, &spliced).is_err());
    }
}
