//! Sessions beside the first: how they open, carry and close.

use super::*;

#[test]
fn the_session_id_is_the_openers_negotiate_id() {
    let mut scene = Scene::ready();
    let dialogue = scene.open_by_peer(NEGOTIATE);
    assert_eq!(dialogue, DialogueId(NEGOTIATE));
    // Nothing of it is taken before it is accepted.
    assert!(scene.take_on(PacketType::Stream, 6, NEGOTIATE, b"early").is_empty());
    assert!(scene.connection.accept(dialogue));
    assert!(!scene.connection.accept(dialogue));
    let got = scene.read();
    let body = [&[0, 0][..], &NEGOTIATE.to_be_bytes(), &NEGOTIATE.to_be_bytes(), b"{}"].concat();
    assert_eq!(got, [Got { kind: PacketType::SessionAck, id: 5, body }]);
    let events = scene.take_on(PacketType::Stream, 7, NEGOTIATE, b"ping");
    assert!(matches!(&events[..], [Event::Raw(from, bytes)] if *from == dialogue && &bytes[..] == b"ping"));
}

#[test]
fn an_unusable_negotiate_id_is_replaced() {
    let mut scene = Scene::ready();
    scene.dialogue();
    for (negotiate, expected) in [(0, 2), (1, 3), (NEGOTIATE, 4), (17, 17)] {
        assert_eq!(scene.open_by_peer(negotiate), DialogueId(expected));
    }
    // Nor is one of theirs given to ours.
    scene.open_by_peer(5);
    assert_eq!(scene.connection.open("", Content::None, scene.now), Ok(DialogueId(6)));
}

#[test]
fn a_refusal_is_an_acceptance_and_a_dismissal_in_one_write() {
    let mut scene = Scene::ready();
    let dialogue = scene.open_by_peer(NEGOTIATE);
    scene.connection.refuse(dialogue);
    let got = scene.read();
    assert_eq!(kinds(&got), [PacketType::SessionAck, PacketType::Dismiss]);
    assert_eq!((number_at(&got[0].body, 10), got[1].session()), (NEGOTIATE, NEGOTIATE));
    assert!(scene.take_on(PacketType::DismissAck, got[1].id, NEGOTIATE, b"{}").is_empty());
    assert!(scene.take_on(PacketType::Dismiss, 9, NEGOTIATE, b"{}").is_empty());
    assert_eq!(scene.read(), [Got { kind: PacketType::DismissAck, id: 9, body: on(NEGOTIATE, b"{}") }]);
}

#[test]
fn too_many_sessions_are_refused_the_same_way() {
    let mut scene = Scene::ready_with(Limits { dialogues: 1, ..Limits::default() });
    scene.dialogue();
    let body = [&[0, 0x10][..], &(NEGOTIATE + 1).to_be_bytes(), b"{}"].concat();
    assert!(scene.take(PacketType::Session, 5, &body).is_empty());
    assert_eq!(kinds(&scene.read()), [PacketType::SessionAck, PacketType::Dismiss]);
}

#[test]
fn an_offer_that_nobody_decides_is_refused_in_time() {
    let mut scene = Scene::ready();
    let dialogue = scene.open_by_peer(NEGOTIATE);
    let events = scene.pass(30 * SECOND);
    assert!(matches!(events[..], [Event::Closed { dialogue: closed }] if closed == dialogue));
    assert_eq!(kinds(&scene.read()), [PacketType::SessionAck, PacketType::Dismiss]);
}

#[test]
fn data_behind_a_dismiss_is_delivered_until_the_last_acknowledgement() {
    let mut scene = Scene::ready();
    let dialogue = scene.dialogue();
    assert!(scene.take_on(PacketType::Dismiss, 8, NEGOTIATE, b"{}").is_empty());
    let got = scene.read();
    assert_eq!(kinds(&got), [PacketType::DismissAck, PacketType::Dismiss]);
    assert!(!scene.connection.send_raw(dialogue, bytes::Bytes::from_static(b"x"), false));
    let events = scene.take_on(PacketType::Stream, 9, NEGOTIATE, b"last");
    assert!(matches!(&events[..], [Event::Raw(_, bytes)] if &bytes[..] == b"last"));
    let events = scene.take_on(PacketType::DismissAck, got[1].id, NEGOTIATE, b"{}");
    assert!(matches!(events[..], [Event::Closed { dialogue: closed }] if closed == dialogue));
    assert!(scene.take_on(PacketType::Stream, 10, NEGOTIATE, b"late").is_empty());
}

