//! Peers that do whatever the seed says to a gateway, and the check after every step that nobody was wronged.
//!
//! ```text
//!  Plan ──▶ World ── agents (native peers) and guests (geminio) ──▶ Stage ── pipes ── shards (the real core)
//!             └── Ledger: what must come of everything they do
//! ```
//! A run has three parts: acts at random times; then nobody does anything new, everybody reads and what is due must come; then all
//! leave, and nothing may be left of anybody.

use std::{collections::BTreeMap, sync::Arc};

use frontier_gateway::{
    core::{
        Bound,
        exchange::Policy,
        identity::{Gatekeeper, Holder},
        message::Msg,
        shard::PANIC,
        stats::{OpKind, Outcomes, Refusal},
    },
    sim::{
        dialer::{Dialer, Heard},
        gate::{BAD_TOKEN, Gate},
        lab::{edge_hello, service_hello},
        net::Ending,
        rng::Rng,
        stage::{LinkId, Notice, Path, Stage},
    },
};
use frontier_wire::{
    error::ErrorCode,
    geminio::dialogue::DialogueId,
    native::{
        frame::{Flags, FrameType},
        head::{CallBuilder, ErrorRef, GoAway, Locate, Names},
        hello::Hello,
    },
    yamux::StreamId,
};

use super::{
    agent::{Agent, FIRST_ID, Phase},
    guests::GuestAgent,
    ledger::{Content, Ledger},
    plan::{ACTS, Act, Plan, Reading},
    queues::QueueAgent,
};

/// What services and edges offer.
pub(crate) const METHODS: [&str; 3] = ["m0", "m1", "m2"];
pub(crate) const TOPICS: [&str; 3] = ["t0", "t1", "*"];
pub(crate) const SERVICES: [&str; 2] = ["s0", "s1"];
/// A method that nobody offers.
pub(crate) const NOBODYS: &str = "nobody's";
/// Who has at least this number is a guest, and what is beyond is which one.
pub(crate) const GUESTS: usize = 1 << 20;
pub(crate) const CALLBACKS: [&str; 3] = ["get_edge_id", "edge_online", "edge_offline"];

/// What happens when a timer runs out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Later {
    Act,
    Hello(usize),
    Ping(usize),
    Read(usize),
    Answer(usize, u64),
    Credit(usize, u64, Flags, u32),
    Release(usize, StreamId, usize),
    Settle(usize, StreamId),
    HangUp(usize),
    Guest(usize),
    GuestAnswers(usize, u64),
    GuestReleases(usize, DialogueId, usize),
    GuestSettles(usize, DialogueId),
    GuestHangsUp(usize),
    Thaw(usize),
    QueueConfirms(usize, u64),
}

/// See the module documentation.
pub(crate) struct World {
    pub stage: Stage,
    pub rng: Rng,
    pub plan: Plan,
    pub agents: Vec<Agent>,
    pub guests: Vec<GuestAgent>,
    pub queues: Vec<QueueAgent>,
    pub ledger: Ledger,
    pub content: Content,
    pub links: BTreeMap<LinkId, usize>,
    pub later: Vec<Later>,
    acts: u32,
    /// Nobody does anything new, and everybody reads and gives back.
    pub calm: bool,
    keeper: Option<usize>,
    /// Edges were told to go.
    drained: bool,
    /// A guest was cut off: the gateway sees that late.
    pub guest_cut: bool,
    /// How often guests did what.
    counts: BTreeMap<&'static str, u64>,
    /// Asked for.
    panics: u64,
    loud: bool,
}

// === impl World ===

