//! Geminio peers and native ones at random: calls, messages and streams in all directions, ends and takeovers in between. After every turn
//! the stage compares the core's books; at the end every operation of a living peer has got exactly one answer, and nothing is left.

use std::collections::BTreeMap;

use bytes::Bytes;
use frontier_gateway::{
    core::Bound,
    sim::{
        lab::{GuestId, Lab, Peer},
        net::Ending,
        rng::Rng,
        stage::Chaos,
    },
};
use frontier_wire::{
    geminio::{
        connection::Event,
        data::{Content, Object, append_tail},
        dialogue::DialogueId,
    },
    native::{frame::FrameType, head::CallBuilder},
};

use super::{MILLI, SECOND, head, settings};

const SEEDS: u64 = 40;
const STEPS: usize = 160;
/// IDs of the edges; the last one is never there.
const EDGES: [u64; 4] = [1, 2, 3, 99];

struct World {
    lab: Lab,
    rng: Rng,
    /// With what each has been asked and not answered, and its open dialogues.
    guests: Vec<Guest>,
    /// A service and an edge.
    natives: [Peer; 2],
    next_id: u64,
}

struct Guest {
    id: GuestId,
    /// 0 for the service.
    edge: u64,
    asked: Vec<u64>,
    dialogues: Vec<DialogueId>,
    /// Answers by operation.
    answers: BTreeMap<u64, u32>,
    over: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let chaos = Chaos { lazy_writes: 150, short_reads: 250, direct_reads: 500, turn_delay: 400 };
        let mut lab = Lab::with(settings(), chaos, seed);
        let service = lab.guest_service(0, "g", &["g"], &["g"]);
        let natives = [lab.service(1, "n", &["n"], &["n"]), lab.edge(0, 3)];
        let mut guests = vec![Guest::new(service, 0)];
        for (shard, id) in [(0, 1), (1, 2)] {
            guests.push(Guest::new(lab.guest_edge(shard, id), id));
        }
        Self { lab, rng: Rng::new(seed ^ 77), guests, natives, next_id: 1 }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        *self.rng.pick(of)
    }

    fn value(&mut self) -> Vec<u8> {
        let most = self.pick(&[0, 10, 1_000, 20_000, 300_000]);
        let len = self.rng.size(0, most);
        vec![7; len]
    }

    fn step(&mut self) {
        let at = self.rng.size(0, self.guests.len() - 1);
        match self.rng.below(12) {
            0..3 => self.ask(at),
            3..6 => self.answer(at),
            6 => self.ask_natively(),
            7 => self.stream(at),
            8 => self.use_stream(at),
            9 if self.guests[at].edge != 0 && self.rng.chance(300) => self.replace(at),
            _ => {
                let micros = self.pick(&[1, 500, 5 * MILLI, 50 * MILLI]);
                self.lab.advance(micros);
            }
        }
        self.listen();
    }

    /// A call or message of a geminio peer.
    fn ask(&mut self, at: usize) {
        let (value, name) = (self.value(), self.pick(&["g", "n", "nobody"]));
        let edge = self.pick(&EDGES);
        let guest = &mut self.guests[at];
        let custom = if guest.edge == 0 { append_tail(b"", edge) } else { Vec::new() };
        let custom = Content::Plain(&custom);
        let object = Object { value: Content::Plain(&value), custom, ..Object::default() };
        let now = self.lab.stage.now();
        let conn = &mut self.lab.guest(guest.id).conn;
        let sent = if self.rng.chance(500) {
            conn.request(DialogueId::FIRST, &Object { key: Content::Plain(name.as_bytes()), ..object }).ok()
        } else {
            conn.publish(DialogueId::FIRST, 0, &Object { topic: name, ..object }, now)
                .ok()
                .map(|sent| sent.packet)
        };
        if let Some(packet) = sent {
            guest.answers.insert(packet, 0);
        }
    }

    fn answer(&mut self, at: usize) {
        let value = self.value();
        let error = self.pick(&["", "", "it cannot be"]);
        let guest = &mut self.guests[at];
        if guest.asked.is_empty() {
            return;
        }
        let operation = guest.asked.swap_remove(self.rng.size(0, guest.asked.len() - 1));
        self.lab
            .guest(guest.id)
            .conn
            .respond(operation, &Object { value: Content::Plain(&value), error, ..Object::default() });
    }

    fn ask_natively(&mut self) {
        let by = self.pick(&[0, 1]);
        let (edge, name) = (self.pick(&EDGES), self.pick(&["g", "n", "nobody"]));
        let kind = self.pick(&[FrameType::Request, FrameType::Publish]);
        let builder = if by == 0 { CallBuilder::new(name).edge(edge) } else { CallBuilder::new(name) };
        let body = vec![3; self.rng.size(0, 60_000)];
        self.lab.send(self.natives[by], kind, self.next_id, &head(&builder), &body);
        self.next_id += 1;
    }

    fn stream(&mut self, at: usize) {
        let edge = self.pick(&EDGES).to_string();
        let name = self.pick(&["g", "n", "nobody"]);
        let guest = &mut self.guests[at];
        let now = self.lab.stage.now();
        let peer = if guest.edge == 0 { edge.as_str() } else { name };
        let _ = self.lab.guest(guest.id).conn.open(peer, Content::Plain(b"m"), now);
    }

    fn use_stream(&mut self, at: usize) {
        let value = self.value();
        let now = self.lab.stage.now();
        let guest = &mut self.guests[at];
        if guest.dialogues.is_empty() {
            return;
        }
        let which = self.rng.size(0, guest.dialogues.len() - 1);
        let dialogue = guest.dialogues[which];
        let conn = &mut self.lab.guest(guest.id).conn;
        let object = Object { value: Content::Plain(&value), ..Object::default() };
        match self.rng.below(4) {
            0 => {
                conn.send_raw(dialogue, Bytes::from(value), false);
            }
            1 => _ = conn.request(dialogue, &Object { key: Content::Plain(b"in"), ..object }),
            2 => _ = conn.publish(dialogue, 0, &object, now),
            _ => {
                conn.close(dialogue, now);
                guest.dialogues.swap_remove(which);
            }
        }
    }

    /// An edge goes, or a newer one takes its place while it is there.
    fn replace(&mut self, at: usize) {
        let edge = self.guests[at].edge;
        let link = self.lab.guest(self.guests[at].id).link;
        if self.rng.chance(500) {
            let how = self.pick(&[Ending::Closed, Ending::Reset]);
            self.lab.stage.hang_up(link, how);
        }
        self.guests[at].over = true;
        let shard = self.pick(&[0, 1]);
        let id = self.lab.knock(Bound::Edge, shard, edge, b"");
        self.guests.push(Guest::new(id, edge));
    }

    fn listen(&mut self) {
        for at in 0..self.guests.len() {
            for event in self.lab.events(self.guests[at].id) {
                let accepts = self.rng.chance(800);
                let guest = &mut self.guests[at];
                let conn = &mut self.lab.guest(guest.id).conn;
                match event {
                    Event::Request(operation) | Event::Message(operation) => guest.asked.push(operation.id),
                    Event::Response { packet, .. } | Event::Acked { packet, .. } => {
                        // Those of dialogues are not counted.
                        if let Some(count) = guest.answers.get_mut(&packet) {
                            *count += 1;
                        }
                    }
                    Event::Open { dialogue, .. } if accepts => {
                        conn.accept(dialogue);
                        guest.dialogues.push(dialogue);
                    }
                    Event::Open { dialogue, .. } => conn.refuse(dialogue),
                    Event::Opened { dialogue, .. } => guest.dialogues.push(dialogue),
                    Event::Closed { dialogue } => guest.dialogues.retain(|open| *open != dialogue),
                    Event::Leaving | Event::Over(_) => guest.over = true,
                    _ => {}
                }
            }
        }
        for native in self.natives {
            for note in self.lab.frames(native) {
                if matches!(note.header.kind, FrameType::Request | FrameType::Publish)
                    && !note.header.flags.more()
                    && note.header.head_len > 0
                {
                    self.lab.answer(native, &note, b"native");
                }
            }
        }
    }

    /// Everybody answers, and time passes until nothing can be on its way.
    fn settle(mut self, seed: u64) {
        for _ in 0..20 {
            self.lab.advance(100 * MILLI);
            self.listen();
            for at in 0..self.guests.len() {
                while !self.guests[at].asked.is_empty() {
                    self.answer(at);
                }
            }
        }
        self.lab.advance(40 * SECOND);
        self.listen();
        let all: usize = self.guests.iter().map(|guest| guest.answers.len()).sum();
        assert!(all > 10, "seed {seed}: {all} operations are no test");
        for guest in self.guests.iter().filter(|guest| !guest.over) {
            for (packet, count) in &guest.answers {
                assert_eq!(
                    *count, 1,
                    "seed {seed}: operation {packet} of edge {} got {count} answers",
                    guest.edge
                );
            }
        }
        self.lab.close();
    }
}

impl Guest {
    fn new(id: GuestId, edge: u64) -> Self {
        Self { id, edge, asked: Vec::new(), dialogues: Vec::new(), answers: BTreeMap::new(), over: false }
    }
}

#[test]
fn every_operation_between_the_protocols_is_answered_once() {
    for seed in 1..=SEEDS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle(seed);
    }
}
