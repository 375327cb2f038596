//! Which gateways there are: followed by `Watch`, or asked for again and again where the registry does not know that.

use std::{sync::Arc, time::Duration};

use frontier_api::cluster::{Frontier, watch_response::Kind};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tonic::{Code, Status};

use super::{
    GATEWAYS_MAX,
    atlas::{Instance, PATIENCE},
};
use crate::{client::Shared, error::ConnectError, random::Random, reconnect::Reconnect};

/// How often a registry is asked that has no `Watch`.
const POLL: Duration = Duration::from_secs(10);

/// The waits between attempts: random, growing from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Bytes of a resume token that are kept: a longer one is not.
const RESUME_MAX: usize = 4_096;

/// What there is to tell.
#[derive(Debug)]
pub(super) enum News {
    /// These are the gateways, and no others.
    All(Vec<Frontier>),
    /// These are there as well, or their address has changed.
    Put(Vec<Frontier>),
    /// These are gone.
    Gone(Vec<Frontier>),
    /// An address of atlas was tried in vain, or its answer ended.
    Failed(ConnectError),
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct List {
    shared: Arc<Shared>,
    /// Full, it makes this wait, and with it atlas.
    news: mpsc::Sender<News>,
    /// Where the last watch ended.
    resume: Vec<u8>,
    /// Attempts since something was heard.
    attempts: u32,
    random: Random,
}

// === impl List ===

impl List {
    pub(super) fn new(shared: Arc<Shared>, news: mpsc::Sender<News>) -> Self {
        Self { shared, news, resume: Vec::new(), attempts: 0, random: Random::new() }
    }

    /// Lives until the client closes.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        shared.closing.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        let policy = Reconnect::default().base(BACKOFF.0).cap(BACKOFF.1);
        let shared = self.shared.clone();
        let Some(cluster) = &shared.cluster else { return };
        while let Some(mut instance) = cluster.atlas.instance() {
            let status = match self.watch(&mut instance).await {
                status if status.code() == Code::Unimplemented => self.poll(&mut instance).await,
                status => status,
            };
            if is_about_request(&status) {
                // There is nothing else in it than the token.
                self.resume = Vec::new();
            }
            let error = instance.error(&status);
            tracing::debug!(error = %error, "the list of gateways is not followed now");
            cluster.atlas.give_up(&instance);
            if self.news.send(News::Failed(error)).await.is_err() {
                return;
            }
            sleep(BACKOFF.0 / 2 + policy.delay(self.attempts, &mut self.random)).await;
            self.attempts = self.attempts.saturating_add(1);
        }
    }

    /// Follows the list until that ends.
    async fn watch(&mut self, instance: &mut Instance) -> Status {
        let mut answers = match instance.watch(self.resume.clone()).await {
            Ok(answers) => answers,
            Err(status) => return status,
        };
        // Who goes on has the list; and there may be nothing to tell for days.
        let mut whole = !self.resume.is_empty();
        let due = Instant::now() + PATIENCE;
        let mut snapshot: Option<Vec<Frontier>> = None;
        loop {
            let next = if whole {
                answers.message().await
            } else {
                let next = timeout_at(due, answers.message()).await;
                next.unwrap_or_else(|_| Err(Status::deadline_exceeded("no list of gateways came")))
            };
            let answer = match next {
                Ok(Some(answer)) => answer,
                Ok(None) => return Status::unavailable("the watch has ended"),
                Err(status) => return status,
            };
            let news = match answer.kind() {
                Kind::Reset => {
                    snapshot = Some(answer.frontiers);
                    None
                }
                Kind::Put => match &mut snapshot {
                    Some(snapshot) => {
                        snapshot.extend(answer.frontiers);
                        snapshot.truncate(GATEWAYS_MAX);
                        None
                    }
                    None => Some(News::Put(answer.frontiers)),
                },
                Kind::Remove => match &mut snapshot {
                    Some(snapshot) => {
                        snapshot.retain(|there| {
                            answer.frontiers.iter().all(|gone| gone.frontier_id != there.frontier_id)
                        });
                        None
                    }
                    None => Some(News::Gone(answer.frontiers)),
                },
                Kind::Current => {
                    whole = true;
                    snapshot.take().map(News::All)
                }
                Kind::Unspecified => None,
            };
            // Within a snapshot there is nothing to go on from.
            if snapshot.is_none() && answer.resume.len() <= RESUME_MAX {
                self.resume = answer.resume;
            }
            self.attempts = 0;
            if let Some(news) = news
                && self.news.send(news).await.is_err()
            {
                return Status::cancelled("the client closes");
            }
        }
    }

    /// Asks for the list again and again, until that fails.
    async fn poll(&mut self, instance: &mut Instance) -> Status {
        loop {
            match instance.list().await {
                Ok(mut gateways) => {
                    self.attempts = 0;
                    gateways.truncate(GATEWAYS_MAX);
                    if self.news.send(News::All(gateways)).await.is_err() {
                        return Status::cancelled("the client closes");
                    }
                }
                Err(status) => return status,
            }
            sleep(POLL).await;
        }
    }
}

/// Whether atlas did not like what it was asked, rather than being unable to answer.
fn is_about_request(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition | Code::NotFound | Code::DataLoss
    )
}