impl World {
    pub(crate) fn new(seed: u64, loud: bool) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        if loud {
            println!("{plan:#?}");
        }
        let stage_rng = Rng::new(rng.next());
        let stage = Stage::new(plan.settings.clone(), plan.shards, Arc::new(Gate), plan.chaos, stage_rng);
        Self {
            stage,
            rng,
            agents: Vec::new(),
            guests: Vec::new(),
            queues: Vec::new(),
            ledger: Ledger::default(),
            content: Content::new(),
            links: BTreeMap::new(),
            later: Vec::new(),
            acts: plan.count,
            calm: false,
            keeper: None,
            drained: false,
            guest_cut: false,
            counts: BTreeMap::new(),
            panics: 0,
            loud,
            plan,
        }
    }

    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        if self.loud {
            println!("{:>10} {}", self.stage.now(), what());
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    // --- of agents and guests

    pub(crate) fn phase_of(&self, who: usize) -> Phase {
        who.checked_sub(GUESTS).map_or_else(|| self.agents[who].phase, |guest| self.guests[guest].phase)
    }

    pub(crate) fn bound_of(&self, who: usize) -> Bound {
        who.checked_sub(GUESTS).map_or_else(|| self.agents[who].bound, |guest| self.guests[guest].bound)
    }

    pub(crate) fn id_of(&self, who: usize) -> u64 {
        who.checked_sub(GUESTS).map_or_else(|| self.agents[who].id, |guest| self.guests[guest].id)
    }

    pub(crate) fn epoch_of(&self, who: usize) -> u64 {
        who.checked_sub(GUESTS).map_or_else(|| self.agents[who].epoch, |guest| self.guests[guest].epoch)
    }

    pub(crate) fn link_of(&self, who: usize) -> LinkId {
        let guest = who.checked_sub(GUESTS).map(|guest| self.guests[guest].guest.link);
        guest.unwrap_or_else(|| self.agents[who].dialer.link)
    }

    pub(crate) fn offered_by(&self, who: usize) -> &BTreeMap<&'static str, u64> {
        who.checked_sub(GUESTS).map_or_else(|| &self.agents[who].offered, |guest| &self.guests[guest].offered)
    }

    /// Runs everything and checks it; returns a number for all that happened.
    pub(crate) fn run(&mut self) -> u64 {
        if self.plan.keeper {
            self.hire_keeper();
        }
        for _ in 0..self.plan.queues {
            self.new_queue();
        }
        // Somebody to begin with, or most of a short life goes by before anybody can reach anybody.
        for _ in 0..self.plan.peers / 4 {
            self.new_service();
            self.new_edge();
        }
        self.advance(30_000);
        self.after(0, Later::Act);
        // Longer than any deadline, stall or silence.
        let span = u64::from(self.plan.count) * self.plan.pace + 6_000_000;
        self.advance(span);
        self.note(|| "everybody calms down".to_owned());
        self.calm = true;
        for agent in 0..self.agents.len() {
            self.calm_down(agent);
        }
        for guest in 0..self.guests.len() {
            self.calm_guest(guest);
        }
        self.advance(12_000_000);
        self.wait_until_still();
        self.check_done();
        self.note(|| "everybody leaves".to_owned());
        let mut leaving: Vec<usize> = (0..self.agents.len()).filter(|a| Some(*a) != self.keeper).collect();
        self.rng.shuffle(&mut leaving);
        for agent in leaving {
            let at = self.rng.below(500_000);
            self.after(at, Later::HangUp(agent));
        }
        for guest in 0..self.guests.len() {
            let at = self.rng.below(500_000);
            self.after(at, Later::GuestHangsUp(guest));
        }
        // Two heartbeats of a guest that is not there, and the time to say goodbye.
        self.advance(if self.guest_cut { 60_000_000 } else { 2_000_000 });
        self.check_presence();
        if let Some(keeper) = self.keeper {
            self.hang_up(keeper, Ending::Closed);
        }
        self.advance(8_000_000);
        self.close_queues();
        self.stage.check_empty();
        self.check_counters();
        self.stage.hash()
    }

    pub(crate) fn after(&mut self, micros: u64, what: Later) {
        self.later.push(what);
        self.stage.timer(self.stage.now() + micros, self.later.len() as u64 - 1);
    }

    fn advance(&mut self, micros: u64) {
        let until = self.stage.now() + micros;
        while let Some(notice) = self.stage.step(until) {
            let (version, now) = (self.stage.shared().registry.version(), self.stage.now());
            if self.ledger.names.1 != version {
                self.ledger.names = (now, version);
            }
            match notice {
                Notice::Readable(link) | Notice::Writable(link) => match self.links.get(&link).copied() {
                    Some(who) if who >= GUESTS => self.serve_guest(who - GUESTS),
                    Some(agent) => {
                        self.listen(agent, false);
                        self.flush(agent);
                    }
                    None => {}
                },
                Notice::Turn(_) => {
                    self.serve_queues();
                    self.check_turn();
                }
                Notice::Timer(token) => self.fire(self.later[token as usize]),
            }
        }
    }

    /// Lets slow networks come to their end.
    fn wait_until_still(&mut self) {
        let (mut before, mut still) = ((usize::MAX, usize::MAX), 0);
        for _ in 0..200 {
            // Pings and their answers come and go.
            let way = |agent: &Agent| {
                self.stage.under_way(agent.dialer.link) / 200 + agent.dialer.conn.outbox_bytes() / 200
            };
            let guests = self
                .guests
                .iter()
                .map(|at| self.stage.under_way(at.guest.link) / 200 + at.guest.conn.sending() / 200);
            // And what the gateway has for networks that take some hundred bytes at a time.
            let outboxes =
                self.stage.shared().stats.iter().map(|stats| stats.outbox_bytes.get() as usize / 200);
            let unread = self.agents.iter().map(way).chain(guests).chain(outboxes).sum();
            let got = self.ledger.wires.iter().map(|wire| wire.got[0] + wire.got[1]).sum();
            // Whoever has just heard something thinks before it answers.
            still = if before == (unread, got) { still + 1 } else { 0 };
            if still == 2 {
                return;
            }
            before = (unread, got);
            self.advance(2_000_000);
        }
    }

    fn fire(&mut self, what: Later) {
        match what {
            Later::Act => {
                if !self.calm && self.acts > 0 {
                    self.acts -= 1;
                    self.act();
                    let pause = self.rng.below(self.plan.pace);
                    self.after(pause, Later::Act);
                }
            }
            Later::Hello(agent) => self.say_hello(agent),
            Later::Ping(agent) => self.ping(agent),
            Later::Read(agent) => self.listen(agent, true),
            Later::Answer(agent, id) => self.answer(agent, id),
            Later::Credit(agent, id, flags, bytes) => self.grant_now(agent, id, flags, bytes),
            Later::Release(agent, stream, n) => self.release_now(agent, stream, n),
            Later::Settle(agent, stream) => self.settle_stream(agent, stream),
            Later::HangUp(agent) => {
                let how = *self.rng.pick(&[Ending::Closed, Ending::Reset]);
                self.hang_up(agent, how);
            }
            Later::Guest(guest) => self.serve_guest(guest),
            Later::GuestAnswers(guest, id) => self.guest_answers(guest, id),
            Later::GuestReleases(guest, dialogue, n) => self.guest_releases(guest, dialogue, n),
            Later::GuestSettles(guest, dialogue) => self.guest_settles(guest, dialogue),
            Later::GuestHangsUp(guest) => self.hang_up_guest(guest, Ending::Closed),
            Later::Thaw(guest) => self.thaw_guest(guest),
            Later::QueueConfirms(queue, number) => self.queue_confirms(queue, number),
        }
        match what {
            Later::Act
            | Later::Guest(_)
            | Later::GuestAnswers(..)
            | Later::GuestReleases(..)
            | Later::GuestSettles(..)
            | Later::GuestHangsUp(_)
            | Later::Thaw(_)
            | Later::QueueConfirms(..) => {}
            Later::Hello(agent)
            | Later::Ping(agent)
            | Later::Read(agent)
            | Later::Answer(agent, _)
            | Later::Credit(agent, ..)
            | Later::Release(agent, ..)
            | Later::Settle(agent, _)
            | Later::HangUp(agent) => self.flush(agent),
        }
    }

    // --- what must hold

    fn check_turn(&self) {
        self.stage.check_books();
        assert!(self.stage.panics() <= self.panics, "the core panicked");
        if self.stage.inboxes_are_empty() {
            self.check_flights();
        }
    }

    /// While nothing is on its way between shards, both ends of every operation and stream know of each other.
    fn check_flights(&self) {
        let mut flights = self.stage.flights();
        // What the gateway asks for an edge in its admission is in nobody's list; native peers count their own from further on.
        flights.pending.retain(|(from, id, _)| *id >= FIRST_ID || !self.stage.is_admitting(*from));
        flights.outgoing.sort_unstable();
        flights.pending.sort_unstable();
        assert_eq!(flights.outgoing, flights.pending, "what is waited for, and what somebody is to answer");
        for (at, peer) in &flights.legs {
            let Some(peer) = peer else { continue };
            let back = flights.legs.iter().any(|(leg, back)| leg == peer && *back == Some(*at));
            assert!(back || flights.waiting.contains(peer), "stream {at:?} has no other end {peer:?}");
        }
    }

    /// Once nothing is under way any more, everybody who is still there has had all answers and all bytes.
    fn check_done(&mut self) {
        assert!(self.stage.inboxes_are_empty());
        let flights = self.stage.flights();
        assert_eq!((flights.outgoing.len(), flights.pending.len()), (0, 0), "{flights:?}");
        for (at, agent) in self.agents.iter().enumerate().filter(|(_, agent)| agent.phase == Phase::Ready) {
            assert!(agent.ops.is_empty(), "agent {at} waits for {:?}", agent.ops);
            assert!(agent.names.is_empty(), "agent {at} registers {:?}", agent.names);
        }
        for (at, guest) in self.guests.iter().enumerate().filter(|(_, guest)| guest.phase == Phase::Ready) {
            assert!(guest.ops.is_empty(), "guest {at} waits for {:?}", guest.ops);
        }
        self.check_streams();
        if self.stage.shared().settings.policy == Policy::LeastInFlight {
            assert_eq!(self.stage.shared().registry.in_flight(), 0, "operations counted in flight");
        }
    }

    /// The one service that is told of edges knew of each one what happened, once.
    fn check_presence(&self) {
        let Some(keeper) = self.keeper.filter(|keeper| self.agents[*keeper].phase == Phase::Ready) else {
            return;
        };
        for (edge, seen) in &self.ledger.presence {
            // Before any drain that is a farewell like any other, after which services are told.
            let moved = seen.moved && self.drained;
            let told = seen.offline || seen.refused.is_some() || moved || seen.asked.is_none();
            assert!(told, "service {keeper} was not told that {edge:?} is offline: {seen:?}");
        }
    }

    fn check_counters(&self) {
        let stats = &self.stage.shared().stats;
        for kind in OpKind::ALL {
            let outcomes = stats.iter().map(|stats| &stats.operations[kind as usize]);
            let each = |o: &Outcomes| {
                let errors: u64 = ErrorCode::ALL.iter().map(|code| o.count(Some(*code))).sum();
                errors + o.count(None)
            };
            let counted: u64 = outcomes.map(each).sum();
            let (heard, sent) = (self.ledger.answers[kind as usize], self.ledger.sent[kind as usize]);
            // What the gateway asks services itself is counted, too, whether they got it or not.
            let most = if kind == OpKind::Call { u64::MAX } else { sent };
            assert!(
                (heard..=most).contains(&counted),
                "{kind:?}: sent {sent}, heard {heard}, counted {counted}"
            );
        }
        for stats in stats {
            assert_eq!(stats.outbox_bytes.get(), 0, "bytes in outboxes");
        }
    }

    /// How often the gateway did what, for telling whether the seeds reach everything.
    pub(crate) fn tally(&self, tally: &mut BTreeMap<String, u64>) {
        let mut add = |what: String, n: u64| *tally.entry(what).or_default() += n;
        for stats in &self.stage.shared().stats {
            for kind in OpKind::ALL {
                let outcomes = &stats.operations[kind as usize];
                add(format!("{} ok", kind.name()), outcomes.count(None));
                for code in ErrorCode::ALL {
                    add(format!("{} {}", kind.name(), code.name()), outcomes.count(Some(code)));
                }
            }
            for why in Refusal::ALL {
                add(format!("refused: {}", why.name()), stats.refusals[why as usize].get());
            }
            add("takeovers".to_owned(), stats.takeovers.get());
            add("late answers".to_owned(), stats.late_answers.get());
            add("memory cuts".to_owned(), stats.memory_cuts.get());
        }
        for (what, n) in &self.counts {
            add((*what).to_owned(), *n);
        }
        let ended =
            self.ledger.wires.iter().filter(|wire| wire.finished == [true; 2] && wire.got == wire.sent);
        add("streams ended by both".to_owned(), ended.count() as u64);
        let seen = self.ledger.presence.values();
        add(
            "edges that came and went".to_owned(),
            seen.filter(|seen| seen.asked.is_some() && seen.offline).count() as u64,
        );
    }

    // --- acts

    fn act(&mut self) {
        if !self.queues.is_empty() && self.rng.chance(60) {
            self.queue_act();
        }
        let weights = self.plan.acts;
        let act = ACTS[self.rng.weighted(&weights)];
        match act {
            Act::Edge => return self.new_edge(),
            Act::Service => return self.new_service(),
            Act::Drain => {
                let edges = self.rng.chance(500);
                self.drained |= edges;
                let msg = Msg::Drain { edges, spread_ms: 50 };
                let shard = self.rng.below(u64::from(self.plan.shards)) as u16;
                return self.stage.post(shard, msg);
            }
            _ => {}
        }
        let ready = |phase: Phase| usize::from(phase == Phase::Ready);
        let guests: usize = self.guests.iter().map(|guest| ready(guest.phase)).sum();
        let agents: usize = self.agents.iter().map(|agent| ready(agent.phase)).sum();
        if self.rng.size(0, guests + agents) < guests {
            return self.guest_act(act);
        }
        let Some(agent) = self.any_agent(act) else { return };
        match act {
            Act::Call => self.start(agent, OpKind::Call),
            Act::Publish => self.start(agent, OpKind::Message),
            Act::Open => self.open(agent),
            Act::Write => self.write_stream(agent),
            Act::Finish => self.finish_stream(agent),
            Act::Reset => self.reset_stream(agent),
            Act::Cancel => self.cancel(agent),
            Act::AbortUpload => self.abort_upload(agent),
            Act::Names => self.edit_names(agent),
            Act::HangUp => {
                let how = *self.rng.pick(&[Ending::Closed, Ending::Reset]);
                self.hang_up(agent, how);
            }
            Act::CutCable => {
                self.note(|| format!("{agent} is cut off"));
                self.stage.cut_cable(self.agents[agent].dialer.link);
                self.agents[agent].phase = Phase::Over;
            }
            Act::GoAway => self.go_away(agent),
            Act::Mood => {
                self.agents[agent].good = false;
                self.agents[agent].reading = self.draw_reading();
                self.listen(agent, true);
            }
            Act::Kick => {
                if let Some(session) = self.stage.session(self.agents[agent].dialer.link) {
                    self.note(|| format!("{agent} is kicked"));
                    self.stage.post(session.shard, Msg::Kick { session });
                }
            }
            Act::Ask => self.ask(agent),
            Act::Nonsense => self.nonsense(agent),
            Act::Panic => self.panic(agent),
            Act::Edge | Act::Service | Act::Drain => {}
        }
        self.flush(agent);
    }

    fn any_agent(&mut self, act: Act) -> Option<usize> {
        let ready = |(_, agent): &(usize, &Agent)| agent.phase == Phase::Ready;
        let here: Vec<usize> = self.agents.iter().enumerate().filter(ready).map(|(at, _)| at).collect();
        let harmful = matches!(
            act,
            Act::HangUp
                | Act::CutCable
                | Act::GoAway
                | Act::Mood
                | Act::Kick
                | Act::Nonsense
                | Act::Panic
                | Act::Names
        );
        let here: Vec<usize> = here.into_iter().filter(|at| !harmful || Some(*at) != self.keeper).collect();
        (!here.is_empty()).then(|| *self.rng.pick(&here))
    }

    fn draw_reading(&mut self) -> Reading {
        match self.rng.weighted(&self.plan.readings) {
            0 => Reading::Eager,
            1 => Reading::Slow(*self.rng.pick(&[1, 100, 5_000, 60_000])),
            _ => Reading::Never,
        }
    }

    fn dial(&mut self, bound: Bound, hello: Hello, path: Path) -> usize {
        let shard = self.rng.below(u64::from(self.plan.shards)) as u16;
        let dialer = Dialer::new(&mut self.stage, bound, shard, path);
        self.links.insert(dialer.link, self.agents.len());
        let reading = self.draw_reading();
        let mut agent = Agent::new(dialer, bound, hello, reading);
        agent.begun_at = self.stage.now();
        agent.good = reading == Reading::Eager && path.up.capacity > 1 << 30 && path.down.capacity > 1 << 30;
        self.agents.push(agent);
        self.agents.len() - 1
    }

    fn crowded(&self) -> bool {
        let agents = self.agents.iter().filter(|agent| agent.phase != Phase::Over).count();
        agents + self.guests.iter().filter(|guest| guest.phase != Phase::Over).count() >= self.plan.peers
    }

    fn new_edge(&mut self) {
        if self.crowded() {
            return;
        }
        if self.rng.chance(self.plan.guests) {
            return self.new_guest(Bound::Edge);
        }
        let path = self.plan.path(&mut self.rng);
        let wish = self.wish();
        let mut hello = edge_hello(wish);
        if self.rng.chance(300)
            && let Some((_, epoch, _)) = self.ledger.holders.get(&wish)
        {
            hello.ticket = Gate.ticket(wish, *epoch, Holder::default(), 0);
        }
        if self.rng.chance(30) {
            hello.token = BAD_TOKEN.to_vec();
        }
        hello.stream_window = *self.rng.pick(&[4_096, 65_536, 262_144]);
        let methods = METHODS.iter().filter(|_| self.rng.chance(300));
        hello.methods = methods.map(ToString::to_string).collect();
        hello.meta = vec![b'x'; self.rng.size(0, 40)];
        let agent = self.dial(Bound::Edge, hello, path);
        self.note(|| format!("{agent} dials as edge {wish}"));
        self.begin(agent);
    }

    /// The ID that a new edge wishes for.
    pub(crate) fn wish(&mut self) -> u64 {
        let wish = self.rng.between(1, self.plan.ids);
        if self.rng.chance(100) {
            return 0;
        }
        if !self.rng.chance(600) {
            return wish;
        }
        // Somebody else's would make takeovers of all of them.
        let free = |id: &u64| self.holder(*id).is_none();
        (1..=self.plan.ids).find(free).unwrap_or(wish)
    }

    /// Who has an edge ID, as far as peers know.
    fn holder(&self, id: u64) -> Option<usize> {
        let holder = self.ledger.holders.get(&id).map(|(agent, ..)| *agent);
        holder.filter(|who| self.phase_of(*who) == Phase::Ready)
    }

    /// An edge for a service to turn to: mostly one that is online.
    pub(crate) fn some_edge(&mut self) -> u64 {
        let online: Vec<u64> =
            self.ledger.holders.keys().copied().filter(|id| self.holder(*id).is_some()).collect();
        if online.is_empty() || self.rng.chance(100) {
            return self.rng.between(1, self.plan.ids);
        }
        *self.rng.pick(&online)
    }

    fn new_service(&mut self) {
        if self.crowded() {
            return;
        }
        if self.rng.chance(self.plan.guests) {
            return self.new_guest(Bound::Service);
        }
        let path = self.plan.path(&mut self.rng);
        // A few instances: some connections form a pool.
        let number = self.rng.between(1, 6) as u8;
        let name = SERVICES[usize::from(number) % 2];
        let mut hello = service_hello(number, name, &[], &[]);
        hello.pool_index = self.rng.below(4) as u32;
        hello.stream_window = *self.rng.pick(&[4_096, 65_536, 262_144]);
        let mut some = |names: &[&str], chance| {
            names.iter().filter(|_| self.rng.chance(chance)).map(ToString::to_string).collect::<Vec<_>>()
        };
        hello.methods = some(&METHODS, 600);
        hello.topics = some(&TOPICS, 500);
        if !self.plan.keeper {
            hello.methods.extend(some(&CALLBACKS, 250));
        }
        let agent = self.dial(Bound::Service, hello, path);
        self.note(|| format!("{agent} dials as service {number} {name}"));
        self.begin(agent);
    }

    /// Somebody whose Hello has a byte changed.
    fn new_babbler(&mut self) {
        let bound = *self.rng.pick(&[Bound::Edge, Bound::Service]);
        let hello = match bound {
            Bound::Edge => edge_hello(self.rng.between(1, self.plan.ids)),
            Bound::Service => service_hello(77, "s0", &METHODS, &[]),
        };
        let agent = self.dial(bound, hello, Path::PERFECT);
        let state = &mut self.agents[agent];
        (state.dialer.garbage, state.phase) = (1_000, Phase::Rogue);
        state.dialer.hello(&state.hello);
        self.flush(agent);
        self.after(1_000_000, Later::HangUp(agent));
    }

    fn begin(&mut self, agent: usize) {
        match self.rng.below(20) {
            // Never says a word.
            0 => {}
            1 | 2 => {
                let pause = self.rng.below(2_000_000);
                self.after(pause, Later::Hello(agent));
            }
            _ => self.say_hello(agent),
        }
        self.flush(agent);
    }

    fn hire_keeper(&mut self) {
        let hello = service_hello(99, "keeper", &CALLBACKS[1..], &[]);
        let agent = self.dial(Bound::Service, hello, Path::PERFECT);
        self.agents[agent].reading = Reading::Eager;
        self.keeper = Some(agent);
        self.say_hello(agent);
        self.flush(agent);
        // Edges that came before it would be nobody's.
        self.advance(20_000);
        assert!(self.agents[agent].phase == Phase::Ready, "the first one is always welcome");
    }

    pub(crate) fn is_keeper(&self, agent: usize) -> bool {
        self.keeper == Some(agent)
    }

    fn say_hello(&mut self, agent: usize) {
        let agent = &mut self.agents[agent];
        if agent.phase == Phase::Silent {
            agent.phase = Phase::Greeted;
            agent.dialer.hello(&agent.hello);
        }
    }

    fn ping(&mut self, agent: usize) {
        if self.agents[agent].phase == Phase::Ready {
            let id = self.agents[agent].fresh();
            self.agents[agent].dialer.send(FrameType::Ping, id, Flags::NONE, &[], &[]);
            self.after(1_500_000, Later::Ping(agent));
        }
    }

    pub(crate) fn hang_up(&mut self, agent: usize, how: Ending) {
        if self.agents[agent].phase != Phase::Over {
            self.note(|| format!("{agent} hangs up: {how:?}"));
            self.agents[agent].phase = Phase::Over;
            self.stage.hang_up(self.agents[agent].dialer.link, how);
        }
    }

    fn go_away(&mut self, agent: usize) {
        let moved = self.agents[agent].bound == Bound::Edge && self.rng.chance(500);
        self.note(|| format!("{agent} goes away; moved: {moved}"));
        let state = &mut self.agents[agent];
        let reason = moved.then(|| ErrorRef::new(ErrorCode::GatewayDraining, "moved"));
        let mut head = Vec::new();
        GoAway { reconnect_in_ms: 0, reason }.encode(&mut head);
        state.dialer.send(FrameType::GoAway, 0, Flags::NONE, &head, &[]);
        state.leaving = true;
        if moved {
            self.ledger.presence.entry((state.id, state.epoch)).or_default().moved = true;
        }
        if self.rng.chance(700) {
            let pause = self.rng.below(3_000_000);
            self.after(pause, Later::HangUp(agent));
        }
    }

    fn ask(&mut self, agent: usize) {
        if self.agents[agent].bound == Bound::Edge {
            return;
        }
        let edge = self.some_edge();
        let state = &mut self.agents[agent];
        let id = state.fresh();
        if self.rng.chance(500) {
            let mut head = Vec::new();
            Locate { edge, epoch: 0 }.encode(&mut head);
            state.dialer.send(FrameType::Locate, id, Flags::NONE, &head, &[]);
        } else {
            state.dialer.send(FrameType::Presence, id, Flags::NONE, &[], &[]);
        }
    }

    fn edit_names(&mut self, agent: usize) {
        let service = self.agents[agent].bound == Bound::Service;
        let add = self.rng.chance(500);
        let methods: Vec<&'static str> = METHODS.into_iter().filter(|_| self.rng.chance(400)).collect();
        let topics: Vec<&'static str> =
            TOPICS.into_iter().filter(|_| service && self.rng.chance(400)).collect();
        self.note(|| format!("{agent} registers ({add}) {methods:?} {topics:?}"));
        let state = &mut self.agents[agent];
        let id = state.fresh();
        let mut head = Vec::new();
        Names::encode(&mut head, methods.iter().copied(), topics.iter().copied());
        let kind = if add { FrameType::Register } else { FrameType::Unregister };
        state.dialer.send(kind, id, Flags::NONE, &head, &[]);
        let names: Vec<&'static str> = methods.into_iter().chain(topics).collect();
        if add {
            for name in &names {
                state.offered.insert(name, u64::MAX);
            }
        }
        state.names.insert(id, (add, names));
    }

    /// Makes the gateway panic while it handles this session, which must be the end of it and of nobody else.
    fn panic(&mut self, agent: usize) {
        self.note(|| format!("{agent} makes the gateway panic"));
        self.panics += 1;
        let mut head = Vec::new();
        CallBuilder::new(PANIC).encode(&mut head);
        let state = &mut self.agents[agent];
        let id = state.fresh();
        state.dialer.send(FrameType::Request, id, Flags::NONE, &head, &[]);
        self.after(1_000_000, Later::HangUp(agent));
    }

    /// Breaks the rules in some way; the gateway ends it.
    fn nonsense(&mut self, agent: usize) {
        let kind = self.rng.below(5);
        self.note(|| format!("{agent} breaks the rules: {kind}"));
        let link = self.agents[agent].dialer.link;
        match kind {
            // Only between two frames: otherwise it would be taken for the body of some operation.
            0 if self.agents[agent].dialer.conn.sending() == 0 => {
                self.stage.write(link, &[b"GET / HTTP/1.1\r\n\r\n"]);
            }
            0 => return,
            1 => return self.new_babbler(),
            2 => self.agents[agent].dialer.send(FrameType::Welcome, 0, Flags::NONE, &[], &[]),
            3 => self.agents[agent].dialer.conn.finish_stream(StreamId::FIRST),
            _ => {
                for id in 0..300 {
                    self.agents[agent].dialer.send(FrameType::Ping, id, Flags::NONE, &[], &[]);
                }
            }
        }
        // Whatever it sends from now on may be anything, so nothing can be expected of it.
        if kind < 4 {
            self.agents[agent].phase = Phase::Rogue;
            self.after(1_000_000, Later::HangUp(agent));
        }
    }

    // --- hearing

    fn calm_down(&mut self, agent: usize) {
        self.agents[agent].reading = Reading::Eager;
        self.listen(agent, true);
        self.give_back(agent);
        self.flush(agent);
    }

    fn listen(&mut self, agent: usize, due: bool) {
        let state = &mut self.agents[agent];
        if state.phase == Phase::Over {
            return;
        }
        let max = match state.reading {
            Reading::Eager => usize::MAX,
            Reading::Slow(max) => max,
            Reading::Never => return,
        };
        if max != usize::MAX {
            if state.reads_later && !due {
                return;
            }
            state.reads_later = false;
        }
        let rogue = state.phase == Phase::Rogue;
        let (n, heard) = match state.dialer.listen(&mut self.stage, max) {
            Ok(heard) => heard,
            Err(_) if rogue => return self.hang_up(agent, Ending::Reset),
            Err(error) => unreachable!("the gateway broke the protocol towards {agent}: {error}"),
        };
        if !rogue {
            for heard in heard {
                self.hear(agent, heard);
            }
        }
        let state = &mut self.agents[agent];
        if self.stage.ended(state.dialer.link).is_some() {
            if state.phase != Phase::Over {
                self.hang_up(agent, Ending::Closed);
            }
        } else if max != usize::MAX && n > 0 {
            state.reads_later = true;
            self.after(3_000, Later::Read(agent));
        }
        // What was heard may be a reason to say something.
        self.flush(agent);
    }

    pub(crate) fn flush(&mut self, agent: usize) {
        let state = &mut self.agents[agent];
        if state.phase != Phase::Over {
            state.pump(&self.content);
            state.dialer.flush(&mut self.stage);
        }
    }

    fn hear(&mut self, agent: usize, heard: Heard) {
        match heard {
            Heard::Frame(note) => self.hear_frame(agent, note),
            Heard::Opened(stream) => self.hear_opened(agent, stream),
            Heard::Data(stream, bytes) => self.hear_data(agent, stream, &bytes),
            Heard::Finished(stream) => self.hear_finished(agent, stream),
            Heard::Reset(stream) => self.hear_reset(agent, stream),
            Heard::Ended => {}
        }
    }
}
