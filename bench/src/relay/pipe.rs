//! The bare relay's loop.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::Result;
use slab::Slab;
use socket2::Socket;

use super::pair::{Flow, Pair, Side};
use crate::net::{self, Poller};

/// Bytes of the copy buffer: a frame of 64 KiB fits with what is around it, and it stays within a core's second-level cache.
pub(super) const DEFAULT_BUFFER: usize = 128 * 1024;
const LISTENER: u64 = u64::MAX;

/// See [`crate::relay`].
#[derive(Debug)]
pub struct Relay {
    poller: Poller,
    listener: Socket,
    upstream: SocketAddr,
    pairs: Slab<Pair>,
    buffer: Box<[u8]>,
    /// Pairs that ended in this turn. Their slots are free only after it, because events for them may still be in the batch.
    over: Vec<usize>,
}

// === impl Relay ===

impl Relay {
    /// Listens; every connection will be passed on to `upstream`.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn bind(listen: SocketAddr, upstream: SocketAddr, buffer: usize) -> Result<Self> {
        let poller = Poller::new()?;
        let listener = net::listen(listen)?;
        poller.add(&listener, LISTENER, net::LISTENER)?;
        let buffer = vec![0; buffer.max(1)].into_boxed_slice();
        Ok(Self { poller, listener, upstream, pairs: Slab::new(), buffer, over: Vec::new() })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As of the kernel.
    pub fn addr(&self) -> Result<SocketAddr> {
        net::local_addr(&self.listener)
    }

    /// Pairs that are open.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Waits for events and serves them.
    ///
    /// # Errors
    /// If the kernel runs out of descriptors.
    pub fn turn(&mut self, timeout: Option<Duration>) -> Result<()> {
        self.poller.wait(timeout)?;
        for index in 0..self.poller.len() {
            let ready = self.poller.event(index);
            if ready.token == LISTENER {
                self.accept()?;
                continue;
            }
            let (key, side) = untoken(ready.token);
            let Some(pair) = self.pairs.get_mut(key) else { continue };
            let mut flow = Flow::Open;
            if ready.writable {
                flow = pair.writable(side, &mut self.buffer);
            }
            if ready.readable && flow == Flow::Open {
                flow = pair.readable(side, ready.closed, &mut self.buffer);
            }
            if flow == Flow::Over && !self.over.contains(&key) {
                self.over.push(key);
            }
        }
        for key in self.over.drain(..) {
            self.pairs.remove(key);
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some(edge) = net::accept(&self.listener)? {
            edge.set_nodelay(true)?;
            let upstream = net::dial(self.upstream, None)?;
            let key = self.pairs.insert(Pair::new(edge, upstream));
            for side in [Side::Edge, Side::Upstream] {
                self.poller.add(self.pairs[key].socket(side), token(key, side), net::SOCKET)?;
            }
        }
        Ok(())
    }
}

const fn token(key: usize, side: Side) -> u64 {
    (key as u64) << 1 | matches!(side, Side::Upstream) as u64
}

const fn untoken(token: u64) -> (usize, Side) {
    let side = if token & 1 == 0 { Side::Edge } else { Side::Edge.other() };
    ((token >> 1) as usize, side)
}
