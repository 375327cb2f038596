//! A client of a cluster: many gateways that act as one.
//!
//! ```text
//!  atlas ── Watch, or ListFrontiers ──▶ list ── news ──▶ members ──▶ a site for each gateway
//!    ▲                                                               ▲
//!    └── GetFrontierByEdge ── find (places, gates) ── Locate ────────┘
//!                              ▲
//!                       calls, messages, streams to an edge
//! ```
//! - [`list`] follows which gateways there are, [`members`] connects to each of them. A gateway that is not listed any more is kept for
//!   as long as its connection lives; one that fails concerns no other.
//! - [`find`] knows where edges are: from the last time ([`places`]), from atlas, or from the gateways themselves if atlas does not answer.
//!
//! Atlas is needed to hear of gateways, and nowhere else: with it gone, everything that is connected works on.

mod address;
mod atlas;
mod find;
mod list;
mod members;
mod places;

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use frontier_api::cluster::Frontier;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use self::{
    address::AtlasAddress,
    atlas::Atlas,
    list::List,
    members::Members,
    places::{Gates, Places, Turn},
};
use crate::{
    address::Address,
    client::{Client, Shared},
    error::{ConnectError, Result},
    options::Options,
    site::Site,
};

/// Gateways of one cluster, at most: beyond that the list is not to be believed.
const GATEWAYS_MAX: usize = 1_024;

/// Edges whose gateway is remembered, at most.
const PLACES_MAX: usize = 65_536;

/// Pieces of news, and gateways that atlas named and the list has not, which may wait to be dealt with. Of the former their source waits,
/// the latter are named again.
const WAITING: usize = 16;

/// What a client of a cluster has beyond that of one gateway.
#[derive(Debug)]
pub(crate) struct Cluster {
    atlas: Atlas,
    places: Mutex<Places>,
    gates: Arc<Gates>,
    /// Gateways that atlas named and the list has not.
    hints: mpsc::Sender<Frontier>,
    /// Whether the list has come, or cannot be had now.
    settled: AtomicBool,
}

// === impl Cluster ===

impl Cluster {
    fn place_of(&self, edge: u64) -> Option<Arc<Site>> {
        self.places.lock().get(edge).and_then(Weak::upgrade)
    }

    fn remember(&self, edge: u64, site: &Arc<Site>) {
        self.places.lock().put(edge, Arc::downgrade(site));
    }

    /// The edge is not there any more.
    fn forget(&self, edge: u64, site: &Arc<Site>) {
        self.places.lock().remove_if(edge, |place| std::ptr::eq(place.as_ptr(), Arc::as_ptr(site)));
    }

    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// Waits for its turn with an edge that is not remembered.
    async fn turn(&self, edge: u64, deadline: Instant) -> Result<Turn> {
        self.gates.join(edge).turn(deadline).await
    }

    #[cfg(test)]
    pub(crate) fn places_remembered(&self) -> usize {
        self.places.lock().len()
    }
}

// === impl Client ===

impl Client {
    /// Starts a client of a cluster and waits for the first gateway; with `wait` false it comes in the background.
    pub(crate) async fn start_cluster(options: Options, wait: bool) -> Result<Self, ConnectError> {
        let atlas = AtlasAddress::parse_all(options.atlas.as_deref().unwrap_or_default())?;
        let known =
            options.gateways.iter().map(|text| Address::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let mut shared = Shared::new(options);
        let (hints, hinted) = mpsc::channel(WAITING);
        shared.cluster = Some(Cluster {
            atlas: Atlas::new(atlas, &shared.dialer)?,
            places: Mutex::new(Places::new(PLACES_MAX)),
            gates: Arc::default(),
            hints,
            settled: AtomicBool::new(false),
        });
        let client = Self::new(shared);
        let shared = &client.shared;
        let (news, events) = mpsc::channel(WAITING);
        let (done, first) = oneshot::channel();
        shared.spawn(List::new(shared.clone(), news).run());
        shared.spawn(Members::new(shared.clone(), known, done).run(events, hinted));
        if wait {
            first.await.unwrap_or(Err(ConnectError::Closed))?;
        }
        Ok(client)
    }
}
