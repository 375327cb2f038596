//! Where the cluster's state is kept: one trait, [`Memory`] for a single atlas and [`Redis`] for any number.
//!
//! A store compares before it writes, so that nothing depends on the order in which writes of several gateways come:
//!
//! - an edge's record is replaced only by a greater [claim](crate::record::Claim), or by the same claim from the same or a later link,
//! - it is removed only by the instance that holds it, for a claim that is not older,
//! - a record that is none, or whose epoch lies beyond a horizon, counts as absent.
//!
//! What a gateway wrote before it was lost is not removed at once: whoever reads hides records of gateways without a lease
//! ([`Roster::lives`]), and a sweeper removes them later.

pub mod measured;
pub mod memory;
pub mod redis;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use tokio::sync::broadcast;

pub use self::measured::Measured;
pub use self::memory::Memory;
pub use self::redis::Redis;
use crate::record::{Claim, EdgeRecord, Instance, ServiceRecord, StoreTime};

/// Why a store did not do what it was asked to. Whoever asked may ask again: every operation may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be reached, or not within the time allowed.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// Too much waits for it already.
    #[error("too many requests wait for the store")]
    Busy,
    /// It takes no writes: a read-only replica, or no memory is left.
    #[error("the store refuses to write: {0}")]
    ReadOnly(String),
    /// It does not let us in.
    #[error("the store does not admit us: {0}")]
    Denied(String),
    /// It answered something that makes no sense.
    #[error("the store answered {0}")]
    Nonsense(String),
}

// === impl StoreError ===

impl StoreError {
    /// What [`kind`](Self::kind) may be.
    pub const KINDS: [&'static str; 5] = ["unreachable", "busy", "read_only", "denied", "nonsense"];

    /// For metrics and status codes.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Busy => "busy",
            Self::ReadOnly(_) => "read_only",
            Self::Denied(_) => "denied",
            Self::Nonsense(_) => "nonsense",
        }
    }
}

/// What a gateway says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Which process it is.
    pub instance: Instance,
    /// Its configured name.
    pub frontier_id: String,
    /// Where services reach it.
    pub service_addr: String,
    /// Where edges reach it.
    pub edge_addr: String,
}

/// A gateway and its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub gateway: Gateway,
    /// Until when it lives, unless it renews.
    pub lease: StoreTime,
    /// The number of its newest link to atlas.
    pub stream: u32,
    /// Edges it holds.
    pub edges: u64,
    /// Service connections it holds, a pool counted once.
    pub services: u64,
    /// The later life of the same gateway that took over from it. It has no lease from then on, until it joins again.
    pub superseded_by: Option<Instance>,
}

/// The answer to a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It has a lease.
    Lease {
        /// The store's time.
        now: StoreTime,
        /// The number of the link that begins with this.
        stream: u32,
    },
    /// Another process has taken its place and lives: it must not join.
    Superseded {
        /// Who.
        by: Instance,
    },
    /// As many gateways are known as may be.
    Full,
}

/// All gateways, those without a lease included until they are forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// When it was read.
    pub now: StoreTime,
    /// By instance.
    pub members: BTreeMap<Instance, Member>,
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The store's time.
    pub now: StoreTime,
    /// Whether the gateway is known and not superseded; if not it must join again and say everything it has.
    pub known: bool,
}

/// A change of an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeWrite {
    /// It is there.
    Online {
        /// Who.
        edge: u64,
        /// Where.
        record: EdgeRecord,
    },
    /// The session of this claim is over.
    Offline {
        /// Who.
        edge: u64,
        /// Which session; earlier ones of the same gateway are meant as well.
        claim: Claim,
    },
}

/// What became of an [`EdgeWrite`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeOutcome {
    /// It is as asked.
    Done,
    /// It is as asked, and this record of another session gave way.
    Replaced(EdgeRecord),
    /// A newer session has the ID.
    Lost(EdgeRecord),
}

/// A change of an instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceWrite {
    /// It is there.
    Online {
        /// Its ID; at several gateways the same.
        service: u64,
        /// Where.
        record: ServiceRecord,
    },
    /// The session of this claim is over.
    Offline {
        /// Its ID.
        service: u64,
        /// Which session.
        claim: Claim,
    },
}

/// Gateways that are known at most: far more than a cluster has, so that who invents some does not fill the store.
pub const ROWS: usize = 4_096;

