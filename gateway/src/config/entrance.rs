//! `listen` of the ports of edges and services, which speak several protocols.

use std::fmt;

use frontier_ops::config::{
    Listen, Problems,
    read::{FromNode, Section, scalar},
    yaml::Node,
};
use serde::Serialize;

/// A protocol that a port can be limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// The native protocol of `docs/protocol.md`.
    Native,
    /// The protocol of the Go SDKs.
    Geminio,
    /// HTTP/1.1 and HTTP/2, WebSocket among it.
    Http,
    /// MQTT 3.1.1 and 5.
    Mqtt,
}

// === impl Protocol ===

impl Protocol {
    /// Every protocol that the key knows.
    pub const ALL: [Self; 4] = [Self::Native, Self::Geminio, Self::Http, Self::Mqtt];

    /// Those that this version speaks; the others are accepted in files with a warning, so that one file can serve
    /// gateways of several versions.
    pub const SPOKEN: &[Self] = &[Self::Native, Self::Geminio];

    /// The name in files and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Geminio => "geminio",
            Self::Http => "http",
            Self::Mqtt => "mqtt",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromNode for Protocol {
    fn from_node(node: &Node) -> Result<Self, String> {
        let text = scalar(node, "the name of a protocol")?;
        Self::ALL.into_iter().find(|protocol| protocol.name() == text).ok_or_else(|| {
            format!("unknown protocol {text:?}, options: {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// `listen` of a port that sessions come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entrance {
    /// Where, and whether by TLS.
    #[serde(flatten)]
    pub port: Listen,
    /// The protocols taken; `None` = all that this version speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<Protocol>>,
}

// === impl Entrance ===

impl Entrance {
    /// A plain TCP port on `addr` that takes every protocol.
    pub(super) fn on(addr: &str) -> Self {
        Self { port: Listen::on(addr), protocols: None }
    }

    pub(super) fn read(section: &mut Section<'_>, default: Self) -> Self {
        let protocols = section.optional("protocols");
        Self { protocols, port: Listen::read(section, default.port) }
    }

    pub(super) fn validate(&self, key: &str, problems: &mut Problems) {
        self.port.validate(key, problems);
        self.validate_protocols(&format!("{key}.protocols"), problems);
    }

    fn validate_protocols(&self, key: &str, problems: &mut Problems) {
        let Some(protocols) = &self.protocols else { return };
        for protocol in protocols.iter().filter(|protocol| !Protocol::SPOKEN.contains(protocol)) {
            problems
                .warn(key, format!("{protocol} is not part of this version; such connections are refused"));
        }
        if !protocols.iter().any(|protocol| Protocol::SPOKEN.contains(protocol)) {
            let spoken: Vec<&str> = Protocol::SPOKEN.iter().map(|protocol| protocol.name()).collect();
            problems.error(key, format!("nothing could connect: name at least one of {}", spoken.join(", ")));
        }
    }
}
