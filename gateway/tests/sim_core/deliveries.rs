//! Messages that come in by the door of the async world: who gets them, and what is said of them.

use frontier_gateway::{
    core::{Bound, Settings, delivery::Delivery, message::Msg},
    sim::{
        lab::{Lab, edge_hello},
        net::{Ending, Quality},
        stage::{Fate, Path},
    },
};
use frontier_wire::{
    error::ErrorCode,
    geminio::{connection::Event, data::Object},
    native::{
        frame::{Flags, FrameType},
        head::{CallBuilder, Sender},
    },
};

use super::{MILLI, SECOND, head, held, kinds, settings};

fn fate(fate: &Fate) -> Option<Result<(), ErrorCode>> {
    *fate.lock()
}

#[test]
fn an_edge_gets_it_and_its_done_is_told() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let edge = lab.edge(shard, 5);
        let first = lab.stage.deliver(5, "t", b"one", 4 * SECOND);
        let second = lab.stage.deliver(5, "t", b"two", SECOND);
        lab.run();
        let heard = lab.frames(edge);
        assert_eq!(kinds(&heard), [FrameType::Publish, FrameType::Publish]);
        let call = heard[0].call();
        assert_eq!((call.name, call.timeout_ms, call.sender()), ("t", 4_000, None::<Sender>));
        assert_eq!(call.headers().collect::<Vec<_>>(), [("unit", "C")]);
        assert_eq!([&*heard[0].body, &*heard[1].body], [b"one", b"two"], "in order");
        assert_eq!((fate(&first), fate(&second)), (None, None), "nobody has said that it is done");
        assert!(held(&lab) > 0);
        lab.answer_error(edge, &heard[1], ErrorCode::Application, "full");
        lab.run();
        assert_eq!((fate(&first), fate(&second)), (None, Some(Err(ErrorCode::Application))));
        lab.answer(edge, &heard[0], &[]);
        lab.run();
        assert_eq!(fate(&first), Some(Ok(())));
        lab.close();
    }
}

#[test]
fn a_geminio_edge_gets_it_and_its_done_is_told() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let edge = lab.guest_edge(shard, 5);
        let told = lab.stage.deliver(5, "t", &[9; 30_000], 4 * SECOND);
        lab.run();
        let events = lab.events(edge);
        let Some(Event::Message(operation)) = events.first() else { panic!("{events:?}") };
        assert_eq!((operation.data.topic(), fate(&told)), ("t", None));
        let id = operation.id;
        let _ = lab.guest(edge).conn.respond(id, &Object::default());
        lab.run();
        assert_eq!(fate(&told), Some(Ok(())));
        lab.close();
    }
}

#[test]
fn what_is_not_done_in_time_is_told_and_taken_back() {
    let mut lab = Lab::new(settings());
    let edge = lab.edge(1, 5);
    let told = lab.stage.deliver(5, "t", b"x", 500 * MILLI);
    lab.advance(400 * MILLI);
    assert_eq!(fate(&told), None);
    lab.advance(200 * MILLI);
    assert_eq!(fate(&told), Some(Err(ErrorCode::DeadlineExceeded)));
    let heard = lab.frames(edge);
    assert_eq!(kinds(&heard), [FrameType::Publish, FrameType::Cancel]);
    // A done that comes too late changes nothing.
    lab.answer(edge, &heard[0], &[]);
    lab.run();
    assert_eq!(fate(&told), Some(Err(ErrorCode::DeadlineExceeded)));
    lab.close();
}

#[test]
fn an_edge_that_is_not_here_is_told_at_once() {
    let mut lab = Lab::new(settings());
    lab.edge(0, 5);
    assert_eq!(fate(&lab.stage.deliver(6, "t", b"x", SECOND)), Some(Err(ErrorCode::EdgeNotOnline)));
    lab.close();
}

#[test]
fn an_edge_that_leaves_in_the_middle_is_told() {
    for shard in [0, 1] {
        let mut lab = Lab::new(settings());
        let edge = lab.edge(shard, 5);
        let told = lab.stage.deliver(5, "t", b"x", 30 * SECOND);
        lab.run();
        assert_eq!(lab.frames(edge).len(), 1);
        lab.hang_up(edge, Ending::Reset);
        lab.run();
        assert_eq!(fate(&told), Some(Err(ErrorCode::SessionClosed)));
        assert_eq!(held(&lab), 0);
        lab.close();
    }
}

