//! What a gateway has told: a digest for each bucket, as far as it is known.
//!
//! After `Buckets` the digest is known, it is that of the entries. After `Changes` it is not, since what they replaced is not remembered:
//! then the gateway's next renewal tells it. A renewal names the last message that its digests include: it waits until that has been
//! written, and a bucket that a later message has touched is left for the next renewal.
//!
//! Whoever compares a bucket with the store reads it between two looks at its [`mark`](Told::mark): if that has not moved and is even, no
//! message about the bucket was on its way into the store meanwhile.

use std::collections::BTreeMap;

use frontier_api::bucket::{Digest, EDGE_BUCKETS, SERVICE_BUCKETS};
use frontier_api::registry::{self, RenewRequest};

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Told {
    edges: Vec<Bucket>,
    services: Vec<Bucket>,
    /// The last message that is in the store.
    done: u64,
    /// Digests of renewals that came ahead of the messages they include: the number of the last one, and what they say.
    ahead: (u64, BTreeMap<(Kind, u16), Digest>),
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    digest: Option<Digest>,
    /// The last message about it.
    seq: u64,
    /// Moves when a message about it begins to be written and when that has ended: odd in between.
    mark: u32,
}

/// Buckets of which the gateway says something else than before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differs {
    pub(super) edges: Vec<u16>,
    pub(super) services: Vec<u16>,
}

/// Edges or services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Edges,
    Services,
}

// === impl Told ===

