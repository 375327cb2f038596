//! From Hello to Welcome: identity, the services that admit an edge, takeover, registration of names.
//!
//! ```text
//!  Hello ─▶ gatekeeper ─▶ [get_edge_id] ─▶ claim the ID (the newest wins) ─▶ [edge_online] ─▶ Welcome
//! ```
//! The two steps in brackets are calls to a service like any other; the edge's own session waits for their answers.

use std::sync::{Arc, atomic::Ordering};

use frontier_wire::{
    error::ErrorCode,
    geminio::text::ILLEGAL_EDGE_ID,
    native::{
        frame::{FrameHeader, FrameType},
        head::{CallBuilder, Names, ReplyHead, Sender, encode_error_reply, error_reply_len},
        hello::{Hello, Role, is_reserved},
        limits::HelloLimits,
        presence::EdgeInfoBuilder,
        proto,
        reader::Frame,
    },
};
use prost::Message;

use super::{
    Fault, Shard, WRITE_BUDGET,
    awaiting::GET_EDGE_ID,
    geminio::answered_id,
    ops::{INBOX_FULL, OpKey, PlaceError},
};
use crate::core::{
    Bound,
    card::{EdgeCard, PackedAddr},
    dialect::{Dialect, Protocol},
    exchange::{Choice, Policy, Targets, connection, mix, pick},
    identity::Claim,
    message::{Body, Destination, Form, Msg, NOBODY, Place},
    names::NameSet,
    registry::{InstanceRef, NameKind, Seat},
    session::{Asked, Phase, ServiceSide, Session, Step},
    stats::{OpKind, Refusal},
    table::SessionRef,
};

/// IDs under which an edge in its admission waits for answers.
const ASK_ID: u64 = 1;
const ASK_ONLINE: u64 = 2;
/// The method by which services are told of an edge, and may refuse it.
const EDGE_ONLINE: &str = "edge_online";
/// Instances tried for one callback.
const TRIES: usize = 3;
/// Services that may go away over one edge before it is turned away.
const LOST: u8 = 3;
/// Why somebody is turned away for whom there is no place.
const FULL: &str = "too many sessions";
/// Names in a Register or Unregister that take about the time of one control frame: each is looked up and copied, and at a service
/// changed in the registry that all shards share.
const NAMES_PER_FRAME: usize = 4;
/// Names an edge has that take about the time of one control frame when one of them changes: its set is shared with others that have
/// the same, so it is copied and hashed as a whole. An edge that registers 1,024 methods one by one within a second stays below the
/// default `limits.control_frames`; one that has as many and goes on is cut after 600 changes.
const SET_PER_FRAME: usize = 64;

impl Shard {
    pub(super) fn hello_limits(&self) -> HelloLimits {
        let settings = &self.shared.settings;
        HelloLimits { meta: settings.meta, names: settings.registrations, ..HelloLimits::default() }
    }

    /// Hello from a new connection.
    pub(super) fn on_hello(&mut self, me: SessionRef, head: &[u8]) -> Result<(), Fault> {
        let hello = match Hello::decode(head, &self.hello_limits()) {
            Ok(hello) => hello,
            Err(error) => {
                self.refused(Refusal::Malformed);
                self.reject(me, error.code(), &error.to_string(), 0);
                return Ok(());
            }
        };
        self.greet(me, hello)
    }

