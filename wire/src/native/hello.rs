//! The handshake: Hello, Welcome and Reject (`docs/protocol.md` section 5).
//!
//! A Hello is checked before anything is built from it: lengths and counts first, on the bytes, so that a hostile one cannot
//! make the decoder allocate more than it sent; then the meaning. What comes out is as [`Hello`] describes it, so nothing
//! behind this module has to check again. A refusal is an [`ErrorRef`](super::head::ErrorRef) as the head of Reject.

mod error;
mod welcome;

use std::{collections::BTreeMap, fmt};

use bytes::BufMut;
use prost::Message;

pub(super) use self::error::{at_most, not_more};
pub use self::{
    error::{HelloError, Part},
    welcome::{Welcome, WelcomeError},
};
use super::{head::fields::Fields, limits::HelloLimits, proto};

/// The version of the protocol spoken here, and the only one so far.
pub const VERSION: u32 = 1;

/// The features known here: none are defined yet.
pub const FEATURES: u64 = 0;

/// Start window of user streams in bytes where 0 was announced, as in yamux.
pub const DEFAULT_STREAM_WINDOW: u32 = 262_144;

/// Smallest start window of user streams in bytes that a peer may announce. Below, a sender would cut streams into frames
/// that cost more in headers and wake-ups than they carry.
pub const MIN_STREAM_WINDOW: u32 = 4_096;

/// Methods that the gateway calls itself: services may register them, edges may neither register nor call them.
pub const RESERVED_METHODS: [&str; 3] = ["get_edge_id", "edge_online", "edge_offline"];

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A client, one of many.
    Edge,
    /// What clients talk to.
    Service,
}

/// 128 random bits that tell one running client from another; the connections of a pool share them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId([u8; 16]);

/// What a dialer says of itself. As decoded it has a role, a whole instance, names and labels within the limits, and nothing
/// that only services may say from an edge.
#[derive(Clone, PartialEq, Eq)]
pub struct Hello {
    /// Highest version the dialer speaks, at least 1.
    pub version: u32,
    /// The dialer's features, known or not.
    pub features: u64,
    /// Edge or service.
    pub role: Role,
    /// The ID the dialer would like; 0 = none.
    pub wished_id: u64,
    /// Resume ticket of an earlier Welcome; empty = none.
    pub ticket: Vec<u8>,
    /// The running client.
    pub instance: InstanceId,
    /// Which connection of the instance this is, from 0.
    pub pool_index: u32,
    /// Opaque, for `get_edge_id` and `edge_online`.
    pub meta: Vec<u8>,
    /// For `auth.tokens`; empty = none.
    pub token: Vec<u8>,
    /// Service name; empty = none.
    pub name: String,
    /// Version of the service; empty = none.
    pub service_version: String,
    /// The application's labels.
    pub labels: BTreeMap<String, String>,
    /// Topics taken from the start.
    pub topics: Vec<String>,
    /// Methods offered from the start.
    pub methods: Vec<String>,
    /// Start window of user streams towards the dialer in bytes, at least [`MIN_STREAM_WINDOW`].
    pub stream_window: u32,
}

/// Whether the gateway calls the method itself ([`RESERVED_METHODS`]).
#[must_use]
pub fn is_reserved(method: &str) -> bool {
    reserved(method).is_some()
}

fn reserved(method: &str) -> Option<&'static str> {
    RESERVED_METHODS.into_iter().find(|name| *name == method)
}

// === impl Hello ===

impl Hello {
    /// The Hello of this version with everything optional left out.
    #[must_use]
    pub const fn new(role: Role, instance: InstanceId) -> Self {
        Self {
            version: VERSION,
            features: FEATURES,
            role,
            wished_id: 0,
            ticket: Vec::new(),
            instance,
            pool_index: 0,
            meta: Vec::new(),
            token: Vec::new(),
            name: String::new(),
            service_version: String::new(),
            labels: BTreeMap::new(),
            topics: Vec::new(),
            methods: Vec::new(),
            stream_window: DEFAULT_STREAM_WINDOW,
        }
    }

    /// Decodes and checks the head of a Hello frame.
    ///
    /// # Errors
    /// When it is malformed, breaks a limit or makes no sense. [`HelloError::code`] and its text are for the Reject.
    pub fn decode(head: &[u8], limits: &HelloLimits) -> Result<Self, HelloError> {
        limits.check_counts(head)?;
        let hello = Self::from_proto(proto::Hello::decode(head)?)?;
        hello.check(limits)?;
        Ok(hello)
    }

    /// The place of a connection in its pool, from the head of a Hello frame: nothing is decoded, allocated or checked for it. `None` if the
    /// head cannot be read.
    #[must_use]
    pub fn pool_index_of(head: &[u8]) -> Option<u32> {
        const POOL_INDEX: u32 = 7;
        let (mut fields, mut index) = (Fields::new(head), 0);
        while let Some((number, value)) = fields.next().ok()? {
            if number == POOL_INDEX {
                index = value.u32(number).ok()?;
            }
        }
        Some(index)
    }