impl Told {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self {
            edges: vec![Bucket::default(); usize::from(EDGE_BUCKETS)],
            services: vec![Bucket::default(); usize::from(SERVICE_BUCKETS)],
            done: 0,
            ahead: (0, BTreeMap::new()),
        }
    }

    /// A message about these buckets is on its way into the store.
    pub(super) fn begin(&mut self, kind: Kind, buckets: impl IntoIterator<Item = u16>, seq: u64) {
        for bucket in buckets {
            if let Some(bucket) = self.bucket(kind, bucket) {
                (bucket.digest, bucket.seq) = (None, seq);
                bucket.mark = bucket.mark.wrapping_add(1) | 1;
            }
        }
    }

    /// It is in the store, and this is what the gateway has there, as far as that is known.
    pub(super) fn end(&mut self, kind: Kind, buckets: impl IntoIterator<Item = (u16, Option<Digest>)>) {
        for (bucket, digest) in buckets {
            if let Some(bucket) = self.bucket(kind, bucket) {
                bucket.digest = digest;
                bucket.mark = bucket.mark.wrapping_add(1) & !1;
            }
        }
    }

    /// Changes with every message about a bucket; odd while one is on its way.
    pub(super) fn mark(&self, kind: Kind, bucket: u16) -> u32 {
        self.get(kind, bucket).mark
    }

    /// Whether there was any message about a bucket.
    pub(super) fn is_said(&self, kind: Kind, bucket: u16) -> bool {
        self.get(kind, bucket).seq > 0
    }

    /// What the gateway has in a bucket.
    pub(super) fn digest(&self, kind: Kind, bucket: u16) -> Option<Digest> {
        self.get(kind, bucket).digest
    }

    /// A message is in the store; gives what renewals that waited for it tell.
    pub(super) fn done(&mut self, seq: u64) -> Differs {
        self.done = seq;
        if self.ahead.0 > seq || self.ahead.1.is_empty() {
            return Differs::default();
        }
        let (seq, digests) = std::mem::take(&mut self.ahead);
        self.learn(seq, digests)
    }

    /// Learns digests from a renewal; gives the buckets of which something else is known though nothing was said since.
    pub(super) fn compare(&mut self, request: &RenewRequest) -> Differs {
        let digests = |kind, digests: &[registry::Digest]| -> Vec<_> {
            let digest = |told: &registry::Digest| {
                let bucket = u16::try_from(told.bucket).ok()?;
                Some(((kind, bucket), Digest { count: told.count, xor: told.xor }))
            };
            digests.iter().filter_map(digest).collect()
        };
        let all =
            [digests(Kind::Edges, &request.edge_digests), digests(Kind::Services, &request.service_digests)]
                .concat()
                .into_iter()
                .filter(|((kind, bucket), _)| self.has(*kind, *bucket))
                .collect::<BTreeMap<_, _>>();
        if request.seq <= self.done && self.ahead.1.is_empty() {
            return self.learn(request.seq, all);
        }
        // What an earlier one said of other buckets holds for this number as well: they would be in this one had they changed.
        self.ahead.0 = self.ahead.0.max(request.seq);
        self.ahead.1.extend(all);
        self.done(self.done)
    }

    fn learn(&mut self, seq: u64, digests: BTreeMap<(Kind, u16), Digest>) -> Differs {
        let mut differs = Differs::default();
        for ((kind, number), digest) in digests {
            let Some(bucket) = self.bucket(kind, number) else { continue };
            if bucket.seq == 0 || bucket.seq > seq {
                continue;
            }
            match (bucket.digest, kind) {
                (None, _) => bucket.digest = Some(digest),
                (Some(known), Kind::Edges) if known != digest => differs.edges.push(number),
                (Some(known), Kind::Services) if known != digest => differs.services.push(number),
                (Some(_), _) => {}
            }
        }
        differs
    }

    fn has(&self, kind: Kind, bucket: u16) -> bool {
        bucket < if kind == Kind::Edges { EDGE_BUCKETS } else { SERVICE_BUCKETS }
    }

    fn bucket(&mut self, kind: Kind, bucket: u16) -> Option<&mut Bucket> {
        match kind {
            Kind::Edges => self.edges.get_mut(usize::from(bucket)),
            Kind::Services => self.services.get_mut(usize::from(bucket)),
        }
    }

    fn get(&self, kind: Kind, bucket: u16) -> Bucket {
        let buckets = match kind {
            Kind::Edges => &self.edges,
            Kind::Services => &self.services,
        };
        buckets.get(usize::from(bucket)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewal(seq: u64, bucket: u32, digest: Digest) -> RenewRequest {
        let digest = registry::Digest { bucket, count: digest.count, xor: digest.xor };
        RenewRequest { seq, edge_digests: vec![digest], ..RenewRequest::default() }
    }

    fn message(told: &mut Told, seq: u64, digest: Option<Digest>) -> Differs {
        told.begin(Kind::Edges, [5], seq);
        assert_eq!(told.mark(Kind::Edges, 5) & 1, 1);
        told.end(Kind::Edges, [(5, digest)]);
        assert_eq!(told.mark(Kind::Edges, 5) & 1, 0);
        told.done(seq)
    }

    #[test]
    fn digests_are_learned_and_compared_only_where_nothing_was_said_since() {
        let (one, two) = (Digest::of([(1, 1)]), Digest::of([(2, 2)]));
        let mut told = Told::new();
        assert_eq!(
            told.compare(&renewal(0, 5, one)),
            Differs::default(),
            "not said yet: the snapshot is under way"
        );
        assert_eq!(told.digest(Kind::Edges, 5), None);
        assert_eq!(message(&mut told, 3, Some(one)), Differs::default());
        assert_eq!(told.compare(&renewal(2, 5, two)), Differs::default(), "of before message 3");
        assert_eq!(told.compare(&renewal(3, 5, one)), Differs::default());
        assert_eq!(told.compare(&renewal(3, 5, two)).edges, [5]);
        // After changes the renewal teaches.
        assert_eq!(message(&mut told, 4, None), Differs::default());
        assert_eq!(told.compare(&renewal(4, 5, two)), Differs::default());
        assert_eq!(told.digest(Kind::Edges, 5), Some(two));
        assert_eq!(told.compare(&renewal(4, 1 << 20, two)), Differs::default(), "nobody's number");
    }

    #[test]
    fn a_renewal_waits_for_the_messages_it_includes() {
        let (one, two) = (Digest::of([(1, 1)]), Digest::of([(2, 2)]));
        let mut told = Told::new();
        message(&mut told, 1, Some(one));
        // Messages 2 and 3 are on their way; what comes after them is compared then.
        assert_eq!(told.compare(&renewal(3, 5, two)), Differs::default());
        assert_eq!(message(&mut told, 2, None), Differs::default());
        assert_eq!(told.digest(Kind::Edges, 5), None);
        assert_eq!(told.done(3), Differs::default());
        assert_eq!(told.digest(Kind::Edges, 5), Some(two));
        assert_eq!(told.compare(&renewal(5, 5, one)), Differs::default());
        assert_eq!(told.done(5).edges, [5], "nothing was said of it, and it is another");
    }
}
