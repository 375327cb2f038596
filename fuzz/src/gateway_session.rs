//! Sessions of the gateway. A hostile native peer and a hostile geminio peer, each welcomed as an edge or a service, say anything to a
//! simulated gateway of two shards with an honest service and an honest edge behind it. What must hold of a shard is checked after each of
//! its turns by the simulation; at the end everybody is gone, and nothing may be held.

use frontier_gateway::{
    core::{Bound, Settings},
    sim::{
        dialer::{Heard, Note},
        lab::{GuestId, Lab, Peer, edge_hello, service_hello},
        net::Ending,
        stage::Chaos,
    },
};
use frontier_wire::{
    error::ErrorCode,
    geminio::packet::{PacketHeader, PacketType},
    native::{
        frame::{Flags, FrameHeader, FrameType},
        head::{CallBuilder, Credit, GoAway, Locate, Names, ReplyBuilder, encode_error_reply},
    },
};

use super::script::{Noise, Script};

const MILLI: u64 = 1_000;
/// The honest edge, and those of the hostile peers.
const EDGE: u64 = 1;
const NATIVE: u64 = 11;
const GEMINIO: u64 = 12;

pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let chaos = Chaos { lazy_writes: 100, short_reads: 100, direct_reads: 500, turn_delay: 60 };
    let mut scene = Scene::new(Lab::with(settings(), chaos, script.u8().into()), script.u8());
    let mut noise = Noise::new(script.u8().into());
    while !script.is_over() {
        scene.step(&mut script, &mut noise);
        scene.lab.advance(2 * MILLI);
        assert!(scene.lab.stage.turns() > 0 && scene.lab.stage.panics() == 0, "a session panicked");
    }
    scene.lab.close();
}

/// Limits that a script can reach.
fn settings() -> Settings {
    Settings {
        body: 300_000,
        streams_per_session: 4,
        requests_in_flight: 8,
        messages_in_flight: 4,
        outbox: 400_000,
        registrations: 8,
        control_frames: 64,
        ..Settings::default()
    }
}

/// Everybody who takes part.
struct Scene {
    lab: Lab,
    service: Peer,
    edge: Peer,
    native: Peer,
    geminio: GuestId,
    /// What the honest ones were asked and have not answered.
    asked: Vec<(Peer, Note)>,
    last_id: u64,
}

impl Scene {
    /// The bits of `roles` say which side and shard the hostile peers are on.
    fn new(mut lab: Lab, roles: u8) -> Self {
        let service = lab.service(0, "s", &["m"], &["t"]);
        let edge = lab.edge(1, EDGE);
        let (is_edge, shard) = (roles & 1 == 0, u16::from(roles >> 1 & 1));
        let native = lab.dial(if is_edge { Bound::Edge } else { Bound::Service }, shard);
        let mut hello = if is_edge { edge_hello(NATIVE) } else { service_hello(77, "a", &["n"], &["*"]) };
        hello.pool_index = shard.into();
        lab.join(native, &hello);
        // From here on it says what the script says, and hears nothing by its own protocol.
        lab.freeze(native, true);
        let shard = u16::from(roles >> 3 & 1);
        let geminio = match roles & 4 {
            0 => lab.guest_edge(shard, GEMINIO),
            _ => lab.guest_service(shard, "b", &["g"], &["u"]),
        };
        lab.guest(geminio).frozen = true;
        Self { lab, service, edge, native, geminio, asked: Vec::new(), last_id: 0 }
    }

