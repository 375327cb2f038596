//! The network between gateways and atlases: connections that are slow, silent or broken, and deliver in order what they deliver.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use frontier_api::registry::{
    FromGateway, Hello, RenewRequest, RenewResponse, ToGateway, from_gateway::Kind,
};
use frontier_atlas::links::{LinkError as AtlasError, Links};
use frontier_gateway::atlas::{Dial, Link, LinkError, Renew, Trouble};
use frontier_gateway::sim::rng::Rng;
use parking_lot::Mutex;
use prost::Message;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::store::Handle;

/// All connections, and what lies between whom.
pub(crate) struct Net {
    state: Mutex<State>,
    /// What happens is printed.
    tell: bool,
    begin: Instant,
}

struct State {
    rng: Rng,
    /// Of everything that was sent, and when.
    trace: DefaultHasher,
    /// Renewals that came twice.
    duplicates: u64,
    atlases: Vec<Option<Atlas>>,
    /// Nothing passes between a gateway and an atlas before: it is kept, unless the connection ends meanwhile.
    silent: std::collections::BTreeMap<(usize, usize), Instant>,
    /// Of connections that are open.
    open: Vec<(usize, usize, CancellationToken)>,
}

/// A running atlas.
#[derive(Clone)]
pub(crate) struct Atlas {
    pub(crate) links: Arc<Links<Handle>>,
    /// It has crashed.
    pub(crate) dead: CancellationToken,
}

/// A gateway's way to the atlases.
pub(crate) struct Dialer {
    pub(crate) net: Arc<Net>,
    pub(crate) gateway: usize,
    /// The gateway has crashed.
    pub(crate) dead: CancellationToken,
}

pub(crate) struct Renewals {
    net: Arc<Net>,
    gateway: usize,
    atlas: usize,
}

// === impl Net ===

impl Net {
    pub(crate) fn new(rng: Rng, atlases: usize, tell: bool) -> Arc<Self> {
        let atlases = (0..atlases).map(|_| None).collect();
        Arc::new(Self {
            state: Mutex::new(State {
                rng,
                trace: DefaultHasher::new(),
                duplicates: 0,
                atlases,
                silent: Default::default(),
                open: Vec::new(),
            }),
            tell,
            begin: Instant::now(),
        })
    }

    pub(crate) fn set_atlas(&self, at: usize, atlas: Option<Atlas>) {
        self.state.lock().atlases[at] = atlas;
    }

    pub(crate) fn atlas(&self, at: usize) -> Option<Atlas> {
        self.state.lock().atlases[at].clone()
    }

    /// Nothing passes between them for a while.
    pub(crate) fn silence(&self, gateway: usize, atlas: usize, time: Duration) {
        self.state.lock().silent.insert((gateway, atlas), Instant::now() + time);
    }

    /// Breaks all connections between them.
    pub(crate) fn break_off(&self, gateway: usize, atlas: usize) {
        self.state.lock().open.retain(|(g, a, broken)| {
            let hit = (*g, *a) == (gateway, atlas);
            if hit {
                broken.cancel();
            }
            !hit
        });
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.tell {
            println!("{:9.3}   {}", self.begin.elapsed().as_secs_f64(), what());
        }
    }

    /// Somebody says something to somebody.
    fn note(&self, who: (usize, usize), what: &impl Message) {
        let mut state = self.state.lock();
        (self.begin.elapsed(), who, what.encode_to_vec()).hash(&mut state.trace);
    }

    /// Two lives with the same trace were the same.
    pub(crate) fn trace(&self) -> u64 {
        self.state.lock().trace.finish()
    }

    /// Renewals that came twice so far.
    pub(crate) fn duplicates(&self) -> u64 {
        self.state.lock().duplicates
    }

    pub(crate) fn heal(&self) {
        self.state.lock().silent.clear();
    }

