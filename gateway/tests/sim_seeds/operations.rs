//! Frames of the session stream: calls, messages, what the gateway asks, and what each peer makes of the answers.

use bytes::Bytes;
use frontier_gateway::{
    core::{Bound, stats::OpKind},
    sim::dialer::Note,
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameHeader, FrameType},
        head::{CallBuilder, CallHead, Credit, ErrorRef, GoAway, ReplyBuilder, ReplyHead},
        hello::Welcome,
        presence::{EdgeInfo, EdgeInfoBuilder},
    },
};

use super::{
    agent::{Done, Phase, Task, Upload},
    ledger::{Op, Verdict},
    plan::{ANSWERS, Answer, GRANTS, Grant},
    world::{CALLBACKS, GUESTS, Later, METHODS, NOBODYS, SERVICES, TOPICS, World},
};

/// What answers consist of, apart from what operations do.
pub(crate) const REPLY_SALT: usize = 7;

// --- as a sender ---

impl World {
    pub(crate) fn start(&mut self, agent: usize, kind: OpKind) {
        let service = self.agents[agent].bound == Bound::Service;
        let names = if kind == OpKind::Call { METHODS } else { TOPICS };
        let name = match self.rng.below(40) {
            0 => NOBODYS,
            1 if !service && kind == OpKind::Call => CALLBACKS[0],
            _ => *self.rng.pick(&names),
        };
        let edge = if service { self.some_edge() } else { 0 };
        let only = if !service && self.rng.chance(150) { *self.rng.pick(&SERVICES) } else { "" };
        let busy = |upload: &Upload| upload.flow == flow(name, edge);
        if kind == OpKind::Message && self.agents[agent].uploads.values().any(busy) {
            return;
        }
        let len = self.plan.size(&mut self.rng);
        let timeout_ms = *self.rng.pick(&[0, 0, 50, 500, 3_000]);
        let token = self.ledger.ops.len();
        let timeout = self.stage.shared().settings.deadline(0, timeout_ms);
        let sent_at = self.stage.now();
        self.ledger.ops.push(Op {
            from: agent,
            kind,
            name,
            edge,
            len,
            sent_at,
            timeout,
            cancelled: false,
            delivered: None,
            verdict: None,
            credit: Default::default(),
            answer: None,
        });
        self.ledger.sent[kind as usize] += 1;
        let number = (token as u64).to_be_bytes();
        let call = CallBuilder::new(name).edge(edge).service(only).timeout_ms(timeout_ms).meta(&number);
        let call = if len > 65_536 { call.total_len(len as u64) } else { call };
        let mut head = Vec::new();
        call.encode(&mut head);
        let state = &mut self.agents[agent];
        let id = state.fresh();
        let (frame, flow) = match kind {
            OpKind::Message => (FrameType::Publish, flow(name, edge)),
            OpKind::Call | OpKind::Stream => (FrameType::Request, id),
        };
        state.ops.insert(id, token);
        state.uploads.insert(id, Upload::new(frame, head, token, len, flow));
        self.note(|| {
            format!(
                "{agent} starts {token} as {id}: {kind:?} {name} of edge {edge}, {len} bytes, {timeout} µs"
            )
        });
    }

    pub(crate) fn cancel(&mut self, agent: usize) {
        let state = &mut self.agents[agent];
        let ids: Vec<u64> = state.ops.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = *self.rng.pick(&ids);
        let token = state.ops[&id];
        self.ledger.ops[token].cancelled = true;
        let upload = state.uploads.remove(&id);
        match upload {
            // Not a word of it was sent: the gateway will never know, so it is told now.
            Some(upload) if !upload.begun => {
                state.ops.remove(&id);
            }
            Some(upload) => {
                let header = FrameHeader::new(FrameType::Cancel, id);
                state.dialer.send_in(upload.flow, header, &[], Bytes::new());
                self.count("cancelled with fragments under way");
            }
            None => state.dialer.send(FrameType::Cancel, id, Flags::NONE, &[], &[]),
        }
        self.note(|| format!("{agent} cancels {token}"));
    }

