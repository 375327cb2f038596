//! What a client offers, methods and topics: told to every gateway that is connected, and said anew to each that comes later.
//!
//! Every change is counted, and a link counts as connected only when it has said the newest state. So whoever makes a change has to tell
//! just the links that are connected at that moment.

use std::time::Duration;

use tokio::{
    select,
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};

use crate::{
    client::{Client, Shared, check_topic},
    error::{Error, ErrorCode, Result},
    handler::Handler,
    op::{NameLists, Names, Op, deadline},
    promise::{Answer, promise},
    reply::Reply,
    site::Live,
    state::State,
};

/// How long a change waits for one gateway of a cluster when others have confirmed it. The silent one has been told, and is told again if
/// its connection ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a link said when it connected.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) methods: Vec<String>,
    pub(crate) topics: Vec<String>,
    pub(crate) revision: u64,
}

/// What has to be said beyond that.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) gained: NameLists,
    pub(crate) lost: NameLists,
}

/// How telling a gateway ended.
enum Told {
    /// It knows.
    Confirmed,
    /// It is not connected any more: it hears of it when it is.
    Gone,
    /// It has not answered.
    Silent,
}

// === impl Client ===

impl Client {
    /// Offers a method; on failure it is not offered.
    pub(crate) async fn register(&self, method: &str, handler: Handler) -> Result<()> {
        let deadline = deadline(self.shared.options.call_timeout);
        let _turn = self.shared.names_turn(deadline).await?;
        let (before, links) = self.shared.change(|shared| shared.handlers.insert(method, handler));
        let replaced = before.is_some();
        // Handlers may hold handles: what was replaced must not be dropped later than it has to.
        drop(before);
        if replaced {
            return Ok(());
        }
        let outcome = self.shared.tell(links, true, Some(method), None, deadline).await;
        if outcome.is_err() {
            let (removed, links) = self.shared.change(|shared| shared.handlers.remove(method));
            drop(removed);
            // Some connections may have taken it.
            let _ = self.shared.tell(links, false, Some(method), None, deadline).await;
        }
        outcome
    }

