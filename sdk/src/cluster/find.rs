//! Where an edge is, and what all gateways say.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};

use frontier_api::cluster::Frontier;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Cluster, Turn};
use crate::{
    address::Address,
    client::Shared,
    error::{Error, ErrorCode, Result},
    op::Op,
    presence::EdgeInfo,
    promise::{Promise, promise},
    site::Site,
    state::State,
};

/// How long atlas may take before the gateways are asked themselves.
const ATLAS_WAIT: Duration = Duration::from_millis(200);

/// How long gateways may take to say whether they have an edge: all of them, and the others when one has said yes.
const LOCATE_WAIT: Duration = Duration::from_millis(500);
const LOCATE_GRACE: Duration = Duration::from_millis(100);

/// How long an operation waits for the gateway of its edge to be connected, before its deadline.
const PLACE_WAIT: Duration = Duration::from_secs(10);

/// The edge is looked up again after so long, should it have moved meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long an edge that nobody knows of is waited for while the cluster is not known yet.
const YOUNG: Duration = Duration::from_secs(2);

/// The way of one operation.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) site: Arc<Site>,
    /// Keeps operations about an edge in order while it is looked up; given back when this one is on its way.
    turn: Option<Turn>,
    /// A gateway said that the edge is not there: that is believed the second time.
    moved: bool,
}

// === impl Route ===

impl Route {
    /// The operation is on its way: others about the same edge may follow.
    pub(crate) fn is_taken(&mut self) {
        self.turn = None;
    }
}

/// What a look-up has found.
enum Found {
    At(Arc<Site>),
    /// At a gateway that has just come.
    Unlisted(Frontier),
    Nowhere,
}

/// Why an edge cannot be turned to now.
struct Obstacle {
    /// How long to hope for the better, from the beginning.
    patience: Duration,
    error: Error,
}

// === impl Obstacle ===

impl Obstacle {
    fn new(patience: Duration, text: String) -> Self {
        Self { patience, error: Error::new(ErrorCode::EdgeNotOnline, text).unsent() }
    }

    /// The gateway of the edge is not connected.
    fn away(edge: u64, gateway: &str, why: &str) -> Self {
        Self::new(PLACE_WAIT, format!("edge {edge} is at {gateway}, which is not connected{why}"))
    }
}

/// What a gateway said.
type Said<T> = (Arc<Site>, Result<T>);

// === impl Shared ===

impl Shared {
    /// The way of an operation to an edge.
    pub(crate) async fn find_way(&self, edge: u64, deadline: Instant) -> Result<Route> {
        let cluster = self.of_cluster()?;
        let waiting = match cluster.gates.pass(edge, || self.known_way(cluster, edge)) {
            Ok(site) => return Ok(Route { site, turn: None, moved: false }),
            Err(waiting) => waiting,
        };
        let turn = waiting.turn(deadline).await?;
        let site = self.find(cluster, edge, None, &turn, deadline).await?;
        Ok(Route { site, turn: Some(turn), moved: false })
    }

    /// Another way for an operation that had no success, if it has surely not been passed on; else its error.
    pub(crate) async fn find_another_way(
        &self,
        route: &mut Route,
        edge: u64,
        error: Error,
        deadline: Instant,
    ) -> Result<()> {
        let cluster = self.of_cluster()?;
        let moved = error.code() == ErrorCode::EdgeNotOnline && !error.is_unsent();
        let again = error.is_unsent() || (moved && !route.moved);
        if !again || self.is_closed() || Instant::now() >= deadline {
            return Err(error);
        }
        cluster.forget(edge, &route.site);
        if moved && cluster.is_settled() && self.sites().len() < 2 {
            return Err(error);
        }
        let turn = cluster.turn(edge, deadline).await?;
        let refused = moved.then_some(&route.site);
        match self.find(cluster, edge, refused, &turn, deadline).await {
            Ok(site) => {
                *route = Route { site, turn: Some(turn), moved: route.moved || moved };
                Ok(())
            }
            // That is what the first gateway said.
            Err(_) if moved => Err(error),
            Err(other) => Err(other),
        }
    }

    fn of_cluster(&self) -> Result<&Cluster> {
        self.cluster.as_ref().ok_or_else(|| self.closed_error())
    }

    /// The way that needs no look-up.
    fn known_way(&self, cluster: &Cluster, edge: u64) -> Option<Arc<Site>> {
        let site = cluster.place_of(edge).or_else(|| self.only_gateway(cluster))?;
        site.state().is_connected().then_some(site)
    }