    pub(crate) fn abort_upload(&mut self, agent: usize) {
        let state = &mut self.agents[agent];
        let mut head = Vec::new();
        CallBuilder::abort(ErrorRef::new(ErrorCode::Cancelled, "changed my mind")).encode(&mut head);
        if let Some((id, upload)) = state.uploads.iter_mut().next() {
            let id = *id;
            upload.abort = Some(head);
            self.ledger.ops[upload.salt].cancelled = true;
            if upload.begun {
                self.count("bodies broken off");
            }
            self.note(|| format!("{agent} aborts the body of {id}"));
        }
    }

    /// Response or Ack.
    fn hear_answer(&mut self, agent: usize, note: &Note) {
        let (id, now) = (note.header.id, self.stage.now());
        let state = &mut self.agents[agent];
        if note.header.kind == FrameType::Ack
            && let Some((add, names)) = state.names.remove(&id)
        {
            let refused = note.error().is_some();
            for name in names {
                if !add && !refused && !state.names.values().any(|(add, names)| *add && names.contains(&name))
                {
                    state.offered.insert(name, now);
                }
            }
            return;
        }
        let Some(token) = state.ops.get(&id).copied() else {
            unreachable!("{agent} is answered {id} although nothing waits for it: {note:?}");
        };
        let op = &self.ledger.ops[token];
        let expected = if op.kind == OpKind::Call { FrameType::Response } else { FrameType::Ack };
        assert_eq!(note.header.kind, expected, "operation {token}");
        let (len, flags) = (note.body.len(), note.header.flags);
        let reply = ReplyHead::parse(&note.head).expect("heads can be read");
        if flags.abort() {
            let code = reply.error.map_or(ErrorCode::Internal, |error| error.code);
            return self.hear_end(agent, id, token, Err((code, true)));
        }
        if let Some(error) = reply.error {
            assert!(!flags.more() && note.body.is_empty());
            return self.hear_end(agent, id, token, Err((error.code, false)));
        }
        let known = state.downloads.get(&id).copied();
        let (got, total) = match known {
            Some(known) => known,
            None => {
                let said = reply.headers().value("op").and_then(|said| said.parse().ok());
                // Answers of guests have no headers; what they consist of tells them apart.
                let by_guest = op.delivered.is_some_and(|who| who >= GUESTS);
                let right = by_guest && said.is_none() || said == Some(token);
                assert!(right, "{agent} got the answer of another operation for {token}: {said:?}");
                (0, if flags.more() { usize::try_from(reply.total_len).expect("small") } else { len })
            }
        };
        assert!(
            self.content.check(token + REPLY_SALT, got, &note.body),
            "answer of {token} is spoilt at {got}"
        );
        let got = got + len;
        if flags.more() {
            state.downloads.insert(id, (got, total));
            return self.grant(agent, id, Flags::REPLY, len);
        }
        assert_eq!(got, total, "answer of {token} is incomplete");
        self.hear_end(agent, id, token, Ok(total));
    }

    fn hear_end(&mut self, agent: usize, id: u64, token: usize, heard: Result<usize, (ErrorCode, bool)>) {
        self.note(|| format!("{agent} hears {heard:?} of {token}"));
        let state = &mut self.agents[agent];
        state.ops.remove(&id);
        let uploading = state.uploads.remove(&id).is_some();
        let downloading = state.downloads.remove(&id).is_some();
        let (now, max) = (self.stage.now(), self.stage.shared().settings.body);
        if uploading || downloading {
            self.check_credit(agent, token, uploading, downloading);
        }
        self.ledger.answer(token, heard, now, max);
    }
}

