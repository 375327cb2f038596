#![expect(clippy::arithmetic_side_effects, reason = "an overflow in a test is a failed test")]
#![expect(clippy::cast_possible_truncation, reason = "test payloads are small")]

use super::*;

mod model;
mod properties;

/// Takes everything that `bytes` says, with pieces of payload copied.
fn feed(engine: &mut Engine, mut bytes: &[u8]) -> Result<Vec<Event<Vec<u8>>>, Error> {
    let mut events = Vec::new();
    while let Some(event) = engine.receive(&mut bytes)? {
        events.push(owned(event));
    }
    assert!(bytes.is_empty(), "None means that the input is used up");
    Ok(events)
}

fn owned(event: Event<&[u8]>) -> Event<Vec<u8>> {
    match event {
        Event::Data { stream, payload } => Event::Data { stream, payload: payload.to_vec() },
        Event::Opened { stream } => Event::Opened { stream },
        Event::Accepted { stream } => Event::Accepted { stream },
        Event::Finished { stream } => Event::Finished { stream },
        Event::Reset { stream } => Event::Reset { stream },
        Event::Window { stream, grown_by } => Event::Window { stream, grown_by },
        Event::Pong { value } => Event::Pong { value },
        Event::GoAway { code } => Event::GoAway { code },
    }
}

/// Takes all control frames, decoded.
fn control(engine: &mut Engine) -> Vec<Header> {
    let mut out = Vec::new();
    engine.take_control(&mut out);
    assert!(!engine.has_control());
    out.chunks(HEADER_LEN).map(|bytes| Header::parse(bytes.try_into().unwrap()).unwrap()).collect()
}

fn header(kind: Kind, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    Header { kind, flags, stream, length }.encode().to_vec()
}

fn data(flags: u16, stream: u32, payload: &[u8]) -> Vec<u8> {
    [header(Kind::Data, flags, stream, payload.len() as u32), payload.to_vec()].concat()
}

fn window(flags: u16, stream: u32, length: u32) -> Vec<u8> {
    header(Kind::Window, flags, stream, length)
}

fn update(flags: u16, stream: u32, length: u32) -> Header {
    Header { kind: Kind::Window, flags, stream, length }
}

fn id(id: u32) -> StreamId {
    StreamId::new(id).unwrap()
}

fn server() -> Engine {
    Engine::new(Role::Server, &Config::default())
}

fn client() -> Engine {
    Engine::new(Role::Client, &Config::default())
}

/// A server whose peer has opened some streams, with nothing due.
fn server_with(streams: &[u32]) -> Engine {
    let mut engine = server();
    for &stream in streams {
        feed(&mut engine, &window(SYN, stream, 0)).unwrap();
    }
    control(&mut engine);
    engine.take_counts();
    engine
}

/// A client that has opened so many streams, all acknowledged.
fn client_with(streams: u32) -> Engine {
    let mut engine = client();
    for _ in 0..streams {
        let stream = engine.open().unwrap();
        feed(&mut engine, &window(ACK, stream.get(), 0)).unwrap();
    }
    control(&mut engine);
    engine.take_counts();
    engine
}

// === size and memory

#[test]
fn an_engine_is_small_and_holds_nothing_for_its_first_stream() {
    assert!(size_of::<Engine>() <= 88, "{}", size_of::<Engine>());
    let mut engine = server_with(&[1]);
    feed(&mut engine, &data(0, 1, &[7; 100_000])).unwrap();
    assert!(engine.is_idle());
    assert_eq!(engine.held_bytes(), 0);
    engine.release(id(1), 100_000);
    engine.grant(id(1), 1 << 20);
    assert!(engine.has_control());
    assert_eq!(engine.held_bytes(), 0, "updates of the first stream need no memory");
}

#[test]
fn memory_is_given_back_with_the_last_user_stream() {
    let mut engine = server_with(&[1, 3, 5]);
    assert!(engine.held_bytes() > 0);
    assert!(!engine.is_idle());
    feed(&mut engine, &window(FIN, 3, 0)).unwrap();
    engine.finish(id(3)).unwrap();
    engine.reset(id(5));
    control(&mut engine);
    assert!(engine.is_idle());
    assert_eq!((engine.streams(), engine.held_bytes()), (1, 0));
    assert_eq!(engine.granted_bytes(), u64::from(START_WINDOW));
}

// === opening

