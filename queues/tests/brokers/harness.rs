//! What the tests of all brokers do in the same way.

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use frontier_ops::config::{Problems, UnknownKeys, read::Reader, yaml};
use frontier_queues::{
    Done, Kind, Message, MessageId, PublishError, Queue, State,
    config::{Mqm, QueueKind},
    open,
    testing::Server,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// What a loaded machine may take for something that is due at once.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) type Outcome = Result<(), PublishError>;

/// A queue that is configured by this YAML below `mqm`.
pub(crate) fn queue(kind: QueueKind, yaml_text: &str) -> Queue {
    open(&config(yaml_text), kind).unwrap()
}

pub(crate) fn config(yaml_text: &str) -> Mqm {
    let reader = Reader::new(Problems::default(), UnknownKeys::Error, || &[]);
    let node = yaml::parse(yaml_text).unwrap();
    let mqm = reader.document(node, Mqm::read);
    let (mut problems, _) = reader.into_parts();
    mqm.validate(&mut problems);
    assert!(problems.list().is_empty(), "{problems:?}");
    mqm
}

pub(crate) fn message(edge: u64, destination: &str, body: impl Into<Bytes>) -> Message {
    Message {
        id: MessageId::random(),
        edge,
        topic: Arc::from(format!("asked/{destination}")),
        destination: Arc::from(destination),
        body: body.into(),
        time: SystemTime::now(),
        content_type: Some(Arc::from("text/plain")),
        traceparent: Some(Arc::from("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
        headers: vec![
            ("unit".to_owned(), Bytes::from_static(b"C")),
            ("edge-id".to_owned(), Bytes::from_static(b"0")),
        ],
        passed: None,
        deadline: Instant::now() + Duration::from_secs(30),
    }
}

/// Publishes one, and waits for how it ends.
pub(crate) async fn publish(queue: &Queue, message: Message) -> Outcome {
    let (tell, told) = oneshot::channel();
    queue.try_publish(message, Done::new(move |result| drop(tell.send(result))))?;
    tokio::time::timeout(SOON, told).await.expect("told in time").expect("told")
}

/// Publishes so many at once, and waits for how each ends.
pub(crate) async fn publish_each(queue: &Queue, destination: &str, count: usize) -> Vec<Outcome> {
    let all = (0..count).map(|number| publish(queue, message(1, destination, number.to_string())));
    futures::future::join_all(all).await
}

pub(crate) async fn up(queue: &Queue) {
    let mut state = queue.watch();
    let waited = tokio::time::timeout(SOON, state.wait_for(State::is_up)).await;
    waited.unwrap_or_else(|_| panic!("{} is {}", queue.name(), queue.state())).unwrap();
}

/// Waits until the queue is down, and returns why.
pub(crate) async fn down(queue: &Queue) -> String {
    let mut state = queue.watch();
    let waited =
        tokio::time::timeout(SOON, state.wait_for(|state| matches!(state, State::Down { .. }))).await;
    let found = waited.unwrap_or_else(|_| panic!("{} is {}", queue.name(), queue.state())).unwrap().clone();
    found.to_string()
}

/// Publishes numbers as bodies, of five edges in turn, all at once; every one must be confirmed.
pub(crate) async fn publish_numbers(queue: &Queue, destination: &str, count: u64) {
    let (tell, mut told) = mpsc::channel(usize::try_from(count).unwrap());
    for number in 0..count {
        let tell = tell.clone();
        let done = Done::new(move |result| drop(tell.try_send(result)));
        queue.try_publish(message(number % 5, destination, number.to_string()), done).unwrap();
    }
    for _ in 0..count {
        let result = tokio::time::timeout(SOON, told.recv()).await.expect("told in time").expect("told");
        result.unwrap();
    }
}

/// The numbers of `bodies`, of which each edge's must be in order.
pub(crate) fn in_order(bodies: &[String], count: u64) {
    let numbers: Vec<u64> = bodies.iter().map(|body| body.parse().unwrap()).collect();
    for edge in 0..5 {
        let of: Vec<u64> = numbers.iter().copied().filter(|number| number % 5 == edge).collect();
        let expected: Vec<u64> = (0..count).filter(|number| number % 5 == edge).collect();
        assert_eq!(of, expected);
    }
}

/// A queue with a wrong password goes down with a reason that does not show it, and refuses at once.
pub(crate) async fn is_refused(queue: &Queue, password: &str) -> String {
    let reason = down(queue).await;
    assert!(!reason.contains(password), "{reason}");
    let refused = publish(queue, message(1, "t", "x")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
    reason
}

/// Publishes without pause while the broker is killed and started again. Returns the bodies that were confirmed.
pub(crate) async fn kills(queue: &Queue, server: &mut Server, destination: &str) -> HashSet<String> {
    let kills = std::env::var("FRONTIER_SOAK_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(1);
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, mut told) = mpsc::channel::<(u64, Outcome)>(20_000);
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let (queue, stop, destination) = (queue.clone(), Arc::clone(&stop), destination.to_owned());
        async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..20 {
                    let tell = tell.clone();
                    let done = Done::new(move |result| drop(tell.try_send((number, result))));
                    // Refusals while it is down are part of it.
                    drop(queue.try_publish(message(number % 5, &destination, number.to_string()), done));
                    number += 1;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            HashSet::new()
        }
    });
    tasks.spawn(async move {
        let mut confirmed = HashSet::new();
        while let Some((number, result)) = told.recv().await {
            if result.is_ok() {
                confirmed.insert(number.to_string());
            }
        }
        confirmed
    });
    for round in 0..=kills {
        let is_up = tokio::time::timeout(SOON, queue.watch().wait_for(State::is_up)).await.is_ok();
        assert!(is_up, "round {round}: {} is {}: {}", queue.name(), queue.state(), server.log());
        let target = queue.stats().confirmed + 200;
        while queue.stats().confirmed < target {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if round < kills {
            // The test's own thread is none of the runtime's workers: the load goes on.
            server.restart().unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let confirmed: HashSet<String> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(queue.stats().connected > kills, "{:?}", queue.stats());
    eprintln!("{}: {kills} kills, {:?}", queue.name(), queue.stats());
    confirmed
}

/// Everything that was confirmed is there.
pub(crate) fn nothing_lost(confirmed: &HashSet<String>, found: &[String]) {
    let found: HashSet<&String> = found.iter().collect();
    let lost: Vec<&String> = confirmed.iter().filter(|body| !found.contains(body)).collect();
    assert!(lost.is_empty(), "{} of {} lost: {:?}", lost.len(), confirmed.len(), &lost[..lost.len().min(20)]);
}

/// While a broker hangs, memory stays within the bound and everybody hears in time; then it goes on.
///
/// The queue must have `max_in_flight: 100` and `timeout: 1s`.
pub(crate) async fn hangs(queue: &Queue, server: &Server, destination: &str) {
    up(queue).await;
    publish(queue, message(1, destination, "before")).await.unwrap();
    server.pause().unwrap();
    let start = Instant::now();
    let mut waiting = Vec::new();
    let mut overloaded = 0;
    for number in 0..1000 {
        let (tell, told) = oneshot::channel();
        match queue
            .try_publish(message(1, destination, number.to_string()), Done::new(move |r| drop(tell.send(r))))
        {
            Ok(()) => waiting.push(told),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Overloaded);
                overloaded += 1;
            }
        }
        assert!(queue.stats().in_flight <= 100);
    }
    assert_eq!((waiting.len(), overloaded), (100, 900));
    for told in waiting {
        let result = tokio::time::timeout(SOON, told).await.expect("told").unwrap();
        assert_eq!(result.unwrap_err().kind(), Kind::Deadline);
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
    server.resume().unwrap();
    let deadline = Instant::now() + SOON;
    while let Err(error) = publish(queue, message(1, destination, "after")).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a file of a test holds.
pub(crate) fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