/// The edge is elsewhere by the time its shard looks: the delivery follows it.
#[test]
fn a_delivery_follows_an_edge_to_another_shard() {
    let mut lab = Lab::new(settings());
    let old = lab.edge(0, 5);
    let gone = lab.stage.shared().registry.edge(5).unwrap();
    let new = lab.dial(Bound::Edge, 1);
    lab.join(new, &edge_hello(5));
    assert_ne!(lab.stage.shared().registry.edge(5), Some(gone));
    let told = Fate::default();
    let cell = told.clone();
    let delivery = Delivery::new(lab.stage.shared(), 5, "t", [], b"x".as_slice().into()).unwrap();
    let settle = frontier_gateway::core::delivery::Settle::new(move |outcome| *cell.lock() = Some(outcome));
    let (_, msg) = delivery.post(lab.stage.shared(), SECOND, settle).unwrap();
    let Msg::Deliver { delivery, .. } = msg else { panic!("{msg:?}") };
    lab.stage.post(0, Msg::Deliver { target: gone, delivery });
    lab.run();
    assert_eq!(lab.frames(old).iter().filter(|note| note.header.kind == FrameType::Publish).count(), 0);
    let heard = lab.expect(new);
    lab.answer(new, &heard, &[]);
    lab.run();
    assert_eq!(fate(&told), Some(Ok(())));
    lab.close();
}

#[test]
fn a_large_body_goes_in_pieces_and_one_that_is_too_long_not_at_all() {
    let mut lab = Lab::new(Settings { body: 400_000, ..settings() });
    let edge = lab.edge(1, 5);
    let told = lab.stage.deliver(5, "t", &[7; 300_000], 30 * SECOND);
    let mut got = 0;
    let mut first = None;
    while got < 300_000 {
        lab.run();
        let notes = lab.frames(edge);
        assert!(!notes.is_empty(), "{got} bytes came");
        for note in notes {
            got += note.body.len();
            let id = note.header.id;
            first.get_or_insert(note);
            lab.grant(edge, id, Flags::NONE, 100_000);
        }
    }
    lab.answer(edge, &first.unwrap(), &[]);
    lab.run();
    assert_eq!(fate(&told), Some(Ok(())));
    let long = Delivery::new(lab.stage.shared(), 5, "t", [], vec![7; 400_001].into());
    assert!(long.unwrap_err().contains("limits.body"));
    let long = Delivery::new(lab.stage.shared(), 5, &"t".repeat(20_000), [], b"".as_slice().into());
    assert!(long.unwrap_err().contains("limits.head"));
    lab.close();
}

#[test]
fn an_edge_that_does_not_read_is_given_no_more_than_its_outbox() {
    let mut lab = Lab::new(Settings { outbox: 100_000, ..settings() });
    let down = Quality { capacity: 1_000, ..Quality::PERFECT };
    let edge = lab.dial_by(Bound::Edge, 0, Path { up: Quality::PERFECT, down });
    lab.join(edge, &edge_hello(5));
    lab.freeze(edge, true);
    let fates: Vec<Fate> = (0..40).map(|_| lab.stage.deliver(5, "t", &[1; 10_000], SECOND)).collect();
    lab.run();
    let full = fates.iter().filter(|told| fate(told) == Some(Err(ErrorCode::Overloaded))).count();
    assert!((20..40).contains(&full), "{full} refused");
    lab.advance(2 * SECOND);
    assert!(fates.iter().all(|told| fate(told).is_some_and(|outcome| outcome.is_err())));
    lab.close();
}

/// The process ends: who asked hears of it, whatever the edges do.
#[test]
fn the_end_of_the_shards_is_told() {
    let mut lab = Lab::new(settings());
    let edge = lab.edge(1, 5);
    let sent = lab.stage.deliver(5, "t", b"x", 30 * SECOND);
    lab.run();
    assert_eq!(lab.frames(edge).len(), 1);
    let in_the_inbox = lab.stage.deliver(5, "t", b"y", 30 * SECOND);
    drop(lab);
    for told in [sent, in_the_inbox] {
        assert_eq!(fate(&told), Some(Err(ErrorCode::SessionClosed)));
    }
}

#[test]
fn services_still_publish_to_the_same_edge() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "svc", &[], &[]);
    let edge = lab.edge(1, 5);
    let told = lab.stage.deliver(5, "t", b"x", SECOND);
    lab.send(service, FrameType::Publish, 1, &head(&CallBuilder::new("t").edge(5)), b"y");
    lab.run();
    for note in lab.frames(edge) {
        lab.answer(edge, &note, &[]);
    }
    lab.run();
    assert_eq!(fate(&told), Some(Ok(())));
    assert_eq!(kinds(&lab.frames(service)), [FrameType::Ack]);
    lab.close();
}
