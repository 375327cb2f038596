//! Sources: what brokers have is delivered, settled only when it is done, given out again where it is not, and dead-lettered in the end.
//! Brokers are filled and looked into by clients that have no part in this project.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use frontier_queues::{
    Door, Parcel, Source, SourceStats, State, Undone, open_source,
    testing::{Rabbit, Redis},
};
use tokio::sync::mpsc;

use crate::harness::{SOON, config};

/// Keeps what it is given until the test says what becomes of it.
struct Edges(mpsc::Sender<Parcel>);

impl Door for Edges {
    fn deliver(&self, parcel: Parcel) {
        // A test that has ended wants nothing more.
        drop(self.0.try_send(parcel));
    }
}

struct Scene {
    source: Source,
    parcels: mpsc::Receiver<Parcel>,
}

impl Scene {
    fn new(settings: &str) -> Self {
        let (give, parcels) = mpsc::channel(10_000);
        let mqm = config(&format!("sources: [{{name: s, topic: news, {settings}}}]\n"));
        Self { source: open_source(&mqm.sources[0], Arc::new(Edges(give))).unwrap(), parcels }
    }

    async fn next(&mut self) -> Parcel {
        let waited = tokio::time::timeout(SOON, self.parcels.recv()).await;
        waited.unwrap_or_else(|_| panic!("{} {:?}", self.source.state(), self.source.stats())).unwrap()
    }

