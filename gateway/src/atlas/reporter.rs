//! Keeps a link to atlas, and opens it again whenever it ends.

use std::{sync::Arc, time::Duration};

use frontier_api::registry::{Hello, Welcome, to_gateway};
use futures::StreamExt as _;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    attached::{Attached, End, Memory},
    backoff::Backoff,
    link::{Dial, LinkError, Trouble},
    source::Source,
    status::Status,
};

/// For a connection to come about.
const CONNECT: Duration = Duration::from_secs(3);
/// For the Welcome: atlas asks its store.
const WELCOME: Duration = Duration::from_secs(3);
/// A link that has lasted so long was a good one: the next attempt comes soon.
const GOOD: Duration = Duration::from_secs(10);

/// Who the gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// This process, drawn at its start.
    pub instance: [u8; 16],
    /// Its configured name.
    pub frontier_id: String,
    /// Where services reach it.
    pub service_addr: String,
    /// Where edges reach it.
    pub edge_addr: String,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Reporter<D, S> {
    dial: D,
    source: Arc<S>,
    identity: Identity,
    status: Arc<Status>,
    memory: Memory,
    backoff: Backoff,
    attempts: u64,
    /// Some atlas has welcomed it.
    attached: bool,
}

// === impl Reporter ===

impl<D: Dial, S: Source> Reporter<D, S> {
    /// Reports what `source` has over links by `dial`; the seed keeps gateways apart that wait for the same atlas.
    #[must_use]
    pub fn new(dial: D, source: Arc<S>, identity: Identity, status: Arc<Status>, seed: u64) -> Self {
        let (memory, backoff) = (Memory::default(), Backoff::new(seed));
        Self { dial, source, identity, status, memory, backoff, attempts: 0, attached: false }
    }

    /// Until `stop`; then the gateway leaves atlas in good order, which takes a second at most.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let begin = Instant::now();
            let error = match self.link(&stop).await {
                End::Left => break,
                End::Failed(error) => error,
            };
            // Whatever was told is told anew by the next link, so nobody needs to note changes.
            self.source.roll().forget_all();
            self.status.count(error.trouble);
            self.status.down(&error);
            if begin.elapsed() >= GOOD {
                self.backoff.reset();
            }
            let wait = self.backoff.next(error.trouble);
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                break;
            }
        }
        self.status.left();
    }

    async fn link(&mut self, stop: &CancellationToken) -> End {
        let asked = self.source.clock();
        let opened = match stop.run_until_cancelled(self.open()).await {
            None => return End::Left,
            Some(Err(error)) => return End::Failed(error),
            Some(Ok(opened)) => opened,
        };
        let (link, welcome) = opened;
        let (source, status, instance) = (&self.source, &self.status, self.identity.instance);
        if let Err(error) = self.memory.learn(&**source, asked, welcome.time_ms) {
            return End::Failed(error);
        }
        match Attached::<D, S>::new(link, &welcome, source, status, &mut self.memory, instance) {
            Ok(attached) => attached.run(stop).await,
            Err(error) => End::Failed(error),
        }
    }

    async fn open(&mut self) -> Result<(super::Link<D::Hear, D::Renew>, Welcome), LinkError> {
        let hello = Hello {
            version: 1,
            instance: self.identity.instance.to_vec(),
            frontier_id: self.identity.frontier_id.clone(),
            service_addr: self.identity.service_addr.clone(),
            edge_addr: self.identity.edge_addr.clone(),
            attached: self.attached,
        };
        let attempt = self.attempts;
        self.attempts += 1;
        let late = |what| move |_| LinkError::new(Trouble::Timeout, what);
        let mut link = timeout(CONNECT, self.dial.dial(attempt, hello))
            .await
            .map_err(late("no connection in time"))??;
        match timeout(WELCOME, link.hear.next()).await.map_err(late("no Welcome in time"))? {
            None => Err(Trouble::Ended.into()),
            Some(Err(error)) => Err(error),
            Some(Ok(message)) => match message.kind {
                Some(to_gateway::Kind::Welcome(welcome)) => {
                    self.attached = true;
                    Ok((link, welcome))
                }
                _ => Err(LinkError::new(Trouble::Protocol, "its first message is no Welcome")),
            },
        }
    }
}
