//! Connecting as an edge or a service.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use frontier_wire::native::{
    frame::{Flags, FrameType},
    hello::Welcome,
    proto,
};
use prost::Message;

use super::{Event, Peer, Refusal, Wire};

/// Longest time until Welcome or Reject: the default of `limits.handshake` and some more.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// A connection about to be made.
#[derive(Clone)]
pub struct Dial {
    addr: SocketAddr,
    /// What it will say.
    pub hello: proto::Hello,
}

// === impl Dial ===

impl Dial {
    /// An edge.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn edge(addr: SocketAddr) -> anyhow::Result<Self> {
        Self::new(addr, proto::Role::Edge)
    }

    /// A service of this name.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn service(addr: SocketAddr, name: &str) -> anyhow::Result<Self> {
        let mut dial = Self::new(addr, proto::Role::Service)?;
        dial.hello.name = name.to_owned();
        Ok(dial)
    }

    fn new(addr: SocketAddr, role: proto::Role) -> anyhow::Result<Self> {
        let mut instance = vec![0; 16];
        getrandom::fill(&mut instance).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let hello = proto::Hello { version: 1, role: role.into(), instance, ..proto::Hello::default() };
        Ok(Self { addr, hello })
    }

    /// Changes what it will say.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut proto::Hello)) -> Self {
        change(&mut self.hello);
        self
    }

    /// Offers methods from the start.
    #[must_use]
    pub fn methods(mut self, names: &[&str]) -> Self {
        self.hello.methods.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// Takes topics from the start.
    #[must_use]
    pub fn topics(mut self, names: &[&str]) -> Self {
        self.hello.topics.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// Wishes for an ID.
    #[must_use]
    pub fn wish(mut self, id: u64) -> Self {
        self.hello.wished_id = id;
        self
    }

    /// Connects, and expects to be welcome.
    ///
    /// # Errors
    /// When it is not.
    pub fn connect(&self) -> anyhow::Result<Peer> {
        match self.attempt()? {
            Ok(peer) => Ok(peer),
            Err(refusal) => bail!("rejected: {refusal:?}"),
        }
    }

    /// Connects; the refusal is that of Reject.
    ///
    /// # Errors
    /// When the gateway says neither Welcome nor Reject.
    pub fn attempt(&self) -> anyhow::Result<Result<Peer, Refusal>> {
        self.attempt_over(Wire::dial(self.addr)?)
    }

    /// The same over a connection that has said nothing yet.
    ///
    /// # Errors
    /// When the gateway says neither Welcome nor Reject.
    pub fn attempt_over(&self, mut wire: Wire) -> anyhow::Result<Result<Peer, Refusal>> {
        self.greet(&mut wire)?;
        self.welcomed(wire)
    }

    /// Sends Hello.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn greet(&self, wire: &mut Wire) -> anyhow::Result<()> {
        wire.frame(FrameType::Hello, Flags::NONE, 0, &self.hello.encode_to_vec(), &[])
    }

    /// Waits for the answer to Hello.
    ///
    /// # Errors
    /// When the gateway says neither Welcome nor Reject.
    pub fn welcomed(&self, mut wire: Wire) -> anyhow::Result<Result<Peer, Refusal>> {
        match wire.next(HANDSHAKE)?.context("neither Welcome nor Reject")? {
            Event::Frame(frame) if frame.kind == FrameType::Welcome => {
                let welcome = Welcome::decode(&frame.head)?;
                let window = |announced| if announced == 0 { 256 << 10 } else { announced };
                let (recv, send) = (window(self.hello.stream_window), welcome.stream_window);
                wire.conn().engine_mut().set_stream_windows(recv, send);
                Ok(Ok(Peer::new(wire, welcome)))
            }
            Event::Frame(frame) if frame.kind == FrameType::Reject => {
                Ok(Err(Refusal::from_proto(&frame.head_as::<proto::Error>()?)))
            }
            other => bail!("{other:?} before Welcome"),
        }
    }
}
