//! `mqm.nsq`.

use frontier_ops::config::read::Section;
use serde::Serialize;

use super::{Address, Choice, ClientTls, Flow, keys::secret};

/// `mqm.nsq`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nsq {
    /// Whether the block is used.
    pub enable: bool,
    /// nsqd addresses, `host:port` each, tried in turn.
    pub addrs: Vec<Address>,
    /// What nsqd shows to its authorisation server.
    #[serde(flatten)]
    pub auth: AuthSecret,
    /// TLS.
    pub tls: ClientTls,
    /// Bounds.
    #[serde(flatten)]
    pub flow: Flow,
    /// What is published.
    pub producer: NsqProducer,
}

secret! {
    /// The secret of NSQ's `AUTH`.
    AuthSecret {} auth_secret auth_secret_file auth_secret_env
}

/// `mqm.nsq.producer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NsqProducer {
    /// Topics taken from edges.
    pub topics: Vec<String>,
    /// Wrap bodies, so that headers travel too; NSQ has none.
    pub envelope: bool,
    /// More topics, and where they go.
    #[serde(flatten)]
    pub choice: Choice,
}

// === impl Nsq ===

impl Nsq {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            enable: section.value("enable", false),
            addrs: Address::list(section, 0),
            auth: AuthSecret::read(section),
            tls: section.section("tls", ClientTls::read),
            flow: Flow::read(section),
            producer: section.section("producer", |producer| NsqProducer {
                topics: producer.value("topics", Vec::new()),
                envelope: producer.value("envelope", false),
                choice: Choice::read(producer),
            }),
        }
    }

    pub(super) fn validate(&self, problems: &mut frontier_ops::config::Problems) {
        if self.enable {
            let instead = "write mqm.nsq.auth_secret";
            Address::only_places(&self.addrs, "nsq", Some(instead), problems);
            self.auth.validate("mqm.nsq", problems);
        }
    }
}