/// The same with those that come in the place of one that is known, as a gateway that was started again: the row of before goes within a
/// minute.
pub const ROWS_AND_SUCCESSORS: usize = ROWS + ROWS / 4;

/// Words kept for one gateway by [`Store::leave_cuts`].
pub const CUTS: usize = 10_000;

/// A session that has lost its ID to a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Whose.
    pub edge: u64,
    /// Of the session that has lost.
    pub epoch: u64,
    /// Of the one that has the ID now.
    pub newer: u64,
}

/// Something in the store was changed by somebody else: another atlas, or a hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A bucket of edges.
    Edges(u16),
    /// A bucket of services.
    Services(u16),
    /// The gateways.
    Members,
    /// Word was left for this gateway.
    Cuts(Instance),
    /// Anything may have been: the connection was lost, or all was deleted.
    Everything,
}

/// The edges of a bucket, by ID.
pub type EdgeBucket = BTreeMap<u64, EdgeRecord>;

/// The instances of services of a bucket, by ID and gateway.
pub type ServiceBucket = BTreeMap<(u64, Instance), ServiceRecord>;

/// Keeps the cluster's state.
pub trait Store: Send + Sync + 'static {
    /// Makes a gateway known and gives it a lease. Members with the same name and the same two addresses are its earlier lives: they
    /// lose their leases and are superseded by it. Who is superseded may not join while the one that superseded it lives, else two
    /// processes that both claim one place would take it from each other for ever; as long as it tries it is not forgotten, and its
    /// lease counts as just over. The same holds for one that had joined before (`back`), was forgotten since, and finds another one alive at
    /// its place. Of more than [`ROWS`] gateways, those without a lease included until they are forgotten, none is known, but for
    /// those in the place of another one, up to [`ROWS_AND_SUCCESSORS`].
    fn join(
        &self,
        gateway: &Gateway,
        lease: Duration,
        back: bool,
    ) -> impl Future<Output = Result<Joined, StoreError>> + Send;

    /// Extends a lease, also one that is over, but none of a gateway that is superseded or has left.
    fn renew(
        &self,
        instance: Instance,
        edges: u64,
        services: u64,
        lease: Duration,
    ) -> impl Future<Output = Result<Renewed, StoreError>> + Send;

    /// Ends a lease for good: what the gateway had is not there from now on, and it is not until it joins again. If this is not its newest
    /// link nothing happens: a gateway that moves to another atlas gives up the old link, which may look as if it left.
    fn leave(&self, instance: Instance, stream: u32) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Forgets a gateway, after everything it had was removed, unless it has a lease again.
    fn forget(&self, instance: Instance) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// All gateways.
    fn members(&self) -> impl Future<Output = Result<Roster, StoreError>> + Send;

    /// Writes changes of edges; one outcome each, in their order. An edge may occur once.
    fn write_edges(
        &self,
        writes: &[EdgeWrite],
        horizon: StoreTime,
    ) -> impl Future<Output = Result<Vec<EdgeOutcome>, StoreError>> + Send;

    /// The records of these edges.
    fn edges(
        &self,
        edges: &[u64],
    ) -> impl Future<Output = Result<Vec<Option<EdgeRecord>>, StoreError>> + Send;

    /// All edges of these buckets, each by ID. What is no record is removed.
    fn edge_buckets(
        &self,
        buckets: &[u16],
    ) -> impl Future<Output = Result<Vec<EdgeBucket>, StoreError>> + Send;

    /// Writes changes of services.
    fn write_services(&self, writes: &[ServiceWrite]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// All instances of services of these buckets, each by ID and gateway. What is no record is removed.
    fn service_buckets(
        &self,
        buckets: &[u16],
    ) -> impl Future<Output = Result<Vec<ServiceBucket>, StoreError>> + Send;

    /// What a gateway has in these buckets is this and nothing else: writes each as [`write_edges`](Self::write_edges) does, and removes
    /// what else it has there, whoever wrote that. Gives what did not simply come about.
    fn replace_edges(
        &self,
        instance: Instance,
        stream: u32,
        buckets: &[(u16, Vec<(u64, EdgeRecord)>)],
        horizon: StoreTime,
    ) -> impl Future<Output = Result<Vec<(u64, EdgeOutcome)>, StoreError>> + Send;

    /// As [`replace_edges`](Self::replace_edges), of services; nothing is compared, since nobody else's are concerned.
    fn replace_services(
        &self,
        instance: Instance,
        buckets: &[(u16, Vec<(u64, ServiceRecord)>)],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Leaves word for a gateway that is attached to another atlas: these sessions of its have lost their IDs. At most [`CUTS`] are kept
    /// for a gateway, the newest, and for a minute: whoever holds a lease asks every second.
    fn leave_cuts(
        &self,
        instance: Instance,
        cuts: &[Cut],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Takes what was left for a gateway.
    fn take_cuts(&self, instance: Instance) -> impl Future<Output = Result<Vec<Cut>, StoreError>> + Send;

    /// Whether it can be reached, all of it.
    fn ping(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What others change, from now on; what is written through this value is left out, as far as can be told. Who lags behind must take it that everything was.
    fn changes(&self) -> broadcast::Receiver<Change>;
}

// === impl Gateway ===

impl Gateway {
    /// Whether the other one is another life of the same gateway: a process that listens where the other listened.
    #[must_use]
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.frontier_id == other.frontier_id
            && self.service_addr == other.service_addr
            && self.edge_addr == other.edge_addr
    }
}

/// How far ahead the end of a lease may be, in milliseconds: many times what a lease lasts.
pub(crate) const LEASE_AHEAD: u64 = 300_000;

/// Whether a lease that ends then holds now. One that ends later than any that could be given now is of a time before the store's clock
/// stepped back, as after a failover: who lives renews it within a second, and who is dead would stay for as long as the step was.
pub(crate) fn holds(lease: StoreTime, now: StoreTime) -> bool {
    lease > now && lease <= now.after(LEASE_AHEAD)
}

// === impl Roster ===

impl Roster {
    /// The member of this instance if it has a lease.
    #[must_use]
    pub fn living(&self, instance: Instance) -> Option<&Member> {
        self.members.get(&instance).filter(|member| holds(member.lease, self.now))
    }

    /// Whether this gateway has a lease.
    #[must_use]
    pub fn lives(&self, instance: Instance) -> bool {
        self.living(instance).is_some()
    }
}

// === impl Cut ===

impl Cut {
    /// As it is kept: 24 bytes, big-endian.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        [self.edge, self.epoch, self.newer].map(u64::to_be_bytes).concat()
    }

    /// Reads what is kept; `None` if that is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let ([edge, epoch, newer], []) = bytes.as_chunks::<8>() else { return None };
        let [edge, epoch, newer] = [edge, epoch, newer].map(|number| u64::from_be_bytes(*number));
        Some(Self { edge, epoch, newer })
    }
}

