//! All connections of the gateway within the process, and the routes between them.
//!
//! One task polls them all: few are expected, and nothing here is fast. The shape is that of a real gateway's shard all the same:
//! events in, frames for others out, answers by the way the operation came.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use frontier_wire::{
    native::{
        connection::Event,
        frame::{FrameHeader, FrameType},
        head::{self, CallBuilder, CallHead, GoAway, Locate, ReplyHead, Sender},
        hello::{Hello, Role, Welcome, is_reserved},
        limits::{FrameLimits, HelloLimits},
        presence::{EdgeInfo, EdgeInfoBuilder},
        reader::{Frame, FrameReader},
    },
    yamux::StreamId,
};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
};

use super::peer::{Leg, Peer};
use crate::error::{ErrorCode, millis};

/// Which connection.
pub(super) type Key = u64;

/// Where an operation came from.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    Peer {
        key: Key,
        id: u64,
    },
    /// The gateway asks about an edge that waits to be admitted.
    Admission(Key),
    /// The gateway tells, and does not wait.
    Nobody,
}

/// What a test asks for.
#[derive(Debug)]
pub(super) enum Order {
    Edges(oneshot::Sender<Vec<u64>>),
    /// The epoch of an edge, 0 if it is not here.
    #[cfg(feature = "cluster")]
    Locate(u64, oneshot::Sender<u64>),
    Cut(u64, oneshot::Sender<bool>),
    CutAll(oneshot::Sender<()>),
    SendAway(Duration, oneshot::Sender<()>),
}

/// The last of each number that was given. Gateways of one cluster share them.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    edge: AtomicU64,
    service: AtomicU64,
    epoch: AtomicU64,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Hub {
    incoming: mpsc::Receiver<DuplexStream>,
    orders: mpsc::Receiver<Order>,
    peers: BTreeMap<Key, Peer>,
    last_key: Key,
    numbers: Arc<Numbers>,
}

// === impl Hub ===

impl Hub {
    pub(super) fn new(
        incoming: mpsc::Receiver<DuplexStream>,
        orders: mpsc::Receiver<Order>,
        numbers: Arc<Numbers>,
    ) -> Self {
        Self { incoming, orders, peers: BTreeMap::new(), last_key: 0, numbers }
    }

    pub(super) async fn run(mut self) {
        poll_fn(|cx| {
            while self.turn(cx) {}
            Poll::<()>::Pending
        })
        .await;
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Poll::Ready(Some(io)) = self.incoming.poll_recv(cx) {
            self.last_key += 1;
            self.peers.insert(self.last_key, Peer::new(io));
            moved = true;
        }
        while let Poll::Ready(Some(order)) = self.orders.poll_recv(cx) {
            self.on_order(order);
            moved = true;
        }
        let keys: Vec<Key> = self.peers.keys().copied().collect();
        for key in &keys {
            moved |= self.read(*key, cx);
        }
        for key in &keys {
            moved |= self.write(*key, cx);
        }
        moved
    }

    fn read(&mut self, key: Key, cx: &mut Context<'_>) -> bool {
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        match peer.poll_read(cx) {
            Poll::Pending => return false,
            Poll::Ready(Some(events)) => {
                for event in events {
                    self.on_event(key, event);
                }
            }
            Poll::Ready(None) => self.gone(key),
        }
        true
    }

