//! A store whose operations are counted and timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::{
    Change, Cut, EdgeBucket, EdgeOutcome, EdgeWrite, Gateway, Joined, Renewed, Roster, ServiceBucket,
    ServiceWrite, Store, StoreError,
};
use crate::record::{EdgeRecord, Instance, ServiceRecord, StoreTime};

/// Bucket `n` of a histogram counts times below `2^n` microseconds, the last one all that are longer: from 16 seconds on.
pub const BUCKETS: usize = 25;

/// See the module documentation.
#[derive(Debug)]
pub struct Measured<S> {
    store: S,
    stats: Arc<StoreStats>,
}

/// What became of the operations of a store. One that was given up by its caller is in no histogram.
#[derive(Debug, Default)]
pub struct StoreStats {
    operations: [Counts; Operation::ALL.len()],
    in_flight: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    times: [AtomicU64; BUCKETS],
    micros: AtomicU64,
    errors: [AtomicU64; StoreError::KINDS.len()],
}

/// The times of one operation, those that failed included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    /// See [`BUCKETS`].
    pub counts: [u64; BUCKETS],
    /// Their sum in microseconds.
    pub sum_micros: u64,
}

/// Counts as long as it lives.
struct InFlight<'a>(&'a AtomicU64);

/// Writes `Operation`, and the store that times each of them.
macro_rules! operations {
    ($($operation:ident $name:ident($($arg:ident: $type:ty),*) -> $output:ty;)*) => {
        /// What a store is asked to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Operation {
            $(#[doc = concat!("[`Store::", stringify!($name), "`].")]
            $operation,)*
        }

        impl Operation {
            /// All of them.
            pub const ALL: [Self; [$(stringify!($operation)),*].len()] = [$(Self::$operation),*];

            /// For metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$operation => stringify!($name),)*
                }
            }
        }

        impl<S: Store> Store for Measured<S> {
            $(async fn $name(&self, $($arg: $type),*) -> Result<$output, StoreError> {
                self.stats.time(Operation::$operation, self.store.$name($($arg),*)).await
            })*

            fn changes(&self) -> broadcast::Receiver<Change> {
                self.store.changes()
            }
        }
    };
}

operations! {
    Join join(gateway: &Gateway, lease: Duration, back: bool) -> Joined;
    Renew renew(instance: Instance, edges: u64, services: u64, lease: Duration) -> Renewed;
    Leave leave(instance: Instance, stream: u32) -> ();
    Forget forget(instance: Instance) -> ();
    Members members() -> Roster;
    WriteEdges write_edges(writes: &[EdgeWrite], horizon: StoreTime) -> Vec<EdgeOutcome>;
    Edges edges(edges: &[u64]) -> Vec<Option<EdgeRecord>>;
    EdgeBuckets edge_buckets(buckets: &[u16]) -> Vec<EdgeBucket>;
    WriteServices write_services(writes: &[ServiceWrite]) -> ();
    ServiceBuckets service_buckets(buckets: &[u16]) -> Vec<ServiceBucket>;
    ReplaceEdges replace_edges(
        instance: Instance,
        stream: u32,
        buckets: &[(u16, Vec<(u64, EdgeRecord)>)],
        horizon: StoreTime
    ) -> Vec<(u64, EdgeOutcome)>;
    ReplaceServices replace_services(
        instance: Instance,
        buckets: &[(u16, Vec<(u64, ServiceRecord)>)]
    ) -> ();
    LeaveCuts leave_cuts(instance: Instance, cuts: &[Cut]) -> ();
    TakeCuts take_cuts(instance: Instance) -> Vec<Cut>;
    Ping ping() -> ();
}

// === impl Measured ===

impl<S> Measured<S> {
    /// Measures this store.
    pub fn new(store: S) -> Self {
        Self { store, stats: Arc::default() }
    }

    /// The store itself.
    pub const fn inner(&self) -> &S {
        &self.store
    }

    /// What became of its operations; outlives it.
    #[must_use]
    pub fn stats(&self) -> Arc<StoreStats> {
        Arc::clone(&self.stats)
    }
}

