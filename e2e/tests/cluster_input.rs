//! Atlas and what nobody should send it: other protocols, gateways that lie, clients that do not read, questions without sense, and a Redis
//! that does not do what it is asked. Every time: a clear answer, the others unharmed, nothing that grows, and a log that one can read.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use frontier_api::{
    bucket::{EDGE_BUCKETS, SERVICE_BUCKETS, edge_bucket},
    cluster::{
        GetEdgeByIdRequest, WatchRequest, cluster_service_client::ClusterServiceClient, watch_response,
    },
    registry::{
        Buckets, Changes, Digest, Edge, FromGateway, Hello, RenewRequest, RenewResponse, ToGateway, Welcome,
        from_gateway, registry_client::RegistryClient, to_gateway,
    },
};
use frontier_e2e::{
    frontlas::{Config, Frontlas},
    http,
    redis::Redis,
    wait::{SOON, until},
};
use futures::StreamExt as _;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};

/// What a process may grow by under something that must not make it grow: pools and buffers of its libraries.
const GROWTH: u64 = 48 << 20;

/// A gateway that says what the test wants.
struct Liar {
    to: mpsc::Sender<FromGateway>,
    from: Streaming<ToGateway>,
    client: RegistryClient<Channel>,
    welcome: Welcome,
    instance: Vec<u8>,
    seq: u64,
}

// === impl Liar ===

impl Liar {
    async fn attach(atlas: &Frontlas, instance: u8) -> anyhow::Result<Self> {
        let hello = hello(instance);
        let (to, mut from, client) = open(atlas, from_gateway::Kind::Hello(hello)).await??;
        let Some(to_gateway::Kind::Welcome(welcome)) = next(&mut from).await? else { bail!("no Welcome") };
        Ok(Self { to, from, client, welcome, instance: vec![instance; 16], seq: 0 })
    }

    /// Says something and waits until it is in the store; gives what else was said meanwhile.
    async fn say(
        &mut self,
        kind: impl FnOnce(u64) -> from_gateway::Kind,
    ) -> anyhow::Result<Vec<to_gateway::Kind>> {
        self.seq += 1;
        self.to.send(FromGateway { kind: Some(kind(self.seq)) }).await?;
        let mut others = Vec::new();
        loop {
            match next(&mut self.from).await?.context("the link has ended")? {
                to_gateway::Kind::Ack(ack) if ack.seq == self.seq => return Ok(others),
                other => others.push(other),
            }
        }
    }

    /// All it has, in all buckets.
    async fn say_all(&mut self, edges: Vec<Edge>) -> anyhow::Result<()> {
        let buckets = |seq| {
            let edge_buckets = (0..u32::from(EDGE_BUCKETS)).collect();
            let service_buckets = (0..u32::from(SERVICE_BUCKETS)).collect();
            from_gateway::Kind::Buckets(Buckets {
                seq,
                edge_buckets,
                service_buckets,
                edges,
                services: Vec::new(),
            })
        };
        self.say(buckets).await.map(drop)
    }

    async fn change(&mut self, edges: Vec<Edge>) -> anyhow::Result<Vec<to_gateway::Kind>> {
        self.say(|seq| from_gateway::Kind::Changes(Changes { seq, edges, services: Vec::new() })).await
    }

    async fn renew(&mut self, edges: u64, edge_digests: Vec<Digest>) -> anyhow::Result<RenewResponse> {
        let request = RenewRequest {
            instance: self.instance.clone(),
            stream: self.welcome.stream,
            edges,
            services: edges,
            edge_digests,
            service_digests: Vec::new(),
            seq: self.seq,
        };
        Ok(self.client.renew(request).await?.into_inner())
    }

    /// An epoch of so many milliseconds from now.
    fn epoch(&self, from_now: i64) -> u64 {
        self.welcome.time_ms.saturating_add_signed(from_now) << 20
    }
}

type Opened = (mpsc::Sender<FromGateway>, Streaming<ToGateway>, RegistryClient<Channel>);

async fn channel(addr: SocketAddr) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{addr}"))?.connect().await?)
}

