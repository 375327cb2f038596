//! What every queue does whatever its broker: a broker by hand, on paused time.

#![expect(clippy::unwrap_used, reason = "a test that fails by panicking")]

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use frontier_queues::{
    Broker, ConnectError, Done, Kind, Link, Message, MessageId, Options, Outbox, PublishError, Queue,
};
use tokio::sync::{mpsc, oneshot};

/// What the test makes a connection do.
enum Act {
    /// Confirms this message.
    Confirm(u64),
    /// Loses the connection.
    Lose,
    /// Fails as code does that has a fault.
    Panic,
}

/// Shows what it is given, and acts as it is told.
struct ByHand {
    shows: mpsc::Sender<String>,
    acts: Arc<tokio::sync::Mutex<mpsc::Receiver<Act>>>,
}

struct Hand {
    shows: mpsc::Sender<String>,
    acts: Arc<tokio::sync::Mutex<mpsc::Receiver<Act>>>,
}

impl Broker for ByHand {
    type Link = Hand;

    fn addresses(&self) -> Vec<Arc<str>> {
        vec![Arc::from("hand:1")]
    }

    async fn connect(&mut self, _: usize) -> Result<Hand, ConnectError> {
        Ok(Hand { shows: self.shows.clone(), acts: Arc::clone(&self.acts) })
    }
}

impl Link for Hand {
    #[expect(clippy::panic, reason = "it is what is tested")]
    async fn run(self, outbox: &mut Outbox) -> String {
        let mut acts = self.acts.lock().await;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = outbox.next(10, &mut batch) => {
                    for outgoing in batch.drain(..) {
                        let body = String::from_utf8_lossy(&outgoing.message.body).into_owned();
                        drop(self.shows.send(body).await);
                    }
                }
                act = acts.recv() => match act {
                    Some(Act::Confirm(number)) => outbox.confirm(number, Ok(())),
                    Some(Act::Lose) => return "lost by hand".to_owned(),
                    Some(Act::Panic) => panic!("a fault"),
                    None => std::future::pending().await,
                },
            }
        }
    }
}

struct Scene {
    queue: Queue,
    shown: mpsc::Receiver<String>,
    act: mpsc::Sender<Act>,
}

impl Scene {
    fn new(max_in_flight: usize) -> Self {
        let (shows, shown) = mpsc::channel(100);
        let (act, acts) = mpsc::channel(100);
        let options = Options {
            name: "hand",
            max_in_flight,
            max_in_flight_bytes: 1 << 20,
            timeout: Duration::from_secs(5),
        };
        let queue = Queue::spawn(options, ByHand { shows, acts: Arc::new(tokio::sync::Mutex::new(acts)) });
        Self { queue, shown, act }
    }

    fn publish(&self, body: &'static str) -> oneshot::Receiver<Result<(), PublishError>> {
        let (tell, told) = oneshot::channel();
        let done = Done::new(move |result| drop(tell.send(result)));
        self.queue.try_publish(message(body), done).unwrap();
        told
    }

    async fn shows(&mut self, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.shown.recv().await.unwrap());
        }
        all
    }
}

fn message(body: &'static str) -> Message {
    Message {
        id: MessageId::random(),
        edge: 1,
        topic: Arc::from("t"),
        destination: Arc::from("t"),
        body: Bytes::from_static(body.as_bytes()),
        time: SystemTime::now(),
        content_type: None,
        traceparent: None,
        headers: Vec::new(),
        passed: None,
        deadline: Instant::now() + Duration::from_secs(3600),
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_is_sent_again_in_order_and_before_the_rest() {
    let mut scene = Scene::new(10);
    let told = [scene.publish("a"), scene.publish("b"), scene.publish("c")];
    assert_eq!(scene.shows(3).await, ["a", "b", "c"]);
    scene.act.send(Act::Confirm(1)).await.unwrap();
    let mut state = scene.queue.watch();
    scene.act.send(Act::Lose).await.unwrap();
    state.wait_for(|state| !state.is_up()).await.unwrap();
    let last = scene.publish("d");
    assert_eq!(scene.shows(3).await, ["a", "c", "d"]);
    for number in [0, 2, 3] {
        scene.act.send(Act::Confirm(number)).await.unwrap();
    }
    for told in told.into_iter().chain([last]) {
        assert_eq!(told.await.unwrap(), Ok(()));
    }
    assert_eq!((scene.queue.stats().resent, scene.queue.stats().confirmed), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_ends_connections_fails_the_third_time() {
    let mut scene = Scene::new(10);
    let told = scene.publish("a");
    for act in [Act::Lose, Act::Panic, Act::Lose] {
        assert_eq!(scene.shows(1).await, ["a"]);
        scene.act.send(act).await.unwrap();
    }
    assert_eq!(told.await.unwrap().unwrap_err().kind(), Kind::Unavailable);
    // The next one is well.
    let told = scene.publish("b");
    assert_eq!(scene.shows(1).await, ["b"]);
    scene.act.send(Act::Confirm(1)).await.unwrap();
    assert_eq!(told.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_is_late_counts_until_the_connection_lets_go_of_it() {
    let mut scene = Scene::new(1);
    let told = scene.publish("a");
    assert_eq!(scene.shows(1).await, ["a"]);
    assert_eq!(told.await.unwrap().unwrap_err().kind(), Kind::Deadline);
    let full = scene.queue.try_publish(message("b"), Done::new(|_| {})).unwrap_err();
    assert_eq!(full.kind(), Kind::Overloaded);
    scene.act.send(Act::Confirm(0)).await.unwrap();
    while scene.queue.stats().in_flight > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((scene.queue.stats().late, scene.queue.stats().confirmed), (1, 0));
    drop(scene.publish("b"));
}

#[tokio::test(start_paused = true)]
async fn everybody_is_told_when_the_queue_goes() {
    let mut scene = Scene::new(10);
    let told = scene.publish("a");
    assert_eq!(scene.shows(1).await, ["a"]);
    drop(scene.queue);
    assert_eq!(told.await.unwrap().unwrap_err().kind(), Kind::Closed);
}