    /// What a new connection says of itself, in either protocol.
    pub(super) fn greet(&mut self, me: SessionRef, hello: Hello) -> Result<(), Fault> {
        let now = self.shared.unix_ms(self.now) / 1_000;
        let latest_epoch = self.shared.latest_epoch(self.now);
        let Some(session) = self.sessions.get_mut(me) else { return Ok(()) };
        if session.greeting.is_none() {
            return Err(Fault::Hello);
        }
        let expected = if session.bound == Bound::Edge { Role::Edge } else { Role::Service };
        if hello.role != expected {
            self.refused(Refusal::Protocol);
            let text = "this listener is for the other role";
            self.reject(me, ErrorCode::InvalidArgument, text, 0);
            return Ok(());
        }
        session.phase = Phase::Admitting;
        self.leave_newcomers(Phase::Greeting);
        if self.shared.over_budget() {
            self.reject_full(me, "gateway out of memory budget");
            return Ok(());
        }
        // Edges come in storms. Services are few, and every edge waits for them: a storm must not keep them out. Who is refused for its
        // number is not looked at any further.
        if hello.role == Role::Edge && !self.take_token() {
            self.refused(Refusal::Rate);
            let wait = 500 + (self.random() % 4_500) as u32;
            self.reject(me, ErrorCode::Overloaded, "too many new sessions", wait);
            return Ok(());
        }
        let Some(session) = self.sessions.get_mut(me) else { return Ok(()) };
        let Some(greeting) = session.greeting.as_mut() else { return Err(Fault::Hello) };
        let claim = Claim {
            bound: session.bound,
            token: &hello.token,
            subject: greeting.subject.as_ref(),
            wished_id: hello.wished_id,
            ticket: &hello.ticket,
            now,
            latest_epoch,
        };
        let grant = self.shared.gatekeeper.admit(&claim);
        let grant = match grant {
            Ok(grant) => grant,
            Err(denied) => {
                self.refused(Refusal::Denied);
                self.reject(me, denied.code, denied.text, 0);
                return Ok(());
            }
        };
        // Whoever turns out to take over a session needs no place of its own, so an edge is turned away once its ID is known.
        let placed = self.take_place(me);
        if hello.role == Role::Service {
            if placed {
                self.welcome_service(me, hello, grant.id, grant.reserved);
            } else {
                self.reject_full(me, FULL);
            }
            return Ok(());
        }
        let id = grant.id;
        if let Some(session) = self.sessions.get_mut(me)
            && let Some(greeting) = session.greeting.as_mut()
        {
            session.reserved = grant.reserved.clone().map(Box::new);
            greeting.grant = grant;
            greeting.keep(hello);
        }
        if id == 0 {
            self.ask_id(me)
        } else {
            self.claim(me, id)
        }
        Ok(())
    }

    /// The token bucket of `limits.accept_rate`, filled every 10 ms; each shard has its part of the rate.
    fn take_token(&mut self) -> bool {
        let rate = self.shared.settings.accept_rate;
        if rate == 0 {
            return true;
        }
        let share = (rate / self.posts.len() as u32).max(1);
        if self.tokens.1 == 0 {
            // The bucket starts full: a gateway that has just come up must not turn away those that waited for it.
            self.tokens = (share, self.now.micros);
        }
        let elapsed = self.now.micros - self.tokens.1;
        if elapsed >= 10_000 {
            let fresh = u64::from(share) * elapsed / 1_000_000;
            // The time already waited for the next token counts on, or a look between two would cost it.
            if fresh > 0 {
                let tokens = self.tokens.0.saturating_add(fresh.min(u64::from(share)) as u32).min(share);
                self.tokens = (tokens, self.tokens.1 + fresh * 1_000_000 / u64::from(share));
            }
        }
        if self.tokens.0 == 0 {
            return false;
        }
        self.tokens.0 -= 1;
        true
    }

    // --- edges ---

    /// Asks a service for the edge's ID, or finds one.
    pub(super) fn ask_id(&mut self, me: SessionRef) {
        let now = self.now.micros;
        let step = self.sessions.get(me).and_then(|s| s.greeting.as_ref()).map(|greeting| greeting.step);
        let until = match step {
            Some(Step::IdService(until)) => until,
            _ => now + self.shared.settings.wait_for_id_service,
        };
        if let Some(targets) = self.names.targets(&self.shared.registry, NameKind::Method, GET_EDGE_ID) {
            let random = self.random();
            let choice = Choice { policy: Policy::Random, key: random, random, shard: self.id };
            self.set_step(me, Step::EdgeId);
            if self.ask(me, ASK_ID, GET_EDGE_ID, &targets, choice, None) {
                return;
            }
        }
        if until > now {
            return self.await_id_service(me, until);
        }
        self.without_id_service(me);
    }

