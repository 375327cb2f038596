//! A bench for tests that say by hand what each peer does: no delay, no loss, and nothing happens unless it is asked for.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use frontier_wire::{
    error::ErrorCode,
    geminio::connection::Event,
    native::{
        frame::{Flags, FrameHeader, FrameType, MAX_BODY_FRAME},
        head::{CallBuilder, CallHead, Credit, ReplyHead, encode_error_reply},
        hello::{Hello, InstanceId, Role, Welcome},
    },
    yamux::StreamId,
};

use super::{
    dialer::{Dialer, Heard, Note},
    gate::Gate,
    guest::Guest,
    net::Ending,
    queue::{SimQueue, Taken},
    rng::Rng,
    stage::{Chaos, Notice, Path, Stage},
};
use crate::core::{
    Bound, Settings,
    exchange::mix,
    outlet::{Declined, Offer, Outlet},
    topic::TopicPattern,
};

/// Microseconds that bring everything under way to its end, and no deadline of a test.
const SETTLE: u64 = 20_000;

/// A peer of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(usize);

/// A geminio peer of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestId(usize);

/// See the module documentation.
#[derive(Debug)]
pub struct Lab {
    /// The gateway.
    pub stage: Stage,
    peers: Vec<State>,
    guests: Vec<Guest>,
    offers: Vec<Offer>,
    /// All queues there were.
    queues: Vec<Arc<SimQueue>>,
    /// The books are not compared: a test has changed them.
    pub cooked: bool,
}

#[derive(Debug)]
struct State {
    dialer: Dialer,
    heard: VecDeque<Heard>,
    /// Reads nothing.
    frozen: bool,
    /// Says nothing but raw bytes.
    mute: bool,
}

// === impl Lab ===

