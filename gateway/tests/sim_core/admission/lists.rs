//! Who is online, for services that ask.

use super::*;

#[test]
fn a_snapshot_comes_as_the_service_keeps_up_and_one_at_a_time() {
    let mut lab = Lab::new(settings());
    let down = Quality { capacity: 2_000, ..Quality::PERFECT };
    let service = lab.dial_by(Bound::Service, 0, Path { up: Quality::PERFECT, down });
    lab.join(service, &service_hello(1, "svc", &[], &[]));
    for id in 1..=60 {
        let peer = lab.dial(Bound::Edge, 0);
        let mut hello = edge_hello(id);
        hello.meta = vec![7; 10_000];
        lab.join(peer, &hello);
    }
    let cards = held(&lab);
    lab.freeze(service, true);
    lab.send(service, FrameType::Presence, 1, &[], &[]);
    lab.send(service, FrameType::Presence, 2, &[], &[]);
    lab.run();
    let held = held(&lab) - cards;
    assert!(held < 100_000, "{held} of 600,000");
    lab.freeze(service, false);
    lab.advance(200 * MILLI);
    let pages = lab.frames(service);
    let refused: Vec<&Note> = pages.iter().filter(|page| page.header.id == 2).collect();
    assert_eq!(refused[0].error(), Some(ErrorCode::Overloaded));
    let listed: usize = pages
        .iter()
        .filter(|p| p.header.id == 1)
        .map(|p| PresencePage::parse(&p.body).unwrap().count())
        .sum();
    assert_eq!(listed, 60);
    lab.close();
}

/// A service reads its list slowly; meanwhile edges move to where the walk over the sessions has been already.
#[test]
fn an_edge_that_reconnects_while_a_list_is_made_is_on_it() {
    let mut lab = Lab::new(settings());
    let down = Quality { capacity: 2_000, ..Quality::PERFECT };
    let service = lab.dial_by(Bound::Service, 0, Path { up: Quality::PERFECT, down });
    lab.join(service, &service_hello(1, "svc", &[], &[]));
    let come = |lab: &mut Lab, shard: u16, id: u64| {
        let peer = lab.dial(Bound::Edge, shard);
        let mut hello = edge_hello(id);
        hello.meta = vec![7; 2_000];
        (peer, lab.join(peer, &hello).epoch)
    };
    let mut newest: BTreeMap<u64, u64> = BTreeMap::new();
    let mut peers = Vec::new();
    for id in 1..=100 {
        let (peer, epoch) = come(&mut lab, u16::from(id > 60), id);
        newest.insert(id, epoch);
        peers.push(peer);
    }
    lab.freeze(service, true);
    lab.send(service, FrameType::Presence, 1, &[], &[]);
    lab.run();
    // Some go for good, some come again at the other shard.
    lab.hang_up(peers[98], Ending::Closed);
    lab.hang_up(peers[99], Ending::Closed);
    for id in 70..=99 {
        newest.insert(id, come(&mut lab, 0, id).1);
    }
    newest.remove(&100);
    lab.freeze(service, false);
    lab.advance(SECOND);
    let pages = lab.frames(service);
    let (last, rest) = pages.split_last().unwrap();
    assert!(!last.header.flags.more() && rest.iter().all(|page| page.header.flags.more()));
    let mut listed: BTreeMap<u64, u64> = BTreeMap::new();
    for page in &pages {
        for info in PresencePage::parse(&page.body).unwrap() {
            assert!(listed.insert(info.edge, info.epoch).is_none_or(|before| before < info.epoch));
        }
    }
    assert_eq!(listed, newest);
    lab.close();
}

#[test]
fn an_empty_snapshot_is_one_empty_page() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "svc", &[], &[]);
    lab.send(service, FrameType::Presence, 1, &[], &[]);
    lab.run();
    let page = lab.expect(service);
    assert!(!page.header.flags.more() && page.body.is_empty() && page.error().is_none());
    lab.close();
}

#[test]
fn locate_tells_the_epoch_of_an_edge_that_is_here() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "svc", &[], &[]);
    let peer = lab.dial(Bound::Edge, 1);
    let epoch = lab.join(peer, &edge_hello(5)).epoch;
    let ask = |lab: &mut Lab, asker: Peer, edge: u64| {
        let mut head = Vec::new();
        Locate { edge, epoch: 0 }.encode(&mut head);
        lab.send(asker, FrameType::Locate, edge, &head, &[]);
        lab.run();
        let answer = lab.expect(asker);
        assert_eq!((answer.header.kind, answer.header.id), (FrameType::Locate, edge));
        Locate::parse(&answer.head).unwrap()
    };
    assert_eq!(ask(&mut lab, service, 5), Locate { edge: 5, epoch });
    assert_eq!(ask(&mut lab, service, 7), Locate { edge: 7, epoch: 0 });
    lab.close();
}

#[test]
fn a_snapshot_lists_who_is_online_and_whoever_it_lists_is_reported_gone() {
    let mut lab = Lab::new(settings());
    let service = lab.service(0, "presence", &PRESENCE, &[]);
    let (mut expected, mut waiting) = (Vec::new(), None);
    for id in 1..=400 {
        let peer = lab.dial(Bound::Edge, u16::from(id % 2 == 0));
        let mut hello = edge_hello(id);
        hello.meta = vec![7; 100];
        hello.labels.insert("zone".to_owned(), "a".to_owned());
        lab.dialer(peer).hello(&hello);
        lab.run();
        let online = lab.expect(service);
        expected.push(id);
        // The last one is still waiting when the list is asked for.
        if id == 400 {
            waiting = Some(online);
        } else {
            lab.answer(service, &online, &[]);
        }
    }
    lab.run();
    lab.send(service, FrameType::Presence, 9, &[], &[]);
    lab.run();
    let pages = lab.frames(service);
    assert!(pages.len() > 3);
    let (last, rest) = pages.split_last().unwrap();
    assert!(!last.header.flags.more() && rest.iter().all(|page| page.header.flags.more()));
    let mut listed = Vec::new();
    for page in &pages {
        assert_eq!((page.header.kind, page.header.id), (FrameType::Presence, 9));
        listed.extend(PresencePage::parse(&page.body).unwrap().map(|info| {
            assert_eq!((info.meta, info.labels().count()), (&[7; 100][..], 1));
            info.edge
        }));
    }
    listed.sort_unstable();
    assert_eq!(listed, expected);
    lab.answer_error(service, &waiting.unwrap(), ErrorCode::Application, "no");
    lab.run();
    assert_eq!(event(&lab.expect(service)).0, "edge_offline", "it was on the list");
    lab.close();
}

#[test]
fn an_edge_that_asks_for_others_breaks_the_protocol() {
    let mut locate = Vec::new();
    Locate { edge: 5, epoch: 0 }.encode(&mut locate);
    for (kind, head) in [(FrameType::Presence, vec![]), (FrameType::Locate, locate)] {
        let mut lab = Lab::new(settings());
        let edge = lab.edge(0, 5);
        lab.send(edge, kind, 3, &head, &[]);
        lab.run();
        let heard = lab.frames(edge);
        assert_eq!(kinds(&heard), [FrameType::GoAway], "{kind:?}");
        let away = GoAway::parse(&heard[0].head).unwrap();
        assert_eq!(away.reason.unwrap().code, ErrorCode::InvalidArgument);
        assert!(lab.ended(edge).is_some());
        lab.close();
    }
}