    /// No service knows the ID of the edge.
    pub(super) fn without_id_service(&mut self, me: SessionRef) {
        if self.shared.settings.allocate_ids {
            let id = self.new_id();
            return self.claim(me, id);
        }
        self.refused(Refusal::Denied);
        self.reject(me, ErrorCode::ServiceNotOnline, "service not online", 0);
    }

    /// 63 random bits: with ten million edges online the chance that any two of a cluster's gateways ever made the same is one in
    /// two hundred thousand, and with the gatekeeper's numbers nobody can guess another edge's.
    fn new_id(&mut self) -> u64 {
        loop {
            let drawn = self.random();
            let id = self.shared.gatekeeper.random(drawn) >> 1;
            if id != 0 && self.shared.registry.edge(id).is_none() {
                return id;
            }
        }
    }

    fn set_step(&mut self, me: SessionRef, step: Step) {
        if let Some(greeting) = self.sessions.get_mut(me).and_then(|session| session.greeting.as_mut()) {
            greeting.step = step;
        }
    }

    /// Calls a service about an edge in its admission, the first one named if there is one; false if no instance takes the call.
    fn ask(
        &mut self,
        me: SessionRef,
        id: u64,
        method: &str,
        targets: &Arc<Targets>,
        choice: Choice,
        first: Option<Callee>,
    ) -> bool {
        let Some(session) = self.sessions.get(me) else { return false };
        let Some(greeting) = session.greeting.as_ref() else { return false };
        let deadline = greeting.admission(&self.shared.settings);
        let body = match (&session.card, &greeting.hello) {
            (Some(card), _) => encode_card(card),
            (None, Some(hello)) => {
                let addr = greeting.addr.to_string();
                let labels = hello.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                let info =
                    EdgeInfoBuilder::new(hello.wished_id, 0).meta(&hello.meta).addr(&addr).labels(labels);
                let mut body = Vec::with_capacity(info.encoded_len());
                info.encode(&mut body);
                body
            }
            (None, None) => return false,
        };
        let sender = Sender::Edge(session.id());
        let mut skip = Vec::new();
        while skip.len() < TRIES {
            let first = first.filter(|_| skip.is_empty());
            let Some(callee) = first.or_else(|| callee(targets, choice, &skip)) else { return false };
            let target = callee.target;
            if let Some(local) = self.call(target, me, id, method, sender, &body, deadline) {
                let session = self.sessions.get_mut(me);
                // Unless it was turned away for that.
                if let Some(greeting) = session.and_then(|session| session.greeting.as_mut()) {
                    greeting.asked = Some(Asked { target, id, local });
                }
                return true;
            }
            skip.push(callee.instance);
        }
        false
    }

    /// The edge that a service was asked about has gone meanwhile.
    pub(super) fn take_back(&mut self, me: SessionRef, asked: Asked) {
        let (target, code) = (asked.target, ErrorCode::SessionClosed);
        if target.shard == self.id {
            self.cancel(target, OpKey::Local(asked.local), code);
        } else {
            self.post(target.shard, Msg::Cancel { target, from: me, from_id: asked.id, code });
        }
    }

