//! Edges are kept in 16,384 buckets by a hash of their ID, and what a gateway has in one is told by a digest: so two sides find what
//! differs between them without telling each other everything.

use std::ops::{BitXor as _, BitXorAssign as _};

/// Buckets of edges: at a million edges some sixty to each, which Redis packs tightly.
pub const EDGE_BUCKETS: u16 = 16_384;

/// Buckets of services: they are few.
pub const SERVICE_BUCKETS: u16 = 256;

/// The bucket of an edge.
#[must_use]
pub fn edge_bucket(edge: u64) -> u16 {
    // IDs may be sequential or have their entropy anywhere.
    (mix(edge) % u64::from(EDGE_BUCKETS)) as u16
}

/// The bucket of a service.
#[must_use]
pub fn service_bucket(service: u64) -> u16 {
    (mix(service) % u64::from(SERVICE_BUCKETS)) as u16
}

/// Bits of a [`place`].
pub const PLACE_BITS: u32 = 18;

/// Where an ID stands within its bucket: bits of its hash that the bucket's number does not have. Others that come and go do not move it,
/// so a list can be read in parts.
#[must_use]
pub fn place(id: u64) -> u32 {
    ((mix(id) >> 14) & ((1 << PLACE_BITS) - 1)) as u32
}

/// What is in a bucket, in twelve bytes: how many, and the exclusive or of a hash of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many.
    pub count: u32,
    /// The exclusive or of their hashes.
    pub xor: u64,
}

// === impl Digest ===

impl Digest {
    /// Adds an ID with its epoch.
    pub fn add(&mut self, id: u64, epoch: u64) {
        self.count = self.count.wrapping_add(1);
        self.xor.bitxor_assign(hash(id, epoch));
    }

    /// Takes away an ID with its epoch, that was added before.
    pub fn remove(&mut self, id: u64, epoch: u64) {
        self.count = self.count.wrapping_sub(1);
        self.xor.bitxor_assign(hash(id, epoch));
    }

    /// The digest of these.
    #[must_use]
    pub fn of(entries: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut digest = Self::default();
        entries.into_iter().for_each(|(id, epoch)| digest.add(id, epoch));
        digest
    }
}

fn hash(id: u64, epoch: u64) -> u64 {
    mix(mix(id).bitxor(epoch.rotate_left(32)))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): part of what both sides of
/// a link agree on, so it must not change.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_even_for_sequential_ids() {
        let mut counts = vec![0_u32; usize::from(EDGE_BUCKETS)];
        for edge in 1..=1_000_000 {
            counts[usize::from(edge_bucket(edge))] += 1;
        }
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 25 && *most < 110, "{least} to {most}");
    }

    #[test]
    fn a_digest_tells_what_is_in_it_in_any_order() {
        let all = Digest::of([(1, 10), (2, 20), (3, 30)]);
        let mut other = Digest::of([(3, 30), (9, 9), (1, 10), (2, 20)]);
        assert_ne!(all, other);
        other.remove(9, 9);
        assert_eq!(all, other);
        assert_ne!(Digest::of([(1, 20), (2, 10)]), Digest::of([(1, 10), (2, 20)]));
    }

    #[test]
    fn both_sides_of_a_link_hash_alike_for_ever() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!((edge_bucket(1), edge_bucket(u64::MAX)), (edge_bucket(1), edge_bucket(u64::MAX)));
    }
}