impl Lab {
    /// A gateway of two shards.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self::with(settings, Chaos::NONE, 1)
    }

    /// A gateway of two shards whose driver has its moods; the seed orders what happens at once.
    #[must_use]
    pub fn with(settings: Settings, chaos: Chaos, seed: u64) -> Self {
        Self {
            stage: Stage::new(settings, 2, Arc::new(Gate), chaos, Rng::new(seed)),
            peers: Vec::new(),
            guests: Vec::new(),
            offers: Vec::new(),
            queues: Vec::new(),
            cooked: false,
        }
    }

    // --- peers

    /// A connection that has said nothing.
    pub fn dial(&mut self, bound: Bound, shard: u16) -> Peer {
        self.dial_by(bound, shard, Path::PERFECT)
    }

    /// A connection over a network that is not perfect.
    pub fn dial_by(&mut self, bound: Bound, shard: u16, path: Path) -> Peer {
        let dialer = Dialer::new(&mut self.stage, bound, shard, path);
        self.peers.push(State { dialer, heard: VecDeque::new(), frozen: false, mute: false });
        Peer(self.peers.len() - 1)
    }

    /// A connection on which only raw bytes are written and read.
    pub fn dial_raw(&mut self, bound: Bound, shard: u16) -> Peer {
        let peer = self.dial(bound, shard);
        let state = &mut self.peers[peer.0];
        (state.frozen, state.mute) = (true, true);
        peer
    }

    /// Says hello and returns what was answered.
    pub fn greet(&mut self, peer: Peer, hello: &Hello) -> Note {
        self.peers[peer.0].dialer.hello(hello);
        self.run();
        self.expect(peer)
    }

    /// Says hello and expects to be welcome.
    ///
    /// # Panics
    /// If it is not.
    pub fn join(&mut self, peer: Peer, hello: &Hello) -> Welcome {
        let answer = self.greet(peer, hello);
        Self::welcome(&answer)
    }

    /// Reads a Welcome.
    ///
    /// # Panics
    /// If it is none.
    pub fn welcome(answer: &Note) -> Welcome {
        assert_eq!(answer.header.kind, FrameType::Welcome, "{answer:?}");
        Welcome::decode(&answer.head).expect("a gateway's Welcome can be read")
    }

    /// An edge at a shard that was welcomed under this ID.
    pub fn edge(&mut self, shard: u16, id: u64) -> Peer {
        let peer = self.dial(Bound::Edge, shard);
        assert_eq!(self.join(peer, &edge_hello(id)).id, id);
        peer
    }

    /// A service at a shard that offers these methods and takes these topics.
    pub fn service(&mut self, shard: u16, name: &str, methods: &[&str], topics: &[&str]) -> Peer {
        let peer = self.dial(Bound::Service, shard);
        let number = u8::try_from(self.peers.len()).unwrap_or(u8::MAX);
        let mut hello = service_hello(number, name, methods, topics);
        // The shard is the one asked for, whatever the pool would say.
        hello.pool_index = shard.into();
        self.join(peer, &hello);
        peer
    }

    /// The protocol of a peer.
    pub fn dialer(&mut self, peer: Peer) -> &mut Dialer {
        &mut self.peers[peer.0].dialer
    }

    /// Stops or starts reading.
    pub fn freeze(&mut self, peer: Peer, frozen: bool) {
        self.peers[peer.0].frozen = frozen;
        self.listen(peer.0);
    }

    /// Ends a connection from the peer's side.
    pub fn hang_up(&mut self, peer: Peer, how: Ending) {
        let link = self.peers[peer.0].dialer.link;
        self.stage.hang_up(link, how);
    }

    // --- queues

    /// A queue that takes these topics, and those of these patterns.
    ///
    /// # Panics
    /// If one is no pattern.
    pub fn queue(&mut self, topics: &[&str], patterns: &[&str]) -> Arc<SimQueue> {
        let queue = Arc::new(SimQueue::default());
        let pattern = |text: &&str| TopicPattern::parse(text).expect("a pattern");
        self.queues.push(Arc::clone(&queue));
        let number = u32::try_from(self.queues.len()).unwrap_or(u32::MAX);
        self.offers.push(Offer {
            number,
            key: mix(number.into()),
            outlet: Arc::clone(&queue) as Arc<dyn Outlet>,
            topics: topics.iter().map(ToString::to_string).collect(),
            patterns: patterns.iter().map(pattern).collect(),
        });
        self.stage.set_queues(self.offers.clone());
        queue
    }

    /// A queue takes nothing new.
    pub fn remove_queue(&mut self, queue: &Arc<SimQueue>) {
        let queue = Arc::clone(queue) as Arc<dyn Outlet>;
        self.offers.retain(|offer| !Arc::ptr_eq(&offer.outlet, &queue));
        self.stage.set_queues(self.offers.clone());
    }

    /// A queue says what became of a message.
    pub fn confirm(&mut self, taken: Taken, outcome: Result<(), Declined>) {
        self.stage.confirm(taken, outcome);
    }

    // --- geminio peers

    /// A geminio connection that has said who it is; the answer may take a while.
    pub fn knock(&mut self, bound: Bound, shard: u16, wanted: u64, meta: &[u8]) -> GuestId {
        self.knock_by(bound, shard, Path::PERFECT, wanted, meta)
    }

    /// The same over a network that is not perfect.
    pub fn knock_by(&mut self, bound: Bound, shard: u16, path: Path, wanted: u64, meta: &[u8]) -> GuestId {
        let guest = Guest::new(&mut self.stage, bound, shard, path, wanted, meta);
        self.guests.push(guest);
        let id = GuestId(self.guests.len() - 1);
        self.guests[id.0].flush(&mut self.stage, id.0 as u64);
        id
    }

    /// A geminio edge that was welcomed under this ID.
    ///
    /// # Panics
    /// If it was not.
    pub fn guest_edge(&mut self, shard: u16, id: u64) -> GuestId {
        let guest = self.knock(Bound::Edge, shard, id, b"");
        self.run();
        let first = self.guests[guest.0].heard.pop_front();
        assert!(matches!(first, Some(Event::Welcome { client }) if client == id), "{first:?}");
        guest
    }

    /// A geminio service that takes these topics and offers these methods.
    ///
    /// # Panics
    /// If it was not welcomed.
    pub fn guest_service(&mut self, shard: u16, name: &str, methods: &[&str], topics: &[&str]) -> GuestId {
        let topics: Vec<String> = topics.iter().map(|topic| format!("{topic:?}")).collect();
        let meta = format!("{{\"service\":{name:?},\"topics\":[{}]}}", topics.join(","));
        let guest = self.knock(Bound::Service, shard, 0, meta.as_bytes());
        self.run();
        let first = self.guests[guest.0].heard.pop_front();
        assert!(matches!(first, Some(Event::Welcome { .. })), "{first:?}");
        for method in methods {
            self.guests[guest.0].conn.register(method.as_bytes()).expect("a new connection takes methods");
        }
        self.run();
        let acked = self.guests[guest.0].heard.drain(..).filter(|e| matches!(e, Event::RegisterDone { .. }));
        assert_eq!(acked.count(), methods.len(), "methods acknowledged");
        guest
    }

    /// A geminio peer; what is done with it goes out with the next [`Lab::run`].
    pub fn guest(&mut self, guest: GuestId) -> &mut Guest {
        &mut self.guests[guest.0]
    }

    /// Everything that a geminio peer has heard and not looked at.
    pub fn events(&mut self, guest: GuestId) -> Vec<Event<Bytes>> {
        self.guests[guest.0].heard.drain(..).collect()
    }

    /// How the gateway ended the connection of a geminio peer.
    #[must_use]
    pub fn guest_ended(&self, guest: GuestId) -> Option<Ending> {
        self.stage.ended(self.guests[guest.0].link)
    }

    fn serve(&mut self, guest: usize) {
        let state = &mut self.guests[guest];
        state.listen(&mut self.stage).expect("a gateway keeps the protocol");
        state.flush(&mut self.stage, guest as u64);
    }

    // --- sending

    /// Sends a frame.
    pub fn send(&mut self, peer: Peer, kind: FrameType, id: u64, head: &[u8], body: &[u8]) {
        self.send_flagged(peer, kind, id, Flags::NONE, head, body);
    }

    /// Sends a frame with flags, in order with everything else the peer sends.
    pub fn send_flagged(
        &mut self,
        peer: Peer,
        kind: FrameType,
        id: u64,
        flags: Flags,
        head: &[u8],
        body: &[u8],
    ) {
        let header = FrameHeader::new(kind, id).with_flags(flags);
        self.peers[peer.0].dialer.send_in(0, header, head, Bytes::copy_from_slice(body));
        self.flush(peer.0);
    }

    /// Sends a call of an edge.
    pub fn call(&mut self, peer: Peer, id: u64, method: &str, timeout_ms: u32, body: &[u8]) {
        let head = call_head(&CallBuilder::new(method).timeout_ms(timeout_ms));
        self.send(peer, FrameType::Request, id, &head, body);
    }

    /// Sends a call of a service.
    pub fn call_edge(&mut self, peer: Peer, id: u64, edge: u64, method: &str, body: &[u8]) {
        let head = call_head(&CallBuilder::new(method).edge(edge));
        self.send(peer, FrameType::Request, id, &head, body);
    }

    /// Answers a call or a message.
    pub fn answer(&mut self, peer: Peer, to: &Note, body: &[u8]) {
        let kind = if to.header.kind == FrameType::Request { FrameType::Response } else { FrameType::Ack };
        self.send(peer, kind, to.header.id, &[], body);
    }

    /// Answers with an error.
    pub fn answer_error(&mut self, peer: Peer, to: &Note, code: ErrorCode, text: &str) {
        let kind = if to.header.kind == FrameType::Request { FrameType::Response } else { FrameType::Ack };
        let mut head = Vec::new();
        encode_error_reply(&mut head, code, text);
        self.send(peer, kind, to.header.id, &head, &[]);
    }

    /// Sends fragments of a body: `len` bytes from `from` on of one that is `total` long. The first carries the head.
    pub fn send_part(
        &mut self,
        peer: Peer,
        header: FrameHeader,
        head: &[u8],
        from: usize,
        len: usize,
        total: usize,
    ) {
        let mut at = from;
        while at < from + len {
            let n = (from + len - at).min(MAX_BODY_FRAME as usize);
            let flags = if at + n < total { Flags::MORE } else { Flags::NONE };
            let head = if at == 0 { head } else { &[] };
            self.send_flagged(peer, header.kind, header.id, flags, head, &vec![7; n]);
            at += n;
        }
    }

    /// Grants bytes of a body.
    pub fn grant(&mut self, peer: Peer, id: u64, flags: Flags, bytes: u32) {
        let mut head = Vec::new();
        Credit { bytes }.encode(&mut head);
        self.send_flagged(peer, FrameType::Credit, id, flags, &head, &[]);
    }

    /// Sends raw bytes, past the protocol.
    pub fn raw(&mut self, peer: Peer, bytes: &[u8]) {
        let link = self.peers[peer.0].dialer.link;
        self.stage.write(link, &[bytes]);
    }

    /// Takes the bytes that have come for a frozen peer, past the protocol.
    pub fn read_raw(&mut self, peer: Peer) -> Vec<u8> {
        let (link, mut bytes) = (self.peers[peer.0].dialer.link, Vec::new());
        self.stage.read(link, usize::MAX, &mut bytes);
        bytes
    }

    /// Writes what a peer has queued.
    fn flush(&mut self, peer: usize) {
        if !self.peers[peer].mute {
            self.peers[peer].dialer.flush(&mut self.stage);
        }
    }

    // --- time

    /// Lets everything under way come to its end.
    pub fn run(&mut self) {
        self.advance(SETTLE);
    }

    /// Lets so many microseconds pass.
    pub fn advance(&mut self, micros: u64) {
        for peer in 0..self.peers.len() {
            self.flush(peer);
        }
        for guest in 0..self.guests.len() {
            self.serve(guest);
        }
        let until = self.stage.now() + micros;
        while let Some(notice) = self.stage.step(until) {
            match notice {
                Notice::Readable(link) | Notice::Writable(link) => {
                    let at = self.peers.iter().position(|peer| peer.dialer.link == link);
                    if let Some(at) = at {
                        self.listen(at);
                        self.flush(at);
                    } else if let Some(guest) = self.guests.iter().position(|guest| guest.link == link) {
                        self.serve(guest);
                    }
                }
                Notice::Turn(_) if self.cooked => {}
                Notice::Turn(_) => self.stage.check_books(),
                Notice::Timer(guest) => self.serve(guest as usize),
            }
        }
    }

    fn listen(&mut self, peer: usize) {
        let state = &mut self.peers[peer];
        if !state.frozen {
            let (_, heard) =
                state.dialer.listen(&mut self.stage, usize::MAX).expect("a gateway keeps the protocol");
            state.heard.extend(heard);
        }
    }

    // --- hearing

    /// Everything heard and not looked at yet.
    pub fn take(&mut self, peer: Peer) -> Vec<Heard> {
        self.peers[peer.0].heard.drain(..).collect()
    }

    /// The frames heard and not looked at yet; other events are dropped.
    pub fn frames(&mut self, peer: Peer) -> Vec<Note> {
        let heard = self.take(peer).into_iter();
        heard.filter_map(|heard| if let Heard::Frame(note) = heard { Some(note) } else { None }).collect()
    }

    /// The next frame.
    ///
    /// # Panics
    /// If there is none.
    pub fn expect(&mut self, peer: Peer) -> Note {
        loop {
            match self.peers[peer.0].heard.pop_front() {
                Some(Heard::Frame(note)) => return note,
                Some(_) => {}
                None => break,
            }
        }
        unreachable!("peer {} heard no frame; its connection ended: {:?}", peer.0, self.ended(peer));
    }

    /// The code of the next frame, which must be an answer with an error.
    ///
    /// # Panics
    /// If it is none.
    pub fn expect_error(&mut self, peer: Peer, id: u64) -> ErrorCode {
        let note = self.expect(peer);
        assert_eq!(note.header.id, id, "{note:?}");
        note.error().expect("an error")
    }

    /// Whether nothing was heard that was not looked at.
    #[must_use]
    pub fn is_quiet(&self, peer: Peer) -> bool {
        self.peers[peer.0].heard.is_empty()
    }

    /// How the gateway ended the connection.
    #[must_use]
    pub fn ended(&self, peer: Peer) -> Option<Ending> {
        self.stage.ended(self.peers[peer.0].dialer.link)
    }

    /// The stream that the gateway opened next, and the bytes on it so far.
    ///
    /// # Panics
    /// If it opened none.
    pub fn expect_stream(&mut self, peer: Peer) -> StreamId {
        let opened = self.peers[peer.0].heard.iter().position(|heard| matches!(heard, Heard::Opened(_)));
        let heard = opened.and_then(|at| self.peers[peer.0].heard.remove(at));
        match heard {
            Some(Heard::Opened(stream)) => stream,
            other => unreachable!("peer {} was to be opened a stream, heard {other:?}", peer.0),
        }
    }

    // --- the end

    /// Hangs everybody up and checks that nothing is left.
    ///
    /// # Panics
    /// If something is.
    pub fn close(&mut self) {
        for peer in 0..self.peers.len() {
            self.hang_up(Peer(peer), Ending::Closed);
        }
        for guest in 0..self.guests.len() {
            let link = self.guests[guest].link;
            self.stage.hang_up(link, Ending::Closed);
        }
        self.advance(2_000_000);
        for queue in &self.queues {
            // Nobody will confirm that any more.
            drop(queue.take());
        }
        self.stage.set_queues(Vec::new());
        self.stage.check_empty();
    }
}