    fn step(&mut self, script: &mut Script<'_>, noise: &mut Noise) {
        let mut bytes = Vec::new();
        match script.u8() % 20 {
            // Seldom: hardly any of it can be read, and what cannot ends the session.
            0 => {
                let len = script.u8().into();
                match script.u8() {
                    0..=15 => self.lab.raw(self.native, script.take(len)),
                    16..=31 => self.say_geminio(script.take(len)),
                    _ => {}
                }
            }
            1..=7 => {
                yamux(script, noise, &mut bytes);
                let (front, rest) = bytes.split_at(usize::from(script.u8()).min(bytes.len()));
                self.lab.raw(self.native, front);
                self.lab.advance(100);
                self.lab.raw(self.native, rest);
            }
            8..=12 => {
                packet(script, noise, &mut bytes);
                let (front, rest) = bytes.split_at(usize::from(script.u8()).min(bytes.len()));
                self.say_geminio(front);
                self.lab.advance(100);
                self.say_geminio(rest);
            }
            13 => drop(self.lab.read_raw(self.native)),
            14 => {
                let link = self.lab.guest(self.geminio).link;
                self.lab.stage.read(link, usize::MAX, &mut bytes);
            }
            15 => self.lab.advance(u64::from(script.u16()) * MILLI),
            16 | 17 => self.answer(script, noise),
            18 => self.ask(script, noise),
            _ => match script.u8() {
                0 => self.lab.hang_up(self.native, Ending::Closed),
                1 => self.lab.hang_up(self.native, Ending::Reset),
                2 => {
                    let link = self.lab.guest(self.geminio).link;
                    self.lab.stage.hang_up(link, Ending::Closed);
                }
                _ => {}
            },
        }
    }

    fn say_geminio(&mut self, bytes: &[u8]) {
        let link = self.lab.guest(self.geminio).link;
        self.lab.stage.write(link, &[bytes]);
    }

    /// The honest ones hear, and answer one of what they were asked.
    fn answer(&mut self, script: &mut Script<'_>, noise: &mut Noise) {
        for peer in [self.service, self.edge] {
            for heard in self.lab.take(peer) {
                let Heard::Frame(note) = heard else { continue };
                let whole = !note.header.flags.more() && !note.header.flags.abort();
                if matches!(note.header.kind, FrameType::Request | FrameType::Publish) && whole {
                    self.asked.push((peer, note));
                }
            }
        }
        let pick = usize::from(script.u8());
        if self.asked.is_empty() {
            return;
        }
        let (peer, note) = self.asked.swap_remove(pick % self.asked.len());
        if pick & 1 == 0 {
            let mut body = Vec::new();
            noise.fill(&mut body, script.usize() % 60_000);
            self.lab.answer(peer, &note, &body);
        } else {
            self.lab.answer_error(peer, &note, ErrorCode::Application, "no");
        }
    }

    /// One of the honest ones asks for something.
    fn ask(&mut self, script: &mut Script<'_>, noise: &mut Noise) {
        let what = script.u8();
        let mut body = Vec::new();
        noise.fill(&mut body, script.usize() % 60_000);
        self.last_id += 1;
        let kind = if what & 1 == 0 { FrameType::Request } else { FrameType::Publish };
        let name = NAMES[usize::from(what >> 1) % NAMES.len()];
        let (from, edge) = match what >> 5 {
            0..=3 => (self.edge, 0),
            4 | 5 => (self.service, NATIVE),
            _ => (self.service, GEMINIO),
        };
        let mut head = Vec::new();
        CallBuilder::new(name).edge(edge).timeout_ms(5_000).encode(&mut head);
        self.lab.send(from, kind, self.last_id, &head, &body);
    }
}

/// Methods, topics and services: offered, reserved, unknown.
const NAMES: [&str; 8] = ["m", "t", "n", "g", "u", "get_edge_id", "edge_online", ""];