impl World {
    /// Of a body that did not come to its end: what was granted long ago has arrived, if nothing was in its way.
    fn check_credit(&self, agent: usize, token: usize, uploading: bool, downloading: bool) {
        let op = &self.ledger.ops[token];
        let good = |agent: usize| {
            self.agents.get(agent).is_some_and(|agent| agent.good && agent.phase == Phase::Ready)
        };
        if !good(agent) || !op.delivered.is_some_and(good) {
            return;
        }
        for (credit, goes_on) in op.credit.iter().zip([uploading, downloading]) {
            let long_ago = credit.given_at + 200_000 < self.stage.now();
            assert!(
                !goes_on || !long_ago || credit.given == credit.got,
                "credit of {token} is lost: {credit:?}"
            );
        }
    }
}

// --- as a receiver ---

impl World {
    pub(crate) fn hear_frame(&mut self, agent: usize, note: Note) {
        let (kind, id) = (note.header.kind, note.header.id);
        match kind {
            FrameType::Welcome => self.hear_welcome(agent, &note),
            FrameType::Reject => self.note(|| {
                format!(
                    "{agent} is refused: {:?}",
                    ErrorRef::parse(&note.head).map(|error| error.text.to_owned())
                )
            }),
            FrameType::GoAway => {
                self.note(|| format!("{agent} is told to go away"));
                let reason = GoAway::parse(&note.head).ok().and_then(|head| head.reason);
                if reason.is_some_and(|reason| reason.code == ErrorCode::GatewayDraining) {
                    self.count("sent away by a drain");
                }
                if !self.is_keeper(agent) && self.rng.chance(300) {
                    let pause = self.rng.below(500_000);
                    self.after(pause, Later::HangUp(agent));
                }
            }
            FrameType::Ping => self.agents[agent].dialer.send(FrameType::Pong, id, Flags::NONE, &[], &[]),
            FrameType::Request | FrameType::Publish => self.hear_operation(agent, &note),
            FrameType::Response | FrameType::Ack => self.hear_answer(agent, &note),
            FrameType::Credit => {
                let bytes = Credit::parse(&note.head).expect("heads can be read").bytes as usize;
                let state = &mut self.agents[agent];
                let reply = note.header.flags.reply();
                let uploads = if reply { &mut state.replies } else { &mut state.uploads };
                if let Some(upload) = uploads.get_mut(&id) {
                    upload.credit += bytes;
                    let token = if reply { upload.salt - REPLY_SALT } else { upload.salt };
                    self.ledger.ops[token].credit[usize::from(reply)].got += bytes;
                }
            }
            FrameType::Cancel => {
                let state = &mut self.agents[agent];
                let before = state.done.insert(id, Done::Cancelled);
                assert_ne!(before, Some(Done::Cancelled), "{agent} is told twice that {id} is cancelled");
                state.tasks.remove(&id);
                state.replies.remove(&id);
            }
            FrameType::Pong | FrameType::Locate | FrameType::Presence => {}
            other => unreachable!("{agent} hears {}", other.name()),
        }
    }

    fn hear_welcome(&mut self, agent: usize, note: &Note) {
        let welcome = Welcome::decode(&note.head).expect("a Welcome can be read");
        let now = self.stage.now();
        let state = &mut self.agents[agent];
        assert_eq!(state.phase, Phase::Greeted, "{agent} is welcomed twice");
        state.phase = Phase::Ready;
        (state.id, state.epoch, state.begun_at) = (welcome.id, welcome.epoch, now);
        self.note(|| format!("{agent} is welcome as {}, epoch {}", welcome.id, welcome.epoch));
        if self.agents[agent].bound == Bound::Edge {
            let holder = self.ledger.holders.entry(welcome.id).or_insert((agent, 0, now));
            assert_ne!(holder.1, welcome.epoch, "two sessions with one epoch");
            if holder.1 < welcome.epoch {
                *holder = (agent, welcome.epoch, now);
            }
            let seen = self.ledger.presence.get(&(welcome.id, welcome.epoch));
            // The answer of one that has gone may have gone with it.
            let refused = seen.and_then(|seen| seen.refused).is_some_and(|service| self.is_here(service));
            assert!(!refused, "{agent} is welcome although a service refused it");
        }
        self.after(1_500_000, Later::Ping(agent));
    }