#[test]
fn opening_is_announced_at_once() {
    let mut engine = client();
    assert_eq!(engine.open(), Ok(id(1)));
    assert_eq!(engine.open(), Ok(id(3)));
    assert_eq!(control(&mut engine), [update(SYN, 1, 0), update(SYN, 3, 0)]);
    assert!(control(&mut engine).is_empty());
}

#[test]
fn first_data_carries_the_announcement_if_it_is_written_first() {
    let mut engine = client();
    let stream = engine.open().unwrap();
    assert_eq!(engine.data(stream, 5, false).unwrap().to_vec(), header(Kind::Data, SYN, 1, 5));
    assert_eq!(engine.data(stream, 5, false).unwrap().to_vec(), header(Kind::Data, 0, 1, 5));
    assert!(control(&mut engine).is_empty());
}

#[test]
fn accepting_is_acknowledged_at_once_and_once() {
    for (stream, syn) in [(1, window(SYN, 1, 0)), (3, window(SYN, 3, 0)), (3, header(Kind::Data, SYN, 3, 0))]
    {
        let mut engine = server();
        assert_eq!(feed(&mut engine, &syn), Ok(vec![Event::Opened { stream: id(stream) }]));
        assert_eq!(control(&mut engine), [update(ACK, stream, 0)]);
        assert_eq!(engine.data(id(stream), 1, false).unwrap().to_vec(), header(Kind::Data, 0, stream, 1));
    }
    let mut engine = server();
    feed(&mut engine, &window(SYN, 3, 0)).unwrap();
    assert_eq!(engine.data(id(3), 1, false).unwrap().to_vec(), header(Kind::Data, ACK, 3, 1));
    assert!(control(&mut engine).is_empty());
}

#[test]
fn an_acknowledgement_is_an_event_once() {
    let mut engine = client();
    let stream = engine.open().unwrap();
    let (accepted, grown) = (Event::Accepted { stream }, Event::Window { stream, grown_by: 9 });
    assert_eq!(feed(&mut engine, &window(ACK, 1, 9)), Ok(vec![accepted, grown.clone()]));
    assert_eq!(feed(&mut engine, &window(ACK, 1, 9)), Ok(vec![grown]));
    assert_eq!(engine.send_window(stream), START_WINDOW + 18);
}

#[test]
fn data_can_open_carry_and_finish_a_stream_in_one_frame() {
    let mut engine = server();
    let stream = id(3);
    let events = feed(&mut engine, &data(SYN | FIN, 3, b"all")).unwrap();
    let payload = b"all".to_vec();
    assert_eq!(
        events,
        [Event::Opened { stream }, Event::Data { stream, payload }, Event::Finished { stream }]
    );
    engine.finish(stream).unwrap();
    assert_eq!(control(&mut engine), [update(ACK | FIN, 3, 0)]);
    assert!(!engine.contains(stream));
}

#[test]
fn one_stream_too_many_is_refused_and_its_payload_skipped() {
    let mut engine = Engine::new(Role::Server, &Config { max_streams: 2, ..Config::default() });
    feed(&mut engine, &[window(SYN, 1, 0), window(SYN, 3, 0)].concat()).unwrap();
    control(&mut engine);
    engine.take_counts();
    let bytes = [data(SYN, 5, b"lost"), data(0, 5, b"lost, too"), data(0, 3, b"kept")].concat();
    let kept = Event::Data { stream: id(3), payload: b"kept".to_vec() };
    assert_eq!(feed(&mut engine, &bytes), Ok(vec![kept]));
    assert_eq!(control(&mut engine), [update(RST, 5, 0)]);
    assert_eq!(engine.take_counts(), Counts { control: 2, refused: 1 });
    feed(&mut engine, &window(RST, 3, 0)).unwrap();
    assert_eq!(feed(&mut engine, &window(SYN, 7, 0)), Ok(vec![Event::Opened { stream: id(7) }]));
}

#[test]
fn neither_side_uses_up_the_others_share_of_streams() {
    let mut engine = Engine::new(Role::Server, &Config { max_streams: 1, ..Config::default() });
    feed(&mut engine, &window(SYN, 1, 0)).unwrap();
    let stream = engine.open().unwrap();
    assert_eq!(engine.open(), Err(OpenError::TooMany { max: 1 }));
    engine.reset(stream);
    assert_eq!(engine.open(), Ok(id(4)));
    assert_eq!(engine.streams(), 2);
}