    /// The gateway of a cluster that has one.
    fn only_gateway(&self, cluster: &Cluster) -> Option<Arc<Site>> {
        let mut sites = self.sites();
        let only = sites.pop()?;
        (sites.is_empty() && cluster.is_settled()).then_some(only)
    }

    /// The gateway of an edge, when it is connected. `refused` is the gateway that said it has not got the edge.
    async fn find(
        &self,
        cluster: &Cluster,
        edge: u64,
        refused: Option<&Arc<Site>>,
        turn: &Turn,
        deadline: Instant,
    ) -> Result<Arc<Site>> {
        let began = Instant::now();
        let mut pulse = self.pulse();
        loop {
            pulse.borrow_and_update();
            let is_other = |site: &Arc<Site>| refused.is_none_or(|refused| !Arc::ptr_eq(refused, site));
            if let Some(site) = self.known_way(cluster, edge).filter(is_other) {
                return Ok(site);
            }
            let sites = self.connected(deadline).await?;
            if let Some(error) = turn.failure() {
                return Err(error);
            }
            let found = self.look_up(cluster, edge, refused, &sites, deadline).await;
            let obstacle = match found {
                Found::At(site) if site.state().is_connected() => {
                    cluster.remember(edge, &site);
                    return Ok(site);
                }
                Found::At(site) => Obstacle::away(edge, &format!("{site}"), &format!(": {}", site.state())),
                Found::Unlisted(gateway) => {
                    let Frontier { frontier_id, advertised_sb_addr, .. } = &gateway;
                    let obstacle =
                        Obstacle::away(edge, &format!("gateway {frontier_id} ({advertised_sb_addr})"), "");
                    let _ = cluster.hints.try_send(gateway);
                    obstacle
                }
                // It was not looked for long enough to say so.
                Found::Nowhere if Instant::now() >= deadline => return Err(Error::deadline().unsent()),
                Found::Nowhere => self.nowhere(cluster, edge, sites.len()),
            };
            let give_up = deadline.min(began + obstacle.patience);
            if Instant::now() < give_up {
                let look_again = give_up.min(Instant::now() + LOOK_AGAIN);
                let changed = timeout_at(look_again, pulse.changed()).await;
                if changed.is_ok() || Instant::now() < give_up {
                    continue;
                }
            }
            // Others may have more time than this one had.
            if Instant::now() < deadline {
                turn.fail(&obstacle.error);
            }
            return Err(obstacle.error);
        }
    }

    /// Nobody has an edge. Believed at once only when the cluster is known.
    fn nowhere(&self, cluster: &Cluster, edge: u64, connected: usize) -> Obstacle {
        let all = self.sites();
        let young = !cluster.is_settled() || all.iter().any(|site| matches!(site.state(), State::Connecting));
        let text =
            format!("edge {edge} was found at none of {connected} connected gateways of {}", all.len());
        Obstacle::new(if young { YOUNG } else { Duration::ZERO }, text)
    }

    /// The gateways that are connected; waits for the first one if there is none.
    async fn connected(&self, deadline: Instant) -> Result<Vec<Arc<Site>>> {
        loop {
            let sites: Vec<_> = self.sites().into_iter().filter(|site| site.state().is_connected()).collect();
            if !sites.is_empty() {
                return Ok(sites);
            }
            match timeout_at(deadline, async { self.watch().until(State::is_connected).await }).await {
                Ok(Some(_)) => {}
                Ok(None) => return Err(self.closed_error()),
                Err(_) => {
                    let text = format!("no gateway of the cluster is connected: {}", self.state());
                    return Err(Error::new(ErrorCode::DeadlineExceeded, text));
                }
            }
        }
    }

    /// Asks atlas, and the gateways if that does not help.
    async fn look_up(
        &self,
        cluster: &Cluster,
        edge: u64,
        refused: Option<&Arc<Site>>,
        sites: &[Arc<Site>],
        deadline: Instant,
    ) -> Found {
        let found = |gateway: Option<Frontier>| match self.site_of(gateway?)? {
            // What atlas knows is older than what the gateway says itself.
            Found::At(site) if refused.is_some_and(|refused| Arc::ptr_eq(refused, &site)) => None,
            found => Some(found),
        };
        let mut asked = std::pin::pin!(cluster.atlas.frontier_of(edge));
        let quick = timeout_at(deadline.min(Instant::now() + ATLAS_WAIT), &mut asked).await;
        let waits = quick.is_err();
        if let Ok(Ok(gateway)) = quick
            && let Some(found) = found(gateway)
        {
            return found;
        }
        let op = |promise| Op::Locate { edge, promise };
        let until = deadline.min(Instant::now() + LOCATE_WAIT);
        let said = ask(sites, op, edge, until, |epoch| *epoch != 0).await;
        let here = said
            .into_iter()
            .filter_map(|(site, epoch)| Some((site, epoch.ok().filter(|epoch| *epoch != 0)?)));
        if let Some((site, _)) = here.max_by_key(|(_, epoch)| *epoch) {
            return Found::At(site);
        }
        let late = if waits { timeout_at(deadline, asked).await.ok() } else { None };
        late.and_then(|answer| found(answer.ok()?)).unwrap_or(Found::Nowhere)
    }