    /// Sends a call that the gateway itself makes; the ID it has at its target (0 = not known here), or `None` if the target is gone.
    fn call(
        &mut self,
        target: SessionRef,
        from: SessionRef,
        from_id: u64,
        method: &str,
        sender: Sender,
        body: &[u8],
        deadline: u64,
    ) -> Option<u64> {
        let call = CallBuilder::new(method);
        let mut head = Vec::with_capacity(call.encoded_len());
        call.encode(&mut head);
        let flow = super::ops::flow(self.secret, from, from_id) ^ 1;
        let (kind, body) = (OpKind::Call, Body::Slice(body));
        let (form, context, more) = (Form::EdgeInfo, None, false);
        let place =
            Place { from, from_id, sender, kind, more, head: &head, body, form, context, deadline, flow };
        if target.shard != self.id {
            if from != NOBODY && !self.has_mail_room(target.shard) {
                self.answer_error(from, from_id, kind, INBOX_FULL.0, INBOX_FULL.1);
                return Some(0);
            }
            // An instance that has just gone is replaced by the next: nobody else would tell services of this edge.
            let destination = Destination::Name { kind, name: method.into(), service: Box::default() };
            self.post_place(target, place, destination, 0);
            return Some(0);
        }
        match self.place(target, &place) {
            Ok(local) => Some(local),
            Err(PlaceError::Gone) => None,
            Err(PlaceError::Refused((code, text))) => {
                self.answer_error(from, from_id, OpKind::Call, code, text);
                Some(0)
            }
        }
    }

    /// An answer for an edge in its admission.
    pub(super) fn on_admission_answer(
        &mut self,
        me: SessionRef,
        id: u64,
        head: &[u8],
        body: &[u8],
        form: Form,
    ) {
        let Some(greeting) = self.sessions.get_mut(me).and_then(|session| session.greeting.as_mut()) else {
            return;
        };
        greeting.asked.take_if(|asked| asked.id == id);
        let step = greeting.step;
        let error = ReplyHead::parse(head)
            .map(|reply| reply.error.map(|error| (error.code, error.text.to_owned(), error.retry_after_ms)));
        match (step, id, error) {
            (Step::EdgeId, ASK_ID, Ok(None)) => match answered_id(body, form) {
                Some(0) => {
                    let id = self.new_id();
                    self.claim(me, id);
                }
                Some(id) => self.claim(me, id),
                None => self.deny(me, ErrorCode::Internal, ILLEGAL_EDGE_ID),
            },
            (Step::Online, ASK_ONLINE, Ok(None)) => self.welcome_edge(me),
            // Who was asked went away: as if it had not been there.
            (Step::EdgeId, ASK_ID, Ok(Some((ErrorCode::SessionClosed, ..)))) if greeting.lost < LOST => {
                greeting.lost += 1;
                self.ask_id(me);
            }
            (Step::Online, ASK_ONLINE, Ok(Some((ErrorCode::SessionClosed, ..)))) if greeting.lost < LOST => {
                greeting.lost += 1;
                self.ask_online(me);
            }
            (Step::EdgeId, ASK_ID, Ok(Some((code, text, retry))))
            | (Step::Online, ASK_ONLINE, Ok(Some((code, text, retry)))) => {
                self.deny_for(me, code, &text, retry);
            }
            (Step::EdgeId, ASK_ID, Err(_)) | (Step::Online, ASK_ONLINE, Err(_)) => {
                self.deny(me, ErrorCode::Internal, "malformed answer");
            }
            // An answer to a step that is over.
            _ => {}
        }
    }

    /// A service refused the edge, or could not say.
    pub(super) fn deny(&mut self, me: SessionRef, code: ErrorCode, text: &str) {
        self.deny_for(me, code, text, 0);
    }

    /// The same; it may come again after so many milliseconds.
    fn deny_for(&mut self, me: SessionRef, code: ErrorCode, text: &str, retry_after_ms: u32) {
        if let Some(card) = self.sessions.get(me).and_then(|session| session.card.as_ref())
            && code != ErrorCode::DeadlineExceeded
        {
            card.refused();
        }
        self.refused(Refusal::Denied);
        self.reject(me, code, text, retry_after_ms);
    }

    /// There is no place among `limits.sessions`, or no memory.
    fn reject_full(&mut self, me: SessionRef, text: &'static str) {
        self.refused(Refusal::Full);
        // A full house seldom empties within a second, and they must not come back all at once.
        let wait = 2_000 + (self.random() % 8_000) as u32;
        self.reject(me, ErrorCode::Overloaded, text, wait);
    }