#[test]
fn ids_may_come_late_but_only_once() {
    let mut engine = server();
    let bytes = [window(SYN, 5, 0), window(SYN, 1, 0), window(RST, 5, 0)].concat();
    feed(&mut engine, &bytes).unwrap();
    assert_eq!(feed(&mut engine, &window(SYN, 3, 0)), Ok(vec![Event::Opened { stream: id(3) }]));
    for used in [1, 3, 5] {
        let mut engine = server();
        feed(&mut engine, &bytes).unwrap();
        feed(&mut engine, &window(SYN, 3, 0)).unwrap();
        assert_eq!(feed(&mut engine, &window(SYN, used, 0)), Err(Error::Reused { id: used }));
    }
}

#[test]
fn a_stream_that_is_dropped_unannounced_leaves_no_gap() {
    let mut engine = server_with(&[1]);
    feed(&mut engine, &window(SYN, 5, 0)).unwrap();
    assert_eq!(feed(&mut engine, &header(Kind::Data, RST, 3, 0)), Ok(vec![]));
    assert_eq!(feed(&mut engine, &window(RST, 5, 0)), Ok(vec![Event::Reset { stream: id(5) }]));
    control(&mut engine);
    assert_eq!(engine.held_bytes(), 0);
    assert_eq!(feed(&mut engine, &window(SYN, 3, 0)), Err(Error::Reused { id: 3 }));
}

#[test]
fn the_last_id_is_not_wrapped() {
    let mut engine = client();
    engine.next_local = u32::MAX - 2;
    assert_eq!(engine.open(), Ok(id(u32::MAX - 2)));
    assert_eq!(engine.open(), Err(OpenError::Exhausted));
    assert_eq!(engine.open(), Err(OpenError::Exhausted));
    let mut engine = server();
    feed(&mut engine, &window(SYN, u32::MAX - 2, 0)).unwrap();
    assert_eq!(feed(&mut engine, &window(SYN, u32::MAX, 0)), Err(Error::StreamId { id: u32::MAX }));
}

// === ending

#[test]
fn half_close_leaves_the_other_half_open() {
    for fin in [window(FIN, 3, 0), header(Kind::Data, FIN, 3, 0)] {
        let mut engine = server_with(&[3]);
        assert_eq!(feed(&mut engine, &fin), Ok(vec![Event::Finished { stream: id(3) }]));
        assert_eq!(engine.data(id(3), 9, false).unwrap().to_vec(), header(Kind::Data, 0, 3, 9));
        assert!(feed(&mut engine, &window(0, 3, 5)).is_ok(), "who has finished still grants");
        assert_eq!(engine.data(id(3), 0, true).unwrap().to_vec(), header(Kind::Data, FIN, 3, 0));
        assert!(!engine.contains(id(3)));
        assert_eq!(engine.data(id(3), 1, false), Err(SendError::Closed { stream: id(3) }));
    }
}

#[test]
fn an_end_follows_the_last_payload_in_a_frame_of_its_own() {
    for stream in [1, 3] {
        let mut engine = server_with(&[stream]);
        feed(&mut engine, &window(FIN, stream, 0)).unwrap();
        assert_eq!(engine.data(id(stream), 9, true).unwrap().to_vec(), header(Kind::Data, 0, stream, 9));
        assert_eq!(engine.data(id(stream), 0, true), Err(SendError::Finished { stream: id(stream) }));
        assert_eq!(control(&mut engine), [update(FIN, stream, 0)]);
        assert!(!engine.contains(id(stream)));
    }
}

#[test]
fn after_finishing_nothing_is_sent_but_all_is_received() {
    let mut engine = server_with(&[3]);
    engine.finish(id(3)).unwrap();
    assert_eq!(engine.finish(id(3)), Err(SendError::Finished { stream: id(3) }));
    assert_eq!(engine.data(id(3), 1, false), Err(SendError::Finished { stream: id(3) }));
    assert_eq!((engine.send_window(id(3)), engine.can_send(id(3))), (0, false));
    assert_eq!(control(&mut engine), [update(FIN, 3, 0)]);
    assert_eq!(feed(&mut engine, &data(0, 3, b"still")).unwrap().len(), 1);
    assert_eq!(feed(&mut engine, &window(FIN, 3, 0)), Ok(vec![Event::Finished { stream: id(3) }]));
    assert!(!engine.contains(id(3)));
}