#[test]
fn a_close_goes_behind_what_is_queued_and_waits_for_both_dismisses() {
    let mut scene = Scene::ready();
    let dialogue = scene.dialogue();
    assert!(scene.connection.send_raw(dialogue, bytes::Bytes::from_static(b"last"), true));
    scene.connection.close(dialogue, scene.now);
    let got = scene.read();
    assert_eq!(kinds(&got), [PacketType::Stream, PacketType::Dismiss]);
    assert_eq!(scene.reported, [(NEGOTIATE, 4)]);
    // What still comes is of no interest.
    assert!(scene.take_on(PacketType::Stream, 9, NEGOTIATE, b"x").is_empty());
    assert!(scene.take_on(PacketType::DismissAck, got[1].id, NEGOTIATE, b"{}").is_empty());
    let events = scene.take_on(PacketType::Dismiss, 10, NEGOTIATE, b"{}");
    assert!(matches!(events[..], [Event::Closed { dialogue: closed }] if closed == dialogue));
    assert_eq!(kinds(&scene.read()), [PacketType::DismissAck]);
}

#[test]
fn no_message_follows_our_dismiss() {
    let mut scene = Scene::ready_with(Limits { unacked: 1, ..Limits::default() });
    let dialogue = scene.dialogue();
    let sent = [0, 1].map(|_| scene.connection.publish(dialogue, 1, &value(b"x"), scene.now).unwrap());
    scene.connection.close(dialogue, scene.now);
    assert_eq!(kinds(&scene.read()), [PacketType::Message, PacketType::Dismiss]);
    scene.take_on(PacketType::MessageAck, sent[0].packet, NEGOTIATE, b"{}");
    assert_eq!(scene.read(), []);
}

#[test]
fn what_is_queued_may_take_longer_than_the_peers_time_to_answer() {
    let mut scene = Scene::ready();
    let dialogue = scene.dialogue();
    scene.connection.send_raw(dialogue, bytes::Bytes::from(vec![b'x'; 100]), true);
    scene.connection.close(dialogue, scene.now);
    // The peer reads slowly.
    scene.pass(35 * SECOND);
    assert_eq!(kinds(&scene.read()), [PacketType::Stream, PacketType::Dismiss]);
    scene.take(PacketType::Heartbeat, 1, b"");
    assert!(scene.pass(29 * SECOND).is_empty());
    assert!(matches!(scene.pass(SECOND)[..], [Event::Closed { .. }]));
}

#[test]
fn both_may_close_at_once() {
    let mut scene = Scene::ready();
    let dialogue = scene.dialogue();
    scene.connection.close(dialogue, scene.now);
    let dismiss = scene.read()[0].id;
    assert!(scene.take_on(PacketType::Dismiss, 10, NEGOTIATE, b"{}").is_empty());
    assert_eq!(kinds(&scene.read()), [PacketType::DismissAck]);
    let events = scene.take_on(PacketType::DismissAck, dismiss, NEGOTIATE, b"{}");
    assert!(matches!(events[..], [Event::Closed { .. }]));
}

#[test]
fn a_dismiss_that_nobody_acknowledges_ends_in_time() {
    let mut scene = Scene::ready();
    let dialogue = scene.dialogue();
    scene.connection.close(dialogue, scene.now);
    scene.read();
    assert!(scene.pass(29 * SECOND).is_empty());
    assert!(matches!(scene.pass(SECOND)[..], [Event::Closed { .. }]));
}

