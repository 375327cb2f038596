//! A listening socket in a poll set: accepts in bounded steps, and backs off when the process is out of descriptors.

use std::{io, net::SocketAddr, os::fd::AsRawFd, sync::Arc};

use frontier_ops::config::{ListenAddr, canonical};
use mio::{Interest, Registry, Token, event::Source};
use rustix::process::{Resource, getrlimit};

use crate::core::Bound;

/// Connections taken per turn: sessions that are there go on meanwhile.
const STEP: usize = 64;
/// Pause after an error such as EMFILE, in microseconds: retrying at once would only spin.
const BACKOFF: u64 = 100_000;
/// Between two lines about such an error, in microseconds: it may last for as long as peers want it to.
const COMPLAINT: u64 = 1_000_000;
/// Unsent bytes that the kernel keeps of a session: what is beyond stays with us, where a small frame can still overtake it.
const NOTSENT_LOWAT: u32 = 128 << 10;

/// Of few descriptors this part is kept back from edges for services, and as much again from both for operators; at most [`KEPT_MAX`].
const KEPT_PART: u64 = 8;
const KEPT_MAX: u64 = 64;

/// Takes accepted sockets that need a TLS handshake first.
pub type Accept = Arc<dyn Fn(std::net::TcpStream, SocketAddr) + Send + Sync>;

/// See the module documentation.
pub struct Listener {
    socket: mio::net::TcpListener,
    bound: Bound,
    tls: Option<Accept>,
    queued: bool,
    retry_at: Option<u64>,
    /// When the next line about an error may be written.
    quiet_until: u64,
    /// From this descriptor on, connections are not taken. The kernel hands out the lowest free one, so its number tells how many are
    /// in use, whatever for.
    ceiling: i32,
}

/// What [`Listener::accept`] took.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) connections: Vec<(std::net::TcpStream, SocketAddr)>,
    pub(super) then: Then,
}

/// What comes after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// There may be more.
    More,
    /// The poller will say when there is.
    Wait,
    /// None can be taken for a moment.
    Pause,
    /// The same, and one was closed.
    Closed,
}

// === impl Listener ===

impl Listener {
    /// Binds an address. With `tls` accepted sockets go there instead of to a shard.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(addr: &ListenAddr, bound: Bound, tls: Option<Accept>) -> io::Result<Self> {
        let socket = addr.bind_with(|socket| {
            // Accepted sockets inherit these: two system calls less per edge.
            socket.set_tcp_nodelay(true)?;
            socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)
        })?;
        let socket = mio::net::TcpListener::from_std(socket);
        let ceiling = ceiling(bound, getrlimit(Resource::Nofile).current);
        Ok(Self { socket, bound, tls, queued: false, retry_at: None, quiet_until: 0, ceiling })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whose listener it is.
    #[must_use]
    pub fn bound(&self) -> Bound {
        self.bound
    }

    /// Where accepted sockets go that need TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&Accept> {
        self.tls.as_ref()
    }

    /// When to try again after an error, in microseconds.
    #[must_use]
    pub fn retry_at(&self) -> Option<u64> {
        self.retry_at
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register(registry, token, Interest::READABLE)
    }

    /// The poller says that connections wait; true if the listener must be put on the ready list.
    pub(super) fn note(&mut self) -> bool {
        self.retry_at.is_none() && !std::mem::replace(&mut self.queued, true)
    }

    /// True if the pause after an error is over.
    pub(super) fn retry(&mut self, now: u64) -> bool {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            return !std::mem::replace(&mut self.queued, true);
        }
        false
    }

    /// Takes some connections.
    pub(super) fn accept(&mut self, now: u64) -> Accepted {
        let mut connections = Vec::new();
        while connections.len() < STEP {
            match self.socket.accept() {
                // Probes and services must get in however many edges there are: this one is closed, those behind it wait.
                Ok((socket, _)) if socket.as_raw_fd() >= self.ceiling => {
                    drop(socket);
                    self.pause(now, &"the last descriptors are kept for services and operators");
                    return Accepted { connections, then: Then::Closed };
                }
                Ok((socket, addr)) => connections.push((socket.into(), canonical(addr))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.queued = false;
                    return Accepted { connections, then: Then::Wait };
                }
                // The peer was gone before we came: the next one may be there.
                Err(error) if is_peers(&error) => {}
                Err(error) => {
                    self.pause(now, &error);
                    return Accepted { connections, then: Then::Pause };
                }
            }
        }
        Accepted { connections, then: Then::More }
    }

    fn pause(&mut self, now: u64, why: &dyn std::fmt::Display) {
        if now >= self.quiet_until {
            self.quiet_until = now + COMPLAINT;
            tracing::warn!(listener = self.bound.name(), %why, "no connections are taken for a moment");
        }
        self.queued = false;
        self.retry_at = Some(now + BACKOFF);
    }
}

fn is_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// The first descriptor that a listener may not use, of so many.
fn ceiling(bound: Bound, limit: Option<u64>) -> i32 {
    let Some(limit) = limit else { return i32::MAX };
    let kept = (limit / KEPT_PART).min(KEPT_MAX);
    let kept = match bound {
        Bound::Edge => 2 * kept,
        Bound::Service => kept,
    };
    i32::try_from(limit - kept).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Bound, ceiling};

    #[test]
    fn some_descriptors_are_kept_for_services_and_some_for_operators() {
        let of = |limit| (ceiling(Bound::Edge, Some(limit)), ceiling(Bound::Service, Some(limit)));
        assert_eq!(of(1 << 20), ((1 << 20) - 128, (1 << 20) - 64));
        assert_eq!(of(100), (76, 88));
        assert_eq!(ceiling(Bound::Edge, None), i32::MAX);
    }
}