    /// Request or Publish, or more of one.
    fn hear_operation(&mut self, agent: usize, note: &Note) {
        let (id, len, flags) = (note.header.id, note.body.len(), note.header.flags);
        let state = &mut self.agents[agent];
        if note.header.head_len == 0 || flags.abort() {
            if let Some(done) = state.done.get(&id) {
                assert_ne!(*done, Done::Cancelled, "{agent} gets more of {id} after it was cancelled");
                return;
            }
            let Some(task) = state.tasks.get_mut(&id) else {
                unreachable!("{agent} gets more of {id}, of which it knows nothing");
            };
            if flags.abort() {
                state.tasks.remove(&id);
                state.done.insert(id, Done::Answered);
                // Somebody waits for an answer, whatever became of the body: not for this one.
                return;
            }
            assert!(!task.complete);
            if let Some(token) = task.token {
                assert!(self.content.check(token, task.got, &note.body), "body of {token} is spoilt");
            }
            task.got += len;
            task.complete = !flags.more();
            assert!(!task.complete || task.got == task.total, "body of {id} at {agent} is incomplete");
            let (complete, early) = (task.complete, task.answer == Answer::Early);
            if !complete {
                self.grant(agent, id, Flags::NONE, len);
            } else if !early {
                self.decide(agent, id);
            }
            return;
        }
        assert!(!state.tasks.contains_key(&id) && !state.done.contains_key(&id), "{agent} gets {id} twice");
        let call = CallHead::parse(&note.head).expect("a gateway passes on what it could read");
        let answer = ANSWERS[self.rng.weighted(&self.plan.answers)];
        let kind = if note.header.kind == FrameType::Request { OpKind::Call } else { OpKind::Message };
        let total = if flags.more() { usize::try_from(call.total_len).expect("small") } else { len };
        let mut task =
            Task { token: None, kind, got: len, total, complete: !flags.more(), answer, asked: None };
        if let Some(callback) = CALLBACKS.iter().find(|callback| **callback == call.name) {
            self.hear_callback(agent, callback, &call, note, &mut task);
        } else {
            let token = call.meta.try_into().map(u64::from_be_bytes).expect("every operation has its number");
            let token = usize::try_from(token).expect("small");
            task.token = Some(token);
            self.check_delivery(agent, token, &call);
            assert!(self.content.check(token, 0, &note.body), "body of {token} is spoilt");
            assert_eq!(total, self.ledger.ops[token].len, "operation {token} has another length");
            self.note(|| format!("{agent} gets {token} as {id}, {answer:?}"));
        }
        let early = answer == Answer::Early;
        let complete = task.complete;
        self.agents[agent].tasks.insert(id, task);
        if complete || early {
            self.decide(agent, id);
        }
        if !complete {
            self.grant(agent, id, Flags::NONE, len);
        }
    }

    fn check_delivery(&mut self, agent: usize, token: usize, call: &CallHead<'_>) {
        self.ledger.deliver(token, agent, self.agents[agent].begun_at);
        let (op, state) = (&self.ledger.ops[token], &self.agents[agent]);
        let from = self.id_of(op.from);
        let sender = if self.bound_of(op.from) == Bound::Edge { (from, 0) } else { (0, from) };
        assert_eq!((call.from_edge, call.from_service), sender, "sender of operation {token}");
        assert_eq!((call.name, call.edge), (op.name, op.edge), "operation {token}");
        assert!(u64::from(call.timeout_ms) * 1_000 <= op.timeout.max(1_000), "deadline of {token} grows");
        self.check_receiver(agent, op.name, op.edge, op.sent_at, || format!("operation {token}"));
        if !call.service.is_empty() {
            assert_eq!(state.hello.name, call.service, "operation {token} is for another service");
        }
    }