#[test]
fn sessions_are_opened_one_after_the_other() {
    let mut scene = Scene::ready();
    let ids = [0, 1].map(|_| scene.connection.open("p", Content::Plain(b"m"), scene.now).unwrap());
    assert_eq!(ids, [DialogueId(2), DialogueId(3)]);
    let got = scene.read();
    let body = [&[0, 0][..], &2_u64.to_be_bytes(), br#"{"meta":"bQ==","peer":"p"}"#].concat();
    assert_eq!((&got[0].body, got.len()), (&body, 1));
    let ack = |id: u64| [&[0, 0][..], &id.to_be_bytes(), &id.to_be_bytes(), b"{}"].concat();
    assert!(!scene.connection.send_raw(ids[0], bytes::Bytes::from_static(b"early"), false));
    let events = scene.take(PacketType::SessionAck, got[0].id, &ack(2));
    assert!(
        matches!(events[..], [Event::Opened { opening, dialogue }] if opening == ids[0] && dialogue == ids[0])
    );
    assert_eq!(kinds(&scene.read()), [PacketType::Session]);
    assert!(scene.connection.send_raw(ids[0], bytes::Bytes::from_static(b"now"), false));
    assert_eq!(kinds(&scene.read()), [PacketType::Stream]);
}

#[test]
fn a_session_that_is_not_answered_fails_and_holds_up_the_next() {
    let mut scene = Scene::ready();
    let [first, second] = [0, 1].map(|_| scene.connection.open("", Content::None, scene.now).unwrap());
    let session = scene.read().remove(0);
    scene.pass(20 * SECOND);
    scene.take(PacketType::Heartbeat, 1, b"");
    scene.read();
    let events = scene.pass(10 * SECOND);
    let failed = |id| events.iter().any(|e| matches!(e, Event::OpenFailed { dialogue } if *dialogue == id));
    assert!(failed(first) && failed(second) && events.len() == 2, "{events:?}");
    let third = scene.connection.open("", Content::None, scene.now).unwrap();
    assert_eq!(scene.read(), []);
    // The late answer: that session is ended, and the next one opened.
    let ack = [&[0, 0][..], &2_u64.to_be_bytes(), &2_u64.to_be_bytes(), b"{}"].concat();
    assert!(scene.take(PacketType::SessionAck, session.id, &ack).is_empty());
    let got = scene.read();
    assert_eq!(kinds(&got), [PacketType::Session, PacketType::Dismiss]);
    assert_eq!((number_at(&got[0].body, 2), got[1].session()), (third.0, first.0));
}

#[test]
fn a_peer_that_never_uses_sessions_gets_no_more() {
    let mut scene = Scene::ready_with(Limits { silent: 2, ..Limits::default() });
    for id in [2_u64, 3] {
        scene.connection.open("", Content::None, scene.now).unwrap();
        let session = scene.read().remove(0);
        let ack = [&[0, 0][..], &id.to_be_bytes(), &id.to_be_bytes(), b"{}"].concat();
        scene.take(PacketType::SessionAck, session.id, &ack);
    }
    assert_eq!(scene.connection.open("", Content::None, scene.now), Err(OpenError::Silent));
    scene.take_on(PacketType::Stream, 9, 3, b"x");
    assert!(scene.connection.open("", Content::None, scene.now).is_ok());
}

#[test]
fn no_opener_takes_the_places_of_all_others() {
    let mut scene = Scene::ready();
    let mut opens = |opener, tries: usize| {
        let open = || scene.connection.open_for(opener, "", Content::None, scene.now).is_ok();
        std::iter::repeat_with(open).take(tries).filter(|taken| *taken).count()
    };
    // Three quarters of 32; of the eight left; of the two.
    assert_eq!([opens(7, 40), opens(8, 40), opens(9, 40), opens(10, 40)], [24, 6, 2, 0]);
}

#[test]
fn sessions_that_wait_to_be_opened_count_as_unused() {
    let mut scene = Scene::ready_with(Limits { silent: 2, ..Limits::default() });
    let mut open = || scene.connection.open("", Content::None, scene.now);
    // The first is being opened, the second waits for it.
    assert_eq!([open(), open()], [Ok(DialogueId(2)), Ok(DialogueId(3))]);
    assert_eq!(open(), Err(OpenError::Silent));
    for id in [2_u64, 3] {
        let session = scene.read().remove(0);
        let ack = [&[0, 0][..], &id.to_be_bytes(), &id.to_be_bytes(), b"{}"].concat();
        scene.take(PacketType::SessionAck, session.id, &ack);
        assert_eq!(scene.connection.open("", Content::None, scene.now), Err(OpenError::Silent));
    }
    assert_eq!(scene.read(), []);
}

#[test]
fn a_client_learns_the_name_of_its_session() {
    let mut scene = Scene::client();
    let opening = scene.connection.open("svc", Content::None, scene.now).unwrap();
    assert!(opening.0 >= 1 << 32);
    let session = scene.read().remove(0);
    assert_eq!(session.body[1], 0x10);
    let ack = [&[0, 0][..], &opening.0.to_be_bytes(), &NEGOTIATE.to_be_bytes(), b"{}"].concat();
    let events = scene.take(PacketType::SessionAck, session.id, &ack);
    let [Event::Opened { opening: opened, dialogue }] = events[..] else { panic!("{events:?}") };
    assert_eq!((opened, dialogue), (opening, DialogueId(NEGOTIATE)));
    assert!(scene.connection.send_raw(dialogue, bytes::Bytes::from_static(b"x"), false));
    assert_eq!(scene.read()[0].session(), NEGOTIATE);
}

#[test]
fn raw_bytes_go_in_few_packets() {
    let mut scene = Scene::ready_with(Limits { stream_packet: 1_000, ..Limits::default() });
    let dialogue = scene.dialogue();
    for _ in 0..10 {
        assert!(scene.connection.send_raw(dialogue, bytes::Bytes::from(vec![b'x'; 70]), true));
    }
    assert!(scene.connection.send_raw(dialogue, bytes::Bytes::new(), true));
    assert_eq!(scene.connection.raw_bytes(dialogue), 700);
    let got = scene.read();
    assert_eq!((got.len(), got[0].body.len()), (1, 708));
    assert_eq!(scene.reported, [(NEGOTIATE, 700)]);
    // Eight packets at once, one of which is through already.
    scene.connection.send_raw(dialogue, bytes::Bytes::from(vec![b'x'; 10_000]), false);
    assert_eq!(scene.read().len(), 7);
    assert!(!scene.connection.wants_write(scene.now));
    // Then one per millisecond, and one for each of the peer's.
    for _ in 0..2 {
        assert!(scene.connection.poll_timeout() <= scene.now + MS);
        scene.pass(MS);
        assert_eq!(scene.read().len(), 1);
    }
    assert!(!scene.connection.wants_write(scene.now));
    scene.take_on(PacketType::Stream, 9, NEGOTIATE, b"read some");
    assert_eq!(scene.read().len(), 1);
    assert!(!scene.connection.wants_write(scene.now));
    // Idle, it may send eight at once again, not more.
    scene.connection.send_raw(dialogue, bytes::Bytes::from(vec![b'x'; 20_000]), false);
    scene.pass(1_000 * MS);
    assert_eq!(scene.read().len(), 8);
}

#[test]
fn paced_bytes_are_waited_for_whenever_they_were_queued() {
    // As long as what is asked for at once, so that nothing is left to be looked at when the last packet of a burst is taken.
    let mut scene = Scene::ready_with(Limits { stream_packet: 64 << 10, ..Limits::default() });
    let dialogue = scene.dialogue();
    scene.connection.send_raw(dialogue, bytes::Bytes::from(vec![b'x'; 9 * (64 << 10)]), false);
    assert_eq!(scene.read().len(), 8);
    assert!(!scene.connection.wants_write(scene.now) && scene.connection.poll_timeout() <= scene.now + MS);
    scene.pass(MS);
    assert_eq!(scene.read().len(), 1);
    // Nothing is queued until after the connection was last told the time, when something else was due.
    scene.connection.wake = scene.now;
    scene.connection.handle_timeout::<bytes::Bytes>(scene.now);
    scene.connection.send_raw(dialogue, bytes::Bytes::from_static(b"more"), false);
    assert!(!scene.connection.wants_write(scene.now) && scene.connection.poll_timeout() <= scene.now + MS);
    scene.pass(MS);
    assert_eq!(scene.read().len(), 1);
}

#[test]
fn raw_bytes_that_nobody_takes_stop_the_reading() {
    let mut scene = Scene::ready_with(Limits { unreleased: 1_000, ..Limits::default() });
    let dialogue = scene.dialogue();
    scene.take_on(PacketType::Stream, 9, NEGOTIATE, &[0; 999]);
    assert!(scene.connection.wants_read());
    scene.take_on(PacketType::Stream, 9, NEGOTIATE, &[0; 1]);
    assert!(!scene.connection.wants_read());
    scene.connection.release(dialogue, 1, scene.now);
    assert!(scene.connection.wants_read());
    scene.take_on(PacketType::Stream, 9, NEGOTIATE, &[0; 500]);
    assert!(!scene.connection.wants_read());
    scene.connection.close(dialogue, scene.now);
    assert!(scene.connection.wants_read());
}

/// A server that holds at most 1,000 raw bytes, for 30 s, and sessions of its peer.
fn stalling(sessions: u64) -> (Scene, Vec<DialogueId>) {
    let mut scene = Scene::ready_with(Limits { unreleased: 1_000, stall: 30 * SECOND, ..Limits::default() });
    let dialogues: Vec<DialogueId> = (0..sessions).map(|at| scene.open_by_peer(NEGOTIATE + at)).collect();
    assert!(dialogues.iter().all(|dialogue| scene.connection.accept(*dialogue)));
    scene.read();
    (scene, dialogues)
}

/// The peer writes as much as is read of it.
fn fill(scene: &mut Scene, dialogue: DialogueId) {
    while scene.connection.wants_read() {
        assert_eq!(scene.take_on(PacketType::Stream, 9, dialogue.0, &[0; 100]).len(), 1);
    }
}

#[test]
fn a_session_that_is_read_too_slowly_gives_way_to_the_others() {
    for drip in [0, 1, 30] {
        let (mut scene, dialogues) = stalling(2);
        let slow = dialogues[0];
        fill(&mut scene, slow);
        let mut stalled = Vec::new();
        // However steadily it drips: nothing of it may wait for longer than that. What comes behind is read meanwhile.
        for second in 0..62 {
            stalled.extend(scene.pass(SECOND));
            if !stalled.is_empty() {
                assert!(second >= 29, "{second}");
                break;
            }
            scene.connection.release(slow, drip, scene.now);
            fill(&mut scene, slow);
        }
        assert!(
            matches!(stalled[..], [Event::Stalled { dialogue }] if dialogue == slow),
            "{drip}: {stalled:?}"
        );
        assert!(scene.connection.wants_read());
        let got = scene.read();
        assert!(got.iter().any(|got| got.kind == PacketType::Dismiss && got.session() == slow.0), "{got:?}");
        // The other one has not ended, and what still comes on this is dropped.
        assert!(scene.take_on(PacketType::Stream, 9, slow.0, &[0; 5_000]).is_empty());
        assert_eq!(scene.take_on(PacketType::Stream, 9, dialogues[1].0, b"x").len(), 1);
    }
}

#[test]
fn a_session_that_holds_its_writer_and_moves_on_is_left_alone() {
    let (mut scene, dialogues) = stalling(2);
    // This one is read by nobody, but has little; that is not why the socket is not read.
    scene.take_on(PacketType::Stream, 9, dialogues[1].0, &[0; 100]);
    for _ in 0..200 {
        fill(&mut scene, dialogues[0]);
        scene.take(PacketType::Heartbeat, 1, b"");
        scene.read();
        assert!(scene.pass(SECOND).is_empty());
        scene.connection.release(dialogues[0], 40, scene.now);
    }
}

#[test]
fn what_waits_on_a_session_ends_with_it() {
    let mut scene = Scene::ready_with(Limits { unacked: 1, ..Limits::default() });
    let dialogue = scene.dialogue();
    for _ in 0..3 {
        scene.connection.publish(dialogue, 1, &value(b"x"), scene.now).unwrap();
    }
    let events = scene.take_on(PacketType::Request, 9, NEGOTIATE, b"{}");
    let [Event::Request(operation)] = &events[..] else { panic!("{events:?}") };
    let operation = operation.id;
    scene.connection.close(dialogue, scene.now);
    let dismiss = scene.read().pop().unwrap();
    scene.take_on(PacketType::Dismiss, 10, NEGOTIATE, b"{}");
    scene.take_on(PacketType::DismissAck, dismiss.id, NEGOTIATE, b"{}");
    scene.read();
    assert_eq!(scene.connection.respond(operation, &value(b"x")), Answered::Late);
    assert_eq!(scene.connection.held(), 0);
}

// --- the end ---
