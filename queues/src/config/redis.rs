//! `mqm.redis`.

use frontier_ops::config::{Problems, read::Section};
use serde::Serialize;

use super::{Address, Choice, ClientTls, Flow, Login};

/// `mqm.redis`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Redis {
    /// Whether the block is used.
    pub enable: bool,
    /// Servers, `host:port` each, tried in turn.
    pub addrs: Vec<Address>,
    /// Database number.
    pub db: u32,
    /// Name (of an ACL) and password.
    #[serde(flatten)]
    pub login: Login,
    /// TLS.
    pub tls: ClientTls,
    /// Streams instead of channels.
    pub stream: RedisStream,
    /// Bounds.
    #[serde(flatten)]
    pub flow: Flow,
    /// What is published.
    pub producer: Channels,
}

/// `mqm.redis.stream`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RedisStream {
    /// Add to streams (`XADD`) instead of publishing to channels.
    pub enable: bool,
    /// About how many entries a stream keeps.
    pub max_len: u64,
}

/// `mqm.redis.producer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Channels {
    /// Topics taken from edges.
    pub channels: Vec<String>,
    /// More of them, and where they go.
    #[serde(flatten)]
    pub choice: Choice,
}

// === impl Redis ===

impl Redis {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            enable: section.value("enable", false),
            addrs: Address::list(section, 0),
            db: section.value("db", 0),
            login: Login::read(section),
            tls: section.section("tls", ClientTls::read),
            stream: section.section("stream", RedisStream::read),
            flow: Flow::read(section),
            producer: section.section("producer", |producer| Channels {
                channels: producer.value("channels", Vec::new()),
                choice: Choice::read(producer),
            }),
        }
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.stream.enable && self.stream.max_len == 0 {
            problems.error("mqm.redis.stream.max_len", "must be at least 1");
        }
        if self.enable {
            for (index, address) in self.addrs.iter().enumerate() {
                if address.path().is_some_and(|path| path.parse::<u32>().is_err()) {
                    problems.error(
                        format!("mqm.redis.addrs[{index}]"),
                        "what is behind the port must be the number of a database",
                    );
                }
            }
            self.login.validate("mqm.redis", problems);
        }
    }
}

// === impl RedisStream ===

impl Default for RedisStream {
    fn default() -> Self {
        Self { enable: false, max_len: 1_000_000 }
    }
}

impl RedisStream {
    fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        Self {
            enable: section.value("enable", default.enable),
            max_len: section.value("max_len", default.max_len),
        }
    }
}