#[test]
fn a_stream_is_kept_until_its_fin_is_written() {
    for first in [1, 3] {
        let mut engine = server_with(&[first]);
        engine.finish(id(first)).unwrap();
        feed(&mut engine, &window(FIN, first, 0)).unwrap();
        assert!(engine.contains(id(first)));
        assert_eq!(control(&mut engine), [update(FIN, first, 0)]);
        assert!(!engine.contains(id(first)));
    }
}

#[test]
fn a_repeated_fin_is_no_event_but_data_after_it_is_an_error() {
    let mut engine = server_with(&[3]);
    assert_eq!(feed(&mut engine, &window(FIN, 3, 0)).unwrap().len(), 1);
    assert_eq!(feed(&mut engine, &header(Kind::Data, FIN, 3, 0)), Ok(vec![]));
    assert_eq!(feed(&mut engine, &data(0, 3, b"x")), Err(Error::AfterEnd { stream: id(3) }));
}

#[test]
fn a_reset_by_the_peer_ends_both_halves_and_skips_its_payload() {
    for rst in [window(RST, 3, 0), data(RST, 3, b"payload of a reset")] {
        let mut engine = server_with(&[1, 3]);
        let bytes = [rst, data(0, 1, b"ok")].concat();
        let next = Event::Data { stream: id(1), payload: b"ok".to_vec() };
        assert_eq!(feed(&mut engine, &bytes), Ok(vec![Event::Reset { stream: id(3) }, next]));
        assert_eq!(engine.data(id(3), 1, false), Err(SendError::Closed { stream: id(3) }));
        assert!(control(&mut engine).is_empty(), "a reset is not answered");
    }
}

#[test]
fn a_reset_by_us_skips_what_is_under_way() {
    let mut engine = server_with(&[1, 3]);
    let bytes = data(FIN, 3, b"first second");
    assert_eq!(feed(&mut engine, &bytes[..17]).unwrap().len(), 1);
    assert!(engine.reset(id(3)));
    assert!(!engine.reset(id(3)));
    assert_eq!(engine.direct(), None);
    let next = Event::Data { stream: id(1), payload: b"ok".to_vec() };
    let rest = [&bytes[17..], &data(0, 3, b"more"), &window(0, 3, 9), &data(0, 1, b"ok")].concat();
    assert_eq!(feed(&mut engine, &rest), Ok(vec![next]));
    assert_eq!(control(&mut engine), [update(RST, 3, 0)]);
    assert_eq!(engine.granted_bytes(), u64::from(START_WINDOW));
}

#[test]
fn a_reset_between_the_events_of_a_frame_drops_the_rest() {
    let mut engine = server();
    let bytes = [data(SYN | FIN, 3, b"payload"), window(SYN, 5, 0)].concat();
    let mut input = bytes.as_slice();
    assert_eq!(engine.receive(&mut input), Ok(Some(Event::Opened { stream: id(3) })));
    engine.reset(id(3));
    assert_eq!(engine.receive(&mut input), Ok(Some(Event::Opened { stream: id(5) })));

    let mut engine = client();
    let stream = engine.open().unwrap();
    control(&mut engine);
    let bytes = window(ACK, 1, 1000);
    let mut input = bytes.as_slice();
    assert_eq!(engine.receive(&mut input), Ok(Some(Event::Accepted { stream })));
    engine.reset(stream);
    assert_eq!(engine.receive(&mut input), Ok(None));
    assert!(matches!(engine.rx, Rx::Border), "the update is not taken for payload");
}

#[test]
fn a_stream_that_is_dropped_before_it_was_announced_leaves_no_gap_at_the_peer() {
    let (mut engine, mut peer) = (client(), server());
    let dropped = [engine.open().unwrap(), engine.open().unwrap()];
    engine.open().unwrap();
    for stream in dropped {
        assert!(engine.reset(stream));
    }
    let mut out = Vec::new();
    engine.take_control(&mut out);
    assert_eq!(feed(&mut peer, &out), Ok(vec![Event::Opened { stream: id(5) }]));
    peer.reset(id(5));
    control(&mut peer);
    assert_eq!(peer.held_bytes(), 0);
}

// === windows