async fn open(atlas: &Frontlas, first: from_gateway::Kind) -> anyhow::Result<Result<Opened, Status>> {
    let mut client = RegistryClient::new(channel(atlas.gateways()).await?);
    let (to, said) = mpsc::channel(8);
    to.send(FromGateway { kind: Some(first) }).await?;
    let opened = timeout(SOON, client.attach(ReceiverStream::new(said))).await.context("no answer")?;
    Ok(opened.map(|from| (to, from.into_inner(), client)))
}

async fn next(from: &mut Streaming<ToGateway>) -> anyhow::Result<Option<to_gateway::Kind>> {
    let message = timeout(SOON, from.next()).await.context("nothing is said")?;
    Ok(message.transpose()?.and_then(|message| message.kind))
}

/// How a link ends that begins like this.
async fn refusal(atlas: &Frontlas, said: Vec<from_gateway::Kind>) -> anyhow::Result<Status> {
    let mut said = said.into_iter();
    let first = said.next().context("nothing to say")?;
    let (to, mut from, _client) = match open(atlas, first).await? {
        Ok(opened) => opened,
        Err(status) => return Ok(status),
    };
    for kind in said {
        to.send(FromGateway { kind: Some(kind) }).await?;
    }
    loop {
        match timeout(SOON, from.next()).await.context("it is not refused")? {
            Some(Ok(_)) => {}
            Some(Err(status)) => return Ok(status),
            None => bail!("the link ends in good order"),
        }
    }
}

fn hello(instance: u8) -> Hello {
    Hello {
        version: 1,
        instance: vec![instance; 16],
        frontier_id: format!("liar-{instance}"),
        service_addr: format!("10.0.0.{instance}:30011"),
        edge_addr: format!("10.0.0.{instance}:30012"),
        attached: false,
    }
}

fn online(id: u64, epoch: u64) -> Edge {
    Edge { id, epoch, addr: vec![10, 1, 2, 3, 0, 80] }
}