    /// The time of one message on its way; longer while nothing passes.
    async fn pass(&self, gateway: usize, atlas: usize) {
        let delay = Duration::from_micros(self.state.lock().rng.between(50, 10_000));
        sleep(delay).await;
        loop {
            let until = self.state.lock().silent.get(&(gateway, atlas)).copied();
            match until.filter(|until| *until > Instant::now()) {
                // Looked at again, since it may heal before.
                Some(until) => sleep_until(until.min(Instant::now() + Duration::from_millis(50))).await,
                None => return,
            }
        }
    }
}

impl Dial for Dialer {
    type Hear = ReceiverStream<Result<ToGateway, LinkError>>;
    type Renew = Renewals;

    async fn dial(&self, attempt: u64, hello: Hello) -> Result<Link<Self::Hear, Renewals>, LinkError> {
        let (net, gateway) = (Arc::clone(&self.net), self.gateway);
        let at = {
            let state = net.state.lock();
            usize::try_from((attempt + gateway as u64) % state.atlases.len() as u64).unwrap()
        };
        net.say(|| format!("gateway {gateway} dials atlas {at}"));
        net.pass(gateway, at).await;
        let atlas = net.atlas(at).ok_or_else(|| LinkError::from(Trouble::Unreachable))?;
        let broken = CancellationToken::new();
        net.state.lock().open.push((gateway, at, broken.clone()));
        let (tell, told) = mpsc::channel(Link::<(), ()>::ROOM);
        let (to_atlas, inbound) = mpsc::channel(1);
        let (out, answers) = mpsc::channel(4);
        let (to_gateway, hear) = mpsc::channel(4);
        let hello = FromGateway { kind: Some(Kind::Hello(hello)) };
        tell.try_send(hello).unwrap();
        #[allow(
            clippy::disallowed_methods,
            reason = "they end with the connection or with the runtime of the seed"
        )]
        {
            tokio::spawn(upstream(
                Arc::clone(&net),
                (gateway, at),
                told,
                to_atlas,
                broken.clone(),
                self.dead.clone(),
            ));
            let dead = atlas.dead.clone();
            let end = downstream(answers, to_gateway, Arc::clone(&net), (gateway, at), broken.clone());
            let net = Arc::clone(&net);
            tokio::spawn(async move {
                let attach = atlas.links.attach(|_| true, ReceiverStream::new(inbound), out);
                let outcome = select! {
                    biased;
                    outcome = attach => Some(outcome),
                    () = dead.cancelled() => None,
                };
                ended(&net, (gateway, at), outcome, &end, &broken).await;
            });
        }
        let renew = Arc::new(Renewals { net, gateway, atlas: at });
        Ok(Link { tell, hear: ReceiverStream::new(hear), renew })
    }
}