    fn write(&mut self, key: Key, cx: &mut Context<'_>) -> bool {
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        peer.release();
        let mut written = Vec::new();
        let poll = peer.poll_write(cx, &mut written);
        if peer.over && !peer.conn.wants_write() || poll == Poll::Ready(false) {
            self.gone(key);
            return true;
        }
        // What has reached one end may be sent again by the other.
        for (stream, bytes) in written {
            if let Some((other, there)) = self.other_end(key, stream)
                && let Some(other) = self.peers.get_mut(&other)
            {
                other.conn.release(there, bytes);
            }
        }
        poll.is_ready()
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Edges(done) => {
                let edges = self.peers.values().filter(|peer| peer.ready && peer.is_edge());
                let _ = done.send(edges.map(|peer| peer.id).collect());
            }
            #[cfg(feature = "cluster")]
            Order::Locate(edge, done) => {
                let _ = done.send(self.epoch_of(edge));
            }
            Order::Cut(edge, done) => {
                let key = self.edge(edge);
                if let Some(key) = key {
                    self.gone(key);
                }
                let _ = done.send(key.is_some());
            }
            Order::CutAll(done) => {
                for key in self.peers.keys().copied().collect::<Vec<_>>() {
                    self.gone(key);
                }
                let _ = done.send(());
            }
            Order::SendAway(after, done) => {
                for peer in self.peers.values_mut().filter(|peer| peer.ready) {
                    peer.sent_away = true;
                    peer.go_away(millis(after), ErrorCode::GatewayDraining, "gateway draining");
                }
                let _ = done.send(());
            }
        }
    }

    fn on_event(&mut self, key: Key, event: Event<Bytes>) {
        match event {
            Event::Frame(frame) => self.on_frame(key, frame),
            Event::StreamOpened(stream) => {
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.streams.insert(stream, Leg::Unopened(Box::new(FrameReader::new())));
                }
            }
            Event::StreamData(stream, bytes) => self.on_stream_data(key, stream, bytes.into_bytes()),
            Event::StreamFinished(stream) => {
                if let Some((other, there)) = self.other_end(key, stream)
                    && let Some(other) = self.peers.get_mut(&other)
                {
                    other.conn.finish_stream(there);
                }
            }
            Event::StreamReset(stream) => self.end_stream(key, stream, false),
            Event::Ended => self.gone(key),
        }
    }

    fn on_frame(&mut self, key: Key, frame: Frame<Bytes>) {
        let id = frame.header.id;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match frame.header.kind {
            FrameType::Hello if peer.hello.is_none() => self.on_hello(key, &frame),
            FrameType::Ping => peer.conn.send(FrameHeader::new(FrameType::Pong, id), &[], &[]),
            FrameType::GoAway => {
                peer.leaving = true;
                let moved = GoAway::parse(&frame.head).ok().and_then(|away| away.reason);
                if peer.sent_away && moved.is_some_and(|reason| reason.code == ErrorCode::GatewayDraining) {
                    peer.announced = false;
                }
            }
            FrameType::Register | FrameType::Unregister => self.on_names(key, &frame),
            FrameType::Request | FrameType::Publish => self.on_operation(key, frame),
            FrameType::Response | FrameType::Ack => self.on_answer(key, frame),
            FrameType::Credit | FrameType::Cancel => self.on_side_frame(key, frame),
            FrameType::Locate => self.on_locate(key, &frame),
            FrameType::Presence => self.on_presence(key, id),
            _ => {}
        }
    }

    // --- admission

    fn on_hello(&mut self, key: Key, frame: &Frame<Bytes>) {
        let hello = Hello::decode(&frame.head, &HelloLimits::default());
        let known = self.peers.values().find(|peer| {
            peer.is_service()
                && peer.hello.as_ref().map(|hello| hello.instance)
                    == hello.as_ref().ok().map(|hello| hello.instance)
        });
        let known = known.map(|peer| peer.id);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let hello = match hello {
            Ok(hello) => hello,
            Err(error) => return peer.reject(error.code(), &error.to_string()),
        };
        peer.methods = hello.methods.iter().cloned().collect();
        peer.topics = hello.topics.iter().cloned().collect();
        let (role, ticket) = (hello.role, ticket_id(&hello.ticket));
        peer.hello = Some(hello);
        if role == Role::Service {
            // It trusts everybody: who wishes for an ID gets it.
            let wished = peer.hello.as_ref().map(|hello| hello.wished_id).filter(|id| *id != 0);
            peer.id = known.or(wished).unwrap_or_else(|| next(&self.numbers.service));
            return self.welcome(key);
        }
        if let Some(id) = ticket {
            return self.identified(key, id);
        }
        if !self.ask(Origin::Admission(key), key, "get_edge_id") {
            self.identified(key, 0);
        }
    }

    /// An edge has its ID, or gets one: takes over, and asks whether it may come in.
    fn identified(&mut self, key: Key, id: u64) {
        let id = if id == 0 { 1_000_000 + next(&self.numbers.edge) } else { id };
        let epoch = next(&self.numbers.epoch);
        let older = self.edge(id);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        (peer.id, peer.epoch) = (id, epoch);
        if let Some(older) = older {
            self.take_over(older);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.announced = true;
        }
        if !self.ask(Origin::Admission(key), key, "edge_online") {
            self.welcome(key);
        }
    }

    fn take_over(&mut self, older: Key) {
        let Some(peer) = self.peers.get_mut(&older) else { return };
        if std::mem::take(&mut peer.announced) && !peer.sent_away {
            self.ask(Origin::Nobody, older, "edge_offline");
        }
        let Some(peer) = self.peers.get_mut(&older) else { return };
        peer.ready = false;
        // One that was asked to connect anew finishes what it has, as if it were at another gateway.
        if !peer.sent_away {
            peer.go_away(0, ErrorCode::SessionClosed, "replaced by a newer session");
            peer.over = true;
        }
    }

    /// Calls a reserved method about an edge; false if nobody offers it.
    fn ask(&mut self, origin: Origin, about: Key, method: &str) -> bool {
        let Some(target) = self.find(|peer| peer.is_service() && peer.methods.contains(method)) else {
            return false;
        };
        let Some(peer) = self.peers.get(&about) else { return false };
        let id = if method == "get_edge_id" {
            peer.hello.as_ref().map_or(0, |hello| hello.wished_id)
        } else {
            peer.id
        };
        let body = info(peer, id);
        let mut head = Vec::new();
        CallBuilder::new(method).sender(Sender::Edge(id)).timeout_ms(8_000).encode(&mut head);
        let Some(target) = self.peers.get_mut(&target) else { return false };
        target.last_id += 1;
        target.origins.insert(target.last_id, origin);
        target.forward(about, FrameHeader::new(FrameType::Request, target.last_id), &head, body.into());
        true
    }

    /// A service has answered about an edge that waits.
    fn admitted(&mut self, key: Key, frame: &Frame<Bytes>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Ok(ReplyHead { error: Some(error), .. }) = ReplyHead::parse(&frame.head) {
            peer.announced = false;
            return peer.reject(error.code, error.text);
        }
        if peer.id == 0 {
            let id = EdgeInfo::parse(&frame.body).map_or(0, |info| info.edge);
            self.identified(key, id);
        } else {
            self.welcome(key);
        }
    }

    fn welcome(&mut self, key: Key) {
        let epoch = next(&self.numbers.epoch);
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Some(hello) = &peer.hello else { return };
        let (version, features) = hello.agree();
        if hello.role == Role::Service {
            peer.epoch = epoch;
        }
        let ticket = if hello.role == Role::Edge { peer.id.to_be_bytes().to_vec() } else { Vec::new() };
        let welcome = Welcome {
            version,
            features,
            id: peer.id,
            epoch: peer.epoch,
            ticket,
            shards: 1,
            stream_window: 64 * 1024,
            heartbeat_ms: 20_000,
            max_body: 16 << 20,
            max_in_flight: 1_024,
        };
        peer.conn.engine_mut().set_stream_windows(welcome.stream_window, hello.stream_window);
        let mut head = Vec::new();
        welcome.encode(&mut head);
        peer.conn.send(FrameHeader::new(FrameType::Welcome, 0), &head, &[]);
        peer.ready = true;
    }

    // --- names and presence

    fn on_names(&mut self, key: Key, frame: &Frame<Bytes>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let Ok(names) = head::Names::parse(&frame.head) else { return };
        let id = frame.header.id;
        if peer.is_edge() && names.methods().any(is_reserved) {
            return peer.answer_error(FrameType::Ack, id, ErrorCode::PermissionDenied, "reserved method");
        }
        let register = frame.header.kind == FrameType::Register;
        for (list, set) in [(names.methods(), &mut peer.methods), (names.topics(), &mut peer.topics)] {
            for name in list {
                if register {
                    set.insert(name.to_owned());
                } else {
                    set.remove(name);
                }
            }
        }
        peer.conn.send(FrameHeader::new(FrameType::Ack, id), &[], &[]);
    }

    fn on_presence(&mut self, key: Key, id: u64) {
        let mut page = Vec::new();
        for peer in self.peers.values().filter(|peer| peer.ready && peer.is_edge()) {
            EdgeInfoBuilder::new(peer.id, peer.epoch)
                .meta(peer.hello.as_ref().map_or(&[], |hello| &hello.meta))
                .addr("memory")
                .append_to_page(&mut page);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.forward(0, FrameHeader::new(FrameType::Presence, id), &[], page.into());
        }
    }

    fn on_locate(&mut self, key: Key, frame: &Frame<Bytes>) {
        let Ok(Locate { edge, .. }) = Locate::parse(&frame.head) else { return };
        let epoch = self.epoch_of(edge);
        let mut head = Vec::new();
        Locate { edge, epoch }.encode(&mut head);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.conn.send(FrameHeader::new(FrameType::Locate, frame.header.id), &head, &[]);
        }
    }

    // --- operations

    fn on_operation(&mut self, key: Key, frame: Frame<Bytes>) {
        let FrameHeader { kind, id, .. } = frame.header;
        let answer = if kind == FrameType::Publish { FrameType::Ack } else { FrameType::Response };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let mut head = frame.head.to_vec();
        let (target, local) = match peer.ops.get(&id) {
            Some(known) => *known,
            // A late fragment of something that was answered.
            None if head.is_empty() || frame.header.flags.abort() => return,
            None => {
                let Ok(call) = CallHead::parse(&frame.head) else { return self.gone(key) };
                let sender = self.sender(key);
                let target = match self.route(key, kind, &call) {
                    Ok(target) => target,
                    Err((code, text)) => {
                        if let Some(peer) = self.peers.get_mut(&key) {
                            peer.answer_error(answer, id, code, text);
                        }
                        return;
                    }
                };
                head::append_forwarded(&mut head, sender, call.timeout_ms);
                let Some(peer) = self.peers.get_mut(&target) else { return };
                peer.last_id += 1;
                let local = peer.last_id;
                peer.origins.insert(local, Origin::Peer { key, id });
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.ops.insert(id, (target, local));
                }
                (target, local)
            }
        };
        if let Some(target) = self.peers.get_mut(&target) {
            let header = FrameHeader { id: local, ..frame.header };
            target.forward(key, header, &head, frame.body.into_bytes());
        }
    }

    fn route(
        &self,
        key: Key,
        kind: FrameType,
        call: &CallHead<'_>,
    ) -> Result<Key, (ErrorCode, &'static str)> {
        let from_service = self.peers.get(&key).is_some_and(Peer::is_service);
        if from_service {
            return self.edge(call.edge).ok_or((ErrorCode::EdgeNotOnline, "edge not online"));
        }
        let in_service = |peer: &Peer| {
            let name = peer.hello.as_ref().map_or("", |hello| &hello.name);
            peer.is_service() && (call.service.is_empty() || name == call.service)
        };
        let (found, code, text) = match kind {
            FrameType::Request if is_reserved(call.name) => {
                return Err((ErrorCode::PermissionDenied, "reserved method"));
            }
            FrameType::Request => (
                self.find(|peer| in_service(peer) && peer.methods.contains(call.name)),
                ErrorCode::MethodNotFound,
                "method not found",
            ),
            FrameType::Publish => (
                self.find(|peer| {
                    in_service(peer) && (peer.topics.contains(call.name) || peer.topics.contains("*"))
                }),
                ErrorCode::TopicNotOnline,
                "topic not online",
            ),
            _ => {
                let named = |peer: &Peer| peer.hello.as_ref().is_some_and(|hello| hello.name == call.name);
                (
                    self.find(|peer| peer.is_service() && named(peer)),
                    ErrorCode::ServiceNotOnline,
                    "service not online",
                )
            }
        };
        found.ok_or((code, text))
    }

    fn on_answer(&mut self, key: Key, frame: Frame<Bytes>) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let local = frame.header.id;
        let last = !frame.header.flags.more();
        let origin = if last { peer.origins.remove(&local) } else { peer.origins.get(&local).cloned() };
        match origin {
            Some(Origin::Peer { key: origin, id }) => {
                let Some(peer) = self.peers.get_mut(&origin) else { return };
                if last {
                    peer.ops.remove(&id);
                }
                let header = FrameHeader { id, ..frame.header };
                peer.forward(key, header, &frame.head, frame.body.into_bytes());
            }
            Some(Origin::Admission(edge)) => self.admitted(edge, &frame),
            Some(Origin::Nobody) | None => {}
        }
    }

    /// Credit and Cancel go along with the operation they belong to.
    fn on_side_frame(&mut self, key: Key, frame: Frame<Bytes>) {
        let Some(peer) = self.peers.get(&key) else { return };
        let id = frame.header.id;
        let forwards = frame.header.kind == FrameType::Cancel || frame.header.flags.reply();
        let to = if forwards {
            peer.ops.get(&id).copied()
        } else {
            peer.origins.get(&id).and_then(|origin| match origin {
                Origin::Peer { key, id } => Some((*key, *id)),
                Origin::Admission(_) | Origin::Nobody => None,
            })
        };
        if let Some((to, id)) = to
            && let Some(peer) = self.peers.get_mut(&to)
        {
            peer.forward(key, FrameHeader { id, ..frame.header }, &frame.head, Bytes::new());
        }
    }

    // --- streams

    fn on_stream_data(&mut self, key: Key, stream: StreamId, mut bytes: Bytes) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match peer.streams.get_mut(&stream) {
            Some(Leg::Joined(other, there)) => {
                let (other, there) = (*other, *there);
                if let Some(other) = self.peers.get_mut(&other) {
                    other.conn.outbox().push_stream(there, bytes, true);
                }
            }
            Some(Leg::Unopened(reader)) => {
                let came = bytes.len();
                let frame = reader.next(&mut bytes, &FrameLimits::GATEWAY);
                peer.conn.release(stream, u32::try_from(came).unwrap_or(u32::MAX));
                match frame {
                    Ok(Some(frame)) if frame.header.kind == FrameType::Open => self.join(key, stream, &frame),
                    Ok(None) => {}
                    Ok(Some(_)) | Err(_) => self.gone(key),
                }
            }
            None => {}
        }
    }

    fn join(&mut self, key: Key, stream: StreamId, frame: &Frame<Bytes>) {
        let Ok(call) = CallHead::parse(&frame.head) else { return self.gone(key) };
        let sender = self.sender(key);
        let target = self.route(key, FrameType::Open, &call);
        let opened = target.and_then(|target| {
            let peer = self.peers.get_mut(&target).ok_or((ErrorCode::Internal, ""))?;
            let there = peer.conn.open_stream().map_err(|_| (ErrorCode::Overloaded, "too many streams"))?;
            let mut head = frame.head.to_vec();
            head::append_forwarded(&mut head, sender, call.timeout_ms);
            let mut out = Vec::new();
            let _ = FrameHeader::new(FrameType::Open, 0).put_frame(&mut out, &head, &[]);
            peer.conn.outbox().push_stream(there, out.into(), false);
            peer.streams.insert(there, Leg::Joined(key, stream));
            Ok((target, there))
        });
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match opened {
            Ok((target, there)) => {
                peer.streams.insert(stream, Leg::Joined(target, there));
            }
            Err((code, text)) => {
                let mut head = Vec::new();
                head::encode_error_reply(&mut head, code, text);
                let mut out = Vec::new();
                let _ = FrameHeader::new(FrameType::OpenAck, 0).put_frame(&mut out, &head, &[]);
                peer.conn.outbox().push_stream(stream, out.into(), false);
                peer.conn.finish_stream(stream);
                peer.streams.remove(&stream);
            }
        }
    }

    fn other_end(&self, key: Key, stream: StreamId) -> Option<(Key, StreamId)> {
        match self.peers.get(&key)?.streams.get(&stream)? {
            Leg::Joined(other, there) => Some((*other, *there)),
            Leg::Unopened(_) => None,
        }
    }

    /// A stream was reset by one end, or that end is gone.
    fn end_stream(&mut self, key: Key, stream: StreamId, gone: bool) {
        let other = self.other_end(key, stream);
        if let Some(peer) = self.peers.get_mut(&key)
            && !gone
        {
            peer.streams.remove(&stream);
        }
        if let Some((other, there)) = other
            && let Some(other) = self.peers.get_mut(&other)
        {
            other.conn.reset_stream(there);
            other.streams.remove(&there);
        }
    }

    // --- the end

    fn gone(&mut self, key: Key) {
        let streams: Vec<StreamId> =
            self.peers.get(&key).map(|peer| peer.streams.keys().copied().collect()).unwrap_or_default();
        for stream in streams {
            self.end_stream(key, stream, true);
        }
        if self.peers.get_mut(&key).is_some_and(|peer| std::mem::take(&mut peer.announced)) {
            self.ask(Origin::Nobody, key, "edge_offline");
        }
        let Some(peer) = self.peers.remove(&key) else { return };
        // Who waits for it is told; whoever works for it is told that nobody waits.
        for origin in peer.origins.into_values() {
            match origin {
                Origin::Peer { key: origin, id } => {
                    let Some(origin) = self.peers.get_mut(&origin) else { continue };
                    origin.ops.remove(&id);
                    // Which of the two it was the origin knows by the id.
                    for kind in [FrameType::Response, FrameType::Ack] {
                        origin.answer_error(kind, id, ErrorCode::SessionClosed, "the other side is gone");
                    }
                }
                Origin::Admission(edge) => self.identified_without(edge),
                Origin::Nobody => {}
            }
        }
        for (target, local) in peer.ops.into_values() {
            if let Some(target) = self.peers.get_mut(&target) {
                target.origins.insert(local, Origin::Nobody);
                target.forward(key, FrameHeader::new(FrameType::Cancel, local), &[], Bytes::new());
            }
        }
    }

    /// The service that was asked about an edge is gone.
    fn identified_without(&mut self, edge: Key) {
        match self.peers.get(&edge).map(|peer| peer.id) {
            Some(0) => self.identified(edge, 0),
            Some(_) => self.welcome(edge),
            None => {}
        }
    }

    // --- look-ups

    fn find(&self, wanted: impl Fn(&Peer) -> bool) -> Option<Key> {
        self.peers.iter().find(|(_, peer)| peer.takes() && wanted(peer)).map(|(key, _)| *key)
    }

    /// The newest session of an edge.
    fn edge(&self, id: u64) -> Option<Key> {
        let mine = |peer: &Peer| peer.ready && !peer.over && peer.is_edge() && peer.id == id;
        self.peers
            .iter()
            .filter(|(_, peer)| mine(peer))
            .max_by_key(|(_, peer)| peer.epoch)
            .map(|(key, _)| *key)
    }

    fn epoch_of(&self, edge: u64) -> u64 {
        self.edge(edge).and_then(|key| self.peers.get(&key)).map_or(0, |peer| peer.epoch)
    }

    fn sender(&self, key: Key) -> Sender {
        match self.peers.get(&key) {
            Some(peer) if peer.is_service() => Sender::Service(peer.id),
            Some(peer) => Sender::Edge(peer.id),
            None => Sender::Edge(0),
        }
    }
}

/// The next of some number.
fn next(last: &AtomicU64) -> u64 {
    last.fetch_add(1, Ordering::Relaxed) + 1
}

fn ticket_id(ticket: &[u8]) -> Option<u64> {
    ticket.try_into().ok().map(u64::from_be_bytes)
}

fn info(peer: &Peer, id: u64) -> Vec<u8> {
    let Some(hello) = &peer.hello else { return Vec::new() };
    let labels = hello.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let info = EdgeInfoBuilder::new(id, peer.epoch).meta(&hello.meta).addr("memory").labels(labels);
    let mut body = Vec::new();
    info.encode(&mut body);
    body
}
