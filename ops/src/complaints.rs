//! A limit on lines in the log about misbehaving peers: what peers do must not fill the disk. It is counted in the metrics anyway.

/// Lines per second of one thread or place that writes them.
const PER_SECOND: u32 = 10;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Complaints {
    /// In the current second, those left out included.
    count: u32,
    /// Which second that is.
    second: u64,
}

// === impl Complaints ===

impl Complaints {
    /// Whether a line may be written now, in microseconds of a clock that never steps. The first line of a new second says how many
    /// were left out before.
    pub fn admit(&mut self, micros: u64) -> bool {
        let second = micros / 1_000_000;
        if self.second != second {
            let left_out = self.count.saturating_sub(PER_SECOND);
            if left_out > 0 {
                tracing::warn!(left_out, "more of the same was not logged");
            }
            *self = Self { count: 0, second };
        }
        self.count = self.count.saturating_add(1);
        self.count <= PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::{Complaints, PER_SECOND};

    #[test]
    fn lines_are_few_per_second_and_come_back() {
        let mut complaints = Complaints::default();
        for second in [0, 1, 7] {
            let admitted = (0..1_000).filter(|n| complaints.admit(second * 1_000_000 + n)).count();
            assert_eq!(admitted, PER_SECOND as usize, "second {second}");
        }
    }
}