    /// The site of a gateway that atlas has named.
    fn site_of(&self, gateway: Frontier) -> Option<Found> {
        let addr = Address::parse(&gateway.advertised_sb_addr).ok()?.to_string();
        let site = self.sites().into_iter().find(|site| site.addr() == addr);
        Some(site.map_or(Found::Unlisted(gateway), Found::At))
    }

    /// Who is online at any gateway that is connected; an edge that is at two of them counts where it came last.
    pub(crate) async fn presence_everywhere(&self, deadline: Instant) -> Result<Vec<EdgeInfo>> {
        let sites = self.connected(deadline).await?;
        let said = ask(&sites, |promise| Op::Presence { promise }, 0, deadline, |_| false).await;
        let mut edges = std::collections::BTreeMap::<_, EdgeInfo>::new();
        for list in answers(&sites, said)? {
            for edge in list {
                let known = edges.entry(edge.id()).or_insert_with(|| edge.clone());
                if known.epoch() < edge.epoch() {
                    *known = edge;
                }
            }
        }
        Ok(edges.into_values().collect())
    }

    /// The epoch of an edge at the gateways that are connected, 0 if it is at none of them.
    pub(crate) async fn locate_everywhere(&self, edge: u64, deadline: Instant) -> Result<u64> {
        let sites = self.connected(deadline).await?;
        let op = |promise| Op::Locate { edge, promise };
        let said = ask(&sites, op, edge, deadline, |epoch| *epoch != 0).await;
        let best = said.iter().filter_map(|(_, epoch)| epoch.as_ref().ok()).max().copied().unwrap_or(0);
        if best == 0 { answers(&sites, said).map(|_| 0) } else { Ok(best) }
    }
}

/// Asks all these gateways at once. Ends when all have answered, when time is up, or soon after one has said what is `enough`.
async fn ask<T: Send>(
    sites: &[Arc<Site>],
    op: impl Fn(Promise<T>) -> Op,
    key: u64,
    until: Instant,
    enough: impl Fn(&T) -> bool,
) -> Vec<Said<T>> {
    let mut asked: Vec<Pin<Box<dyn Future<Output = Said<T>> + Send + '_>>> = Vec::with_capacity(sites.len());
    for site in sites {
        let (promise, answer) = promise();
        let op = op(promise);
        asked.push(Box::pin(async move {
            let outcome = match site.submit(op, key, until).await {
                Ok(()) => answer.await,
                Err(error) => Err(error),
            };
            (site.clone(), outcome)
        }));
    }
    let mut said = Vec::with_capacity(sites.len());
    let mut time = std::pin::pin!(sleep_until(until));
    let mut soon = false;
    poll_fn(|cx| {
        asked.retain_mut(|answer| match answer.as_mut().poll(cx) {
            Poll::Ready(outcome) => {
                if outcome.1.as_ref().is_ok_and(&enough) && !soon {
                    soon = true;
                    time.as_mut().reset(until.min(Instant::now() + LOCATE_GRACE));
                }
                said.push(outcome);
                false
            }
            Poll::Pending => true,
        });
        if asked.is_empty() { Poll::Ready(()) } else { time.as_mut().poll(cx) }
    })
    .await;
    said
}

/// What the gateways said that are still there; an error if one of those has not answered.
fn answers<T>(sites: &[Arc<Site>], said: Vec<Said<T>>) -> Result<Vec<T>> {
    if said.len() < sites.len() {
        return Err(Error::deadline());
    }
    let mut answers = Vec::with_capacity(said.len());
    for (_, outcome) in said {
        match outcome {
            Ok(answer) => answers.push(answer),
            // The gateway is gone, and with it who was there.
            Err(error) if error.code() == ErrorCode::SessionClosed => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answers)
}
