//! What atlas counts, under the names by which it is scraped: `frontlas_…`, described in `docs/frontlas.md`.

mod requests;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use frontier_ops::{
    metrics::{Family, Latency},
    serve::OperatorPort,
    tls::reload::{self, CertStore},
};

pub use self::requests::Requests;
use crate::{
    golink::GoLinks,
    links::Links,
    store::{
        Roster, Store,
        measured::{Operation, StoreStats},
        redis::Connections,
    },
};

/// Sums over the gateways, as they were when the store was last asked.
#[derive(Debug, Default)]
pub struct Sums {
    members: AtomicU64,
    edges: AtomicU64,
    services: AtomicU64,
}

/// What ports count.
#[derive(Debug, Default)]
pub struct Seen {
    /// Each of them.
    pub ports: Vec<Arc<OperatorPort>>,
    /// Requests, by the name of the port.
    pub requests: Vec<(&'static str, Arc<Requests>)>,
    /// Of ports that speak TLS.
    pub certificates: Vec<Arc<CertStore>>,
}

// === impl Seen ===

impl Seen {
    /// All of it.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let ports =
            Family::counter("frontlas_connections", "Connections that have ended, by port and by how");
        let help = "Requests by method and by how their answers began";
        let requests = Family::counter("frontlas_requests", help);
        let times = Family::histogram("frontlas_request_duration", "Time until an answer begins");
        let [requests, times] = self
            .requests
            .iter()
            .fold([requests, times], |families, (port, requests)| requests.rows(port, families));
        let mut families =
            vec![self.ports.iter().fold(ports, |family, port| port.rows(family)), requests, times];
        if !self.certificates.is_empty() {
            let help = "Changed certificate files by what became of them";
            let family = Family::counter("frontlas_certificate_reloads", help);
            families.push(reload::rows(family, &self.certificates));
        }
        families
    }
}

// === impl Sums ===

impl Sums {
    /// Takes what the store holds now; gateways without a lease do not count.
    pub fn take(&self, roster: &Roster) {
        let living = || roster.members.keys().filter_map(|instance| roster.living(*instance));
        self.members.store(living().count() as u64, Ordering::Relaxed);
        let sum = |field: fn(&crate::store::Member) -> u64| living().map(field).fold(0, u64::saturating_add);
        self.edges.store(sum(|member| member.edges), Ordering::Relaxed);
        self.services.store(sum(|member| member.services), Ordering::Relaxed);
    }
}

/// All but what ports, requests and the store count themselves.
#[must_use]
pub fn families<S: Store>(sums: &Sums, links: &Links<S>, watchers: usize) -> Vec<Family> {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = links.counts();
    let gauges = [
        (
            "frontlas_members",
            "Gateways with a lease, whichever atlas they are attached to",
            count(&sums.members),
        ),
        ("frontlas_edges", "Edges that these gateways hold", count(&sums.edges)),
        ("frontlas_services", "Instances of services that these gateways hold", count(&sums.services)),
        ("frontlas_links", "Gateways attached to this atlas", links.len() as u64),
        ("frontlas_watchers", "Clients that watch at this atlas", watchers as u64),
        (
            "frontlas_dirty_buckets",
            "Buckets that wait to be compared with what gateways told",
            links.dirty() as u64,
        ),
    ];
    let counters = [
        ("frontlas_link_messages", "Messages of gateways that are in the store", &counts.messages),
        ("frontlas_link_edges", "Edges written to the store or removed from it", &counts.edges),
        ("frontlas_cuts", "Sessions told to end because another gateway has a newer one", &counts.cuts),
        ("frontlas_resyncs", "Buckets that gateways were asked for again", &counts.resyncs),
        (
            "frontlas_refused_epochs",
            "Entries not taken because their epoch lies in the future",
            &counts.refused,
        ),
        ("frontlas_duplicate_names", "Gateways that came with the name of another one", &counts.duplicates),
        ("frontlas_buried", "Records removed that belonged to no living gateway", &counts.buried),
        ("frontlas_store_retries", "Writes to the store that were tried again", &counts.retries),
    ];
    let gauges = gauges.into_iter().map(|(name, help, value)| Family::gauge(name, help).row(&[], value));
    let counters =
        counters.into_iter().map(|(name, help, value)| Family::counter(name, help).row(&[], count(value)));
    gauges.chain(counters).collect()
}

/// What comes from gateways of the Go system.
#[must_use]
pub fn go_gateways<S: Store>(go: &GoLinks<S>) -> Vec<Family> {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = go.counts();
    vec![
        Family::gauge("frontlas_go_gateways", "Go gateways connected to this atlas")
            .row(&[], go.len() as u64),
        Family::gauge("frontlas_go_entries", "Edges and services that these have")
            .row(&[], go.entries() as u64),
        Family::counter("frontlas_go_calls", "Calls of Go gateways").row(&[], count(&counts.calls)),
        Family::counter("frontlas_go_calls_failed", "Calls of Go gateways that were answered with an error")
            .row(&[], count(&counts.failed)),
        Family::counter(
            "frontlas_go_gateways_refused",
            "Connections of Go gateways that were refused, or ended otherwise than they should",
        )
        .row(&[], count(&counts.refused)),
    ]
}

/// What became of the operations of the store; those that nobody has asked for are left out.
#[must_use]
pub fn store(stats: &StoreStats) -> Vec<Family> {
    let help = "Operations of the store that have not come to an end";
    let in_flight = Family::gauge("frontlas_store_in_flight", help).row(&[], stats.in_flight());
    let mut times = Family::histogram("frontlas_store_duration", "Time that an operation of the store took");
    let mut errors = Family::counter("frontlas_store_errors", "Operations of the store that failed");
    for operation in Operation::ALL {
        let name = ("operation", operation.name());
        let taken = stats.times(operation);
        let latency = Latency::of_powers_of_two(&taken.counts, taken.sum_micros);
        if latency.count() > 0 {
            times = times.times_of(&[name], latency);
        }
        for (kind, count) in stats.errors(operation).filter(|(_, count)| *count > 0) {
            errors = errors.row(&[name, ("kind", kind)], count);
        }
    }
    vec![in_flight, times, errors]
}

/// What became of connections to Redis.
#[must_use]
pub fn connections(connections: Connections) -> Vec<Family> {
    let Connections { opened, lost, failed, redirected } = connections;
    let family = Family::counter(
        "frontlas_redis_connections",
        "Connections to servers of Redis, by what became of them",
    );
    let rows = [("opened", opened), ("lost", lost), ("failed", failed)];
    let help = "Commands that a Redis Cluster sent on to another server";
    vec![
        rows.into_iter().fold(family, |family, (outcome, count)| family.row(&[("outcome", outcome)], count)),
        Family::counter("frontlas_redis_redirects", help).row(&[], redirected),
    ]
}

#[cfg(test)]
mod tests;