    async fn reaches(&self, what: impl Fn(&SourceStats) -> bool) {
        let deadline = Instant::now() + SOON;
        while !what(&self.source.stats()) {
            assert!(Instant::now() < deadline, "{} {:?}", self.source.state(), self.source.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn close(self) {
        self.source.close(tokio::time::Instant::now() + Duration::from_secs(5)).await;
    }
}

fn text(parcel: &Parcel) -> String {
    String::from_utf8_lossy(&parcel.body).into_owned()
}

/// Waits until something of another process is so.
async fn until<T: PartialEq + std::fmt::Debug>(wanted: T, look: impl Fn() -> T) {
    let deadline = Instant::now() + SOON;
    loop {
        let found = look();
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} and not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Not done is given out again after the pause, so often as is configured, and then it is a dead letter; one of many is done.
async fn fails_three_times(mut scene: Scene) -> Scene {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let parcel = scene.next().await;
        seen.push((text(&parcel), Instant::now()));
        parcel.settle.tell(Err(Undone::Again("edge not online")));
    }
    scene.reaches(|stats| stats.dead_lettered == 1).await;
    assert!(seen.iter().all(|(body, _)| body == "never"), "{seen:?}");
    assert!(seen.windows(2).all(|two| two[1].1 - two[0].1 >= Duration::from_millis(80)), "{seen:?}");
    let stats = scene.source.stats();
    assert_eq!((stats.received, stats.returned, stats.done, stats.dropped), (3, 2, 0, 0));
    scene
}

/// Everything is delivered although the broker is killed while edges have some of it.
async fn survives_kills(scene: &mut Scene, count: usize, mut kill: impl FnMut()) {
    let mut done = BTreeSet::new();
    let (mut killed, mut held) = (0, Vec::new());
    while done.len() < count {
        held.push(scene.next().await);
        // Some are with edges at any time.
        if held.len() > 20 || killed == 2 || done.len() + held.len() >= count {
            for parcel in held.drain(..) {
                done.insert(text(&parcel));
                parcel.settle.tell(Ok(()));
            }
        }
        if killed < 2 && done.len() > (killed + 1) * count / 4 {
            killed += 1;
            held.push(scene.next().await);
            kill();
        }
    }
    assert_eq!(killed, 2);
    // What was given out twice.
    let deadline = Instant::now() + SOON;
    while scene.source.stats().in_flight > 0 {
        assert!(Instant::now() < deadline, "{:?}", scene.source.stats());
        if let Ok(parcel) = tokio::time::timeout(Duration::from_millis(50), scene.parcels.recv()).await {
            parcel.unwrap().settle.tell(Ok(()));
        }
    }
    assert!(scene.source.stats().connected >= 3, "{:?}", scene.source.stats());
}

/// A password that is wrong: down, with the reason and without the password.
async fn is_down(settings: &str, password: &str, reason: &str) {
    let scene = Scene::new(settings);
    let mut states = scene.source.watch();
    let down = tokio::time::timeout(SOON, states.wait_for(|state| matches!(state, State::Down { .. }))).await;
    let text = down.expect("down in time").unwrap().to_string();
    assert!(text.contains(reason) && !text.contains(password), "{text}");
}

// --- Redis

const GROUP: &str = "stream: q, group: g";

fn redis_source(redis: &Redis, more: &str, connection: &str) -> String {
    format!("{more}, dead_letter: dead, redis: {{addrs: ['{}'], {GROUP}, {connection}}}", redis.0.addr())
}

const QUICK: &str = "done_timeout: 500ms, retry_delay: 100ms, max_deliveries: 3";

fn add(redis: &Redis, fields: &[&str]) {
    redis.cli(&[&["XADD", "q", "*"], fields].concat()).unwrap();
}

/// Entries that the group has given out and nobody has acknowledged.
fn pending(redis: &Redis) -> String {
    let text = redis.cli(&["XPENDING", "q", "g"]).unwrap();
    text.lines().next().unwrap_or_default().to_owned()
}

fn dead(redis: &Redis) -> Vec<String> {
    redis.cli(&["XRANGE", "dead", "-", "+"]).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_is_acknowledged_when_its_edge_has_done_it() {
    let redis = Redis::start(&[]).unwrap();
    // What was there before the group was made is for it, too.
    add(&redis, &["edge-id", "7", "topic", "a/b", "unit", "C", "body", "one"]);
    let mut scene = Scene::new(&redis_source(&redis, QUICK, ""));
    let first = scene.next().await;
    assert_eq!((first.edge, &*first.topic, text(&first)), (7, "a/b", "one".to_owned()));
    assert_eq!(first.headers, [("unit".to_owned(), "C".into())]);
    assert_eq!(first.timeout, Duration::from_millis(500));
    add(&redis, &["edge-id", "8", "body", "two"]);
    let second = scene.next().await;
    assert_eq!((second.edge, &*second.topic, text(&second)), (8, "news", "two".to_owned()));
    until("2".to_owned(), || pending(&redis)).await;
    first.settle.tell(Ok(()));
    until("1".to_owned(), || pending(&redis)).await;
    second.settle.tell(Ok(()));
    until("0".to_owned(), || pending(&redis)).await;
    let stats = scene.source.stats();
    assert_eq!((stats.received, stats.done, stats.in_flight, stats.in_flight_bytes), (2, 2, 0, 0));
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_never_done_becomes_a_dead_letter() {
    let redis = Redis::start(&[]).unwrap();
    add(&redis, &["edge-id", "7", "unit", "C", "body", "never"]);
    let mut scene = fails_three_times(Scene::new(&redis_source(&redis, QUICK, ""))).await;
    let found = dead(&redis);
    let has = |found: &[String], pair: [&str; 2]| {
        found.windows(2).any(|two| two[0] == pair[0] && two[1] == pair[1])
    };
    for pair in [
        ["edge-id", "7"],
        ["unit", "C"],
        ["body", "never"],
        ["dead-letter-reason", "edge not online"],
        ["dead-letter-source", "s"],
        ["dead-letter-deliveries", "3"],
    ] {
        assert!(has(&found, pair), "{pair:?} {found:?}");
    }
    until("0".to_owned(), || pending(&redis)).await;
    // What is for no edge goes there at once.
    redis.cli(&["DEL", "dead"]).unwrap();
    for (fields, why) in [
        (&["body", "x"][..], "no edge-id"),
        (&["edge-id", "seven", "body", "x"], "the edge-id is not the number of an edge"),
        (&["edge-id", "7"], "no field body"),
    ] {
        add(&redis, fields);
        until(true, || has(&dead(&redis), ["dead-letter-reason", why])).await;
    }
    add(&redis, &["edge-id", "7", "body", "long"]);
    scene.next().await.settle.tell(Err(Undone::Never("body longer than limits.body")));
    until(true, || has(&dead(&redis), ["dead-letter-reason", "body longer than limits.body"])).await;
    until("0".to_owned(), || pending(&redis)).await;
    assert_eq!(scene.source.stats().dead_lettered, 5);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_delivery_may_be_all() {
    let redis = Redis::start(&[]).unwrap();
    let settings = format!(
        "max_deliveries: 1, done_timeout: 500ms, retry_delay: 10s, dead_letter: dead, redis: {{addrs: ['{}'], {GROUP}}}",
        redis.0.addr()
    );
    let mut scene = Scene::new(&settings);
    add(&redis, &["edge-id", "7", "body", "x"]);
    scene.next().await.settle.tell(Err(Undone::Again("no done in time")));
    scene.reaches(|stats| stats.dead_lettered == 1 && stats.in_flight == 0).await;
    assert_eq!((scene.source.stats().received, scene.source.stats().returned), (1, 0));
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_consumer_that_is_gone_has_left_is_taken_over() {
    let redis = Redis::start(&[]).unwrap();
    add(&redis, &["edge-id", "7", "body", "left"]);
    redis.cli(&["XGROUP", "CREATE", "q", "g", "0"]).unwrap();
    redis.cli(&["XREADGROUP", "GROUP", "g", "dead", "STREAMS", "q", ">"]).unwrap();
    let mut scene = Scene::new(&redis_source(&redis, QUICK, "consumer: me"));
    let start = Instant::now();
    let parcel = scene.next().await;
    assert_eq!(text(&parcel), "left");
    assert!(start.elapsed() > Duration::from_secs(1), "it may have been slow only: {:?}", start.elapsed());
    parcel.settle.tell(Ok(()));
    until("0".to_owned(), || pending(&redis)).await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_any_length_stay_within_the_bound() {
    let redis = Redis::start(&[]).unwrap();
    let file = redis.0.dir().join("long");
    let long = |length: usize, n: usize| {
        let body = format!("{n:010}{}", "x".repeat(length));
        std::fs::write(&file, &body).unwrap();
        let script = format!(
            "redis-cli -p {} -x XADD q '*' edge-id 7 body < {}",
            redis.0.addr().port(),
            file.display()
        );
        assert!(std::process::Command::new("sh").args(["-c", &script]).output().unwrap().status.success());
    };
    for n in 0..20 {
        long(30_000, n);
    }
    // Longer than all of the bound: it can neither be delivered nor copied, and must not stop the others.
    long(200_000, 20);
    long(30_000, 21);
    let more = "done_timeout: 30s, retry_delay: 100ms, max_in_flight_bytes: 128KiB";
    let mut scene = Scene::new(&redis_source(&redis, more, ""));
    let mut seen = BTreeSet::new();
    while seen.len() < 21 {
        let parcel = scene.next().await;
        let stats = scene.source.stats();
        assert!(stats.in_flight_bytes <= 2 * (128 << 10), "{stats:?}");
        seen.insert(text(&parcel)[..10].parse::<usize>().unwrap());
        parcel.settle.tell(Ok(()));
    }
    assert!(!seen.contains(&20) && seen.contains(&21), "{seen:?}");
    scene.reaches(|stats| stats.dropped == 1 && stats.in_flight == 0).await;
    assert_eq!(redis.cli(&["XLEN", "q"]).unwrap().trim(), "22", "the stream has all of them still");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_entry_is_lost_when_redis_is_killed() {
    let mut redis = Redis::start(&["--appendfsync", "always"]).unwrap();
    let script = "for i = 1, 400 do redis.call('XADD', 'q', '*', 'edge-id', '7', 'body', i) end";
    redis.cli(&["EVAL", script, "0"]).unwrap();
    // A kill uses up deliveries, and so does whoever is slow.
    let patient = "done_timeout: 500ms, retry_delay: 100ms, max_deliveries: 1000, max_in_flight: 50";
    let mut scene = Scene::new(&redis_source(&redis, patient, ""));
    survives_kills(&mut scene, 400, || redis.0.restart().unwrap()).await;
    // Those that only the killed connection knew of are taken over once they have been idle.
    let deadline = Instant::now() + SOON;
    while pending(&redis) != "0" {
        assert!(Instant::now() < deadline, "{} {:?}", pending(&redis), scene.source.stats());
        if let Ok(parcel) = tokio::time::timeout(Duration::from_millis(50), scene.parcels.recv()).await {
            parcel.unwrap().settle.tell(Ok(()));
        }
    }
    assert_eq!(scene.source.stats().dead_lettered, 0);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_of_redis_is_told() {
    let redis = Redis::start(&["--requirepass", "hunter2"]).unwrap();
    is_down(&redis_source(&redis, QUICK, "password: wr0ng"), "wr0ng", "WRONGPASS").await;
    let mut scene = Scene::new(&redis_source(&redis, QUICK, "password: hunter2"));
    redis.cli(&["-a", "hunter2", "XADD", "q", "*", "edge-id", "7", "body", "x"]).unwrap();
    scene.next().await.settle.tell(Ok(()));
    scene.reaches(|stats| stats.done == 1 && stats.in_flight == 0).await;
    scene.close().await;
}

// --- AMQP

fn amqp_source(rabbit: &Rabbit, queue: &str, more: &str) -> String {
    format!(
        "{more}, dead_letter: dead, amqp: {{addrs: ['{}'], queue: {queue}, heartbeat: 2}}",
        rabbit.0.addr()
    )
}

/// Publishes bodies to a queue, with these headers; they are on the disk then.
fn publish(rabbit: &Rabbit, queue: &str, headers: &str, bodies: &[&str]) {
    let code = format!(
        "channel.confirm_delivery()\nfor body in {bodies:?}:\n  channel.basic_publish('', '{queue}', body, pika.BasicProperties(headers={headers}, \
         delivery_mode=2, content_type='text/plain', message_id='original', correlation_id='c', user_id='guest', expiration='600000'))\n"
    );
    rabbit.python(&code).unwrap();
}

/// Messages that wait in a queue; those that somebody has and has not acknowledged are not among them.
fn waiting(rabbit: &Rabbit, queue: &str) -> usize {
    let code = format!("print(channel.queue_declare('{queue}', passive=True).method.message_count)\n");
    rabbit.python(&code).unwrap().trim().parse().unwrap()
}

/// One RabbitMQ for all of it, as it takes seconds to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_rabbitmq_is_consumed_message_by_message() {
    let mut rabbit = Rabbit::start("").unwrap();
    let declare = "for name in ['a', 'b', 'k', 'dead']:\n  channel.queue_declare(name, durable=True)\n\
                   channel.queue_declare('quorum', durable=True, arguments={'x-queue-type': 'quorum'})\n";
    rabbit.python(declare).unwrap();

    // Done is acknowledged; a source that closes gives back what is not.
    let mut scene = Scene::new(&amqp_source(&rabbit, "a", QUICK));
    publish(&rabbit, "a", "{'edge-id': 7, 'topic': 'a/b', 'unit': 'C'}", &["one"]);
    let first = scene.next().await;
    assert_eq!((first.edge, &*first.topic, text(&first)), (7, "a/b", "one".to_owned()));
    let header =
        |name: &str| first.headers.iter().find(|(other, _)| other == name).map(|(_, value)| &value[..]);
    assert_eq!(header("unit"), Some(&b"C"[..]));
    assert_eq!(header("content-type"), Some(&b"text/plain"[..]));
    first.settle.tell(Ok(()));
    scene.reaches(|stats| stats.done == 1 && stats.in_flight == 0).await;
    publish(&rabbit, "a", "{'edge-id': '8'}", &["two"]);
    let second = scene.next().await;
    assert_eq!((second.edge, &*second.topic), (8, "news"));
    let closing = tokio::time::Instant::now() + Duration::from_millis(100);
    scene.source.close(closing).await;
    // Nothing is settled any more.
    second.settle.tell(Ok(()));
    until(1, || waiting(&rabbit, "a")).await;
    assert_eq!(rabbit.drain("a").unwrap(), ["two"]);

    // What is never done: of a classic queue, and of one that counts itself.
    for queue in ["b", "quorum"] {
        let scene = Scene::new(&amqp_source(&rabbit, queue, QUICK));
        publish(&rabbit, queue, "{'edge-id': '7', 'unit': 'C', 'CC': ['a']}", &["never"]);
        rabbit.drain("a").unwrap();
        let mut scene = fails_three_times(scene).await;
        let code = "m, p, body = channel.basic_get('dead', auto_ack=True)\n\
                    print(json.dumps([p.headers, p.correlation_id, p.user_id, p.expiration, p.delivery_mode, body.decode()]))\n";
        let found: serde_json::Value = serde_json::from_str(&rabbit.python(code).unwrap()).unwrap();
        let header = |name: &str| found[0][name].as_str().map(str::to_owned).unwrap_or_default();
        let headers =
            ["edge-id", "unit", "message-id", "dead-letter-reason", "dead-letter-source"].map(header);
        assert_eq!(headers, ["7", "C", "original", "edge not online", "s"]);
        assert_eq!(header("dead-letter-deliveries"), "3");
        assert_eq!((&found[1], &found[4], &found[5]), (&"c".into(), &2.into(), &"never".into()));
        assert!(found[2].is_null() && found[3].is_null(), "neither user-id nor expiration: {found}");
        assert!(rabbit.drain("a").unwrap().is_empty(), "no copies for CC");
        // What is for no edge goes there at once.
        publish(&rabbit, queue, "{}", &["x"]);
        scene.reaches(|stats| stats.dead_lettered == 2 && stats.in_flight == 0).await;
        assert_eq!(rabbit.drain("dead").unwrap(), ["x"]);
        assert_eq!(waiting(&rabbit, queue), 0);
        // Longer than the bound: skipped, and the next one comes.
        assert!(scene.parcels.try_recv().is_err());
        scene.close().await;
    }
    let small = format!("{QUICK}, max_in_flight_bytes: 64KiB");
    let mut scene = Scene::new(&amqp_source(&rabbit, "a", &small));
    let long =
        "channel.basic_publish('', 'a', b'x' * 300000, pika.BasicProperties(headers={'edge-id': '7'}))\n";
    rabbit.python(long).unwrap();
    publish(&rabbit, "a", "{'edge-id': '7'}", &["short"]);
    let parcel = scene.next().await;
    assert_eq!((text(&parcel), scene.source.stats().dropped), ("short".to_owned(), 1));
    parcel.settle.tell(Ok(()));
    scene.reaches(|stats| stats.done == 1 && stats.in_flight == 0).await;
    scene.close().await;

    // Where there is no place for dead letters, nothing is lost.
    let nowhere = amqp_source(&rabbit, "a", QUICK).replace("dead_letter: dead", "dead_letter: nowhere");
    let scene = Scene::new(&nowhere);
    publish(&rabbit, "a", "{}", &["kept"]);
    scene.reaches(|stats| stats.returned >= 2).await;
    scene.source.close(tokio::time::Instant::now() + Duration::from_secs(5)).await;
    until(1, || waiting(&rabbit, "a")).await;
    drop(scene);

    // What is wrong is told.
    is_down(&amqp_source(&rabbit, "missing", QUICK), "guest", "404 NOT_FOUND").await;
    let wrong =
        amqp_source(&rabbit, "a", QUICK).replace("heartbeat", "user: guest, password: wr0ng, heartbeat");
    is_down(&wrong, "wr0ng", "403 ACCESS_REFUSED").await;

    // Killed while edges have some of it.
    let bodies: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    publish(&rabbit, "k", "{'edge-id': '7'}", &bodies);
    let mut scene =
        Scene::new(&amqp_source(&rabbit, "k", "done_timeout: 10s, retry_delay: 100ms, max_in_flight: 50"));
    survives_kills(&mut scene, 300, || rabbit.0.restart().unwrap()).await;
    scene.reaches(|stats| stats.in_flight == 0).await;
    until(0, || waiting(&rabbit, "k")).await;
    scene.close().await;
}
