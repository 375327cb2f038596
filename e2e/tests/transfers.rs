//! Long bodies that stop on the way, and edges that race for one ID: what the simulation plays by the thousand, on real sockets.
//!
//! Every test has two shards and an edge on each, so that a body crosses from one shard to the other as well as not.

use std::{
    sync::{Arc, Barrier},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::{Config, Gateway},
    peer::{Dial, Incoming, Peer, Worker},
    wait::{SOON, until},
};
use frontier_wire::{
    error::ErrorCode,
    native::{
        frame::{Flags, FrameType, INITIAL_CREDIT},
        proto,
    },
};
use parking_lot::Mutex;
use prost::Message;

/// What a sender may send before it is given credit.
const WINDOW: usize = INITIAL_CREDIT as usize;
/// Four times that.
const BODY: usize = 1 << 20;
/// A grant that ends in the middle of a fragment.
const GRANT: usize = 100_000;
/// What tables of operations may keep of the memory held when nothing is under way any more.
const TABLES: f64 = 8_192.0;
/// Edges that race.
const RACERS: usize = 8;

/// A body of which no two parts are equal.
fn body() -> Vec<u8> {
    (0..BODY / 4).flat_map(|n| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes()).collect()
}

/// Plays `scene` between a service and an edge of the same shard, and of another; what the gateway holds for them is given back.
fn between(scene: impl Fn(&mut Peer, &mut Peer) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let mut service = Dial::service(gateway.services(), "s")?.methods(&["m"]).connect()?;
    // The shard with the fewest sessions takes the next.
    let mut edges = [Dial::edge(gateway.edges())?.connect()?, Dial::edge(gateway.edges())?.connect()?];
    let held = gateway.metric("frontier_memory_held_bytes", &[])?;
    for edge in &mut edges {
        scene(edge, &mut service)?;
        pass(edge, &mut service)?;
        let mut now = Ok(0.0);
        until("memory given back", SOON, || {
            now = gateway.metric("frontier_memory_held_bytes", &[]);
            now.as_ref().is_ok_and(|now| *now <= held + TABLES).then_some(())
        })
        .with_context(|| format!("{held} bytes held before, now {now:?}"))?;
    }
    Ok(())
}

/// Small calls pass, whatever else waits.
fn pass(edge: &mut Peer, service: &mut Peer) -> anyhow::Result<()> {
    let up = edge.request("m", b"up")?;
    let (theirs, _, body) = service.operation(SOON)?;
    service.respond(theirs, &body)?;
    assert_eq!(edge.answer(up, SOON)?, Ok(b"up".to_vec()));
    let down = service.request_edge(edge.id(), "m", b"down")?;
    let (theirs, _, body) = edge.operation(SOON)?;
    edge.respond(theirs, &body)?;
    assert_eq!(service.answer(down, SOON)?, Ok(b"down".to_vec()));
    Ok(())
}

/// Waits until so many bytes of the one body have come; no more follow, though both sides go on. Returns its ID.
fn stops_at(bytes: usize, receiver: &mut Peer, sender: &mut Peer) -> anyhow::Result<u64> {
    let go_on = |receiver: &mut Peer, sender: &mut Peer| sender.sync(SOON).and_then(|()| receiver.sync(SOON));
    until("the body up to where credit ends", SOON, || {
        let alive = go_on(receiver, sender);
        let come = receiver.unfinished().first().is_some_and(|(_, come)| *come >= bytes);
        (come || alive.is_err()).then_some(alive)
    })??;
    for _ in 0..20 {
        go_on(receiver, sender)?;
    }
    let [(id, come)] = receiver.unfinished()[..] else {
        anyhow::bail!("bodies under way: {:?}", receiver.unfinished())
    };
    assert_eq!(come, bytes, "bytes without credit");
    Ok(id)
}

#[test]
fn a_call_whose_receiver_gives_no_credit_stops_and_can_be_cancelled() -> anyhow::Result<()> {
    between(|edge, service| {
        service.withhold_credit();
        let call = edge.request("m", &body())?;
        let theirs = stops_at(WINDOW, service, edge)?;
        pass(edge, service)?;
        service.grant(theirs, Flags::NONE, GRANT)?;
        stops_at(WINDOW + GRANT, service, edge)?;
        pass(edge, service)?;
        edge.cancel(call)?;
        assert_eq!(edge.answer(call, SOON)?.err().context("an answer")?.code, ErrorCode::Cancelled);
        assert_eq!(service.frame(FrameType::Cancel, SOON)?.id, theirs);
        assert_eq!(service.unfinished(), []);
        service.fail(FrameType::Response, theirs, ErrorCode::Cancelled, "")
    })
}

