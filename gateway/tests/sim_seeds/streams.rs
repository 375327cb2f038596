//! User streams: opened, accepted or not, written, read late, half-closed and reset.

use std::borrow::Cow;

use bytes::Bytes;
use frontier_gateway::{
    core::{Bound, stats::OpKind},
    sim::dialer::Dialer,
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{FrameHeader, FrameType, HEADER_LEN},
        head::{CallBuilder, CallHead, ErrorRef, ReplyBuilder, ReplyHead},
    },
    yamux::StreamId,
};

use super::{
    agent::Phase,
    ledger::{Content, Wire},
    plan::{GRANTS, Grant},
    world::{GUESTS, Later, SERVICES, World},
};

/// What the two ends send starts at different places of the same content.
pub(crate) const SIDE_SALT: usize = 100;

/// Where an end of a stream is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Opened here; OpenAck has not come.
    Waiting,
    /// Opened there; nothing was answered.
    Offered,
    Open,
    /// Refused, here or there.
    Refused,
}

/// An end of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Its number; unknown until Open has come.
    pub wire: Option<usize>,
    pub side: usize,
    pub state: State,
    /// Open or OpenAck as far as it has come.
    pub frame: Vec<u8>,
    /// Bytes to send.
    pub ahead: usize,
    pub sent: usize,
    pub finish: bool,
    pub finished: bool,
    pub ended: bool,
    /// Window kept back.
    pub kept: usize,
    /// The other end is a guest: bytes go in Data frames.
    pub framed: bool,
}

// === impl Line ===

impl Line {
    fn new(wire: Option<usize>, side: usize, state: State) -> Self {
        let (finish, finished, ended) = (false, false, false);
        let (frame, framed) = (Vec::new(), false);
        Self { wire, side, state, frame, ahead: 0, sent: 0, finish, finished, ended, kept: 0, framed }
    }

    /// What is in the Data frames that have come so far.
    fn unframe(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.frame.extend_from_slice(bytes);
        let mut raw = Vec::new();
        while let Some(header) = self.frame.first_chunk::<HEADER_LEN>().map(FrameHeader::parse)
            && self.frame.len() >= header.frame_len()
        {
            assert_eq!(header.kind, FrameType::Data, "guests send nothing else");
            let rest = self.frame.split_off(header.frame_len());
            raw.extend_from_slice(&self.frame[HEADER_LEN + usize::from(header.head_len)..]);
            self.frame = rest;
        }
        raw
    }

    pub(crate) fn pump(&mut self, stream: StreamId, dialer: &mut Dialer, content: &Content) {
        let Some(wire) = self.wire.filter(|_| self.state == State::Open && !self.finished) else { return };
        while self.ahead > 0 {
            let n = self.ahead.min(65_536);
            let bytes = content.part(wire + self.side * SIDE_SALT, self.sent, n);
            if self.framed {
                let header = FrameHeader::new(FrameType::Data, 0).with_lens(0, n).expect("short enough");
                dialer.conn.outbox().push_stream(stream, Bytes::copy_from_slice(&header.encode()), false);
            }
            dialer.conn.outbox().push_stream(stream, bytes, false);
            self.ahead -= n;
            self.sent += n;
        }
        if self.finish {
            self.finished = true;
            dialer.conn.finish_stream(stream);
        }
    }
}

// --- doing ---

impl World {
    pub(crate) fn open(&mut self, agent: usize) {
        let service = self.agents[agent].bound == Bound::Service;
        let name = *self.rng.pick(&SERVICES);
        let edge = if service { self.some_edge() } else { 0 };
        let timeout_ms = *self.rng.pick(&[0, 100, 2_000]);
        let wire = self.ledger.wires.len();
        let state = &mut self.agents[agent];
        let Ok(stream) = state.dialer.conn.open_stream() else { return };
        let number = (wire as u64).to_be_bytes();
        let mut head = Vec::new();
        CallBuilder::new(name).edge(edge).timeout_ms(timeout_ms).meta(&number).encode(&mut head);
        state.dialer.send_on(stream, FrameHeader::new(FrameType::Open, 1), &head);
        state.lines.insert(stream, Line::new(Some(wire), 0, State::Waiting));
        let sent_at = self.stage.now();
        self.ledger.wires.push(Wire {
            ends: [Some((agent, stream.get().into())), None],
            edge,
            name,
            sent_at,
            ..Wire::default()
        });
        self.ledger.sent[OpKind::Stream as usize] += 1;
        self.note(|| format!("{agent} opens stream {wire} as {stream:?} to {name} {edge}"));
    }

