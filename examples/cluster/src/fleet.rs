//! The service and the edges, and what becomes of their calls.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use frontier::{Edge, EdgeId, Reconnect, Request, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::out::say;
use crate::process::Cluster;

/// Between two calls of an edge, and of the service to an edge.
const PAUSE: Duration = Duration::from_millis(20);
/// For one call.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everybody; ends with this value.
pub(crate) struct Fleet {
    service: Service,
    /// `host:port` of atlas for clients.
    atlas: String,
    edges: Vec<Member>,
    counters: Arc<Counters>,
    _tasks: JoinSet<()>,
}

struct Member {
    edge: Edge,
    /// The gateway it was at first.
    first: &'static str,
}

#[derive(Default)]
struct Counters {
    up: AtomicU64,
    down: AtomicU64,
    failed: AtomicU64,
    /// Calls of and to edges whose gateway nobody killed, and those of them that failed.
    calm: AtomicU64,
    calm_failed: AtomicU64,
}

// === impl Fleet ===

impl Fleet {
    /// A service in the cluster, and so many edges at each gateway.
    pub(crate) async fn start(cluster: &Cluster, edges: usize) -> anyhow::Result<Self> {
        let service = Service::cluster(cluster.atlas_address())
            .name("cluster-show")
            .method("sum", |request: Request| async move { Ok(sum(request.body())) })
            .connect()
            .await
            .context("the service does not connect")?;
        let both = async {
            while service.gateways().iter().filter(|gateway| gateway.state().is_connected()).count() < 2 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, both).await.context("the service is not at both gateways")?;
        let mut members = Vec::new();
        let [(one, one_edges, _), (two, two_edges, _)] = cluster.gateways();
        for number in 0..edges {
            for (first, addresses) in [(one, [&one_edges, &two_edges]), (two, [&two_edges, &one_edges])] {
                let edge = Edge::builder(addresses.map(String::as_str))
                    .meta(format!("edge {number} of {first}"))
                    .method("echo", |request: Request| async move { Ok(request.into_body()) })
                    // A fleet of ten need not be patient.
                    .reconnect(Reconnect::default().cap(Duration::from_secs(1)))
                    .connect()
                    .await
                    .with_context(|| format!("edge {number} does not connect to gateway {first}"))?;
                members.push(Member { edge, first });
            }
        }
        let (counters, mut tasks) = (Arc::<Counters>::default(), JoinSet::new());
        for member in &members {
            let calm = member.first == one;
            tasks.spawn(call_up(member.edge.clone(), Arc::clone(&counters), calm));
            tasks.spawn(call_down(service.clone(), member.edge.id(), Arc::clone(&counters), calm));
        }
        let atlas = cluster.atlas_address().trim_start_matches("http://").to_owned();
        let fleet = Self { service, atlas, edges: members, counters, _tasks: tasks };
        let known = async {
            while fleet.at(one).await? < edges || fleet.at(two).await? < edges {
                sleep(Duration::from_millis(10)).await;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, known).await.context("atlas does not know all edges")??;
        Ok(fleet)
    }

    /// Calls up, calls down, failures.
    pub(crate) fn numbers(&self) -> [u64; 3] {
        [&self.counters.up, &self.counters.down, &self.counters.failed]
            .map(|count| count.load(Ordering::Relaxed))
    }

    /// Edges that have a connection.
    pub(crate) fn connected(&self) -> usize {
        self.edges.iter().filter(|member| member.edge.state().is_connected()).count()
    }

    /// Edges that are at a gateway, as atlas tells everybody who asks.
    pub(crate) async fn at(&self, gateway: &str) -> anyhow::Result<usize> {
        let mut socket = TcpStream::connect(&self.atlas).await.context("atlas")?;
        let ask =
            format!("GET /cluster/v1/edges HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.atlas);
        socket.write_all(ask.as_bytes()).await?;
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.context("atlas does not answer")??;
        Ok(answer.matches(&format!("\"frontierId\":\"{gateway}\"")).count())
    }

    /// Waits until every edge answers the service; says when that was.
    pub(crate) async fn all_answer(&self, within: Duration) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + within;
        for member in &self.edges {
            let id = member.edge.id();
            while self.service.call(id, "echo", "there?").await.is_err() {
                ensure!(Instant::now() < deadline, "edge {id} is not reached");
                sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(Instant::now())
    }

    /// Calls of and to edges whose gateway lived all along.
    pub(crate) fn calm_calls(&self) -> u64 {
        self.counters.calm.load(Ordering::Relaxed)
    }

    /// Whether everything that had to go well did, and something was done at all.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let failed = self.counters.calm_failed.load(Ordering::Relaxed);
        ensure!(failed == 0, "{failed} calls failed of edges whose gateway was not killed");
        ensure!(
            self.calm_calls() > 0 && self.numbers()[0] > 0 && self.numbers()[1] > 0,
            "there were no calls"
        );
        let ids: BTreeSet<u64> = self.edges.iter().map(|member| member.edge.id().get()).collect();
        ensure!(ids.len() == self.edges.len(), "two edges have one ID");
        Ok(())
    }
}

// === impl Counters ===

impl Counters {
    fn count(&self, direction: &AtomicU64, calm: bool, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => direction.fetch_add(1, Ordering::Relaxed),
            Err(why) => {
                if calm {
                    say(format!("  wrong: {why}"));
                    self.calm_failed.fetch_add(1, Ordering::Relaxed);
                }
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
        if calm {
            self.calm.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An edge calls the service, again and again.
async fn call_up(edge: Edge, counters: Arc<Counters>, calm: bool) {
    for number in 0_u64.. {
        let outcome = match edge.call("sum", format!("{number} 1")).timeout(PATIENCE).await {
            Ok(reply) if reply.body() == (number + 1).to_string().as_bytes() => Ok(()),
            Ok(reply) => Err(format!("the sum of {number} and 1 is {:?}", reply.body())),
            Err(error) => Err(format!("edge {} calls: {error}", edge.id())),
        };
        counters.count(&counters.up, calm, outcome);
        sleep(PAUSE).await;
    }
}

/// The service calls an edge, wherever it is.
async fn call_down(service: Service, edge: EdgeId, counters: Arc<Counters>, calm: bool) {
    for number in 0_u64.. {
        let text = format!("ping {number}");
        let outcome = match service.call(edge, "echo", text.clone()).timeout(PATIENCE).await {
            Ok(reply) if reply.body() == text.as_bytes() => Ok(()),
            Ok(reply) => Err(format!("the echo of {text} is {:?}", reply.body())),
            Err(error) => Err(format!("edge {edge} is called: {error}")),
        };
        counters.count(&counters.down, calm, outcome);
        sleep(PAUSE).await;
    }
}

fn sum(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.split(' ').filter_map(|word| word.parse::<u64>().ok()).sum::<u64>().to_string()
}