/// Memory and descriptors do not grow while this happens, and it goes on working.
async fn bears(atlas: &Frontlas, what: impl AsyncFnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (rss, fds) = (atlas.proc().rss()?, atlas.proc().fds()?);
    what().await?;
    let grown = atlas.proc().rss()?.saturating_sub(rss);
    ensure!(grown < GROWTH, "{} MiB more", grown >> 20);
    until("descriptors given back", SOON, || (atlas.proc().fds().ok()? <= fds + 8).then_some(()))?;
    atlas.ready()?;
    assert_eq!(http::get(atlas.api(), "/cluster/v1/frontiers")?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocols_end_and_the_log_stays_short() -> anyhow::Result<()> {
    const TIMES: usize = 100;
    let atlas = Frontlas::start(&Config::new())?;
    atlas.ready()?;
    let noise: Vec<u8> = (0..4_096_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let openings: [(&str, &[u8]); 6] = [
        ("noise", &noise),
        ("native", &[0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]),
        ("geminio", &[1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        ("TLS", &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]),
        ("HTTP/1", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"),
        (
            "a preface and nonsense",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
    ];
    let lines = atlas.log().find(|_| true).len();
    bears(&atlas, async || {
        for addr in [atlas.gateways(), atlas.api()] {
            for (what, bytes) in openings {
                for at in 0..TIMES {
                    let mut io = TcpStream::connect(addr)?;
                    io.set_read_timeout(Some(SOON))?;
                    // It may hang up before all is said.
                    drop(io.write_all(bytes));
                    // Who says nothing more is not waited for long; the others do not wait for that.
                    if at == 0 && !matches!(what, "native" | "geminio" | "HTTP/1") {
                        // It may have hung up already.
                        drop(io.shutdown(std::net::Shutdown::Write));
                        let mut end = [0; 4_096];
                        while matches!(io.read(&mut end), Ok(1..)) {}
                    }
                }
            }
        }
        Ok(())
    })
    .await?;
    let more = atlas.log().find(|_| true).len() - lines;
    ensure!(more < 100, "{more} lines for {} connections; {}", 12 * TIMES, atlas.log().tail());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_break_the_rules_are_told_which() -> anyhow::Result<()> {
    use from_gateway::Kind;
    let atlas = Frontlas::start(&Config::new())?;
    atlas.ready()?;
    let mut honest = Liar::attach(&atlas, 1).await?;
    let epoch = honest.epoch(0);
    honest.say_all(vec![online(7, epoch)]).await?;
    let with = |change: fn(&mut Hello)| {
        let mut hello = hello(2);
        change(&mut hello);
        vec![Kind::Hello(hello)]
    };
    let changes = |seq, edges| Kind::Changes(Changes { seq, edges, services: Vec::new() });
    let buckets =
        |edge_buckets, edges| Kind::Buckets(Buckets { seq: 1, edge_buckets, edges, ..Buckets::default() });
    let many: Vec<Edge> = (1..=1_001).map(|id| online(id, epoch)).collect();
    let faults = [
        ("version 9 is not known", with(|hello| hello.version = 9)),
        ("version 0 is not known", with(|hello| hello.version = 0)),
        ("an instance is 16 bytes", with(|hello| hello.instance = vec![1; 15])),
        ("an instance is 16 bytes", with(|hello| hello.instance = vec![0; 16])),
        ("frontier_id is no text", with(|hello| hello.frontier_id = "x".repeat(256))),
        ("edge_addr is no text", with(|hello| hello.edge_addr = "a\nb".to_owned())),
        ("the first message is no Hello", vec![changes(1, Vec::new())]),
        ("a second Hello", vec![Kind::Hello(hello(2)), Kind::Hello(hello(2))]),
        ("message 5 after message 0", vec![Kind::Hello(hello(2)), changes(5, Vec::new())]),
        (
            "message 1 after message 1",
            vec![Kind::Hello(hello(2)), changes(1, Vec::new()), changes(1, Vec::new())],
        ),
        ("more than 1000 changes", vec![Kind::Hello(hello(2)), changes(1, many)]),
        ("0 is no ID", vec![Kind::Hello(hello(2)), changes(1, vec![online(0, epoch)])]),
        (
            "edge 7 is in none of these buckets",
            vec![Kind::Hello(hello(2)), buckets(vec![], vec![online(7, epoch)])],
        ),
        ("", vec![Kind::Hello(hello(2)), buckets(vec![16_384], Vec::new())]),
        ("", vec![Kind::Hello(hello(2)), buckets(vec![u32::MAX], Vec::new())]),
        ("", vec![Kind::Hello(hello(2)), changes(1, vec![Edge { id: 8, epoch, addr: vec![1, 2, 3] }])]),
    ];
    for (text, said) in faults {
        let status = refusal(&atlas, said).await.context(text)?;
        ensure!(status.code() == Code::InvalidArgument, "{text}: {status}");
        ensure!(!status.message().is_empty() && status.message().contains(text), "{text}: {status}");
    }
    let mut client = RegistryClient::new(channel(atlas.gateways()).await?);
    let nobody = client.renew(RenewRequest { instance: vec![9; 16], ..RenewRequest::default() }).await?;
    ensure!(!nobody.into_inner().known);
    let short = client.renew(RenewRequest { instance: vec![9; 3], ..RenewRequest::default() }).await;
    assert_eq!(short.err().context("a renewal of nobody")?.code(), Code::InvalidArgument);
    // Whoever keeps to the rules has noticed nothing.
    ensure!(honest.renew(1, Vec::new()).await?.known);
    ensure!(http::get(atlas.api(), "/cluster/v1/edge?edge_id=7")?.body.contains("liar-1"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_never_ends_and_digests_that_lie_cost_little() -> anyhow::Result<()> {
    let atlas = Frontlas::start(&Config::new())?;
    atlas.ready()?;
    let mut liar = Liar::attach(&atlas, 1).await?;
    let epoch = liar.epoch(0);
    let round = async |liar: &mut Liar, round: u64| {
        let edges: Vec<Edge> = (1..=1_000).map(|id| online(round * 1_000 + id, epoch)).collect();
        let mut edge_buckets: Vec<u32> = edges.iter().map(|edge| edge_bucket(edge.id).into()).collect();
        edge_buckets.sort_unstable();
        edge_buckets.dedup();
        let buckets =
            |seq| from_gateway::Kind::Buckets(Buckets { seq, edge_buckets, edges, ..Buckets::default() });
        liar.say(buckets).await
    };
    for at in 0..50 {
        round(&mut liar, at).await?;
    }
    bears(&atlas, async || {
        // What was said of a bucket before counts no more, so there are never more than so many.
        for at in 50..400 {
            round(&mut liar, at).await?;
            if at % 20 == 0 {
                ensure!(liar.renew(u64::MAX, Vec::new()).await?.known);
            }
        }
        Ok(())
    })
    .await?;
    let (mut resyncs, begin) = (0, Instant::now());
    while begin.elapsed() < Duration::from_secs(3) {
        let lies = (0..512).map(|bucket| Digest { bucket, count: 9, xor: 9 }).collect();
        ensure!(liar.renew(u64::MAX, lies).await?.known);
        let said = liar.change(vec![online(1, epoch)]).await?;
        resyncs += said.iter().filter(|kind| matches!(kind, to_gateway::Kind::Resync(_))).count();
    }
    ensure!(resyncs > 0, "nobody minds the lies");
    let count = http::get(atlas.api(), "/cluster/v1/edges/count")?;
    ensure!(count.status == 200 && count.body.contains("18446744073709551615"), "{count:?}");
    let mut honest = Liar::attach(&atlas, 2).await?;
    honest.say_all(vec![online(u64::MAX, epoch)]).await?;
    ensure!(honest.renew(1, Vec::new()).await?.known);
    let count = http::get(atlas.api(), "/cluster/v1/edges/count")?;
    assert_eq!(count.status, 200, "a sum that overflows is still an answer");
    // A gateway that has just come is known within a moment.
    until("the greatest ID", SOON, || {
        let last = http::get(atlas.api(), "/cluster/v1/edge?edge_id=18446744073709551615").ok()?;
        last.body.contains("liar-2").then_some(())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epochs_from_the_past_lose_and_those_from_next_year_are_not_taken() -> anyhow::Result<()> {
    let redis = Redis::start([""; 0])?;
    for config in [Config::new(), Config::redis(redis.addr())] {
        let atlas = Frontlas::start(&config)?;
        atlas.ready()?;
        let (mut one, mut two) = (Liar::attach(&atlas, 1).await?, Liar::attach(&atlas, 2).await?);
        one.say_all(Vec::new()).await?;
        two.say_all(Vec::new()).await?;
        one.change(vec![online(7, one.epoch(0))]).await?;
        let at = |id: u64| http::get(atlas.api(), &format!("/cluster/v1/edge?edge_id={id}"));
        for past in [0, 1, one.epoch(-60_000), one.epoch(-1)] {
            // A lease lasts 4 s.
            ensure!(one.renew(1, Vec::new()).await?.known && two.renew(0, Vec::new()).await?.known);
            let said = two.change(vec![online(7, past)]).await?;
            let is_cut = |kind: &to_gateway::Kind| match kind {
                to_gateway::Kind::Cut(cut) => cut.edges.iter().any(|lost| (lost.id, lost.epoch) == (7, past)),
                _ => false,
            };
            // It may also come behind the Ack.
            let cut = said.iter().any(is_cut) || next(&mut two.from).await?.as_ref().is_some_and(is_cut);
            ensure!(cut, "{past}: {said:?}");
            ensure!(at(7)?.body.contains("liar-1"), "epoch {past}");
        }
        for future in [two.epoch(365 * 86_400_000), two.epoch(120_000), u64::MAX] {
            ensure!(one.renew(1, Vec::new()).await?.known && two.renew(0, Vec::new()).await?.known);
            two.change(vec![online(7, future), online(8, future)]).await?;
            ensure!(at(7)?.body.contains("liar-1"), "epoch {future}");
            assert_eq!(at(8)?.status, 404, "epoch {future}");
        }
        ensure!(atlas.metric("frontlas_refused_epochs_total", &[])? >= 6.0);
        two.change(vec![online(7, two.epoch(1_000))]).await?;
        ensure!(at(7)?.body.contains("liar-2"));
        drop((one, two));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_costs_nobody_and_catches_up() -> anyhow::Result<()> {
    const WATCHERS: usize = 20;
    const EDGES: u64 = 1_000;
    let atlas = Frontlas::start(&Config::new())?;
    atlas.ready()?;
    let mut gateway = Liar::attach(&atlas, 1).await?;
    gateway.say_all(Vec::new()).await?;
    let mut client = ClusterServiceClient::new(channel(atlas.api()).await?);
    let request = || WatchRequest { frontiers: true, edges: true, resume: Vec::new() };
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        // A connection of its own: else they hold up each other.
        let mut own = ClusterServiceClient::new(channel(atlas.api()).await?);
        watchers.push((own.watch(request()).await?.into_inner(), own));
    }
    bears(&atlas, async || {
        for round in 0..200 {
            let epoch = gateway.epoch(0) + round;
            let first = (round % 10) * EDGES;
            gateway.change((first + 1..=first + EDGES).map(|id| online(id, epoch)).collect()).await?;
            if round % 20 == 0 {
                ensure!(gateway.renew(10 * EDGES, Vec::new()).await?.known);
                // The others get their answers.
                let request = GetEdgeByIdRequest { edge_id: first + 1 };
                timeout(SOON, client.get_edge_by_id(request)).await??;
            }
        }
        Ok(())
    })
    .await?;
    let (mut watcher, _own) = watchers.pop().context("a watcher")?;
    let mut seen = std::collections::BTreeSet::new();
    let newest = gateway.epoch(0) + 190;
    timeout(SOON, async {
        while seen.len() < 10 * usize::try_from(EDGES)? {
            ensure!(gateway.renew(10 * EDGES, Vec::new()).await?.known);
            let Ok(message) = timeout(Duration::from_secs(1), watcher.next()).await else { continue };
            let message = message.context("the watch has ended")??;
            match message.kind() {
                watch_response::Kind::Reset => seen.clear(),
                watch_response::Kind::Put => {
                    seen.extend(
                        message.edges.iter().filter(|edge| edge.epoch >= newest).map(|edge| edge.edge_id),
                    );
                }
                _ => {}
            }
        }
        anyhow::Ok(())
    })
    .await
    .with_context(|| format!("{} edges of {}", seen.len(), 10 * EDGES))??;
    Ok(())
}

#[test]
fn questions_without_sense_are_refused_or_answered_with_nothing() -> anyhow::Result<()> {
    let atlas = Frontlas::start(&Config::new())?;
    atlas.ready()?;
    let refused = [
        "edges?cursor=-1",
        "edges?count=-5",
        "edges?cursor=4294967296",
        "edges?cursor=99999999999999999999",
        "edges?count=x",
        "edges?edge_ids=1,x",
        "edges?edge_ids=-1",
        "edge",
        "edge?edge_id=",
        "edge?edge_id=18446744073709551616",
        "frontier?edge_id=%00",
        "services?cursor=1e3",
        "frontiers?count=0x10",
    ];
    for path in refused {
        let answer = http::get(atlas.api(), &format!("/cluster/v1/{path}"))?;
        ensure!(answer.status == 400 && answer.body.contains("invalid_argument"), "{path}: {answer:?}");
    }
    for list in ["edges", "services", "frontiers"] {
        for query in
            ["cursor=4294967295", "count=4294967295", "cursor=4294967295&count=4294967295", "count=0"]
        {
            let answer = http::get(atlas.api(), &format!("/cluster/v1/{list}?{query}"))?;
            ensure!(answer.status == 200 && answer.body.contains("[]"), "{list}?{query}: {answer:?}");
        }
    }
    for path in
        ["edge?edge_id=1", "edge?edge_id=0", "frontier?edge_id=18446744073709551615", "service?service_id=5"]
    {
        let answer = http::get(atlas.api(), &format!("/cluster/v1/{path}"))?;
        ensure!([400, 404].contains(&answer.status) && answer.body.contains("code"), "{path}: {answer:?}");
    }
    let long = "1,".repeat(100_000) + "1";
    let answer = http::get(atlas.api(), &format!("/cluster/v1/edges?edge_ids={long}"));
    ensure!(answer.as_ref().map_or(true, |answer| (400..500).contains(&answer.status)), "{answer:?}");
    atlas.ready()
}

/// A Redis that takes no writes, by whatever makes it so: said on `/readyz`, to whoever asks, and not a hundred times in the log.
async fn unwilling(redis: &Redis, spoil: &[&str], mend: &[&str], says: &[&str]) -> anyhow::Result<()> {
    let atlas = Frontlas::start(&Config::redis(redis.addr()))?;
    atlas.ready()?;
    let mut gateway = Liar::attach(&atlas, 1).await?;
    gateway.say_all(Vec::new()).await?;
    let epoch = gateway.epoch(0);
    gateway.change(vec![online(7, epoch)]).await?;
    for command in spoil {
        redis.tell(command)?;
    }
    let lines = atlas.log().find(|_| true).len();
    let rss = atlas.proc().rss()?;
    atlas.says_ready(|answer| answer.status == 503 && says.iter().any(|text| answer.body.contains(text)))?;
    // What a gateway says now waits.
    gateway.seq += 1;
    let seq = gateway.seq;
    let changes = Changes { seq, edges: vec![online(8, epoch)], services: Vec::new() };
    gateway.to.send(FromGateway { kind: Some(from_gateway::Kind::Changes(changes)) }).await?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        // In a full Redis leases go on, a replica takes none; neither keeps anybody waiting.
        drop(gateway.renew(1, Vec::new()).await);
        let asked = Instant::now();
        http::get(atlas.api(), "/cluster/v1/frontiers")?;
        ensure!(asked.elapsed() < Duration::from_secs(5), "an answer after {:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let more = atlas.log().find(|_| true).len() - lines;
    ensure!(more < 30, "{more} lines; {}", atlas.log().tail());
    ensure!(atlas.proc().rss()?.saturating_sub(rss) < GROWTH);
    for command in mend {
        redis.tell(command)?;
    }
    atlas.ready()?;
    // What waited is done, or the link was ended so that everything is said again.
    let ended = timeout(SOON, async {
        loop {
            match gateway.from.next().await {
                Some(Ok(ToGateway { kind: Some(to_gateway::Kind::Ack(ack)) })) if ack.seq == seq => {
                    return false;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return true,
            }
        }
    });
    if ended.await.context("neither")? {
        gateway = Liar::attach(&atlas, 1).await?;
        gateway.say_all(vec![online(7, epoch), online(8, epoch)]).await?;
    }
    ensure!(gateway.renew(2, Vec::new()).await?.known);
    for id in [7, 8] {
        until("the edge", SOON, || {
            let answer = http::get(atlas.api(), &format!("/cluster/v1/edge?edge_id={id}")).ok()?;
            answer.body.contains("liar-1").then_some(())
        })?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_memory_is_told_and_mended() -> anyhow::Result<()> {
    let redis = Redis::start([""; 0])?;
    let spoil = ["CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"];
    unwilling(&redis, &spoil, &["CONFIG SET maxmemory 0"], &["memory"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_becomes_a_replica_is_told_and_mended() -> anyhow::Result<()> {
    let (redis, other) = (Redis::start([""; 0])?, Redis::start([""; 0])?);
    // It keeps what it has: its master is never there.
    let nowhere = other.addr().port();
    drop(other);
    let spoil = format!("REPLICAOF 127.0.0.1 {nowhere}");
    unwilling(&redis, &[spoil.as_str()], &["REPLICAOF NO ONE"], &["read", "replica"]).await
}