#[test]
fn payload_may_fill_the_window_and_not_a_byte_more() {
    for stream in [1, 3] {
        let mut engine = server_with(&[stream]);
        feed(&mut engine, &data(0, stream, &vec![1; START_WINDOW as usize])).unwrap();
        assert_eq!(engine.recv_window(id(stream)), Some((START_WINDOW, 0)));
        let error = Error::Window { stream: id(stream), len: 1 };
        assert_eq!(feed(&mut engine, &data(0, stream, b"x")), Err(error));
        assert_eq!(feed(&mut engine, &window(0, 1, 0)), Err(error), "a failed connection stays failed");
    }
}

#[test]
fn the_window_is_checked_against_the_whole_frame_before_its_payload() {
    let mut engine = server_with(&[3]);
    let header = header(Kind::Data, 0, 3, START_WINDOW + 1);
    assert_eq!(feed(&mut engine, &header), Err(Error::Window { stream: id(3), len: START_WINDOW + 1 }));
    let mut engine = server();
    let header = self::header(Kind::Data, SYN, 3, START_WINDOW + 1);
    assert_eq!(feed(&mut engine, &header), Err(Error::Window { stream: id(3), len: START_WINDOW + 1 }));
}

#[test]
fn released_bytes_are_granted_in_one_update_per_half_window() {
    for stream in [1, 3] {
        let mut engine = server_with(&[stream]);
        feed(&mut engine, &data(0, stream, &vec![1; 200_000])).unwrap();
        for _ in 0..131 {
            engine.release(id(stream), 1000);
        }
        assert!(!engine.has_control());
        engine.release(id(stream), 1000);
        engine.release(id(stream), 1000);
        assert_eq!(control(&mut engine), [update(0, stream, 133_000)]);
        assert_eq!(engine.recv_window(id(stream)), Some((START_WINDOW, START_WINDOW - 67_000)));
    }
}

#[test]
fn a_window_grows_on_demand_up_to_its_limit() {
    for stream in [1, 3] {
        let mut engine = server_with(&[stream]);
        assert_eq!(engine.grant(id(stream), 1 << 20), Some(START_WINDOW + (1 << 20)));
        assert_eq!(engine.grow(id(stream), 1), Some(START_WINDOW + (1 << 20)), "never shrinks");
        assert_eq!(control(&mut engine), [update(0, stream, 1 << 20)]);
        assert_eq!(engine.grow(id(stream), u32::MAX), Some(4 << 20));
        assert_eq!(engine.granted_bytes(), 4 << 20);
        assert_eq!(control(&mut engine).len(), 1);
        assert_eq!(engine.recv_window(id(stream)), Some((4 << 20, 4 << 20)));
    }
    assert_eq!(server().grow(id(3), 1), None);
}

#[test]
fn agreed_windows_hold_for_user_streams_of_both_sides() {
    let mut engine = server_with(&[1]);
    engine.set_stream_windows(1000, 500);
    feed(&mut engine, &window(SYN, 3, 20)).unwrap();
    let ours = engine.open().unwrap();
    assert_eq!(control(&mut engine), [update(ACK, 3, 0), update(SYN, 2, 0)]);
    assert_eq!((engine.send_window(id(3)), engine.send_window(ours)), (520, 500));
    assert_eq!(engine.recv_window(ours), Some((1000, 1000)));
    assert_eq!(engine.recv_window(id(1)), Some((START_WINDOW, START_WINDOW)));
    feed(&mut engine, &data(0, 3, &[0; 1000])).unwrap();
    assert_eq!(feed(&mut engine, &data(0, 3, b"x")), Err(Error::Window { stream: id(3), len: 1 }));
}

#[test]
fn zero_agreed_means_the_usual_window() {
    let mut engine = server();
    engine.set_stream_windows(0, 0);
    let ours = engine.open().unwrap();
    assert_eq!((engine.recv_window(ours).unwrap().0, engine.send_window(ours)), (START_WINDOW, START_WINDOW));
}

#[test]
fn a_larger_window_is_told_to_a_peer_that_does_not_know() {
    let config = Config { recv_window: START_WINDOW + 1000, ..Config::default() };
    let mut engine = Engine::new(Role::Server, &config);
    feed(&mut engine, &[window(SYN, 1, 0), window(SYN, 3, 0)].concat()).unwrap();
    engine.open().unwrap();
    let told = [update(ACK, 1, 0), update(ACK, 3, 1000), update(SYN, 2, 1000)];
    assert_eq!(control(&mut engine), told);
    let stream = engine.open().unwrap();
    engine.data(stream, 1, false).unwrap();
    assert_eq!(control(&mut engine), [update(0, 4, 1000)], "also if data had announced the stream");
}