/// What an edge says that wishes for an ID.
#[must_use]
pub fn edge_hello(id: u64) -> Hello {
    let mut hello = Hello::new(Role::Edge, InstanceId::new([9; 16]));
    hello.wished_id = id;
    hello
}

/// What a service says; the number makes its instance.
#[must_use]
pub fn service_hello(number: u8, name: &str, methods: &[&str], topics: &[&str]) -> Hello {
    let mut hello = Hello::new(Role::Service, InstanceId::new([number; 16]));
    hello.name = name.to_owned();
    hello.methods = methods.iter().map(ToString::to_string).collect();
    hello.topics = topics.iter().map(ToString::to_string).collect();
    hello
}

/// The bytes of a head.
#[must_use]
pub fn call_head<'a, H>(call: &CallBuilder<'a, H>) -> Vec<u8>
where
    H: IntoIterator<Item = (&'a str, &'a str)> + Clone,
{
    let mut head = Vec::with_capacity(call.encoded_len());
    call.encode(&mut head);
    head
}

// === impl Note ===

impl Note {
    /// The error in the head of an answer.
    #[must_use]
    pub fn error(&self) -> Option<ErrorCode> {
        ReplyHead::parse(&self.head).ok()?.error.map(|error| error.code)
    }

    /// The head of an operation.
    ///
    /// # Panics
    /// If it cannot be read.
    #[must_use]
    pub fn call(&self) -> CallHead<'_> {
        CallHead::parse(&self.head).expect("a gateway passes on what it could read")
    }
}
