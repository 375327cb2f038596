//! `mqm.nats`.

use std::path::PathBuf;

use frontier_ops::config::{Problems, read::Section};
use serde::Serialize;

use super::{Address, Choice, ClientTls, Flow, Login, keys::secret};

/// The usual port, which addresses may leave out.
const PORT: u16 = 4222;

/// `mqm.nats`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Nats {
    /// Whether the block is used.
    pub enable: bool,
    /// Servers, tried in turn.
    pub addrs: Vec<Address>,
    /// Name and password.
    #[serde(flatten)]
    pub login: Login,
    /// A token instead.
    #[serde(flatten)]
    pub token: Token,
    /// A file with the seed of an NKEY instead.
    pub nkey_seed_file: PathBuf,
    /// TLS.
    pub tls: ClientTls,
    /// Bounds.
    #[serde(flatten)]
    pub flow: Flow,
    /// Core NATS.
    pub producer: Subjects,
    /// JetStream, which goes before core NATS.
    pub jetstream: JetStream,
}

secret! {
    /// A token of NATS.
    Token {} token token_file token_env
}

/// `mqm.nats.producer` and `mqm.nats.jetstream.producer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subjects {
    /// Topics taken from edges.
    pub subjects: Vec<String>,
    /// More of them, and where they go.
    #[serde(flatten)]
    pub choice: Choice,
}

/// `mqm.nats.jetstream`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JetStream {
    /// Whether JetStream is used.
    pub enable: bool,
    /// Name of the stream.
    pub name: String,
    /// Subjects of a stream that is made; empty = those of `producer`.
    pub subjects: Vec<String>,
    /// What is published to it.
    pub producer: Subjects,
}

// === impl Nats ===

impl Nats {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        section.also("jetstream", &["jetStream"]);
        Self {
            enable: section.value("enable", false),
            addrs: Address::list(section, PORT),
            login: Login::read(section),
            token: Token::read(section),
            nkey_seed_file: section.value("nkey_seed_file", PathBuf::new()),
            tls: section.section("tls", ClientTls::read),
            flow: Flow::read(section),
            producer: section.section("producer", Subjects::read),
            jetstream: section.section("jetstream", |jetstream| JetStream {
                enable: jetstream.value("enable", false),
                name: jetstream.value("name", String::new()),
                subjects: jetstream.value("subjects", Vec::new()),
                producer: jetstream.section("producer", Subjects::read),
            }),
        }
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.jetstream.enable && self.jetstream.name.is_empty() {
            problems.error("mqm.nats.jetstream.name", "JetStream needs the name of a stream");
        }
        if self.enable && self.jetstream.enable && self.jetstream.subjects().is_empty() {
            problems.error("mqm.nats.jetstream.subjects", "the stream needs subjects");
        }
        if self.enable {
            Address::only_places(&self.addrs, "nats", None, problems);
            self.login.validate("mqm.nats", problems);
            self.token.validate("mqm.nats", problems);
        }
    }

    /// JetStream's where it is on, else that of core NATS.
    pub(crate) const fn producer_in_use(&self) -> &Subjects {
        if self.jetstream.enable { &self.jetstream.producer } else { &self.producer }
    }
}

impl JetStream {
    /// What the stream must take.
    pub(crate) fn subjects(&self) -> Vec<String> {
        if self.subjects.is_empty() { self.producer.subjects.clone() } else { self.subjects.clone() }
    }
}

impl Subjects {
    fn read(section: &mut Section<'_>) -> Self {
        Self { subjects: section.value("subjects", Vec::new()), choice: Choice::read(section) }
    }
}