// === impl EdgeWrite ===

impl EdgeWrite {
    /// Whom it is about.
    #[must_use]
    pub const fn edge(&self) -> u64 {
        match self {
            Self::Online { edge, .. } | Self::Offline { edge, .. } => *edge,
        }
    }
}

// === impl ServiceWrite ===

impl ServiceWrite {
    /// Whom it is about.
    #[must_use]
    pub const fn service(&self) -> u64 {
        match self {
            Self::Online { service, .. } | Self::Offline { service, .. } => *service,
        }
    }
}

/// The rule for a record of an edge: what is there after a write, if the write changes it, and what became of the write.
fn decide(
    current: Option<&EdgeRecord>,
    write: &EdgeWrite,
    horizon: StoreTime,
) -> (Option<Option<EdgeRecord>>, EdgeOutcome) {
    let current = current.filter(|record| record.claim.epoch <= horizon.epoch());
    match (write, current) {
        (EdgeWrite::Online { record, .. }, None) => (Some(Some(*record)), EdgeOutcome::Done),
        (EdgeWrite::Online { record, .. }, Some(current)) => {
            if record.claim > current.claim {
                (Some(Some(*record)), EdgeOutcome::Replaced(*current))
            } else if record.claim < current.claim {
                (None, EdgeOutcome::Lost(*current))
            } else if record.stream >= current.stream {
                (Some(Some(*record)), EdgeOutcome::Done)
            } else {
                (None, EdgeOutcome::Done)
            }
        }
        (EdgeWrite::Offline { claim, .. }, Some(current))
            if current.claim.instance == claim.instance && current.claim.epoch <= claim.epoch =>
        {
            (Some(None), EdgeOutcome::Done)
        }
        (EdgeWrite::Offline { .. }, _) => (None, EdgeOutcome::Done),
    }
}