fn name(script: &mut Script<'_>) -> &'static str {
    NAMES[usize::from(script.u8()) % NAMES.len()]
}

/// One yamux frame; mostly data of the session stream with a native frame in it.
fn yamux(script: &mut Script<'_>, noise: &mut Noise, out: &mut Vec<u8>) {
    let what = script.u8();
    let (kind, flags, stream) = match what {
        // The session stream is number 1, and open.
        0..=159 => (0, 0, 1),
        // A stream of its own, opened with its first bytes or used.
        160..=199 => (0, what & 1, u32::from(what >> 1 & 3) * 2 + 3),
        // One that the gateway may have opened.
        200..=244 => (0, what & 4, u32::from(what & 3) * 2 + 2),
        _ => (what & 3, script.u8() & 0xf, script.u8().into()),
    };
    let mut payload = Vec::new();
    if kind == 0 {
        frame(stream == 1, script, noise, &mut payload);
    }
    let length = if kind == 0 { payload.len() as u32 } else { script.u32() };
    out.extend([0, kind, 0, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(length.to_be_bytes());
    out.extend(payload);
}

/// What a dialer may send on the session stream, and what belongs on a stream of its own.
const ON_SESSION: [u8; 12] = [0x04, 0x05, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10];
const ON_STREAM: [u8; 3] = [0x11, 0x12, 0x13];

/// One native frame: seldom of a type that has no place there, or with the head of another.
fn frame(session: bool, script: &mut Script<'_>, noise: &mut Noise, out: &mut Vec<u8>) {
    let what = script.u8();
    let kind = match what {
        0..=239 if session => ON_SESSION[usize::from(what) % ON_SESSION.len()],
        0..=239 => ON_STREAM[usize::from(what) % ON_STREAM.len()],
        _ => what % 0x18,
    };
    let (flags, id) = (script.u8() & script.u8(), u64::from(script.u8() % 12));
    let mut head = Vec::new();
    // Mostly the head that belongs to it.
    let of = if what >= 236 { script.u8() } else { kind };
    match FrameType::from_wire(of) {
        FrameType::Request | FrameType::Publish | FrameType::Open => {
            let (called, service) = (name(script), name(script));
            let mut call = CallBuilder::new(called).timeout_ms(script.u16().into());
            if script.u8() & 1 == 0 {
                call = call.service(service);
            }
            call = call.edge([0, EDGE, NATIVE, GEMINIO, 99][usize::from(script.u8()) % 5]);
            let more = script.u8();
            call.total_len(if more & 1 == 0 { 0 } else { u64::from(more) << 11 }).encode(&mut head);
        }
        FrameType::Response | FrameType::Ack | FrameType::OpenAck => match script.u8() & 3 {
            0 => ReplyBuilder::new().encode(&mut head),
            1 => ReplyBuilder::new().total_len(script.u16().into()).encode(&mut head),
            _ => encode_error_reply(&mut head, ErrorCode::Application, "no"),
        },
        FrameType::Register | FrameType::Unregister => {
            Names::encode(&mut head, [name(script)], [name(script)]);
        }
        FrameType::Credit | FrameType::Cancel => Credit { bytes: script.u32() >> 8 }.encode(&mut head),
        FrameType::GoAway => GoAway { reconnect_in_ms: script.u8().into(), reason: None }.encode(&mut head),
        FrameType::Locate => Locate { edge: script.u8().into(), epoch: 0 }.encode(&mut head),
        _ => {
            let len = script.u8().into();
            head.extend(script.take(len));
        }
    }
    let body = usize::from(script.u16() & script.u16());
    let header = FrameHeader::new(FrameType::from_wire(kind), id).with_flags(Flags::from_bits(flags));
    let Ok(header) = header.with_lens(head.len(), body) else { return };
    out.extend(header.encode());
    out.extend(head);
    noise.fill(out, body);
}

const TEXTS: [&str; 10] = [
    "{}",
    r#"{"key":"bQ==","value":"YWJj"}"#,
    r#"{"value":"YWJj","topic":"t"}"#,
    r#"{"key":"Zw==","value":"YWJj","custom":"AAAAAAAAAAs="}"#,
    r#"{"key":"bg==","value":"YWJj","custom":"AAAAAAAAAAE="}"#,
    r#"{"error":"no"}"#,
    r#"{"key":"cw=="}"#,
    "null",
    r#"{"value":"!"}"#,
    "{",
];

/// One packet of geminio, mostly with a text that can be read.
fn packet(script: &mut Script<'_>, noise: &mut Noise, out: &mut Vec<u8>) {
    let kind = script.u8();
    let kind = match PacketType::ALL.get(usize::from(kind) % 40) {
        Some(kind) => *kind,
        None => PacketType::from_wire(kind),
    };
    let (id, session, text) = (u64::from(script.u8()), u64::from(script.u8() % 16), script.u8());
    let mut body = session.to_be_bytes().to_vec();
    match kind.fixed_len() {
        10 => body = [&[script.u8(), 0x10][..], &body].concat(),
        18 => body = [&[0, 0][..], &body, &body].concat(),
        fixed => body.resize(fixed, 0),
    }
    if kind.is_bare() {
    } else if text < 220 {
        body.extend(TEXTS[usize::from(text) % TEXTS.len()].as_bytes());
    } else {
        noise.fill(&mut body, script.usize());
    }
    PacketHeader::new(kind, id).put(out, &body);
}
