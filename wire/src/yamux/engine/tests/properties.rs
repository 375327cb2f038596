//! Any bytes in any cut: no panic, bounded memory, and the same events.

use proptest::{collection::vec, prelude::*};

use super::*;

const STREAMS: u32 = 8;

fn config() -> Config {
    Config { max_streams: STREAMS, max_frame: 600, ..Config::default() }
}

/// Frames that make sense often enough to get far, and bytes that do not at all.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![4 => Just(0), 2 => Just(SYN), 1 => Just(SYN | FIN), 1 => 0u16..32];
    let kind = prop_oneof![
        4 => Just(Kind::Data),
        3 => Just(Kind::Window),
        1 => Just(Kind::Ping),
        1 => Just(Kind::GoAway)
    ];
    let frame = (kind, flags, prop_oneof![9 => 1u32..30, 1 => any::<u32>()], 0u32..610).prop_map(
        |(kind, flags, stream, length)| {
            let mut bytes = header(kind, flags, stream, length);
            if kind == Kind::Data {
                bytes.extend((0..length).map(|at| at as u8));
            }
            bytes
        },
    );
    let piece = prop_oneof![40 => frame, 1 => vec(any::<u8>(), 0..30)];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// All events and the error, if any; pieces of payload that follow each other are joined.
fn events<'a>(
    engine: &mut Engine,
    inputs: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Event<Vec<u8>>>, Option<Error>) {
    let mut all: Vec<Event<Vec<u8>>> = Vec::new();
    for mut input in inputs {
        loop {
            match engine.receive(&mut input) {
                Ok(None) => break,
                Ok(Some(Event::Data { stream, payload })) => match all.last_mut() {
                    Some(Event::Data { stream: last, payload: joined }) if *last == stream => {
                        joined.extend_from_slice(payload);
                    }
                    _ => all.push(Event::Data { stream, payload: payload.to_vec() }),
                },
                Ok(Some(event)) => all.push(owned(event)),
                Err(error) => return (all, Some(error)),
            }
        }
    }
    (all, None)
}

/// Cuts `bytes` into pieces of the lengths given, over and over.
fn cut<'a>(bytes: &'a [u8], lens: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    lens.iter().cycle().map_while(move |&len| {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(len.min(rest.len()));
        rest = after;
        Some(piece)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn input_split_anywhere_means_the_same(bytes in wire(), lens in vec(1usize..40, 1..10), client in any::<bool>()) {
        let role = if client { Role::Client } else { Role::Server };
        let engine = || {
            let mut engine = Engine::new(role, &config());
            engine.open().unwrap();
            engine.open().unwrap();
            engine
        };
        let (mut whole, mut pieces) = (engine(), engine());
        let expected = events(&mut whole, std::iter::once(bytes.as_slice()));
        prop_assert_eq!(events(&mut pieces, cut(&bytes, &lens)), expected);
        prop_assert_eq!(pieces.take_counts(), whole.take_counts());
        prop_assert_eq!(pieces.granted_bytes(), whole.granted_bytes());
        let (mut a, mut b) = (Vec::new(), Vec::new());
        pieces.take_control(&mut a);
        whole.take_control(&mut b);
        prop_assert_eq!(a, b);
    }

    #[test]
    fn no_input_makes_an_engine_panic_or_hold_much(
        inputs in vec((wire(), 0u32..4, 1u32..30), 1..20),
    ) {
        let mut engine = Engine::new(Role::Server, &config());
        for (bytes, action, stream) in inputs {
            let (_, error) = events(&mut engine, std::iter::once(bytes.as_slice()));
            prop_assert!(engine.streams() <= 2 * STREAMS as usize);
            prop_assert!(engine.held_bytes() < 8192, "{}", engine.held_bytes());
            prop_assert!(engine.granted_bytes() <= u64::from(2 * STREAMS * START_WINDOW));
            match action {
                0 => engine.release(id(stream), 500),
                1 => { engine.reset(id(stream)); }
                2 => { let _ = engine.finish(id(stream)); }
                _ => engine.take_control(&mut Vec::new()),
            }
            if error.is_some() {
                prop_assert_eq!(events(&mut engine, std::iter::once(bytes.as_slice())), (vec![], error));
            }
        }
    }
}
