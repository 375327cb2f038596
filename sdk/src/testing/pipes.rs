//! Connections as bytes, for tests that play the gateway themselves.

use tokio::{io::DuplexStream, sync::mpsc};

use crate::{Edge, EdgeBuilder, Service, ServiceBuilder, transport::Dialer};

/// Takes the connections of the clients it makes.
#[derive(Debug)]
pub struct Pipes {
    dialer: Dialer,
    incoming: mpsc::Receiver<DuplexStream>,
}

/// Connections that wait to be accepted.
const WAITING: usize = 8;

// === impl Pipes ===

impl Pipes {
    /// Without a client.
    #[must_use]
    pub fn new() -> Self {
        let (pipes, incoming) = mpsc::channel(WAITING);
        Self { dialer: Dialer::Memory(pipes), incoming }
    }

    /// An edge that connects here.
    pub fn edge(&self) -> EdgeBuilder {
        Edge::builder("memory:1").dialer(self.dialer.clone())
    }

    /// A service that connects here.
    pub fn service(&self) -> ServiceBuilder {
        Service::builder("memory:1").dialer(self.dialer.clone())
    }

    /// The gateway's end of the next connection.
    pub async fn accept(&mut self) -> Option<DuplexStream> {
        self.incoming.recv().await
    }
}

impl Default for Pipes {
    fn default() -> Self {
        Self::new()
    }
}

/// What of an edge's `max_inbound_bytes` is not in use.
#[must_use]
pub fn inbound_left(edge: &Edge) -> usize {
    edge.budget_left()
}
