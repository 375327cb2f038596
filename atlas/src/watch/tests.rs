use std::collections::BTreeSet;

use super::*;
use crate::record::{Claim, EdgeRecord, StoreTime};
use crate::store::{EdgeWrite, Memory};

const HORIZON: StoreTime = StoreTime(1 << 40);
const ONE: Instance = Instance([1; 16]);
const TWO: Instance = Instance([2; 16]);

struct Scene {
    store: Arc<Memory>,
    watchers: Arc<Watchers<Memory>>,
}

impl Scene {
    async fn new() -> Self {
        let store = Arc::new(Memory::new());
        let directory = Arc::new(Directory::new(Arc::clone(&store)));
        let watchers = Arc::new(Watchers::new(Arc::clone(&store), directory, 2));
        let keeping = Arc::clone(&watchers);
        #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move { keeping.keep().await });
        let scene = Self { store, watchers };
        scene.join(ONE, "one").await;
        scene
    }

    async fn join(&self, instance: Instance, name: &str) {
        let (frontier_id, service_addr, edge_addr) =
            (name.to_owned(), format!("{name}:1"), format!("{name}:2"));
        self.store
            .join(
                &Gateway { instance, frontier_id, service_addr, edge_addr },
                Duration::from_secs(300),
                false,
            )
            .await
            .unwrap();
    }

    async fn online(&self, edges: impl IntoIterator<Item = u64>, instance: Instance, epoch: u64) {
        let record =
            EdgeRecord { claim: Claim { epoch, instance }, stream: 1, addr: "10.0.0.1:9".parse().unwrap() };
        self.write(edges.into_iter().map(|edge| EdgeWrite::Online { edge, record }).collect()).await;
    }

    async fn offline(&self, edge: u64, instance: Instance, epoch: u64) {
        self.write(vec![EdgeWrite::Offline { edge, claim: Claim { epoch, instance } }]).await;
    }

    async fn write(&self, writes: Vec<EdgeWrite>) {
        self.store.write_edges(&writes, HORIZON).await.unwrap();
        self.watchers.touch(writes.iter().map(|write| frontier_api::bucket::edge_bucket(write.edge())));
    }

    fn watch(&self, frontiers: bool, edges: bool, resume: Vec<u8>) -> Watcher<Memory> {
        self.watchers.watch(&WatchRequest { frontiers, edges, resume }).unwrap()
    }
}

/// What a client has that does as it is told.
#[derive(Debug, Default)]
struct Client {
    frontiers: BTreeSet<String>,
    edges: BTreeMap<u64, u64>,
    resume: Vec<u8>,
    resets: u32,
}

impl Client {
    /// Follows until there is nothing new for a while.
    async fn follow(&mut self, watcher: &mut Watcher<Memory>) {
        while let Ok(message) = timeout(Duration::from_secs(3), watcher.next()).await {
            let message = message.unwrap().unwrap();
            assert!(message.edges.len() <= ENTRIES + 100 && message.frontiers.len() <= ENTRIES);
            self.take(&message);
        }
    }