    /// The newcomer takes the ID; whoever had it goes. Then services are told.
    fn claim(&mut self, me: SessionRef, id: u64) {
        if self.shared.registry.edge(id).is_some() {
            self.take_over_place(me);
        } else if !self.take_place(me) {
            return self.reject_full(me, FULL);
        }
        let (unix_ms, latest) = (self.shared.unix_ms(self.now), self.shared.latest_epoch(self.now));
        let Some(session) = self.sessions.get_mut(me) else { return };
        let Some(greeting) = session.greeting.as_mut() else { return };
        let epoch = self.shared.next_epoch(unix_ms, greeting.grant.epoch);
        let (meta, labels) = greeting.take_card();
        let mut card = Arc::new(EdgeCard::new((id, epoch), greeting.addr, &meta, labels));
        let old = loop {
            match self.shared.registry.claim_edge(me, &card, latest) {
                Ok(old) => break old,
                Err(newer) => card = Arc::new(card.with_epoch(self.shared.next_epoch(unix_ms, newer))),
            }
        };
        session.card = Some(Arc::clone(&card));
        self.touch(me);
        let choice = self.choice_of(me);
        let targets = self.names.targets(&self.shared.registry, NameKind::Method, EDGE_ONLINE);
        // One connection hears of both, or the events could come in another order than they were sent.
        let told = targets.as_ref().and_then(|targets| callee(targets, choice, &[]));
        if let Some((session, old)) = old {
            self.stats.takeovers.add(1);
            if old.withdraw() {
                self.notify_offline(&old, told);
            }
            self.cut(session, ErrorCode::SessionClosed, "replaced by a newer session");
        }
        if !card.announce() {
            // Replaced already, by somebody who will cut this session.
            return;
        }
        self.set_step(me, Step::Online);
        let asked =
            targets.is_some_and(|targets| self.ask(me, ASK_ONLINE, EDGE_ONLINE, &targets, choice, told));
        if !asked {
            self.welcome_edge(me);
        }
    }

    /// Asks another service whether the edge may come in.
    fn ask_online(&mut self, me: SessionRef) {
        let choice = self.choice_of(me);
        let targets = self.names.targets(&self.shared.registry, NameKind::Method, EDGE_ONLINE);
        if !targets.is_some_and(|targets| self.ask(me, ASK_ONLINE, EDGE_ONLINE, &targets, choice, None)) {
            self.welcome_edge(me);
        }
    }

    /// By what a service is chosen that is asked about an edge.
    fn choice_of(&mut self, me: SessionRef) -> Choice {
        let policy = self.shared.settings.policy;
        let key = self.sessions.get(me).map_or(0, |session| session.choice_key(policy));
        Choice { policy, key, random: self.random(), shard: self.id }
    }

    /// Tells a service that an edge is gone: the one that will be told of its successor, if it wants to know.
    pub(super) fn notify_offline(&mut self, card: &EdgeCard, told: Option<Callee>) {
        let Some(targets) = self.names.targets(&self.shared.registry, NameKind::Method, "edge_offline")
        else {
            return;
        };
        let policy = self.shared.settings.policy;
        let key = policy.key(card.id, Some(card.addr.ip()));
        let choice = Choice { policy, key, random: self.random(), shard: self.id };
        let body = encode_card(card);
        let deadline = self.now.micros + self.shared.settings.admission;
        let mut skip = Vec::new();
        while skip.len() < TRIES {
            let wants = |told: &Callee| targets.iter().any(|instance| instance.conns.contains(&told.target));
            let told = told.filter(|told| skip.is_empty() && wants(told));
            let Some(callee) = told.or_else(|| callee(&targets, choice, &skip)) else { return };
            let sender = Sender::Edge(card.id);
            let call = self.call(callee.target, NOBODY, card.epoch, "edge_offline", sender, &body, deadline);
            if call.is_some() {
                return;
            }
            skip.push(callee.instance);
        }
    }