    pub(crate) async fn unregister(&self, method: &str) -> Result<()> {
        let deadline = deadline(self.shared.options.call_timeout);
        let _turn = self.shared.names_turn(deadline).await?;
        let (removed, links) = self.shared.change(|shared| shared.handlers.remove(method));
        match removed {
            Some(_) => self.shared.tell(links, false, Some(method), None, deadline).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn subscribe(&self, topic: &str) -> Result<()> {
        check_topic(topic)?;
        let deadline = deadline(self.shared.options.call_timeout);
        let _turn = self.shared.names_turn(deadline).await?;
        let (added, links) = self.shared.change(|shared| shared.topics.lock().insert(topic.into()));
        if !added {
            return Ok(());
        }
        let outcome = self.shared.tell(links, true, None, Some(topic), deadline).await;
        if outcome.is_err() {
            let (_, links) = self.shared.change(|shared| shared.topics.lock().remove(topic));
            let _ = self.shared.tell(links, false, None, Some(topic), deadline).await;
        }
        outcome
    }

    pub(crate) async fn unsubscribe(&self, topic: &str) -> Result<()> {
        let deadline = deadline(self.shared.options.call_timeout);
        let _turn = self.shared.names_turn(deadline).await?;
        let (removed, links) = self.shared.change(|shared| shared.topics.lock().remove(topic));
        if !removed {
            return Ok(());
        }
        self.shared.tell(links, false, None, Some(topic), deadline).await
    }
}

// === impl Shared ===

impl Shared {
    /// Everything that is offered, with the count of changes up to then.
    pub(crate) fn offered(&self) -> Said {
        let revision = self.revision.lock();
        let topics = self.topics.lock().iter().map(|topic| topic.to_string()).collect();
        Said { methods: self.handlers.names(), topics, revision: *revision }
    }

    /// Changes what is offered. Returns the links that have to be told of it: all others say it when they connect.
    fn change<T>(&self, change: impl FnOnce(&Self) -> T) -> (T, Vec<Live>) {
        let mut revision = self.revision.lock();
        *revision += 1;
        (change(self), self.live())
    }

    /// Waits until nobody else changes what is offered, or until the deadline.
    async fn names_turn(&self, deadline: Instant) -> Result<SemaphorePermit<'_>> {
        let turn = timeout_at(deadline, self.names_turn.acquire()).await;
        turn.map_err(|_| Error::deadline())?.map_err(|_| self.closed_error())
    }

    /// Offers a method or topic on these links, or no longer. Without any it waits for the first that connects, which says it then.
    async fn tell(
        &self,
        links: Vec<Live>,
        register: bool,
        method: Option<&str>,
        topic: Option<&str>,
        deadline: Instant,
    ) -> Result<()> {
        if links.is_empty() {
            let connected = async { self.watch().until(State::is_connected).await };
            let connected = timeout_at(deadline, connected).await.map_err(|_| Error::deadline())?;
            return connected.map(drop).ok_or_else(|| self.closed_error());
        }
        let mut answers = Vec::with_capacity(links.len());
        for live in links {
            let (promise, answer) = promise();
            let lists = NameLists {
                methods: method.map(Into::into).into_iter().collect(),
                topics: topic.map(Into::into).into_iter().collect(),
            };
            let names = Op::Names(Names { register, lists, promise });
            match timeout_at(deadline, live.ops.send(names)).await {
                // The link has ended: this answer is an error, and looked at as such.
                Ok(_) => answers.push((live, answer)),
                Err(_) => return Err(Error::deadline()),
            }
        }
        let patience = if self.is_cluster() { deadline.min(Instant::now() + PATIENCE) } else { deadline };
        let (mut confirmed, mut silent) = (false, false);
        for (live, answer) in answers {
            match self.told(&live, answer, patience).await? {
                Told::Confirmed => confirmed = true,
                Told::Gone => {}
                Told::Silent => silent = true,
            }
        }
        if self.is_closed() {
            return Err(self.closed_error());
        }
        if silent && !(confirmed && self.is_cluster()) { Err(Error::deadline()) } else { Ok(()) }
    }

    /// Waits for the answer of one link, for as long as it is connected.
    async fn told(&self, live: &Live, answer: Answer<Reply>, until: Instant) -> Result<Told> {
        let mut pulse = self.pulse();
        let gone = async { while !live.site.is_down(live.link) && pulse.changed().await.is_ok() {} };
        select! {
            biased;
            outcome = timeout_at(until, answer) => match outcome {
                Ok(Ok(_)) => Ok(Told::Confirmed),
                // A session that ended took the names along: the next one says them in its Hello.
                Ok(Err(error)) if error.code() == ErrorCode::SessionClosed => Ok(Told::Gone),
                Ok(Err(error)) => Err(error),
                Err(_) => Ok(Told::Silent),
            },
            () = gone => Ok(Told::Gone),
        }
    }
}

// === impl Said ===

impl Said {
    /// What has changed since.
    pub(crate) fn until(&self, now: &Self) -> Difference {
        let missing = |from: &[String], of: &[String]| -> Vec<Box<str>> {
            of.iter().filter(|name| !from.contains(name)).map(|name| name.as_str().into()).collect()
        };
        Difference {
            gained: NameLists {
                methods: missing(&self.methods, &now.methods),
                topics: missing(&self.topics, &now.topics),
            },
            lost: NameLists {
                methods: missing(&now.methods, &self.methods),
                topics: missing(&now.topics, &self.topics),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_what_came_and_what_went() {
        let said = |methods: &[&str], topics: &[&str]| Said {
            methods: methods.iter().map(ToString::to_string).collect(),
            topics: topics.iter().map(ToString::to_string).collect(),
            revision: 0,
        };
        let difference = said(&["a", "b"], &["t"]).until(&said(&["b", "c"], &["t", "u"]));
        assert_eq!(difference.gained.methods, ["c".into()]);
        assert_eq!(difference.gained.topics, ["u".into()]);
        assert_eq!(difference.lost.methods, ["a".into()]);
        assert!(difference.lost.topics.is_empty());
    }
}