#[test]
fn an_answer_whose_caller_gives_no_credit_stops_and_can_be_cancelled() -> anyhow::Result<()> {
    between(|edge, service| {
        edge.withhold_credit();
        let call = edge.request("m", b"all of it")?;
        let (theirs, ..) = service.operation(SOON)?;
        service.respond(theirs, &body())?;
        assert_eq!(stops_at(WINDOW, edge, service)?, call);
        pass(edge, service)?;
        edge.grant(call, Flags::REPLY, GRANT)?;
        stops_at(WINDOW + GRANT, edge, service)?;
        pass(edge, service)?;
        edge.cancel(call)?;
        assert_eq!(edge.answer(call, SOON)?.err().context("an answer")?.code, ErrorCode::Cancelled);
        assert_eq!(service.frame(FrameType::Cancel, SOON)?.id, theirs);
        Ok(())
    })
}

#[test]
fn without_credit_both_ways_small_calls_pass_and_with_it_both_bodies_arrive() -> anyhow::Result<()> {
    between(|edge, service| {
        edge.withhold_credit();
        service.withhold_credit();
        let up = edge.request("m", &body())?;
        let down = service.request_edge(edge.id(), "m", &body())?;
        let at_service = stops_at(WINDOW, service, edge)?;
        let at_edge = stops_at(WINDOW, edge, service)?;
        pass(edge, service)?;
        service.grant(at_service, Flags::NONE, BODY - WINDOW)?;
        edge.grant(at_edge, Flags::NONE, BODY - WINDOW)?;
        until("both bodies", SOON, || {
            let alive = edge.sync(SOON).and_then(|()| service.sync(SOON));
            let come = edge.unfinished().is_empty() && service.unfinished().is_empty();
            (come || alive.is_err()).then_some(alive)
        })??;
        for (receiver, id) in [(&mut *service, at_service), (&mut *edge, at_edge)] {
            let (theirs, _, come) = receiver.operation(SOON)?;
            assert_eq!(theirs, id);
            ensure!(come == body(), "a body of {} bytes arrived otherwise", come.len());
            receiver.respond(theirs, b"ok")?;
        }
        assert_eq!(edge.answer(up, SOON)?, Ok(b"ok".to_vec()));
        assert_eq!(service.answer(down, SOON)?, Ok(b"ok".to_vec()));
        Ok(())
    })
}

#[test]
fn a_body_given_up_in_the_middle_reaches_its_receiver_with_the_reason() -> anyhow::Result<()> {
    between(|edge, service| {
        service.withhold_credit();
        edge.withhold_credit();
        let call = edge.request("m", &body())?;
        let theirs = stops_at(WINDOW, service, edge)?;
        edge.abort(FrameType::Request, call, ErrorCode::Application, "disk gone")?;
        let (id, why, come) = service.wait("the end of the body", SOON, |incoming| match incoming {
            Incoming::Operation { id, call, body, aborted: true, .. } => {
                Some((*id, call.error.clone(), body.len()))
            }
            _ => None,
        })?;
        let why = why.context("no reason")?;
        assert_eq!((id, why.text.as_str(), come), (theirs, "disk gone", WINDOW));
        assert_eq!(why.code, ErrorCode::Application.to_wire().cast_signed());
        // It is answered all the same.
        service.fail(FrameType::Response, theirs, ErrorCode::Application, "a part is missing")?;
        assert_eq!(edge.answer(call, SOON)?.err().context("an answer")?.text, "a part is missing");
        // And the other way.
        let call = edge.request("m", b"all of it")?;
        let (theirs, ..) = service.operation(SOON)?;
        service.respond(theirs, &body())?;
        stops_at(WINDOW, edge, service)?;
        service.abort(FrameType::Response, theirs, ErrorCode::Application, "disk gone")?;
        let refusal = edge.answer(call, SOON)?.err().context("an answer")?;
        assert_eq!((refusal.code, refusal.text.as_str()), (ErrorCode::Application, "disk gone"));
        Ok(())
    })
}