    fn any_line(&mut self, agent: usize, open: bool) -> Option<StreamId> {
        let fits = |line: &Line| !open || line.state == State::Open && !line.finish;
        let lines: Vec<StreamId> = self.agents[agent]
            .lines
            .iter()
            .filter(|(_, line)| fits(line))
            .map(|(stream, _)| *stream)
            .collect();
        (!lines.is_empty()).then(|| *self.rng.pick(&lines))
    }

    pub(crate) fn write_stream(&mut self, agent: usize) {
        let Some(stream) = self.any_line(agent, true) else { return };
        let n = self.plan.size(&mut self.rng);
        if let Some(line) = self.agents[agent].lines.get_mut(&stream)
            && let Some(wire) = line.wire
        {
            line.ahead += n;
            self.ledger.wires[wire].sent[line.side] += n;
        }
    }

    pub(crate) fn finish_stream(&mut self, agent: usize) {
        let Some(stream) = self.any_line(agent, true) else { return };
        self.finish_line(agent, stream);
        self.flush(agent);
        self.forget_line(agent, stream);
    }

    fn finish_line(&mut self, agent: usize, stream: StreamId) {
        if let Some(line) = self.agents[agent].lines.get_mut(&stream)
            && let Some(wire) = line.wire
        {
            line.finish = true;
            self.ledger.wires[wire].finished[line.side] = true;
            self.note(|| format!("{agent} finishes stream {wire}"));
        }
    }

    pub(crate) fn reset_stream(&mut self, agent: usize) {
        let Some(stream) = self.any_line(agent, false) else { return };
        self.reset_line(agent, stream);
    }

    fn reset_line(&mut self, agent: usize, stream: StreamId) {
        let state = &mut self.agents[agent];
        state.dialer.conn.reset_stream(stream);
        if let Some(line) = state.lines.remove(&stream)
            && let Some(wire) = line.wire
        {
            self.ledger.wires[wire].reset[line.side] = true;
            self.note(|| format!("{agent} resets stream {wire}"));
        }
    }

    /// Both directions have ended in good order.
    fn forget_line(&mut self, agent: usize, stream: StreamId) {
        let state = &mut self.agents[agent];
        if state.lines.get(&stream).is_some_and(|line| line.finished && line.ended) {
            state.lines.remove(&stream);
        }
    }

    /// What an acceptor does with an offer, or an opener with a refusal.
    pub(crate) fn settle_stream(&mut self, agent: usize, stream: StreamId) {
        if self.agents[agent].phase != Phase::Ready {
            return;
        }
        let refuses = self.rng.chance(self.plan.errors);
        let ahead = if self.rng.chance(500) { self.plan.size(&mut self.rng) } else { 0 };
        let Some(line) = self.agents[agent].lines.get_mut(&stream) else { return };
        let Some(wire) = line.wire else { return };
        match line.state {
            State::Offered if refuses => {
                line.state = State::Refused;
                self.ledger.wires[wire].refused = true;
                let mut head = Vec::new();
                ReplyBuilder::error(ErrorRef::new(ErrorCode::Application, "no")).encode(&mut head);
                let dialer = &mut self.agents[agent].dialer;
                dialer.send_on(stream, FrameHeader::new(FrameType::OpenAck, 1), &head);
                dialer.conn.finish_stream(stream);
            }
            State::Offered => {
                line.state = State::Open;
                line.ahead = ahead;
                line.framed = self.ledger.wires[wire].ends[0].is_some_and(|(who, _)| who >= GUESTS);
                self.ledger.wires[wire].accepted = true;
                self.ledger.wires[wire].sent[1] += ahead;
                self.agents[agent].dialer.send_on(stream, FrameHeader::new(FrameType::OpenAck, 1), &[]);
            }
            State::Refused => {
                self.agents[agent].lines.remove(&stream);
                self.agents[agent].dialer.conn.finish_stream(stream);
            }
            State::Waiting | State::Open => {}
        }
        self.note(|| format!("{agent} settles stream {wire}"));
    }

    // --- hearing ---

    pub(crate) fn hear_opened(&mut self, agent: usize, stream: StreamId) {
        self.agents[agent].lines.insert(stream, Line::new(None, 1, State::Offered));
    }

