//! What becomes of the store when a server is in trouble: errors that say what is wrong, in time, and work again afterwards.

use std::net::{Ipv4Addr, TcpListener};
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frontier_api::cluster::{WatchRequest, watch_response::Kind};
use frontier_atlas::directory::Directory;
use frontier_atlas::record::{Claim, Instance};
use frontier_atlas::store::redis::{Address, Credentials, Mode, Settings};
use frontier_atlas::store::{EdgeWrite, Joined, Memory, ROWS, Redis, Store, StoreError};
use frontier_atlas::watch::Watchers;
use futures::future::join_all;
use tokio::time::timeout;
use tonic::Code;

use crate::rules::{HORIZON, gateway, online, record_of};
use crate::server::{SOON, Server, connect, eventually};

const LEASE: Duration = Duration::from_secs(4);

async fn write(redis: &Redis, edge: u64) -> Result<(), StoreError> {
    redis.write_edges(&[online(edge, 1)], HORIZON).await.map(drop)
}

/// How long something takes.
async fn time<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    (work.await, start.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_may_start_before_redis_does() {
    let mut server = Server::start(&[]);
    server.kill();
    let redis = Redis::connect(server.settings()).unwrap();
    for _ in 0..100 {
        let (answer, took) = time(write(&redis, 1)).await;
        assert!(matches!(answer, Err(StoreError::Unreachable(_))) && took < Duration::from_millis(500));
    }
    assert!(redis.ping().await.is_err());
    eventually("an attempt fails", async || redis.connections().failed > 0).await;
    server.restart();
    redis.connected(SOON).await.unwrap();
    write(&redis, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_holds_nobody_up() {
    let server = Server::start(&[]);
    let redis = connect(server.settings()).await;
    write(&redis, 1).await.unwrap();
    server.signal("STOP");
    let start = Instant::now();
    let mut refused = 0;
    while start.elapsed() < Duration::from_secs(3) {
        // Large batches as well: they fill what the kernel keeps for the connection.
        let many: Vec<_> = (0..5_000).map(|edge| online(edge, 1)).collect();
        let (answer, took) = time(redis.write_edges(&many, HORIZON)).await;
        assert!(matches!(answer, Err(StoreError::Unreachable(_))), "{answer:?}");
        assert!(took < Duration::from_millis(1_800), "{took:?}");
        let (answer, took) = time(redis.edges(&[1])).await;
        assert!(answer.is_err() && took < Duration::from_millis(1_800), "{took:?}");
        refused += 1;
        tokio::task::yield_now().await;
    }
    assert!(refused > 10, "soon it fails at once");
    // Look-ups by many, which wait for each other.
    let (answers, took) = time(join_all((0..500).map(|_| redis.edges(&[1])))).await;
    assert!(answers.iter().all(Result::is_err) && took < Duration::from_millis(2_800), "{took:?}");
    server.signal("CONT");
    let ((), took) = time(eventually("it works again", async || write(&redis, 2).await.is_ok())).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(redis.edges(&[1]).await.unwrap(), [Some(record_of(1, 1))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_by_many_at_once_get_each_its_own_answer() {
    let server = Server::start(&[]);
    let redis = connect(server.settings()).await;
    let there: Vec<_> = (0..1_000).map(|edge| online(edge, edge + 1)).collect();
    redis.write_edges(&there, HORIZON).await.unwrap();
    let look = async |edge: u64| {
        let mut look = Box::pin(redis.edges(slice::from_ref(&edge)));
        // Some lose patience at once: nobody else gets what was meant for them.
        if edge.is_multiple_of(7) {
            return drop(futures::poll!(&mut look));
        }
        let expected = (edge < 1_000).then(|| record_of(edge, edge + 1));
        assert_eq!(look.await.unwrap(), [expected], "edge {edge}");
    };
    for _ in 0..5 {
        join_all((0..2_000).map(look)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_was_killed_is_found_again_empty() {
    let mut server = Server::start(&[]);
    let redis = connect(server.settings()).await;
    let Joined::Lease { .. } = redis.join(&gateway(Instance([1; 16]), "g", 1), LEASE, false).await.unwrap()
    else {
        panic!("not joined")
    };
    server.kill();
    eventually("it is noticed", async || redis.ping().await.is_err()).await;
    let (answer, took) = time(write(&redis, 1)).await;
    assert!(matches!(answer, Err(StoreError::Unreachable(_))) && took < Duration::from_millis(100));
    server.restart();
    redis.connected(SOON).await.unwrap();
    // Nothing is left, so the gateway is not known; it joins again and says everything.
    assert!(!redis.renew(Instance([1; 16]), 1, 1, LEASE).await.unwrap().known);
    write(&redis, 1).await.unwrap();
    // The same without a restart: scripts that Redis has forgotten are told again.
    assert_eq!(server.tell("SCRIPT FLUSH"), "OK");
    write(&redis, 2).await.unwrap();
    assert_eq!(server.tell("SCRIPT FLUSH"), "OK");
    redis.write_edges(&(0..3_000).map(|edge| online(edge, 2)).collect::<Vec<_>>(), HORIZON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_password_or_a_wrong_one_is_told_so() {
    let server = Server::start(&["--requirepass", "right"]);
    let credentials = |username: Option<&str>, password: Option<&str>| Credentials {
        username: username.map(str::to_owned),
        password: password.map(str::to_owned),
    };
    let with = |credentials| Settings { credentials, ..server.settings() };
    for wrong in [
        credentials(None, None),
        credentials(None, Some("wrong")),
        credentials(Some("nobody"), Some("right")),
    ] {
        let redis = Redis::connect(with(wrong)).unwrap();
        eventually("it is denied", async || matches!(write(&redis, 1).await, Err(StoreError::Denied(_))))
            .await;
        assert!(matches!(redis.ping().await, Err(StoreError::Denied(_))));
    }
    for right in [credentials(None, Some("right")), credentials(Some("default"), Some("right"))] {
        write(&connect(with(right)).await, 1).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_needs_no_more_than_our_keys() {
    let server = Server::start(&[]);
    assert_eq!(server.tell("ACL SETUSER atlas on >secret ~fr:* +@all -@admin -@dangerous +info +role"), "OK");
    let credentials = Credentials { username: Some("atlas".into()), password: Some("secret".into()) };
    let redis = connect(Settings { credentials, ..server.settings() }).await;
    write(&redis, 1).await.unwrap();
    redis.join(&gateway(Instance([1; 16]), "g", 1), LEASE, false).await.unwrap();
    assert!(redis.members().await.unwrap().lives(Instance([1; 16])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_are_apart() {
    let server = Server::start(&[]);
    let redis = connect(Settings { database: 3, ..server.settings() }).await;
    write(&redis, 1).await.unwrap();
    assert!(server.tell("INFO keyspace").contains("db3:") && !server.tell("INFO keyspace").contains("db0:"));
}

#[tokio::test]
async fn no_more_gateways_are_known_than_may_be() {
    async fn full(store: &impl Store) {
        let known = Instance([1; 16]);
        assert_eq!(
            store.join(&gateway(Instance([2; 16]), "h", 3), LEASE, false).await.unwrap(),
            Joined::Full
        );
        // Who is known goes on.
        assert!(matches!(
            store.join(&gateway(known, "g", 1), LEASE, true).await.unwrap(),
            Joined::Lease { .. }
        ));
        assert!(store.renew(known, 1, 1, LEASE).await.unwrap().known);
        assert_eq!(store.members().await.unwrap().members.len(), ROWS);
        // So does its successor.
        assert!(matches!(
            store.join(&gateway(Instance([3; 16]), "g", 1), LEASE, false).await.unwrap(),
            Joined::Lease { .. }
        ));
        assert!(!store.renew(known, 1, 1, LEASE).await.unwrap().known);
    }
    let name = |number: usize| Instance((number as u128).to_be_bytes());
    let memory = Memory::new();
    memory.join(&gateway(Instance([1; 16]), "g", 1), LEASE, false).await.unwrap();
    for number in 1..ROWS {
        memory.join(&gateway(name(number), "x", number as u16), LEASE, false).await.unwrap();
    }
    full(&memory).await;
    let server = Server::start(&[]);
    let redis = connect(server.settings()).await;
    redis.join(&gateway(Instance([1; 16]), "g", 1), LEASE, false).await.unwrap();
    let row = r#"{"frontier_id":"x","service_addr":"","edge_addr":""}"#;
    let rows =
        format!("for i=2,{ROWS} do redis.call('HSET','fr:{{g}}:rows',string.format('%016d',i),'{row}') end");
    server.ask(&[b"EVAL", rows.as_bytes(), b"0"]);
    full(&redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_read_and_says_that_it_cannot_be_written() {
    let master = Server::start(&[]);
    let replica = Server::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    write(&connect(master.settings()).await, 1).await.unwrap();
    // Not `connect`: that waits for one that can be written.
    let redis = Redis::connect(replica.settings()).unwrap();
    eventually("it is replicated", async || {
        redis.edges(&[1]).await.is_ok_and(|found| found == [Some(record_of(1, 1))])
    })
    .await;
    assert!(matches!(write(&redis, 2).await, Err(StoreError::ReadOnly(_))));
    assert!(matches!(
        redis.join(&gateway(Instance([1; 16]), "g", 1), LEASE, false).await,
        Err(StoreError::ReadOnly(_))
    ));
    // It becomes the master, as behind a name that leads to whichever is.
    assert_eq!(replica.tell("REPLICAOF NO ONE"), "OK");
    eventually("it can be written", async || write(&redis, 2).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_takes_no_edges_but_leases_go_on() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let redis = connect(server.settings()).await;
    let here = Instance([1; 16]);
    redis.join(&gateway(here, "g", 1), LEASE, false).await.unwrap();
    write(&redis, 1).await.unwrap();
    assert_eq!(server.tell("CONFIG SET maxmemory 1000000"), "OK");
    let full = write(&redis, 2).await;
    assert!(matches!(&full, Err(StoreError::ReadOnly(why)) if why.starts_with("OOM")), "{full:?}");
    // Probes are told, though it answers.
    assert!(matches!(redis.ping().await, Err(StoreError::ReadOnly(_))));
    // What is there stays, can be read and removed, and lives on.
    assert_eq!(redis.edges(&[1, 2]).await.unwrap(), [Some(record_of(1, 1)), None]);
    assert!(redis.renew(here, 1, 0, LEASE).await.unwrap().known);
    redis.join(&gateway(Instance([2; 16]), "h", 3), LEASE, false).await.unwrap();
    assert!(redis.members().await.unwrap().lives(here));
    let claim = Claim { epoch: u64::MAX, instance: here };
    redis.write_edges(&[EdgeWrite::Offline { edge: 1, claim }], HORIZON).await.unwrap();
    assert_eq!(redis.edges(&[1]).await.unwrap(), [None]);
    assert_eq!(server.tell("CONFIG SET maxmemory 0"), "OK");
    write(&redis, 2).await.unwrap();
    redis.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_waits_for_redis_than_may() {
    let server = Server::start(&[]);
    let redis = connect(Settings { in_flight: 100, ..server.settings() }).await;
    let many: Vec<_> = (0..1_000).map(|edge| online(edge, 1)).collect();
    assert_eq!(redis.write_edges(&many, HORIZON).await, Err(StoreError::Busy));
    redis.write_edges(&many[..90], HORIZON).await.unwrap();
}

/// Whatever is on the port, every operation ends in time and nothing panics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_redis_is_no_store() {
    let garbage: [&[u8]; 6] = [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"%1\r\n$5\r\nproto\r\n:3\r\n+OK\r\n-ERR\r\n*-1\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n",
        b"*1000000000\r\n",
        b"$2147483647\r\n",
        &[0xff; 4_096],
    ];
    for bytes in garbage {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port());
        let answers = std::thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming().take(3) {
                let mut stream = stream.unwrap();
                let _ = std::io::Write::write_all(&mut stream, bytes);
                open.push(stream);
            }
        });
        let settings = Settings {
            connect_timeout: Duration::from_millis(200),
            command_timeout: Duration::from_millis(200),
            backoff: (Duration::from_millis(1), Duration::from_millis(1)),
            ..Settings::new(Mode::Standalone { address })
        };
        let redis = Redis::connect(settings).unwrap();
        eventually("three attempts have failed", async || {
            let (answer, took) = time(redis.edges(&[1])).await;
            assert!(answer.is_err() && took < SOON);
            redis.connections().failed >= 3
        })
        .await;
        answers.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_watches_is_sent_elsewhere_while_the_store_cannot_be_read() {
    let server = Server::start(&[]);
    let store = Arc::new(connect(server.settings()).await);
    let directory = Arc::new(Directory::new(Arc::clone(&store)));
    let watchers = Arc::new(Watchers::new(Arc::clone(&store), directory, 10));
    let keeping = Arc::clone(&watchers);
    #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(async move { keeping.keep().await });
    let request = WatchRequest { frontiers: true, edges: true, ..WatchRequest::default() };
    let mut watcher = watchers.watch(&request).unwrap();
    while watcher.next().await.unwrap().unwrap().kind() != Kind::Current {}
    server.signal("STOP");
    let (ended, took) = time(timeout(SOON, watcher.next())).await;
    assert_eq!(ended.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(took >= Duration::from_secs(4), "a short trouble of the store sends nobody away: {took:?}");
    // Who comes now is told at once.
    let (ended, took) = time(watchers.watch(&request).unwrap().next()).await;
    assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
    assert!(took < Duration::from_secs(1), "{took:?}");
    server.signal("CONT");
    eventually("it tells again", async || watchers.watch(&request).unwrap().next().await.is_ok()).await;
}