/// What a service was told of edges: whether one came or went, and of which session.
type Events = Arc<Mutex<Vec<(bool, proto::EdgeInfo)>>>;

/// A service that hears who comes and goes and lets everybody in.
fn watch(gateway: &Gateway, events: &Events) -> anyhow::Result<Worker> {
    let dial = Dial::service(gateway.services(), "watch")?.methods(&["edge_online", "edge_offline"]);
    let events = Arc::clone(events);
    Ok(Worker::spawn(dial.connect()?, move |peer, incoming| {
        if let Incoming::Operation { id, call, body, .. } = incoming {
            let info = proto::EdgeInfo::decode(body.as_slice())?;
            events.lock().push((call.name == "edge_online", info));
            peer.respond(id, &[])?;
        }
        Ok(())
    }))
}

#[test]
fn of_edges_that_race_for_one_id_the_newest_stays_and_all_others_are_told() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new().shards(2))?;
    let events = Events::default();
    let watching = watch(&gateway, &events)?;
    let mut service = Dial::service(gateway.services(), "s")?.connect()?;
    let mut holder = Dial::edge(gateway.edges())?.connect()?;
    let id = holder.id();
    let mut welcomed = vec![holder.welcome().epoch];
    for _ in 0..3 {
        let ticket = holder.welcome().ticket.clone();
        let dial = Dial::edge(gateway.edges())?.with(|hello| hello.ticket = ticket);
        let start = Arc::new(Barrier::new(RACERS));
        let racers: Vec<_> = (0..RACERS)
            .map(|_| {
                let (dial, start) = (dial.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    dial.attempt()
                })
            })
            .collect();
        let mut welcome = vec![holder];
        for racer in racers {
            match racer.join().map_err(|_| anyhow::anyhow!("a racer panicked"))?? {
                Ok(peer) => {
                    welcomed.push(peer.welcome().epoch);
                    welcome.push(peer);
                }
                // Overtaken before it was welcome.
                Err(refusal) => assert_eq!(refusal.code, ErrorCode::SessionClosed, "{refusal:?}"),
            }
        }
        welcome.sort_by_key(|peer| peer.welcome().epoch);
        holder = welcome.pop().context("nobody is welcome")?;
        ensure!(!welcome.is_empty(), "no newcomer was welcome");
        for mut peer in welcome {
            assert_eq!(peer.id(), id);
            assert_eq!(peer.sent_away(SOON)?.code, ErrorCode::SessionClosed);
        }
        let call = service.request_edge(id, "m", b"who is it")?;
        let (theirs, ..) = holder.operation(SOON)?;
        holder.respond(theirs, b"the newest")?;
        assert_eq!(service.answer(call, SOON)?, Ok(b"the newest".to_vec()));
        until("one session", Duration::from_secs(5), || {
            (gateway.metric("frontier_sessions", &["role=\"edge\""]).ok()? == 1.0).then_some(())
        })?;
    }
    let last = holder.welcome().epoch;
    drop(holder);
    until("the end of the last one, and of all others", SOON, || {
        let events = events.lock();
        let gone = |(online, info): &(bool, proto::EdgeInfo)| !online && info.epoch == last;
        let came = events.iter().filter(|(online, _)| *online).count();
        (events.iter().any(gone) && came * 2 == events.len()).then_some(())
    })?;
    watching.stop()?;
    let events = events.lock();
    ensure!(events.iter().all(|(_, info)| info.edge == id));
    let told = |online| events.iter().filter(move |event| event.0 == online).map(|(_, info)| info.epoch);
    let (mut came, mut went): (Vec<_>, Vec<_>) = (told(true).collect(), told(false).collect());
    // Sessions that race are on two shards, whose events may overtake each other; epochs say what came first. Each session is told
    // to come once and to go once.
    came.sort_unstable();
    went.sort_unstable();
    assert_eq!(came, went);
    ensure!(came.is_sorted_by(|one, next| one < next), "a session came twice: {came:?}");
    ensure!(welcomed.iter().all(|epoch| came.contains(epoch)), "{welcomed:?} were welcome, {came:?} came");
    // Of the greatest epoch nothing is told after its end.
    ensure!(events.last().is_some_and(|(online, info)| !online && info.epoch == last));
    Ok(())
}
