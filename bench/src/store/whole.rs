//! A whole `frontlas` on that Redis, as gateways and services use it: links, renewals and look-ups by gRPC.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use frontier_api::bucket::{EDGE_BUCKETS, SERVICE_BUCKETS, edge_bucket};
use frontier_api::cluster::{GetFrontierByEdgeIdRequest, cluster_service_client::ClusterServiceClient};
use frontier_api::registry::{
    Buckets, Changes, Edge, FromGateway, Hello, RenewRequest, ToGateway, from_gateway::Kind,
    registry_client::RegistryClient, to_gateway,
};
use futures::future::try_join_all;
use futures::stream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{interval, sleep};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::server::Server;
use super::{Row, Tally, command, gateway, instance, scatter};
use crate::proc::Snapshot;

/// Between its start and its first answer.
const START: Duration = Duration::from_secs(10);
/// Edges of the gateway whose snapshot is measured.
const SNAPSHOT: u64 = 100_000;
/// Entries of a message, and messages without an Ack.
const ENTRIES: usize = 1_000;
const WINDOW: u64 = 4;
/// Connections of those who ask.
const CHANNELS: u64 = 4;

/// A `frontlas` of one run; ends with this value.
pub(super) struct Atlas {
    child: Child,
    api: SocketAddr,
    links: SocketAddr,
    _dir: tempfile::TempDir,
}

/// A gateway's link.
struct Link {
    number: u64,
    /// It has the edges from here on, so many.
    edges: (u64, u64),
    stream: u32,
    seq: u64,
    acked: u64,
    epoch: u64,
    to: mpsc::Sender<FromGateway>,
    from: Streaming<ToGateway>,
    renew: RegistryClient<Channel>,
}

// === impl Atlas ===

impl Atlas {
    pub(super) fn start(binary: &Path, redis: &Server) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let free =
            || -> Result<SocketAddr> { Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?) };
        let (api, links) = (free()?, free()?);
        let file = dir.path().join("frontlas.yaml");
        fs::write(
            &file,
            format!(
                "control_plane: {{listen: {{addr: '{api}'}}}}\nfrontier_plane: {{listen: {{addr: '{links}'}}}}\n\
                 observability: {{addr: '127.0.0.1:0'}}\nredis: {{mode: standalone, standalone: {{addr: '127.0.0.1:{}'}}}}\n",
                redis.port()
            ),
        )?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("{} cannot be started", binary.display()))?;
        let mut atlas = Self { child, api, links, _dir: dir };
        let deadline = Instant::now() + START;
        while [api, links].iter().any(|addr| TcpStream::connect(addr).is_err()) {
            if Instant::now() > deadline || atlas.child.try_wait()?.is_some() {
                bail!("{} did not come up", binary.display());
            }
            std::thread::yield_now();
        }
        Ok(atlas)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    async fn channel(addr: SocketAddr) -> Result<Channel> {
        Ok(Endpoint::from_shared(format!("http://{addr}"))?.connect().await?)
    }
}

impl Drop for Atlas {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

// === impl Link ===

impl Link {
    async fn attach(atlas: &Atlas, number: u64, edges: (u64, u64)) -> Result<Self> {
        let gateway = gateway(number);
        let (to, told) = mpsc::channel(8);
        let hello = Hello {
            version: 1,
            instance: gateway.instance.0.to_vec(),
            frontier_id: gateway.frontier_id,
            service_addr: gateway.service_addr,
            edge_addr: gateway.edge_addr,
            attached: false,
        };
        to.send(FromGateway { kind: Some(Kind::Hello(hello)) }).await?;
        let told = stream::unfold(told, |mut told| async { Some((told.recv().await?, told)) });
        let mut client = RegistryClient::new(Atlas::channel(atlas.links).await?);
        let mut from = client.attach(told).await?.into_inner();
        let first = from.message().await?.and_then(|message| message.kind);
        let Some(to_gateway::Kind::Welcome(welcome)) = first else { bail!("no Welcome: {first:?}") };
        let renew = RegistryClient::new(Atlas::channel(atlas.links).await?);
        let (stream, epoch) = (welcome.stream, welcome.time_ms << 20);
        Ok(Self { number, edges, stream, seq: 0, acked: 0, epoch, to, from, renew })
    }