/// Passes on what atlas says; gives a way to say how it ended.
fn downstream(
    mut answers: mpsc::Receiver<ToGateway>,
    to_gateway: mpsc::Sender<Result<ToGateway, LinkError>>,
    net: Arc<Net>,
    (gateway, atlas): (usize, usize),
    broken: CancellationToken,
) -> mpsc::Sender<Result<ToGateway, LinkError>> {
    let (end, mut ended) = mpsc::channel(1);
    #[allow(clippy::disallowed_methods, reason = "ends with the connection or with the runtime of the seed")]
    tokio::spawn(async move {
        let pass = async {
            while let Some(answer) = answers.recv().await {
                net.note((atlas + 100, gateway), &answer);
                net.pass(gateway, atlas).await;
                if to_gateway.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
            if let Some(end) = ended.recv().await {
                let _ = to_gateway.send(end).await;
            }
        };
        select! {
            biased;
            () = pass => {}
            () = broken.cancelled() => {
                let _ = to_gateway.send(Err(Trouble::Broken.into())).await;
            }
        }
    });
    end
}

async fn ended(
    net: &Net,
    (gateway, atlas): (usize, usize),
    outcome: Option<Result<(), AtlasError>>,
    end: &mpsc::Sender<Result<ToGateway, LinkError>>,
    broken: &CancellationToken,
) {
    net.say(|| format!("the link of gateway {gateway} to atlas {atlas} ended: {outcome:?}"));
    net.pass(gateway, atlas).await;
    let trouble = match outcome {
        Some(Ok(())) => return,
        Some(Err(AtlasError::Superseded)) => Trouble::Superseded,
        Some(Err(AtlasError::Forgotten)) => Trouble::Forgotten,
        Some(Err(AtlasError::Invalid(what))) => panic!("a gateway breaks the rules: {what}"),
        Some(Err(AtlasError::Draining | AtlasError::Store(_))) => Trouble::Unavailable,
        Some(Err(_)) => Trouble::Ended,
        None => {
            broken.cancel();
            return;
        }
    };
    let _ = end.send(Err(trouble.into())).await;
}

/// Passes on what a gateway says, until it has left or the connection has broken; also what was on its way when the gateway gave it up.
async fn upstream(
    net: Arc<Net>,
    (gateway, atlas): (usize, usize),
    mut told: mpsc::Receiver<FromGateway>,
    to_atlas: mpsc::Sender<Result<FromGateway, ()>>,
    broken: CancellationToken,
    dead: CancellationToken,
) {
    let pass = async {
        while let Some(message) = told.recv().await {
            net.note((gateway, atlas + 100), &in_order(&message));
            net.pass(gateway, atlas).await;
            if to_atlas.send(Ok(message)).await.is_err() {
                return;
            }
        }
        net.pass(gateway, atlas).await;
        if dead.is_cancelled() {
            // Nobody took leave.
            let _ = to_atlas.send(Err(())).await;
        }
    };
    select! {
        biased;
        () = pass => {}
        () = broken.cancelled() => {
            let _ = to_atlas.send(Err(())).await;
        }
    }
}

// === impl Renewals ===

impl Renewals {
    /// Sometimes a request comes once more, after later ones even: something in between has asked again.
    fn comes_again(&self, atlas: &Atlas, request: &RenewRequest) {
        let mut state = self.net.state.lock();
        if !state.rng.chance(20) {
            return;
        }
        state.duplicates += 1;
        let later = Duration::from_millis(state.rng.between(1, 3_000));
        drop(state);
        let (atlas, request) = (atlas.clone(), request.clone());
        #[allow(clippy::disallowed_methods, reason = "ends with the runtime of the seed")]
        tokio::spawn(async move {
            sleep(later).await;
            if !atlas.dead.is_cancelled() {
                let _ = atlas.links.renew(&request).await;
            }
        });
    }
}

/// Edges of one message are in the order of a table, which is none; nothing depends on it.
fn in_order(message: &FromGateway) -> FromGateway {
    let mut message = message.clone();
    match &mut message.kind {
        Some(Kind::Changes(changes)) => changes.edges.sort_by_key(|edge| edge.id),
        Some(Kind::Buckets(buckets)) => buckets.edges.sort_by_key(|edge| edge.id),
        Some(Kind::Hello(_)) | None => {}
    }
    message
}

impl Renew for Renewals {
    async fn renew(&self, request: RenewRequest) -> Result<RenewResponse, LinkError> {
        self.net.note((self.gateway, self.atlas + 100), &request);
        self.net.pass(self.gateway, self.atlas).await;
        let atlas = self.net.atlas(self.atlas).ok_or_else(|| LinkError::from(Trouble::Unreachable))?;
        self.comes_again(&atlas, &request);
        let answer = atlas.links.renew(&request).await;
        self.net.pass(self.gateway, self.atlas).await;
        answer.map_err(|error| match error {
            AtlasError::Invalid(what) => panic!("a gateway breaks the rules: {what}"),
            _ => Trouble::Unavailable.into(),
        })
    }
}