    fn welcome_edge(&mut self, me: SessionRef) {
        let Some(session) = self.sessions.get_mut(me) else { return };
        let Some(greeting) = session.greeting.take() else { return };
        let (Some(card), Some(hello)) = (session.card.clone(), greeting.hello) else { return };
        let methods = NameSet::default().edited(hello.methods.iter().map(String::as_str), [].into_iter());
        session.methods = self.interner.intern(methods);
        self.account_names();
        // Geminio has no place for one, and signing it takes a microsecond.
        let ticket = match self.sessions.get(me).map(|session| session.conn.protocol()) {
            Some(Protocol::Native) => {
                let (holder, now) = (greeting.grant.holder, self.shared.unix_ms(self.now) / 1_000);
                self.shared.gatekeeper.ticket(card.id, card.epoch, holder, now)
            }
            Some(Protocol::Geminio) | None => Vec::new(),
        };
        self.welcome(me, &hello, card.id, card.epoch, ticket);
        self.count_in(me);
        self.log_online(me, card.epoch);
        if self.shared.draining.load(Ordering::Relaxed) {
            // At once it could meet the same gateway again, and again: balancers take seconds to notice.
            let wait = 500 + (self.random() % 2_500) as u32;
            self.send_go_away(me, wait, ErrorCode::GatewayDraining, "gateway draining");
        }
    }

    /// Counts a session that was welcomed.
    fn count_in(&self, me: SessionRef) {
        let Some(session) = self.sessions.get(me) else { return };
        let (bound, protocol) = (session.bound as usize, session.conn.protocol());
        self.stats.sessions[bound].add(1);
        self.stats.geminio[bound].add(u64::from(protocol == Protocol::Geminio));
    }

    fn welcome(&mut self, me: SessionRef, hello: &Hello, id: u64, epoch: u64, ticket: Vec<u8>) {
        let settings = &self.shared.settings;
        let (version, features) = hello.agree();
        let welcome = proto::Welcome {
            version,
            features,
            id,
            epoch,
            ticket,
            shards: if hello.role == Role::Service { self.posts.len() as u32 } else { 0 },
            stream_window: settings.stream_window,
            heartbeat_ms: u32::try_from(settings.heartbeat / 1_000).unwrap_or(u32::MAX),
            max_body: settings.body,
            // One number for both: whoever keeps to it is never refused.
            max_in_flight: settings.requests_in_flight.min(settings.messages_in_flight),
        };
        let (window, silence) = (settings.stream_window, settings.silence());
        let since = u32::try_from(self.now.unix_ms / 1_000).unwrap_or(u32::MAX);
        let Some(session) = self.sessions.get_mut(me) else { return };
        match &mut session.conn {
            Dialect::Native(conn) => {
                conn.engine_mut().set_stream_windows(window, hello.stream_window);
                conn.send(FrameHeader::new(FrameType::Welcome, 0), &welcome.encode_to_vec(), &[]);
                // Now, or the announcement of a stream that is opened in this turn would overtake it, and the peer would give that
                // stream other windows than those that are agreed here.
                conn.fill(WRITE_BUDGET);
            }
            Dialect::Geminio(conn) => conn.admit(id, self.now.micros),
        }
        session.phase = Phase::Ready;
        session.since = since;
        session.greeting = None;
        let at = session.last_rx + silence;
        self.wake_at(me, at);
        self.touch(me);
    }

    // --- services ---