// === impl StoreStats ===

impl StoreStats {
    /// Operations that have not come to an end.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The times of an operation.
    #[must_use]
    pub fn times(&self, operation: Operation) -> Times {
        let Counts { times, micros, .. } = self.counts(operation);
        let counts = times.each_ref().map(|count| count.load(Ordering::Relaxed));
        Times { counts, sum_micros: micros.load(Ordering::Relaxed) }
    }

    /// How often an operation failed, by [kind](StoreError::KINDS).
    pub fn errors(&self, operation: Operation) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.counts(operation).errors.each_ref().map(|count| count.load(Ordering::Relaxed));
        StoreError::KINDS.into_iter().zip(counts)
    }

    fn counts(&self, operation: Operation) -> &Counts {
        &self.operations[operation as usize]
    }

    async fn time<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _in_flight = InFlight(&self.in_flight);
        let start = Instant::now();
        let result = work.await;
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let counts = self.counts(operation);
        // The number of digits in binary.
        let bucket = usize::try_from(u64::BITS - micros.leading_zeros()).unwrap_or_default();
        counts.times[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        counts.micros.fetch_add(micros, Ordering::Relaxed);
        if let Err(error) = &result
            && let Some(at) = StoreError::KINDS.iter().position(|kind| *kind == error.kind())
        {
            counts.errors[at].fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

// === impl InFlight ===

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    #[tokio::test(start_paused = true)]
    async fn operations_are_timed_and_errors_counted() {
        let stats = StoreStats::default();
        for (micros, bucket) in [(0, 0), (1, 1), (3, 2), (4, 3), (1_000_000, 20), (40_000_000, 24)] {
            let before = stats.times(Operation::Edges).counts[bucket];
            let work = async {
                assert_eq!(stats.in_flight(), 1);
                tokio::time::advance(Duration::from_micros(micros)).await;
                Ok(())
            };
            stats.time(Operation::Edges, work).await.unwrap();
            assert_eq!(stats.times(Operation::Edges).counts[bucket], before + 1, "{micros}");
        }
        assert_eq!(stats.times(Operation::Edges).sum_micros, 41_000_008);
        let failed = stats.time(Operation::Renew, std::future::ready(Err::<(), _>(StoreError::Busy)));
        assert_eq!(failed.await, Err(StoreError::Busy));
        let errors: Vec<_> = stats.errors(Operation::Renew).filter(|(_, count)| *count > 0).collect();
        assert_eq!(errors, [("busy", 1)]);
        assert_eq!(stats.errors(Operation::Edges).map(|(_, count)| count).sum::<u64>(), 0);
        // One that is given up is not in flight any more.
        drop(
            tokio::time::timeout(
                Duration::from_secs(1),
                stats.time(Operation::Ping, std::future::pending::<Result<(), _>>()),
            )
            .await,
        );
        assert_eq!(stats.in_flight(), 0);
        assert_eq!(stats.times(Operation::Ping).counts, [0; BUCKETS]);
    }

    #[tokio::test]
    async fn a_measured_store_is_the_store() {
        let store = Measured::new(Memory::new());
        assert_eq!(store.edges(&[1]).await.unwrap(), [None]);
        store.ping().await.unwrap();
        let stats = store.stats();
        drop(store);
        assert_eq!(stats.times(Operation::Edges).counts.iter().sum::<u64>(), 1);
        let names: std::collections::BTreeSet<_> = Operation::ALL.iter().map(|one| one.name()).collect();
        assert_eq!(names.len(), Operation::ALL.len());
    }

    #[test]
    fn every_error_has_a_kind_that_is_counted() {
        let text = String::new;
        for error in [
            StoreError::Unreachable(text()),
            StoreError::Busy,
            StoreError::ReadOnly(text()),
            StoreError::Denied(text()),
            StoreError::Nonsense(text()),
        ] {
            assert!(StoreError::KINDS.contains(&error.kind()));
        }
    }
}
