//! The names of keys and what a change of one is a change of.

use std::sync::LazyLock;

use frontier_api::bucket::{EDGE_BUCKETS, SERVICE_BUCKETS};

use crate::record::Instance;
use crate::store::Change;

/// What all keys begin with.
pub(super) const PREFIX: &str = "fr:";
/// What the gateways say of themselves, and their leases.
pub(super) const ROWS: &str = "fr:{g}:rows";
pub(super) const LEASES: &str = "fr:{g}:leases";
/// Slots of a Redis Cluster.
pub(super) const SLOTS: u16 = 16_384;

/// For each slot a bucket whose keys lie in it, if there is one.
static BUCKET_IN: LazyLock<Vec<Option<u16>>> = LazyLock::new(|| {
    let mut buckets = vec![None; usize::from(SLOTS)];
    for bucket in (0..EDGE_BUCKETS).rev() {
        if let Some(place) = buckets.get_mut(usize::from(slot(&edge_key(bucket)))) {
            *place = Some(bucket);
        }
    }
    buckets
});

pub(super) fn edge_key(bucket: u16) -> String {
    format!("fr:e:{{{}}}", bucket % EDGE_BUCKETS)
}

pub(super) fn service_key(bucket: u16) -> String {
    format!("fr:s:{{{}}}", bucket % SERVICE_BUCKETS)
}

pub(super) fn cuts_key(instance: Instance) -> String {
    format!("fr:c:{{{instance}}}")
}

/// A key that is there as long as nobody deletes everything.
pub(super) fn marker_key(bucket: u16) -> String {
    format!("fr:m:{{{bucket}}}")
}

/// A key that is there for a moment, to see what a connection hears of.
pub(super) fn probe_key(bucket: u16, nonce: u64) -> String {
    format!("fr:p:{{{bucket}}}:{nonce:x}")
}

/// The slot of a key.
pub(super) fn slot(key: &str) -> u16 {
    fred::util::redis_keyslot(key.as_bytes())
}

/// A bucket with its keys in one of these slots.
pub(super) fn bucket_in(slots: impl IntoIterator<Item = u16>) -> Option<u16> {
    slots.into_iter().find_map(|slot| BUCKET_IN.get(usize::from(slot)).copied().flatten())
}

/// What a change of this key is a change of; `None` if of nothing that is kept.
pub(super) fn change(key: &str) -> Option<Change> {
    let bucket = |rest: &str| rest.strip_prefix('{')?.strip_suffix('}')?.parse().ok();
    let rest = key.strip_prefix(PREFIX)?;
    if rest.starts_with("{g}") {
        Some(Change::Members)
    } else if let Some(edges) = rest.strip_prefix("e:") {
        bucket(edges).filter(|bucket| *bucket < EDGE_BUCKETS).map(Change::Edges)
    } else if let Some(services) = rest.strip_prefix("s:") {
        bucket(services).filter(|bucket| *bucket < SERVICE_BUCKETS).map(Change::Services)
    } else if let Some(cuts) = rest.strip_prefix("c:") {
        Instance::parse(cuts.strip_prefix('{')?.strip_suffix('}')?).map(Change::Cuts)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_what_changed() {
        assert_eq!(change(&edge_key(16_383)), Some(Change::Edges(16_383)));
        assert_eq!(change(&service_key(255)), Some(Change::Services(255)));
        let instance = Instance([0xab; 16]);
        assert_eq!(change(&cuts_key(instance)), Some(Change::Cuts(instance)));
        assert_eq!(change(ROWS).zip(change(LEASES)), Some((Change::Members, Change::Members)));
        for other in
            ["", "fr:", "x", "fr:e:{16384}", "fr:e:1", "fr:s:{256}", "fr:c:{1}", "fr:m:{0}", "fr:p:{0}:1"]
        {
            assert_eq!(change(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_in_braces_decides_the_slot() {
        assert_eq!(slot(ROWS), slot(LEASES));
        assert_eq!(slot(&edge_key(7)), slot(&marker_key(7)));
        // As the specification of Redis Cluster has it.
        assert_eq!(slot("123456789"), 12_739);
        for first in (0..SLOTS).step_by(1_000) {
            let range = first..SLOTS.min(first + 1_000);
            let bucket = bucket_in(range.clone()).expect("a thousand slots have a bucket");
            assert!(range.contains(&slot(&marker_key(bucket))));
        }
        assert_eq!(bucket_in([]), None);
    }
}