    fn welcome_service(
        &mut self,
        me: SessionRef,
        hello: Hello,
        granted: u64,
        reserved: Option<Arc<[String]>>,
    ) {
        if let Some(allowed) = &reserved
            && let Some(method) = hello.methods.iter().find(|m| is_reserved(m) && !allowed.contains(m))
        {
            self.refused(Refusal::Denied);
            let text = format!("not entitled to offer {method}");
            return self.reject(me, ErrorCode::PermissionDenied, &text, 0);
        }
        let bits = hello.instance.as_bytes();
        let instance = bits.iter().fold(0, |hash, byte| mix(hash ^ u64::from(*byte)));
        // The connections of a pool must come to the same ID without asking each other. A wish is the gatekeeper's to grant.
        let service_id = if granted == 0 { instance >> 1 | 1 } else { granted };
        let instance = InstanceRef { key: mix(service_id ^ instance), service_id };
        let name: Arc<str> = hello.name.as_str().into();
        let epoch = self.shared.next_epoch(self.shared.unix_ms(self.now), 0);
        let addr = self.sessions.get(me).and_then(Session::addr);
        let Some(addr) = addr.map(PackedAddr::from) else { return };
        let seat = Seat { session: me, index: hello.pool_index, addr, epoch };
        let replaced = match self.shared.registry.join_pool(seat, &instance, &name) {
            Ok(replaced) => replaced,
            Err(error) => {
                self.refused(Refusal::Malformed);
                return self.reject(me, ErrorCode::InvalidArgument, &error.to_string(), 0);
            }
        };
        let Some(session) = self.sessions.get_mut(me) else { return };
        let Some(greeting) = session.greeting.as_ref() else { return };
        session.reserved = reserved.map(Box::new);
        let names = |names: &[String]| {
            Arc::new(NameSet::default().edited(names.iter().map(String::as_str), [].into_iter()))
        };
        let side = ServiceSide {
            instance: instance.clone(),
            name,
            addr: greeting.addr,
            topics: names(&hello.topics),
            methods: names(&hello.methods),
            snapshot: None,
        };
        session.service = Some(Box::new(side));
        self.welcome(me, &hello, service_id, epoch, Vec::new());
        if let Some(side) = self.sessions.get(me).and_then(|session| session.service.as_ref()) {
            self.shared.registry.add_names(me, &instance, side.offers());
        }
        if hello.methods.iter().any(|method| method == GET_EDGE_ID) {
            self.announce_id_service();
        }
        self.count_in(me);
        self.log_online(me, epoch);
        // Last, so that there is always one that has its names.
        if let Some(old) = replaced {
            self.stats.takeovers.add(1);
            self.cut(old, ErrorCode::SessionClosed, "replaced by a newer session");
        }
    }

    /// Register or Unregister.
    pub(super) fn on_names(&mut self, me: SessionRef, frame: &Frame<&[u8]>) -> Result<(), Fault> {
        let names = Names::parse(&frame.head)?;
        self.control_frames(me, self.names_cost(me, &names))?;
        let add = frame.header.kind == FrameType::Register;
        let refusal = if add { self.names_refusal(me, &names) } else { None };
        let mut head = Vec::new();
        match refusal {
            Some((code, text)) => {
                head.reserve(error_reply_len(code, &text));
                encode_error_reply(&mut head, code, &text);
            }
            None => self.edit_names(me, &names, add),
        }
        if let Some(session) = self.sessions.get_mut(me) {
            session.conn.send(FrameHeader::new(FrameType::Ack, frame.header.id), &head, &[]);
        }
        Ok(())
    }

    /// What a Register or Unregister counts for among the control frames: by the work it makes.
    pub(super) fn names_cost(&self, me: SessionRef, names: &Names<'_>) -> u32 {
        let set = self.sessions.get(me).and_then(|session| session.methods.as_ref());
        let set = set.map_or(0, |methods| methods.names().len());
        let cost = 1 + names.count() / NAMES_PER_FRAME + set / SET_PER_FRAME;
        u32::try_from(cost).unwrap_or(u32::MAX)
    }

