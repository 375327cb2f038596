//! One yamux engine of either role, a hostile peer and a careless user. Two copies run the same script, one fed as the script says,
//! the other in odd pieces: both must tell the same and write the same, hold bounded memory, and stay failed once they failed.

use frontier_wire::yamux::{
    Config, Engine, Error, Event, GoAwayCode, HEADER_LEN, MAX_PENDING_RESETS, Role, StreamId,
};

use super::script::{Noise, Script};

const MAX_STREAMS: u32 = 8;
const MAX_FRAME: u32 = 100_000;

/// What an engine told, pieces of payload joined.
#[derive(Debug, PartialEq)]
enum Told {
    Event(Event<Vec<u8>>),
    Failed(Error),
}

struct Copy {
    engine: Engine,
    told: Vec<Told>,
    failed: Option<Error>,
}

pub fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let role = if script.u8() & 1 == 0 { Role::Client } else { Role::Server };
    let config = Config { max_streams: MAX_STREAMS, max_frame: MAX_FRAME, ..Config::default() };
    let mut noise = Noise::new(script.u64());
    let mut copies = [Copy::new(role, &config), Copy::new(role, &config)];
    while !script.is_over() {
        step(&mut script, &mut noise, &mut copies);
        let [whole, cut] = &copies;
        assert_eq!(whole.told, cut.told);
        for copy in &mut copies {
            copy.told.clear();
            copy.check();
        }
    }
}

fn step(script: &mut Script<'_>, noise: &mut Noise, copies: &mut [Copy; 2]) {
    let op = script.u8() % 16;
    if op < 8 {
        let input = input(op, script, noise);
        let [whole, cut] = copies;
        whole.feed(&input);
        let mut rest = input.as_slice();
        let most = 20 + input.len() / 16;
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(noise.upto(most).min(rest.len()));
            cut.feed(piece);
            rest = behind;
        }
        return;
    }
    let stream = StreamId::new(u32::from(script.u8() % 24) + 1).expect("not 0");
    let (small, large) = (u32::from(script.u8()), script.u32());
    let [first, second] = copies;
    match op {
        8 => assert_eq!(first.engine.open(), second.engine.open()),
        9 => {
            let len = if small & 1 == 0 { small } else { large % 80_000 };
            let fin = small & 2 != 0;
            assert_eq!(first.engine.data(stream, len, fin), second.engine.data(stream, len, fin));
        }
        10 => assert_eq!(first.engine.finish(stream), second.engine.finish(stream)),
        11 => assert_eq!(first.engine.reset(stream), second.engine.reset(stream)),
        12 => copies.iter_mut().for_each(|copy| copy.engine.release(stream, large >> (small % 32))),
        13 => assert_eq!(first.engine.grow(stream, large), second.engine.grow(stream, large)),
        14 => copies.iter_mut().for_each(|copy| match small % 4 {
            0 => copy.engine.go_away(GoAwayCode::Normal),
            1 => copy.engine.ping(large),
            _ => copy.engine.set_stream_windows(large, small),
        }),
        _ => {
            let (written, other) = (first.control(), second.control());
            assert_eq!(written, other);
        }
    }
}

/// Bytes of the peer: some at random, most of them frames.
fn input(op: u8, script: &mut Script<'_>, noise: &mut Noise) -> Vec<u8> {
    let mut input = Vec::new();
    if op == 0 {
        let len = script.u8().into();
        input.extend(script.take(len));
        return input;
    }
    let (kind, flags) = (script.u8() % 5, script.u8() % 16);
    let stream = u32::from(script.u8() % 24);
    let length = match op {
        1 | 2 => script.u32() % 120_000,
        3 => script.u32(),
        _ => script.u8().into(),
    };
    input.extend([0, kind, 0, flags]);
    input.extend(stream.to_be_bytes());
    input.extend(length.to_be_bytes());
    if kind == 0 {
        noise.fill(&mut input, length.min(MAX_FRAME + 1) as usize);
    }
    input
}

impl Copy {
    fn new(role: Role, config: &Config) -> Self {
        Self { engine: Engine::new(role, config), told: Vec::new(), failed: None }
    }

    fn feed(&mut self, mut input: &[u8]) {
        if let Some(error) = self.failed {
            assert_eq!(self.engine.receive(&mut input), Err(error));
            return;
        }
        loop {
            match self.engine.receive(&mut input) {
                Ok(Some(Event::Data { stream, payload })) => self.payload(stream, payload),
                Ok(Some(event)) => self.told.push(Told::Event(owned(event))),
                Ok(None) => {
                    assert!(input.is_empty());
                    return;
                }
                Err(error) => {
                    self.failed = Some(error);
                    self.told.push(Told::Failed(error));
                    return;
                }
            }
        }
    }

    fn payload(&mut self, from: StreamId, bytes: &[u8]) {
        assert!(!bytes.is_empty());
        match self.told.last_mut() {
            Some(Told::Event(Event::Data { stream, payload })) if *stream == from => payload.extend(bytes),
            _ => self.told.push(Told::Event(Event::Data { stream: from, payload: bytes.to_vec() })),
        }
    }

    /// All control frames, which are whole and few.
    fn control(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.engine.take_control(&mut out);
        assert!(!self.engine.has_control());
        assert_eq!(out.len() % HEADER_LEN, 0);
        let streams = 2 * MAX_STREAMS as usize + 1;
        assert!(out.len() / HEADER_LEN <= 2 * streams + MAX_PENDING_RESETS + 3);
        assert!(out.chunks(HEADER_LEN).all(|header| header[0] == 0 && (1..=3).contains(&header[1])));
        out
    }

    fn check(&self) {
        assert!(self.engine.streams() <= 2 * MAX_STREAMS as usize + 1);
        // Streams, resets to be announced and gaps between IDs, each bounded.
        assert!(self.engine.held_bytes() <= 64 * 1024, "{} bytes held", self.engine.held_bytes());
    }
}

fn owned(event: Event<&[u8]>) -> Event<Vec<u8>> {
    match event {
        Event::Opened { stream } => Event::Opened { stream },
        Event::Accepted { stream } => Event::Accepted { stream },
        Event::Data { stream, payload } => Event::Data { stream, payload: payload.to_vec() },
        Event::Finished { stream } => Event::Finished { stream },
        Event::Reset { stream } => Event::Reset { stream },
        Event::Window { stream, grown_by } => Event::Window { stream, grown_by },
        Event::Pong { value } => Event::Pong { value },
        Event::GoAway { code } => Event::GoAway { code },
    }
}
