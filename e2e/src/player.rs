//! Edges and services that a scenario plays by command: Go peers of the generations of geminio, and clients made with our SDK. Both take
//! the same commands and tell the same, so that a scenario is written once for all of them.
//!
//! A [`Player`] is one process or one set of SDK clients; its [`Handle`]s are edges, services and streams.

mod go;
mod handle;
mod native;
mod soak;

use std::{
    collections::BTreeMap,
    fmt,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use self::{go::Process, native::Native};
pub use self::{
    go::{Faults, Unavailable, build as build_go, program as go_program},
    handle::Handle,
};
use crate::wait::SOON;

/// Who plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Go, geminio v1.1.7-rc.1.
    A,
    /// Go, geminio v1.2.2-rc.2.
    B,
    /// Go, geminio v1.3.0-rc.2.
    C,
    /// Our SDK.
    Rust,
}

/// What to do. Every verb uses the fields it needs; `e2e/go/geminio/main.go` has the same list.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Command {
    /// Its number, given by the player.
    pub id: u64,
    /// The verb.
    #[serde(rename = "do")]
    pub verb: &'static str,
    /// The edge or service.
    pub end: u64,
    /// The stream, 0 for the end itself.
    pub stream: u64,
    /// The edge that a service means, or the ID it gives to an edge.
    pub edge: u64,
    /// The request, message or command that this one is about.
    pub of: u64,
    /// A method, a topic or a service.
    pub name: String,
    /// What to fail with.
    pub error: String,
    /// A variant of the verb.
    pub how: &'static str,
    /// Bytes to send.
    pub data: Payload,
    /// Geminio's custom bytes; the SDK has none.
    pub custom: String,
    /// How many of the verb's things; of bytes to read, −1 is all.
    pub count: i64,
    /// How many operations at the same time.
    pub window: u32,
    /// Bytes per read or write.
    pub chunk: usize,
    /// Milliseconds until the caller gives up, as an option of the call.
    pub timeout: u64,
    /// Milliseconds until the caller gives up, by its context.
    pub deadline: u64,
    /// Milliseconds of rest after each chunk.
    pub pause: u64,
    /// `edge` or `service`.
    pub role: &'static str,
    /// Where the gateway is.
    pub address: String,
    /// A file with the authority that the gateway's certificate is from; empty = no TLS.
    pub ca: String,
    /// Topics of a service.
    pub topics: Vec<String>,
    /// The ID that an edge wishes.
    pub wish: u64,
    /// Whether to reconnect.
    pub retry: bool,
    /// Of the random choices.
    pub seed: u64,
}

/// Bytes: a text, or a pattern made from a seed. Those that were received are told by length and hash, short texts as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Payload {
    /// Empty if there is a pattern, or if the bytes are no short text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// What the pattern is made from.
    #[serde(skip_serializing_if = "is_zero")]
    pub seed: u64,
    /// Bytes of the pattern, or that were received.
    pub len: usize,
    /// Of bytes that were received.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// What became of a command, or what happened by itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Told {
    /// The number of the command.
    pub id: u64,
    /// What happened by itself: `request`, `cancelled`, `offline`, `online`, `lived`. Empty in an answer.
    pub event: String,
    /// The error of an operation that failed.
    pub error: Option<String>,
    /// The edge or service.
    pub end: u64,
    /// The stream.
    pub stream: u64,
    /// The number of a request or message, to answer it by.
    pub of: u64,
    /// The other side: the edge's ID towards services, of a connection its own.
    pub client: u64,
    /// A method, a topic, or whom a stream is for.
    pub name: String,
    /// Bytes received, or the meta of a stream.
    pub data: Payload,
    /// Geminio's custom bytes in hex.
    pub custom: String,
    /// The address of an edge.
    pub addr: String,
    /// How many of the verb's things were done.
    pub count: usize,
    /// Whether a stream has ended.
    pub eof: bool,
    /// Milliseconds until a request's deadline; 0 if it has none.
    pub left: i64,
    /// What became of many operations.
    pub outcomes: BTreeMap<String, u64>,
}

/// A command under way.
#[derive(Debug)]
pub struct Pending {
    what: String,
    id: u64,
    answer: Receiver<Told>,
}

/// Plays.
#[derive(Debug)]
pub struct Player {
    kind: Kind,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Go(Process),
    Native(Native),
}

/// What happened by itself and nobody has looked at yet.
#[derive(Debug, Default)]
pub(crate) struct Events {
    queue: Mutex<Vec<Told>>,
    more: Condvar,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

// === impl Kind ===

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::A, Self::B, Self::C, Self::Rust];
    /// The generations.
    pub const GO: [Self; 3] = [Self::A, Self::B, Self::C];

    /// Whether it speaks geminio.
    #[must_use]
    pub fn is_go(self) -> bool {
        self != Self::Rust
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::Rust => "Rust",
        })
    }
}

// === impl Payload ===

impl Payload {
    /// So many bytes of a pattern.
    #[must_use]
    pub fn pattern(seed: u64, len: usize) -> Self {
        Self { seed, len, ..Self::default() }
    }