    /// A session that was replaced, or does not offer the name any more, gets nothing that was sent afterwards.
    pub(crate) fn check_receiver(
        &self,
        agent: usize,
        name: &'static str,
        edge: u64,
        sent_at: u64,
        what: impl FnOnce() -> String,
    ) {
        if edge == 0 {
            assert_eq!(self.bound_of(agent), Bound::Service);
            let offered = self.offered_by(agent);
            let until = |name| offered.get(name).copied();
            let exact = METHODS.contains(&name) || SERVICES.contains(&name);
            let until = if exact { until(name) } else { until(name).max(until("*")) };
            assert!(until >= Some(sent_at), "{} came to {agent}, which does not offer {name}", what());
            return;
        }
        let own = (self.bound_of(agent), self.id_of(agent));
        assert_eq!(own, (Bound::Edge, edge), "{} came to {agent}", what());
        if let Some((holder, epoch, since)) = self.ledger.holders.get(&edge) {
            // A guest that was replaced before it heard of its welcome does not know how old it is.
            let own = self.epoch_of(agent);
            let stale = *holder != agent && own != 0 && *epoch > own && sent_at > *since;
            assert!(!stale, "{} came to {agent}, which {holder} has replaced", what());
        }
    }

    /// Whether the session of an agent has not ended, as the gateway sees it.
    fn is_here(&self, agent: usize) -> bool {
        let session = self.stage.session(self.agents[agent].dialer.link);
        session.is_some_and(|session| self.stage.is_ready(session))
    }

    fn hear_callback(
        &mut self,
        agent: usize,
        callback: &'static str,
        call: &CallHead<'_>,
        note: &Note,
        task: &mut Task,
    ) {
        let info = EdgeInfo::parse(&note.body).expect("can be read");
        self.note(|| format!("{agent} is asked {callback} of {} epoch {}", info.edge, info.epoch));
        self.ledger.asked += 1;
        task.asked = Some((callback, info.edge, info.epoch));
        assert_eq!(call.from_service, 0);
        let seen = self.ledger.presence.entry((info.edge, info.epoch)).or_default();
        match callback {
            "edge_online" => {
                let before = seen.asked.replace(agent);
                // Another one is asked only if the one before has gone without an answer.
                let both = before.is_some_and(|before| self.is_here(before) && self.is_here(agent));
                assert!(!both, "{before:?} and {agent} are told that {info:?} is online");
            }
            "edge_offline" => {
                assert!(!seen.offline, "two services are told that {info:?} is offline");
                seen.offline = true;
            }
            _ => {}
        }
    }

    fn decide(&mut self, agent: usize, id: u64) {
        let Some(task) = self.agents[agent].tasks.get(&id) else { return };
        match task.answer {
            Answer::Now | Answer::Early | Answer::Twice => self.answer(agent, id),
            Answer::Later => {
                let pause = *self.rng.pick(&[1_000, 30_000, 400_000, 2_500_000]);
                self.after(pause, Later::Answer(agent, id));
            }
            Answer::Never => {}
        }
    }