#[test]
fn nothing_is_sent_beyond_the_window_or_the_longest_frame() {
    let mut engine = client_with(1);
    let (stream, window_left) = (id(1), START_WINDOW - 3 * MAX_DATA - 60_000);
    assert_eq!(engine.data(stream, MAX_DATA + 1, false), Err(SendError::TooLong { len: MAX_DATA + 1 }));
    for len in [MAX_DATA, MAX_DATA, MAX_DATA, 60_000] {
        engine.data(stream, len, false).unwrap();
    }
    let error = SendError::Window { stream, window: window_left };
    assert_eq!(engine.data(stream, window_left + 1, true), Err(error));
    assert_eq!(engine.data(stream, window_left, false).unwrap()[2..4], [0, 0], "an error changes nothing");
    assert_eq!(feed(&mut engine, &window(0, 1, 7)), Ok(vec![Event::Window { stream, grown_by: 7 }]));
    assert_eq!(engine.send_window(stream), 7);
}

#[test]
fn a_window_cannot_overflow() {
    let error = Error::WindowOverflow { stream: id(3), grown_by: u32::MAX };
    assert_eq!(feed(&mut server_with(&[3]), &window(0, 3, u32::MAX)), Err(error));
    assert_eq!(feed(&mut server(), &window(SYN, 3, u32::MAX)), Err(error));
}

// === frames that nobody may send

#[test]
fn a_frame_at_the_limit_passes_and_above_it_ends_the_connection() {
    let config = Config { max_frame: 100, ..Config::default() };
    let mut engine = Engine::new(Role::Server, &config);
    feed(&mut engine, &data(SYN, 1, &[0; 100])).unwrap();
    let error = Error::FrameTooLong { len: 101, max: 100 };
    assert_eq!(feed(&mut engine, &header(Kind::Data, 0, 1, 101)), Err(error));
    assert_eq!(error.go_away(), GoAwayCode::Protocol);
}

#[test]
fn streams_that_a_peer_cannot_address_end_the_connection() {
    let cases = [
        (window(SYN, 0, 0), 0),
        (window(SYN, 2, 0), 2),
        (window(0, 0, 0), 0),
        (data(0, 0, b"x"), 0),
        (data(0, 4, b"x"), 4),
    ];
    for (bytes, stream) in cases {
        let mut engine = server_with(&[1]);
        engine.open().unwrap();
        assert_eq!(feed(&mut engine, &bytes), Err(Error::StreamId { id: stream }), "{bytes:?}");
    }
    assert_eq!(feed(&mut client(), &window(SYN, 1, 0)), Err(Error::StreamId { id: 1 }));
}

#[test]
fn a_live_stream_cannot_be_opened_again() {
    for stream in [1, 3] {
        let mut engine = server_with(&[1, 3]);
        assert_eq!(feed(&mut engine, &window(SYN, stream, 0)), Err(Error::Reused { id: stream }));
    }
}

#[test]
fn frames_for_streams_that_are_gone_are_skipped() {
    let mut engine = client_with(2);
    engine.reset(id(3));
    control(&mut engine);
    let frames = [data(0, 3, b"gone"), window(FIN, 3, 0), window(RST, 3, 0), window(ACK, 3, 1)].concat();
    assert_eq!(feed(&mut engine, &frames), Ok(vec![]));
    assert!(control(&mut engine).is_empty());
    assert_eq!(engine.take_counts().control, 4);
}

// === the connection

#[test]
fn only_the_newest_ping_is_answered() {
    let mut engine = server();
    for value in 0..1000 {
        feed(&mut engine, &header(Kind::Ping, SYN, 0, value)).unwrap();
    }
    assert!(engine.held_bytes() < 100);
    assert_eq!(control(&mut engine), [Header { kind: Kind::Ping, flags: ACK, stream: 0, length: 999 }]);
    assert_eq!(engine.take_counts().control, 1000);
    assert_eq!(engine.held_bytes(), 0);
}