    pub(crate) fn hear_data(&mut self, agent: usize, stream: StreamId, bytes: &[u8]) {
        let Some(line) = self.agents[agent].lines.get_mut(&stream) else {
            unreachable!("{agent} gets bytes of {stream:?}, which it does not have");
        };
        assert!(!line.ended, "bytes after the end of a stream");
        let mut bytes = bytes;
        let mut frame = None;
        if line.state == State::Waiting || line.state == State::Offered && line.wire.is_none() {
            line.frame.extend_from_slice(bytes);
            let header = line.frame.first_chunk::<HEADER_LEN>().map(FrameHeader::parse);
            let Some(header) = header.filter(|header| line.frame.len() >= header.frame_len()) else {
                self.agents[agent].dialer.conn.release(stream, bytes.len() as u32);
                return;
            };
            let whole = std::mem::take(&mut line.frame);
            let after = whole.len() - header.frame_len();
            let (front, rest) = bytes.split_at(bytes.len() - after);
            self.agents[agent].dialer.conn.release(stream, front.len() as u32);
            bytes = rest;
            frame = Some((header, whole));
        }
        if let Some((header, whole)) = frame {
            let head = &whole[HEADER_LEN..HEADER_LEN + usize::from(header.head_len)];
            match header.kind {
                FrameType::Open => self.hear_open(agent, stream, head),
                FrameType::OpenAck => self.hear_open_ack(agent, stream, head),
                other => unreachable!("{} at the start of a stream", other.name()),
            }
        }
        if !bytes.is_empty() {
            self.hear_bytes(agent, stream, bytes);
        }
    }

    fn hear_open(&mut self, agent: usize, stream: StreamId, head: &[u8]) {
        let call = CallHead::parse(head).expect("a gateway passes on what it could read");
        let wire = call.meta.try_into().map(u64::from_be_bytes).expect("every stream has its number");
        let wire = usize::try_from(wire).expect("small");
        let known = &mut self.ledger.wires[wire];
        assert_eq!(known.ends[1], None, "stream {wire} is offered twice");
        let late = [None, Some(Some(ErrorCode::DeadlineExceeded)), Some(Some(ErrorCode::SessionClosed))];
        // Guests know of a refusal no more than that the stream has ended.
        let by_guest = known.ends[0].is_some_and(|(who, _)| who >= GUESTS);
        assert!(
            by_guest || late.contains(&known.heard),
            "stream {wire} is offered after its opener heard {:?}",
            known.heard
        );
        known.ends[1] = Some((agent, stream.get().into()));
        let (name, edge, sent_at) = (known.name, known.edge, known.sent_at);
        self.check_receiver(agent, name, edge, sent_at, || format!("stream {wire}"));
        if let Some(line) = self.agents[agent].lines.get_mut(&stream) {
            line.wire = Some(wire);
        }
        self.note(|| format!("{agent} is offered stream {wire} as {stream:?}"));
        match self.rng.below(10) {
            0 => {}
            1 => self.reset_line(agent, stream),
            2 | 3 => {
                let pause = self.rng.below(500_000);
                self.after(pause, Later::Settle(agent, stream));
            }
            _ => self.settle_stream(agent, stream),
        }
    }

    fn hear_open_ack(&mut self, agent: usize, stream: StreamId, head: &[u8]) {
        let Some(line) = self.agents[agent].lines.get_mut(&stream) else { return };
        assert_eq!(line.state, State::Waiting, "OpenAck where none may be");
        let wire = line.wire.expect("it was opened here");
        let error = ReplyHead::parse(head).expect("can be read").error.map(|error| error.code);
        let known = &mut self.ledger.wires[wire];
        assert_eq!(known.heard, None, "stream {wire} is answered twice");
        known.heard = Some(error);
        self.ledger.answers[OpKind::Stream as usize] += 1;
        match error {
            None => assert!(known.accepted, "stream {wire} is open although nobody accepted it"),
            Some(ErrorCode::Application) => assert!(known.refused, "nobody refused stream {wire}"),
            Some(_) => {}
        }
        line.state = if error.is_none() { State::Open } else { State::Refused };
        line.framed = known.ends[1].is_some_and(|(who, _)| who >= GUESTS);
        if error.is_some() && self.rng.chance(800) {
            let pause = self.rng.below(1_000);
            self.after(pause, Later::Settle(agent, stream));
        }
        self.note(|| format!("{agent} hears of stream {wire}: {error:?}"));
    }

    fn hear_bytes(&mut self, agent: usize, stream: StreamId, bytes: &[u8]) {
        let Some(line) = self.agents[agent].lines.get_mut(&stream) else { return };
        assert_eq!(line.state, State::Open, "bytes on a stream that is not open");
        let wire = line.wire.expect("open streams are known");
        let from = 1 - line.side;
        let raw: Cow<'_, [u8]> = if line.framed { line.unframe(bytes).into() } else { bytes.into() };
        let known = &mut self.ledger.wires[wire];
        let at = known.got[from];
        assert!(self.content.check(wire + from * SIDE_SALT, at, &raw), "stream {wire} is spoilt at {at}");
        known.got[from] += raw.len();
        assert!(known.got[from] <= known.sent[from], "more comes out of stream {wire} than went in");
        let grant = if self.calm { Grant::Now } else { GRANTS[self.rng.weighted(&self.plan.grants)] };
        match grant {
            Grant::Now => self.release_now(agent, stream, bytes.len()),
            Grant::Later => {
                let pause = self.rng.below(200_000);
                self.after(pause, Later::Release(agent, stream, bytes.len()));
            }
            Grant::Never => line.kept += bytes.len(),
        }
    }