    pub(super) fn names_refusal(&self, me: SessionRef, names: &Names<'_>) -> Option<(ErrorCode, String)> {
        let session = self.sessions.get(me)?;
        if session.is_leaving() {
            return Some((ErrorCode::SessionClosed, "the session is leaving".to_owned()));
        }
        let present = match &session.service {
            Some(side) => side.topics.names().len() + side.methods.names().len(),
            None => session.methods.as_ref().map_or(0, |methods| methods.names().len()),
        };
        if let Err(error) = self.hello_limits().check_registration(names, present) {
            return Some((error.code(), error.to_string()));
        }
        if !self.shared.has_room() && !has_all(session, names) {
            return Some((ErrorCode::Overloaded, "gateway out of memory budget".to_owned()));
        }
        if session.service.is_none() && names.topics().next().is_some() {
            return Some((ErrorCode::InvalidArgument, "only services take topics".to_owned()));
        }
        let reserved = names.methods().find(|method| is_reserved(method))?;
        let allowed = match (&session.service, &session.reserved) {
            (Some(_), None) => true,
            (Some(_), Some(_)) => session.may(reserved),
            (None, _) => false,
        };
        (!allowed).then(|| (ErrorCode::PermissionDenied, format!("method {reserved} is reserved")))
    }

    pub(super) fn edit_names(&mut self, me: SessionRef, names: &Names<'_>, add: bool) {
        let registry = &self.shared.registry;
        let Some(session) = self.sessions.get_mut(me) else { return };
        let Some(side) = session.service.as_mut() else {
            let has = |name| session.methods.as_ref().is_some_and(|methods| methods.contains(name));
            if names.methods().all(|name| has(name) == add) {
                return;
            }
            let old = session.methods.take();
            let set = old.as_deref().cloned().unwrap_or_default();
            let none = [].into_iter();
            let set = if add { set.edited(names.methods(), none) } else { set.edited(none, names.methods()) };
            session.methods = self.interner.intern(set);
            self.interner.release(old);
            return self.account_names();
        };
        let mut changed = Vec::new();
        let methods = names.methods().map(|name| (NameKind::Method, name));
        for (kind, name) in methods.chain(names.topics().map(|name| (NameKind::Topic, name))) {
            let set = if kind == NameKind::Method { &mut side.methods } else { &mut side.topics };
            // Copied only while somebody lists it.
            let set = Arc::make_mut(set);
            // A name said twice is one registration, as it will be one removal.
            if if add { set.insert(name) } else { set.remove(name) } {
                changed.push((kind, name));
            }
        }
        let knows_ids = add && changed.contains(&(NameKind::Method, GET_EDGE_ID));
        if add {
            registry.add_names(me, &side.instance, changed);
        } else {
            registry.remove_names(me, &side.instance, changed);
        }
        if knows_ids {
            self.announce_id_service();
        }
    }

    /// Ends a session wherever it is.
    pub(super) fn cut(&mut self, session: SessionRef, code: ErrorCode, text: &'static str) {
        if session.shard == self.id {
            self.cut_here(session, code, text);
        } else {
            self.post(session.shard, Msg::Cut { session, code, text });
        }
    }
}

/// Whether a session has registered all of some names already.
fn has_all(session: &Session, names: &Names<'_>) -> bool {
    match &session.service {
        Some(side) => {
            names.methods().all(|name| side.methods.contains(name))
                && names.topics().all(|name| side.topics.contains(name))
        }
        None => session.methods.as_ref().is_some_and(|set| names.methods().all(|name| set.contains(name))),
    }
}

/// A service connection that is called about edges.
#[derive(Clone, Copy, Debug)]
pub(super) struct Callee {
    /// The key of its instance.
    instance: u64,
    target: SessionRef,
}

fn callee(targets: &Targets, choice: Choice, skip: &[u64]) -> Option<Callee> {
    let instance = pick(targets, choice, skip)?;
    Some(Callee { instance: instance.key, target: connection(instance, choice)? })
}

/// An EdgeInfo of what is known of an edge.
fn encode_card(card: &EdgeCard) -> Vec<u8> {
    let addr = card.addr.to_string();
    let info = EdgeInfoBuilder::new(card.id, card.epoch).meta(card.meta()).addr(&addr).labels(card.labels());
    let mut body = Vec::with_capacity(info.encoded_len());
    info.encode(&mut body);
    body
}