    fn take(&mut self, message: &WatchResponse) {
        match message.kind() {
            Kind::Reset => {
                (self.frontiers, self.edges) = (BTreeSet::new(), BTreeMap::new());
                self.resets += 1;
                self.frontiers.extend(message.frontiers.iter().map(|one| one.frontier_id.clone()));
            }
            Kind::Put => {
                self.frontiers.extend(message.frontiers.iter().map(|one| one.frontier_id.clone()));
                self.edges.extend(message.edges.iter().map(|edge| (edge.edge_id, edge.epoch)));
            }
            Kind::Remove => {
                self.frontiers.retain(|id| message.frontiers.iter().all(|one| one.frontier_id != *id));
                self.edges.retain(|id, _| message.edges.iter().all(|edge| edge.edge_id != *id));
            }
            Kind::Current => {}
            Kind::Unspecified => panic!("{message:?}"),
        }
        if !message.resume.is_empty() {
            self.resume.clone_from(&message.resume);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_has_what_there_is_and_then_what_changes() {
    let scene = Scene::new().await;
    scene.online(1..=5_000, ONE, 7).await;
    let (mut watcher, mut client) = (scene.watch(true, true, Vec::new()), Client::default());
    client.follow(&mut watcher).await;
    assert_eq!((client.edges.len(), client.frontiers.len(), client.resets), (5_000, 1, 1));
    scene.join(TWO, "two").await;
    scene.online([3, 9_000], TWO, 8).await;
    scene.offline(4, ONE, 7).await;
    client.follow(&mut watcher).await;
    assert_eq!((client.edges.len(), client.edges[&3], client.edges[&9_000]), (5_000, 8, 8));
    assert!(!client.edges.contains_key(&4) && client.frontiers.len() == 2);
    // A gateway that is gone takes its edges with it.
    scene.store.leave(ONE, 1).await.unwrap();
    client.follow(&mut watcher).await;
    assert_eq!(client.edges.keys().copied().collect::<Vec<_>>(), [3, 9_000]);
    assert!(client.frontiers.contains("two") && client.frontiers.len() == 1);
    assert_eq!(client.resets, 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_was_broken_off_or_begins_anew() {
    let scene = Scene::new().await;
    scene.online(1..=10, ONE, 7).await;
    let (mut watcher, mut client) = (scene.watch(false, true, Vec::new()), Client::default());
    client.follow(&mut watcher).await;
    assert_eq!(client.frontiers.len(), 0, "nobody asked for them");
    drop(watcher);
    scene.online([11], ONE, 7).await;
    scene.offline(1, ONE, 7).await;
    tokio::time::advance(LINGER / 2).await;
    let mut watcher = scene.watch(false, true, client.resume.clone());
    client.follow(&mut watcher).await;
    assert_eq!((client.resets, client.edges.len()), (1, 10));
    assert!(client.edges.contains_key(&11) && !client.edges.contains_key(&1));
    // Too late, and tokens of anybody.
    drop(watcher);
    for _ in 0..100 {
        tokio::time::advance(LINGER / 50).await;
    }
    for resume in [client.resume.clone(), vec![0; 17], vec![0xff; 17], vec![1, 2, 3]] {
        let mut watcher = scene.watch(false, true, resume);
        let mut client = Client::default();
        client.follow(&mut watcher).await;
        assert_eq!((client.resets, client.edges.len()), (1, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_gets_a_new_snapshot_instead_of_what_was_missed() {
    let scene = Scene::new().await;
    let (mut watcher, mut client) = (scene.watch(true, true, Vec::new()), Client::default());
    client.follow(&mut watcher).await;
    for epoch in 1..=8 {
        scene.online(1..=10_000, ONE, epoch).await;
        for _ in 0..40 {
            tokio::time::advance(TICK).await;
        }
    }
    assert!(scene.watchers.state.lock().log.len() <= LOG);
    client.follow(&mut watcher).await;
    assert_eq!((client.resets, client.edges.len()), (2, 10_000));
    assert!(client.edges.values().all(|epoch| *epoch == 8));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_watch_and_none_while_draining() {
    let scene = Scene::new().await;
    let refused = |request: WatchRequest| scene.watchers.watch(&request).unwrap_err().code();
    assert_eq!(refused(WatchRequest::default()), tonic::Code::InvalidArgument);
    let (one, mut two) = (scene.watch(true, false, Vec::new()), scene.watch(true, false, Vec::new()));
    let request = WatchRequest { frontiers: true, ..WatchRequest::default() };
    assert_eq!(refused(request.clone()), tonic::Code::ResourceExhausted);
    drop(one);
    drop(scene.watch(true, false, Vec::new()));
    scene.watchers.drain();
    assert_eq!(refused(request), tonic::Code::Unavailable);
    let ended = async {
        loop {
            if let Err(status) = two.next().await {
                return status.code();
            }
        }
    };
    assert_eq!(ended.await, tonic::Code::Unavailable);
    assert_eq!(scene.watchers.len(), 1);
}