    pub(crate) fn release_now(&mut self, agent: usize, stream: StreamId, n: usize) {
        self.agents[agent].dialer.conn.release(stream, u32::try_from(n).expect("at most a window"));
    }

    pub(crate) fn release_kept(&mut self, agent: usize) {
        let state = &mut self.agents[agent];
        for (stream, line) in &mut state.lines {
            let n = u32::try_from(std::mem::take(&mut line.kept)).expect("at most a window");
            state.dialer.conn.release(*stream, n);
        }
    }

    pub(crate) fn hear_finished(&mut self, agent: usize, stream: StreamId) {
        let Some(line) = self.agents[agent].lines.get_mut(&stream) else { return };
        line.ended = true;
        match line.state {
            State::Open => {
                let wire = line.wire.expect("open streams are known");
                let side = line.side;
                let (from, known) = (1 - side, &self.ledger.wires[wire]);
                let far = known.ends[from].map(|(who, _)| who);
                if far.is_some_and(|far| far < GUESTS || self.is_there(far)) {
                    // A guest's end goes with ours, or by itself when it has not sent all: as it is gone then.
                    let by_us = far >= Some(GUESTS) && known.finished[side];
                    assert!(known.finished[from] || by_us, "stream {wire} has ended and nobody did that");
                    assert_eq!(known.got[from], known.sent[from], "bytes of stream {wire} are lost");
                }
                self.forget_line(agent, stream);
            }
            State::Refused => {}
            State::Waiting | State::Offered => unreachable!("{agent}: {stream:?} ends before it was open"),
        }
    }

    pub(crate) fn hear_reset(&mut self, agent: usize, stream: StreamId) {
        let Some(line) = self.agents[agent].lines.remove(&stream) else { return };
        let Some(wire) = line.wire else { return };
        self.note(|| format!("{agent} hears that stream {wire} is reset"));
        let known = &self.ledger.wires[wire];
        if line.state != State::Open {
            return;
        }
        // An acceptor may have been too late with its answer. What a guest hears then is that it has the stream, and its end behind that,
        // which may still be on its way.
        let by_guest = known.ends[0].is_some_and(|(who, _)| who >= GUESTS);
        let over = known.sent_at + self.stage.shared().settings.deadline(0, 0) <= self.stage.now();
        let late = line.side == 1 && (known.heard != Some(None) || by_guest && (known.finished[0] || over));
        let there = known.ends[1 - line.side].is_some_and(|(agent, _)| self.is_there(agent));
        let deaf = known.deaf[1 - line.side];
        let done = late || deaf || known.reset[1 - line.side] || !there;
        assert!(done, "stream {wire} is reset and nobody did that");
    }

    /// Whether a peer has its session still.
    pub(crate) fn is_there(&self, who: usize) -> bool {
        let session = self.stage.session(self.link_of(who));
        self.phase_of(who) == Phase::Ready && session.is_some_and(|session| self.stage.is_ready(session))
    }

    /// Of streams whose both ends are there everything has come.
    pub(crate) fn check_streams(&self) {
        for (number, wire) in self.ledger.wires.iter().enumerate() {
            let [Some((opener, first)), Some((acceptor, second))] = wire.ends else { continue };
            let there = |who: usize| self.phase_of(who) == Phase::Ready;
            if !there(opener) || !there(acceptor) || wire.reset.contains(&true) || wire.heard != Some(None) {
                continue;
            }
            let has = |who: usize, stream: u64| match who.checked_sub(GUESTS) {
                Some(guest) => self.guest_has_line(guest, stream),
                None => {
                    let stream = u32::try_from(stream).ok().and_then(StreamId::new);
                    stream.is_some_and(|stream| self.agents[who].lines.contains_key(&stream))
                }
            };
            let guests = opener >= GUESTS || acceptor >= GUESTS;
            let over =
                wire.finished == [true; 2] || guests && (wire.finished.contains(&true) || !wire.accepted);
            let whole = has(opener, first) && has(acceptor, second);
            assert!(over || whole, "stream {number} is gone: {wire:?}");
            // What is on its way to a guest that closes is lost; what it gets before the end was looked at then.
            let equal = wire.sent == wire.got || guests && over;
            assert!(equal, "stream {number} stands still: {wire:?}");
        }
    }
}
