//! The settings of a client, with their defaults.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use frontier_wire::{
    native::hello::{Hello, InstanceId, Role},
    yamux,
};

use crate::{
    client::{check_method, check_topic},
    dialogue::Limits,
    error::ConnectError,
    handler::Handler,
    random::Random,
    reconnect::Reconnect,
    secret::Secret,
    session::HELLO_MAX,
    tls::TlsOptions,
    transport::Dialer,
};

/// Connections of a service, at most: beyond that more do not help any gateway.
pub(crate) const POOL_MAX: u32 = 64;

/// How many connections a service holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    /// As many as the gateway has shards.
    Auto,
    Fixed(u32),
}

/// Everything that can be set on a builder.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) role: Role,
    pub(crate) addresses: Vec<String>,
    /// Where the cluster's registry listens, if this is a client of a cluster.
    #[cfg(feature = "cluster")]
    pub(crate) atlas: Option<Vec<String>>,
    /// Gateways of the cluster that are known from the start.
    #[cfg(feature = "cluster")]
    pub(crate) gateways: Vec<String>,
    pub(crate) meta: Bytes,
    pub(crate) wished_id: u64,
    pub(crate) token: Secret,
    pub(crate) ticket: Secret,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) topics: Vec<String>,
    pub(crate) methods: Vec<(String, Handler)>,
    pub(crate) pool: Pool,
    pub(crate) tls: Option<TlsOptions>,
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) connect_timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) close_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) max_concurrent_handlers: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) message_queue: usize,
    pub(crate) stream_backlog: usize,
    pub(crate) command_queue: usize,
    pub(crate) max_body: usize,
    pub(crate) max_inbound_bytes: usize,
    pub(crate) max_streams: u32,
    pub(crate) stream_window: u32,
    pub(crate) max_stream_window: u32,
    pub(crate) reconnect: Reconnect,
    /// Where connections come from, if not from the network.
    pub(crate) dialer: Option<Dialer>,
}

// === impl Options ===

impl Options {
    pub(crate) fn new(role: Role, addresses: Vec<String>) -> Self {
        Self {
            role,
            addresses,
            #[cfg(feature = "cluster")]
            atlas: None,
            #[cfg(feature = "cluster")]
            gateways: Vec::new(),
            meta: Bytes::new(),
            wished_id: 0,
            token: Secret::default(),
            ticket: Secret::default(),
            labels: BTreeMap::new(),
            name: String::new(),
            version: String::new(),
            topics: Vec::new(),
            methods: Vec::new(),
            pool: Pool::Auto,
            tls: None,
            heartbeat: None,
            connect_timeout: Duration::from_secs(15),
            call_timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(300),
            max_concurrent_handlers: 256,
            max_in_flight: 1_024,
            message_queue: 1_024,
            stream_backlog: 128,
            command_queue: 1_024,
            max_body: 16 << 20,
            max_inbound_bytes: 64 << 20,
            max_streams: 1_024,
            stream_window: 256 << 10,
            max_stream_window: 4 << 20,
            reconnect: Reconnect::default(),
            dialer: None,
        }
    }

    /// What a dialogue accepts and sends; the peer takes bodies of at most `send_body` bytes.
    pub(crate) const fn dialogue_limits(&self, send_body: u64) -> Limits {
        Limits { send_body, recv_body: self.max_body, incoming: self.max_in_flight }
    }

    pub(crate) const fn yamux(&self) -> yamux::Config {
        yamux::Config {
            recv_window: self.stream_window,
            max_window: self.max_stream_window,
            max_streams: self.max_streams,
            // The gateway sends 64 KiB at most; what is above is a broken peer.
            max_frame: 64 << 10,
        }
    }

    /// A Hello without methods, topics and what changes from session to session.
    pub(crate) fn hello(&self, instance: InstanceId, pool_index: u32) -> Hello {
        let mut hello = Hello::new(self.role, instance);
        hello.pool_index = pool_index;
        hello.meta = self.meta.to_vec();
        hello.token = self.token.to_vec();
        hello.name.clone_from(&self.name);
        hello.service_version.clone_from(&self.version);
        hello.labels.clone_from(&self.labels);
        hello.stream_window = self.stream_window;
        hello
    }

    /// Checks what a gateway would refuse anyway.
    pub(crate) fn check(&self) -> Result<(), ConnectError> {
        let instance = InstanceId::new(Random::new().instance());
        let len = self.hello(instance, 0).encoded_len();
        if len > HELLO_MAX {
            let what = "meta, labels, token and name together";
            return Err(ConnectError::TooLong { what, len, max: HELLO_MAX });
        }
        self.methods.iter().try_for_each(|(method, _)| check_method(method)).map_err(ConnectError::Name)?;
        self.topics.iter().try_for_each(|topic| check_topic(topic)).map_err(ConnectError::Name)
    }
}