    pub(crate) fn answer(&mut self, agent: usize, id: u64) {
        let mut errors = self.rng.chance(self.plan.errors);
        let spoilt = self.rng.chance(100);
        let state = &mut self.agents[agent];
        if state.phase != Phase::Ready {
            return;
        }
        let Some(task) = state.tasks.remove(&id) else { return };
        state.done.insert(id, Done::Answered);
        // Or hardly any edge would ever come in.
        errors &= task.asked.is_none() || self.rng.chance(250);
        let twice = task.answer == Answer::Twice;
        let frame = if task.kind == OpKind::Call { FrameType::Response } else { FrameType::Ack };
        let flow = u64::MAX - id;
        let mut head = Vec::new();
        if errors {
            ReplyBuilder::error(ErrorRef::new(ErrorCode::Application, "no")).encode(&mut head);
            if let Some(("edge_online", edge, epoch)) = task.asked {
                self.ledger.presence.entry((edge, epoch)).or_default().refused = Some(agent);
            }
        } else if let Some(("get_edge_id", ..)) = task.asked {
            return self.answer_id(agent, id);
        }
        let Some(token) = task.token else {
            self.agents[agent].dialer.send(frame, id, Flags::NONE, &head, &[]);
            return;
        };
        let len = if errors || task.kind == OpKind::Message { 0 } else { self.plan.size(&mut self.rng) };
        let mut upload = Upload::new(frame, Vec::new(), token + REPLY_SALT, len, flow);
        let text = token.to_string();
        let mut verdict = Verdict::Fine(len);
        if errors {
            verdict = Verdict::Error;
        } else {
            let reply = ReplyBuilder::new().headers([("op", text.as_str())]);
            let reply = if len > 65_536 { reply.total_len(len as u64) } else { reply };
            reply.encode(&mut head);
            if len > 65_536 && spoilt {
                let mut abort = Vec::new();
                ReplyBuilder::error(ErrorRef::new(ErrorCode::Application, "lost")).encode(&mut abort);
                upload.abort = Some(abort);
                verdict = Verdict::Abort;
            }
        }
        self.note(|| format!("{agent} answers {token}: {verdict:?}"));
        upload.head = head;
        self.ledger.ops[token].verdict = Some(verdict);
        let state = &mut self.agents[agent];
        state.replies.insert(id, upload);
        if twice {
            state.pump(&self.content);
            if !state.replies.contains_key(&id) {
                state.dialer.send_in(flow, FrameHeader::new(frame, id), &[], Bytes::new());
            }
        }
    }

    fn answer_id(&mut self, agent: usize, id: u64) {
        let edge = if self.rng.chance(300) { 0 } else { self.rng.between(1, self.plan.ids) };
        let info = EdgeInfoBuilder::new(edge, 0);
        let mut body = Vec::new();
        info.encode(&mut body);
        self.agents[agent].dialer.send(FrameType::Response, id, Flags::NONE, &[], &body);
    }

    // --- credit ---

    fn grant(&mut self, agent: usize, id: u64, flags: Flags, len: usize) {
        let bytes = u32::try_from(len).expect("a frame's length");
        let grant = if self.calm { Grant::Now } else { GRANTS[self.rng.weighted(&self.plan.grants)] };
        match grant {
            Grant::Now => self.grant_now(agent, id, flags, bytes),
            Grant::Later => {
                let pause = self.rng.below(300_000);
                self.after(pause, Later::Credit(agent, id, flags, bytes));
            }
            Grant::Never => {
                self.agents[agent].kept.push((id, flags, bytes));
                self.count(if flags.reply() {
                    "credit withheld for answers"
                } else {
                    "credit withheld for bodies"
                });
            }
        }
    }

    pub(crate) fn grant_now(&mut self, agent: usize, id: u64, flags: Flags, bytes: u32) {
        let now = self.stage.now();
        let state = &mut self.agents[agent];
        let token = if flags.reply() {
            state.ops.get(&id).copied().filter(|_| state.downloads.contains_key(&id))
        } else {
            state.tasks.get(&id).and_then(|task| task.token)
        };
        if let Some(token) = token.filter(|_| state.phase == Phase::Ready) {
            let credit = &mut self.ledger.ops[token].credit[usize::from(flags.reply())];
            credit.given += bytes as usize;
            credit.given_at = now;
            let mut head = Vec::new();
            Credit { bytes }.encode(&mut head);
            state.dialer.send(FrameType::Credit, id, flags, &head, &[]);
        }
    }

    /// Grants what was kept back.
    pub(crate) fn give_back(&mut self, agent: usize) {
        for (id, flags, bytes) in std::mem::take(&mut self.agents[agent].kept) {
            self.grant_now(agent, id, flags, bytes);
        }
        self.release_kept(agent);
    }
}

/// What the messages of a topic are sent in; calls are sent in flows by their IDs, answers in those that count down from the top.
fn flow(name: &str, edge: u64) -> u64 {
    let hash =
        name.bytes().fold(edge, |hash, byte| hash.wrapping_mul(0x0000_0100_0000_01b3) ^ u64::from(byte));
    hash | 1 << 62
}