    /// Checks lengths, counts and meaning, as [`decode`](Self::decode) does; for dialers that want to know beforehand.
    ///
    /// # Errors
    /// When the acceptor would refuse this Hello.
    pub fn check(&self, limits: &HelloLimits) -> Result<(), HelloError> {
        if self.version == 0 {
            return Err(HelloError::Version { version: 0 });
        }
        if self.stream_window < MIN_STREAM_WINDOW {
            return Err(HelloError::StreamWindow { window: self.stream_window });
        }
        self.check_lengths(limits)?;
        match self.role {
            Role::Edge => self.check_edge(),
            Role::Service => Ok(()),
        }
    }

    /// The version and the features both sides have: what Welcome says.
    #[must_use]
    pub fn agree(&self) -> (u32, u64) {
        (self.version.min(VERSION), self.features & FEATURES)
    }

    /// Bytes of [`encode`](Self::encode).
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.to_proto().encoded_len()
    }

    /// Appends the head of a Hello frame.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_slice(&self.to_proto().encode_to_vec());
    }

    fn check_lengths(&self, limits: &HelloLimits) -> Result<(), HelloError> {
        at_most(Part::Ticket, self.ticket.len(), limits.ticket)?;
        at_most(Part::Meta, self.meta.len(), limits.meta)?;
        at_most(Part::Token, self.token.len(), limits.token)?;
        at_most(Part::Name, self.name.len(), limits.name)?;
        at_most(Part::ServiceVersion, self.service_version.len(), limits.name)?;
        not_more(Part::Labels, self.labels.len(), limits.labels)?;
        for (key, value) in &self.labels {
            at_most(Part::LabelKey, key.len(), limits.label_key)?;
            at_most(Part::LabelValue, value.len(), limits.label_value)?;
        }
        not_more(Part::Names, self.topics.len().saturating_add(self.methods.len()), limits.names)?;
        limits.check_names(Part::Topic, &self.topics)?;
        limits.check_names(Part::Method, &self.methods)
    }

    fn check_edge(&self) -> Result<(), HelloError> {
        let only_services = [
            (Part::Name, self.name.is_empty()),
            (Part::ServiceVersion, self.service_version.is_empty()),
            (Part::Topic, self.topics.is_empty()),
        ];
        if let Some((part, _)) = only_services.into_iter().find(|(_, empty)| !empty) {
            return Err(HelloError::OnlyServices { part });
        }
        match self.methods.iter().find_map(|method| reserved(method)) {
            Some(name) => Err(HelloError::Reserved { name }),
            None => Ok(()),
        }
    }

    fn from_proto(hello: proto::Hello) -> Result<Self, HelloError> {
        let role = match hello.role() {
            proto::Role::Edge => Role::Edge,
            proto::Role::Service => Role::Service,
            proto::Role::Unspecified => return Err(HelloError::Role { role: hello.role }),
        };
        let instance = InstanceId::try_from(hello.instance.as_slice())?;
        let window = hello.stream_window;
        Ok(Self {
            version: hello.version,
            features: hello.features,
            role,
            wished_id: hello.wished_id,
            ticket: hello.ticket,
            instance,
            pool_index: hello.pool_index,
            meta: hello.meta,
            token: hello.token,
            name: hello.name,
            service_version: hello.service_version,
            labels: hello.labels,
            topics: hello.topics,
            methods: hello.methods,
            stream_window: if window == 0 { DEFAULT_STREAM_WINDOW } else { window },
        })
    }

    fn to_proto(&self) -> proto::Hello {
        let role = match self.role {
            Role::Edge => proto::Role::Edge,
            Role::Service => proto::Role::Service,
        };
        proto::Hello {
            version: self.version,
            features: self.features,
            role: role.into(),
            wished_id: self.wished_id,
            ticket: self.ticket.clone(),
            instance: self.instance.as_bytes().to_vec(),
            pool_index: self.pool_index,
            meta: self.meta.clone(),
            token: self.token.clone(),
            name: self.name.clone(),
            service_version: self.service_version.clone(),
            labels: self.labels.clone(),
            topics: self.topics.clone(),
            methods: self.methods.clone(),
            stream_window: self.stream_window,
        }
    }
}

/// Without ticket and token, which would let a reader of the log in.
impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("version", &self.version)
            .field("role", &self.role)
            .field("wished_id", &self.wished_id)
            .field("ticket", &!self.ticket.is_empty())
            .field("instance", &self.instance)
            .field("pool_index", &self.pool_index)
            .field("meta_len", &self.meta.len())
            .field("token", &!self.token.is_empty())
            .field("name", &self.name)
            .field("service_version", &self.service_version)
            .field("labels", &self.labels)
            .field("topics", &self.topics)
            .field("methods", &self.methods)
            .field("stream_window", &self.stream_window)
            .finish_non_exhaustive()
    }
}

// === impl Role ===

impl Role {
    /// The name used in logs and metric labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Service => "service",
        }
    }
}

// === impl InstanceId ===

impl InstanceId {
    /// An instance of 16 random bytes.
    #[must_use]
    pub const fn new(random: [u8; 16]) -> Self {
        Self(random)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<&[u8]> for InstanceId {
    type Error = HelloError;

    fn try_from(bytes: &[u8]) -> Result<Self, HelloError> {
        bytes.try_into().map(Self).map_err(|_| HelloError::Instance { len: bytes.len() })
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