    fn edge(id: u64, epoch: u64, online: bool) -> Edge {
        let [.., a, b, c, d] = id.to_be_bytes();
        Edge { id, epoch, addr: if online { vec![10, b, c, d, 4, a] } else { Vec::new() } }
    }

    async fn say(&mut self, mut kind: Kind) -> Result<()> {
        self.acknowledged(self.seq.saturating_sub(WINDOW - 1)).await?;
        self.seq += 1;
        match &mut kind {
            Kind::Buckets(buckets) => buckets.seq = self.seq,
            Kind::Changes(changes) => changes.seq = self.seq,
            Kind::Hello(_) => {}
        }
        if self.to.send(FromGateway { kind: Some(kind) }).await.is_err() {
            // What is heard says why.
            return self.acknowledged(self.seq).await;
        }
        Ok(())
    }

    /// Until the message with this number is in the store.
    async fn acknowledged(&mut self, seq: u64) -> Result<()> {
        while self.acked < seq {
            match self.from.message().await?.and_then(|message| message.kind) {
                Some(to_gateway::Kind::Ack(ack)) => self.acked = ack.seq,
                Some(to_gateway::Kind::Resync(resync)) if resync.edge_buckets.is_empty() => {}
                other => bail!("gateway {} was told {other:?}", self.number),
            }
        }
        Ok(())
    }

    /// Everything it has, as a gateway tells it that has just started.
    async fn snapshot(&mut self) -> Result<()> {
        let mut buckets: BTreeMap<u16, Vec<Edge>> = (0..EDGE_BUCKETS).map(|at| (at, Vec::new())).collect();
        for id in self.edges.0..self.edges.0 + self.edges.1 {
            buckets.entry(edge_bucket(id)).or_default().push(Self::edge(id, self.epoch, true));
        }
        let services = (0..SERVICE_BUCKETS).map(u32::from).collect();
        self.say(Kind::Buckets(Buckets { service_buckets: services, ..Buckets::default() })).await?;
        let mut message = Buckets::default();
        for (bucket, edges) in buckets {
            message.edge_buckets.push(u32::from(bucket));
            message.edges.extend(edges);
            if message.edges.len() >= ENTRIES {
                self.say(Kind::Buckets(std::mem::take(&mut message))).await?;
            }
        }
        self.say(Kind::Buckets(message)).await?;
        self.acknowledged(self.seq).await
    }