    /// The bytes it stands for.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        if self.len == 0 {
            return self.text.clone().into_bytes();
        }
        let byte =
            |at: u64| (self.seed.wrapping_mul(101).wrapping_add(at * 7) + (at >> 8) * 13).to_le_bytes();
        (0..self.len as u64).map(|at| byte(at)[0]).collect()
    }

    /// How these bytes are told.
    #[must_use]
    pub fn summary(bytes: &[u8]) -> Self {
        // FNV-1a: nobody forges bytes here.
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= 1_024).unwrap_or_default();
        Self { text: text.to_owned(), seed: 0, len: bytes.len(), hash: format!("{hash:016x}") }
    }

    /// How it is told by who received it.
    #[must_use]
    pub fn received(&self) -> Self {
        Self::summary(&self.bytes())
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }
}

// === impl Told ===

impl Told {
    /// It went well.
    ///
    /// # Errors
    /// When it did not.
    pub fn ok(self) -> anyhow::Result<Self> {
        match self.error {
            Some(error) => bail!("failed: {error}"),
            None => Ok(self),
        }
    }

    /// It failed: with what.
    ///
    /// # Errors
    /// When it went well.
    pub fn failed(self) -> anyhow::Result<String> {
        match self.error {
            Some(error) => Ok(error),
            None => bail!("went well: {self:?}"),
        }
    }
}

// === impl Pending ===

impl Pending {
    /// The number by which the command can be cancelled.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Waits for what becomes of it.
    ///
    /// # Errors
    /// When nothing does in time.
    pub fn wait(self) -> anyhow::Result<Told> {
        self.within(SOON)
    }

    /// Waits for what becomes of it.
    ///
    /// # Errors
    /// When nothing does in time.
    pub fn within(self, time: Duration) -> anyhow::Result<Told> {
        match self.answer.recv_timeout(time) {
            Ok(told) => Ok(told),
            Err(RecvTimeoutError::Timeout) => bail!("{}: no answer within {time:?}", self.what),
            Err(RecvTimeoutError::Disconnected) => bail!("{}: the player is gone", self.what),
        }
    }

    /// Waits for it to go well.
    ///
    /// # Errors
    /// When it does not.
    pub fn ok(self) -> anyhow::Result<Told> {
        let what = self.what.clone();
        self.wait()?.ok().context(what)
    }

    /// Waits for it to fail.
    ///
    /// # Errors
    /// When it goes well, or nothing becomes of it.
    pub fn failed(self) -> anyhow::Result<String> {
        let what = self.what.clone();
        self.wait()?.failed().context(what)
    }

    /// Whether nothing has become of it yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.answer.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty))
    }
}

// === impl Player ===

impl Player {
    /// Starts one.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(kind: Kind) -> anyhow::Result<Self> {
        let inner = match kind {
            Kind::A | Kind::B | Kind::C => Inner::Go(Process::start(kind)?),
            Kind::Rust => Inner::Native(Native::start()?),
        };
        Ok(Self { kind, inner })
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Begins a command.
    ///
    /// # Errors
    /// When the player is gone.
    pub fn begin(&self, command: Command) -> anyhow::Result<Pending> {
        let what = format!("{} {} {}{}", self.kind, command.role, command.verb, command.name);
        let (id, answer) = match &self.inner {
            Inner::Go(process) => process.begin(command)?,
            Inner::Native(native) => native.begin(command)?,
        };
        Ok(Pending { what, id, answer })
    }

    /// Waits for something to happen by itself, and takes it.
    ///
    /// # Errors
    /// When nothing like that happens in time.
    pub fn event(&self, within: Duration, fits: impl Fn(&Told) -> bool) -> anyhow::Result<Told> {
        let event = self.events().take(within, fits);
        event.with_context(|| format!("{}: {}", self.kind, self.last_words()))
    }

    /// Takes all events of this name so far.
    #[must_use]
    pub fn drain(&self, event: &str) -> Vec<Told> {
        let mut queue = self.events().queue.lock();
        let (taken, rest) = std::mem::take(&mut *queue).into_iter().partition(|told| told.event == event);
        *queue = rest;
        taken
    }

    /// What went wrong so far in a Go peer by itself.
    #[must_use]
    pub fn faults(&self) -> Faults {
        match &self.inner {
            Inner::Go(process) => process.faults(),
            Inner::Native(_) => Faults::default(),
        }
    }

    /// The end of what a Go peer wrote to its error output.
    #[must_use]
    pub fn last_words(&self) -> String {
        match &self.inner {
            Inner::Go(process) => process.last_words(),
            Inner::Native(_) => String::new(),
        }
    }

    fn events(&self) -> &Events {
        match &self.inner {
            Inner::Go(process) => process.events(),
            Inner::Native(native) => native.events(),
        }
    }
}

// === impl Events ===

impl Events {
    fn push(&self, event: Told) {
        self.queue.lock().push(event);
        self.more.notify_all();
    }

    fn take(&self, within: Duration, fits: impl Fn(&Told) -> bool) -> anyhow::Result<Told> {
        let deadline = Instant::now() + within;
        let mut queue = self.queue.lock();
        loop {
            if let Some(at) = queue.iter().position(&fits) {
                return Ok(queue.remove(at));
            }
            if self.more.wait_until(&mut queue, deadline).timed_out() {
                bail!("no such event within {within:?}; there are {:?}", *queue);
            }
        }
    }
}
