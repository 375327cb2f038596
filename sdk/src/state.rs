//! The state of a client's connection, as its user sees it.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

use crate::error::ConnectError;

/// Whether a client is connected. See [`Edge::watch`](crate::Edge::watch) and [`Service::watch`](crate::Service::watch).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum State {
    /// The first connection is being made.
    Connecting,
    /// Connected: registrations are in place, operations go out.
    Ready {
        /// The edge or service ID.
        id: u64,
        /// The epoch of the session: a later session of the same ID has a greater one.
        epoch: u64,
    },
    /// The connection was lost and is being made anew. Operations wait for it up to their deadline.
    Reconnecting {
        /// Attempts made since the loss.
        attempt: u32,
        /// Why there is no connection: the loss, then the failure of the last attempt.
        error: Arc<ConnectError>,
    },
    /// Connected to a gateway that is about to stop. Everything still works; a new connection is being made.
    Draining {
        /// The edge or service ID.
        id: u64,
        /// The epoch of the session.
        epoch: u64,
    },
    /// Over for good.
    Closed {
        /// Why.
        reason: Arc<ConnectError>,
    },
}

/// Follows the state of a client.
///
/// Holds no client open: when the client closes, the last state seen is [`State::Closed`].
#[derive(Clone, Debug)]
pub struct StateWatch(watch::Receiver<State>);

// === impl State ===

impl State {
    /// Whether operations go out now.
    ///
    /// ```
    /// assert!(!frontier::State::Connecting.is_connected());
    /// ```
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        matches!(self, Self::Ready { .. } | Self::Draining { .. })
    }

    /// Whether the client is over for good.
    ///
    /// ```
    /// assert!(!frontier::State::Connecting.is_closed());
    /// ```
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Closed { .. })
    }

    /// Whether there is nothing to tell that the other state did not say. Errors are not compared: each is news.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Connecting, Self::Connecting) => true,
            (Self::Ready { .. }, Self::Ready { .. }) | (Self::Draining { .. }, Self::Draining { .. }) => {
                self.session() == other.session()
            }
            _ => false,
        }
    }

    /// ID and epoch of the session, while there is one.
    pub(crate) const fn session(&self) -> Option<(u64, u64)> {
        match self {
            Self::Ready { id, epoch } | Self::Draining { id, epoch } => Some((*id, *epoch)),
            Self::Connecting | Self::Reconnecting { .. } | Self::Closed { .. } => None,
        }
    }
}

/// What one would tell a person.
///
/// ```
/// assert_eq!(frontier::State::Connecting.to_string(), "connecting");
/// ```
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Ready { id, .. } => write!(f, "connected with ID {id}"),
            Self::Reconnecting { attempt: 0, error } => {
                write!(f, "connection lost ({}), connecting again", error.in_full())
            }
            Self::Reconnecting { attempt, error } => {
                write!(f, "no connection after {attempt} attempts ({}), connecting again", error.in_full())
            }
            Self::Draining { id, .. } => {
                write!(f, "connected with ID {id} to a gateway that is about to stop")
            }
            Self::Closed { reason } => write!(f, "closed: {}", reason.in_full()),
        }
    }
}

// === impl StateWatch ===

impl StateWatch {
    pub(crate) const fn new(state: watch::Receiver<State>) -> Self {
        Self(state)
    }

    /// The state now.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
    /// println!("{:?}", edge.watch().current());
    /// # });
    /// ```
    #[must_use]
    pub fn current(&self) -> State {
        self.0.borrow().clone()
    }

    /// Waits for the next change and returns the state then; `None` after [`State::Closed`] was seen. Quick changes in between may
    /// be missed.
    ///
    /// # Cancel safety
    /// Nothing is lost: a change that was not returned is returned by the next call.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
    /// let mut watch = edge.watch();
    /// # edge.close().await;
    /// while let Some(state) = watch.changed().await {
    ///     println!("{state:?}");
    /// }
    /// # });
    /// ```
    pub async fn changed(&mut self) -> Option<State> {
        // Nothing comes after the end, and handles may outlive it.
        if matches!(self.0.has_changed(), Ok(false)) && self.0.borrow().is_closed() {
            return None;
        }
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }

    /// Waits until a state is as wanted and returns it; `None` if the client closes before.
    ///
    /// # Cancel safety
    /// Safe.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |edge: frontier::Edge| {
    /// edge.watch().until(frontier::State::is_connected).await;
    /// # });
    /// ```
    pub async fn until(&mut self, wanted: impl Fn(&State) -> bool) -> Option<State> {
        let state = self.0.wait_for(|state| wanted(state) || state.is_closed()).await.ok()?.clone();
        wanted(&state).then_some(state)
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use tokio::time::timeout;

    use super::*;
    use crate::Error;

    #[test]
    fn a_state_says_what_happened_and_why() {
        let source = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = Arc::new(ConnectError::Dial { address: "tcp://a:1".into(), source });
        let lost = State::Reconnecting { attempt: 2, error };
        assert_eq!(
            lost.to_string(),
            "no connection after 2 attempts (no connection to tcp://a:1: connection refused), connecting again"
        );
        let reason = Arc::new(ConnectError::Rejected(Error::application("who are you?")));
        assert_eq!(State::Closed { reason }.to_string(), "closed: refused: application: who are you?");
        assert_eq!(State::Ready { id: 7, epoch: 1 }.to_string(), "connected with ID 7");
    }
    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_closed_has_no_more_changes_although_there_are_handles() {
        let (handle, states) = watch::channel(State::Connecting);
        let mut watch = StateWatch::new(states);
        handle.send(State::Closed { reason: Arc::new(ConnectError::Closed) }).unwrap();
        assert!(watch.changed().await.is_some_and(|state| state.is_closed()));
        let change = timeout(Duration::from_secs(1), watch.changed()).await;
        assert!(change.is_ok_and(|state| state.is_none()), "it waits for ever");
    }
}