    /// Edges go and come back, so many changes.
    async fn change(&mut self, from: u64, changes: u64) -> Result<()> {
        self.epoch += 1;
        let (first, many) = self.edges;
        let ids = (0..changes / 2).map(|at| first + (from + at) % many);
        for online in [false, true] {
            let edges = ids.clone().map(|id| Self::edge(id, self.epoch, online)).collect();
            self.say(Kind::Changes(Changes { edges, ..Changes::default() })).await?;
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<()> {
        let request = RenewRequest {
            instance: instance(self.number).0.to_vec(),
            stream: self.stream,
            edges: self.edges.1,
            seq: self.seq,
            ..RenewRequest::default()
        };
        ensure!(self.renew.renew(request).await?.into_inner().known, "gateway {} is not known", self.number);
        Ok(())
    }
}

impl super::Bench<'_> {
    /// The same with everything around the store.
    pub(super) async fn whole(&self, binary: &Path) -> Result<Vec<Row>> {
        self.server.command("FLUSHALL")?;
        let atlas = Atlas::start(binary, self.server)?;
        let mut rows = Vec::new();
        let first = SNAPSHOT.min(self.args.edges);
        let begin = Instant::now();
        // It listens before it has reached Redis.
        let mut link = loop {
            match Link::attach(&atlas, 0, (1, first)).await {
                Ok(link) => break link,
                Err(error) if begin.elapsed() > START => return Err(error),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        };
        let begin = Instant::now();
        link.snapshot().await?;
        let took = begin.elapsed().as_secs_f64();
        let met = took * SNAPSHOT as f64 <= 2.0 * first as f64;
        rows.push(
            Row::new(
                "`frontlas`: snapshot of 100,000 edges of one gateway",
                format!("{took:.2} s for {first}"),
            )
            .bound("≤ 2 s", met),
        );
        let mut links = vec![link];
        // Leases last four seconds.
        let others = self.args.gateways.saturating_sub(1).max(1);
        let each = (self.args.edges.saturating_sub(first) / others).max(1);
        let begin = Instant::now();
        for number in 1..=others {
            let mut link = Link::attach(&atlas, number, (1 + first + (number - 1) * each, each)).await?;
            link.snapshot().await?;
            links.push(link);
            try_join_all(links.iter_mut().map(Link::renew)).await?;
        }
        let rate = (others * each) as f64 / begin.elapsed().as_secs_f64();
        rows.push(Row::new(
            "`frontlas`: edges of all other gateways, one snapshot after the other",
            format!("{rate:.0} /s"),
        ));
        let links = Mutex::new(links);
        rows.extend(self.with_leases(&links, self.whole_look_up(&atlas, first + others * each)).await?);
        rows.extend(self.whole_renew(&atlas, &links).await?);
        rows.extend(self.whole_churn(&atlas, &links).await?);
        Ok(rows)
    }

    /// Renews all leases meanwhile.
    async fn with_leases<T>(
        &self,
        links: &Mutex<Vec<Link>>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let renewing = async {
            let mut ticks = interval(Duration::from_secs(1));
            loop {
                ticks.tick().await;
                try_join_all(links.lock().await.iter_mut().map(Link::renew)).await?;
            }
        };
        tokio::select! {
            done = work => done,
            ended = renewing => {
                let ended: Result<()> = ended;
                ended?;
                bail!("nobody renews any more")
            }
        }
    }

    /// What a service asks: the gateway of an edge.
    async fn whole_look_up(&self, atlas: &Atlas, edges: u64) -> Result<Vec<Row>> {
        let mut channels = Vec::new();
        for _ in 0..CHANNELS {
            channels.push(ClusterServiceClient::new(Atlas::channel(atlas.api).await?));
        }
        let (mut look_ups, mut gets) = (Tally::new()?, Tally::new()?);
        let mut used = 0;
        for _ in 0..super::TURNS {
            let before = Snapshot::take(&[atlas.pid()])?;
            self.turn(&mut look_ups, async |number| {
                let edge_id = scatter(number) % edges + 1;
                let at = usize::try_from((number >> 32) % CHANNELS)?;
                let mut client = channels.get(at).context("a connection")?.clone();
                client.get_frontier_by_edge(GetFrontierByEdgeIdRequest { edge_id }).await?;
                Ok(())
            })
            .await?;
            used += before.until(&Snapshot::take(&[atlas.pid()])?).servers;
            self.turn(&mut gets, async |number| {
                let args: Vec<fred::prelude::Value> =
                    vec![super::bare_key(scatter(number) % super::KEYS).into()];
                let _: fred::prelude::Value =
                    fred::prelude::ClientLike::custom(&self.client, command("GET"), args).await?;
                Ok(())
            })
            .await?;
        }
        let each = used as f64 / look_ups.count.max(1) as f64 / 1_000.0;
        let (look_ups, gets) = (look_ups.rate(), gets.rate());
        let speed = look_ups.per_second / gets.per_second;
        Ok(vec![
            Row::new(
                "`frontlas`: GetFrontierByEdge by gRPC",
                format!(
                    "{:.0} /s, p50 {:.0} µs, p99 {:.0} µs; {each:.1} µs of its CPU each",
                    look_ups.per_second, look_ups.latency.p50, look_ups.latency.p99
                ),
            ),
            Row::new(
                "bare `GET` beside it, without gRPC",
                format!(
                    "{:.0} /s, p50 {:.0} µs, p99 {:.0} µs",
                    gets.per_second, gets.latency.p50, gets.latency.p99
                ),
            ),
            Row::new("the former per the latter", format!("{speed:.2}")),
        ])
    }

    async fn whole_renew(&self, atlas: &Atlas, links: &Mutex<Vec<Link>>) -> Result<Vec<Row>> {
        let mut links = links.lock().await;
        // What else is to be done after all that was told has time to be done.
        let mut shares = Vec::new();
        for _ in 0..2 {
            let before = [Snapshot::take(&[self.server.pid()])?, Snapshot::take(&[atlas.pid()])?];
            let begin = Instant::now();
            let mut ticks = interval(Duration::from_secs(1) / u32::try_from(links.len())?);
            let mut next = 0;
            while begin.elapsed() < Duration::from_secs(u64::from(self.args.seconds)) {
                ticks.tick().await;
                let at = next % links.len();
                if let Some(link) = links.get_mut(at) {
                    link.renew().await?;
                }
                next += 1;
            }
            let time = begin.elapsed().as_nanos() as f64 / 100.0;
            let used = |at: usize, pid| -> Result<f64> {
                let before = before.get(at).context("a snapshot")?;
                Ok(before.until(&Snapshot::take(&[pid])?).servers as f64 / time)
            };
            shares.push((used(0, self.server.pid())?, used(1, atlas.pid())?));
        }
        let (redis, own) = shares.last().copied().unwrap_or_default();
        let row = |what, share: f64| {
            Row::new(what, format!("{share:.2} % of a core")).bound("< 1 % of a core", share < 1.0)
        };
        Ok(vec![
            row("CPU of `frontlas` while gateways renew by gRPC and nothing else happens", own),
            row("CPU of Redis meanwhile", redis),
        ])
    }

    async fn whole_churn(&self, atlas: &Atlas, links: &Mutex<Vec<Link>>) -> Result<Vec<Row>> {
        let mut links = links.lock().await;
        self.server.command("CONFIG RESETSTAT")?;
        let before = [Snapshot::take(&[self.server.pid()])?, Snapshot::take(&[atlas.pid()])?];
        let begin = Instant::now();
        let end = begin + Duration::from_secs(u64::from(self.args.seconds));
        let (count, batch) = (links.len() as f64, self.args.batch / 2 * 2);
        let every = Duration::from_secs_f64(batch as f64 * count / self.args.churn as f64);
        let gateway = async |link: &mut Link| {
            let mut ticks = interval(every);
            let mut renewed = Instant::now();
            let mut changes = 0;
            while Instant::now() < end {
                ticks.tick().await;
                link.change(changes, batch).await?;
                changes += batch;
                if renewed.elapsed() >= Duration::from_secs(1) {
                    renewed = Instant::now();
                    link.renew().await?;
                }
            }
            link.acknowledged(link.seq).await?;
            anyhow::Ok(changes)
        };
        let changes: u64 = try_join_all(links.iter_mut().map(gateway)).await?.into_iter().sum();
        let time = begin.elapsed();
        let share = |at: usize, pid| -> Result<String> {
            let used = before.get(at).context("a snapshot")?.until(&Snapshot::take(&[pid])?).servers;
            Ok(format!("{:.1} % of a core", used as f64 / time.as_nanos() as f64 * 100.0))
        };
        let (redis, own) = (share(0, self.server.pid())?, share(1, atlas.pid())?);
        let commands = self.server.commands()?;
        let sent = commands.iter().filter(|(name, _)| !super::INNER.contains(&name.as_str()));
        let sent: u64 = sent.map(|(_, calls)| calls).sum();
        let (rate, per_change) = (changes as f64 / time.as_secs_f64(), sent as f64 / changes as f64);
        let wanted = self.args.churn as f64;
        Ok(vec![
            Row::new("`frontlas`: changes of edges by gRPC, all acknowledged", format!("{rate:.0} /s"))
                .bound(&format!("{wanted:.0} /s"), rate >= wanted * 0.95),
            Row::new("commands sent to Redis per change, renewals included", format!("{per_change:.3}"))
                .bound("≤ 1", per_change <= 1.0),
            Row::new("CPU of `frontlas` meanwhile", own),
            Row::new("CPU of Redis meanwhile", redis),
        ])
    }
}