#[test]
fn our_ping_is_sent_and_its_answer_is_an_event() {
    let mut engine = server();
    engine.ping(1);
    engine.ping(2);
    assert_eq!(control(&mut engine), [Header { kind: Kind::Ping, flags: SYN, stream: 0, length: 2 }]);
    assert_eq!(feed(&mut engine, &header(Kind::Ping, ACK, 0, 2)), Ok(vec![Event::Pong { value: 2 }]));
}

#[test]
fn going_away_refuses_new_streams_and_keeps_the_old() {
    let mut engine = server_with(&[1]);
    engine.go_away(GoAwayCode::Normal);
    feed(&mut engine, &window(SYN, 3, 0)).unwrap();
    assert_eq!(engine.open(), Err(OpenError::GoingAway));
    let farewell = Header { kind: Kind::GoAway, flags: 0, stream: 0, length: 0 };
    assert_eq!(control(&mut engine), [update(RST, 3, 0), farewell]);
    assert!(engine.data(id(1), 1, false).is_ok());
}

#[test]
fn a_peer_that_goes_away_gets_no_new_streams() {
    let mut engine = server_with(&[1]);
    let gone = Event::GoAway { code: GoAwayCode::Internal };
    assert_eq!(feed(&mut engine, &header(Kind::GoAway, 0, 0, 2)), Ok(vec![gone]));
    assert_eq!(engine.open(), Err(OpenError::GoingAway));
    assert!(engine.data(id(1), 1, false).is_ok());
}

#[test]
fn a_peer_that_is_refused_and_does_not_read_is_cut() {
    let mut engine = Engine::new(Role::Server, &Config { max_streams: 0, ..Config::default() });
    for stream in (1..).step_by(2).take(MAX_PENDING_RESETS) {
        feed(&mut engine, &window(SYN, stream, 0)).unwrap();
    }
    assert!(engine.held_bytes() < 3 * 4 * MAX_PENDING_RESETS);
    let next = 1 + 2 * MAX_PENDING_RESETS as u32;
    assert_eq!(feed(&mut engine, &window(SYN, next, 0)), Err(Error::Flood));
}

#[test]
fn opening_waits_for_resets_to_be_written() {
    let mut engine = client();
    for _ in 0..MAX_PENDING_RESETS {
        let stream = engine.open().unwrap();
        engine.data(stream, 1, false).unwrap();
        engine.reset(stream);
    }
    assert_eq!(engine.open(), Err(OpenError::Backlog));
    control(&mut engine);
    assert!(engine.open().is_ok());
}

#[test]
fn control_frames_are_counted_and_payload_is_not() {
    let mut engine = server_with(&[1, 3]);
    let frames = [
        data(0, 1, b"payload"),
        data(FIN, 3, b"payload"),
        header(Kind::Data, 0, 1, 0),
        window(0, 1, 1),
        header(Kind::Ping, ACK, 0, 0),
        header(Kind::GoAway, 0, 0, 0),
        window(RST, 3, 0),
    ];
    feed(&mut engine, &frames.concat()).unwrap();
    assert_eq!(engine.take_counts(), Counts { control: 5, refused: 0 });
    assert_eq!(engine.take_counts(), Counts::default());
}

// === reading past the engine

#[test]
fn payload_can_be_read_past_the_engine() {
    let mut engine = server_with(&[3]);
    let header = header(Kind::Data, FIN, 3, 1000);
    assert_eq!(engine.direct(), None);
    feed(&mut engine, &header).unwrap();
    assert_eq!(engine.direct(), Some((id(3), 1000)));
    engine.received_direct(400);
    assert_eq!(engine.direct(), Some((id(3), 600)));
    assert_eq!(feed(&mut engine, b"abc").unwrap().len(), 1, "both ways may be mixed");
    engine.received_direct(597);
    assert_eq!(engine.direct(), None);
    assert_eq!(feed(&mut engine, &[]), Ok(vec![Event::Finished { stream: id(3) }]));
    assert_eq!(engine.recv_window(id(3)), Some((START_WINDOW, START_WINDOW - 1000)));
}

#[test]
fn payload_of_counted_bytes_is_not_copied() {
    let mut engine = server_with(&[1]);
    let mut input = bytes::Bytes::from(data(0, 1, &[7; 100]));
    let at = input[HEADER_LEN..].as_ptr();
    let Ok(Some(Event::Data { payload, .. })) = engine.receive(&mut input) else { panic!("no data") };
    assert_eq!(payload.as_ptr(), at);
}
