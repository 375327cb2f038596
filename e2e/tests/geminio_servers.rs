//! The client for geminio against servers that are not ours: the Go library's own, in three generations.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use frontier_e2e::{
    geminio::Client,
    player::{Kind, Unavailable, go_program},
    program::Program,
    wait::SOON,
};
use frontier_wire::geminio::{
    connection::Event,
    data::{Content, Object},
    dialogue::DialogueId,
};

fn check(kind: Kind) -> anyhow::Result<()> {
    let server = Program::start(go_program(kind)?, ["serve"])?;
    let line = server.says("serving on ")?;
    let addr: SocketAddr = line.rsplit(' ').next().context("address")?.parse()?;
    let mut client = Client::connect(addr, 0, b"meta", SOON)?;
    let packet = client.conn().register(b"whoami")?;
    client.take(SOON, |event| matches!(event, Event::RegisterDone { packet: of } if *of == packet))?;
    // It offers its methods once we are there.
    for _ in 0..3 {
        client.take(SOON, |event| matches!(event, Event::Registered { .. }))?;
    }
    let long = vec![7; 100_000];
    for body in [&b"ping"[..], &long] {
        ensure!(client.call(None, "echo", body, SOON)? == Ok(body.to_vec()), "{} bytes", body.len());
    }
    assert_eq!(client.call(None, "fail", b"", SOON)?, Err("as you wish".to_owned()));
    ensure!(client.call(None, "nothing", b"", SOON)?.is_err(), "a method that nobody has was answered");
    assert_eq!(client.publish(None, "news", b"x", SOON)?, Ok(Vec::new()));

    // It asks back before it answers.
    let ask = Object { key: Content::Plain(b"ask"), value: Content::Plain(b"who"), ..Object::default() };
    let asked = client.conn().request(DialogueId::FIRST, &ask)?;
    client.flush()?;
    let question = client.asked(SOON)?;
    client.respond(question.id, Ok(b"a client of Frontier"))?;
    assert_eq!(client.answer(asked, SOON)?, Ok(b"a client of Frontier".to_vec()));

    let now = client.now();
    client.conn().open("", Content::None, now)?;
    client.flush()?;
    let opened = client.take(SOON, |event| matches!(event, Event::Opened { .. }))?;
    let Event::Opened { dialogue, .. } = opened else { bail!("{opened:?}") };
    let bytes = Bytes::from_static(b"there and back again");
    client.conn().send_raw(dialogue, bytes.clone(), false);
    client.flush()?;
    ensure!(client.read(dialogue, bytes.len(), SOON)? == bytes, "a stream came back otherwise");
    let now = client.now();
    client.conn().close(dialogue, now);
    client.flush()?;
    client.take(SOON, |event| matches!(event, Event::Closed { .. }))?;
    Ok(())
}

/// The Go library begins to wait for the answer to its own registrations only after it has sent them. An answer that outruns this is lost, and with it all
/// that the server would do next; it happens to a server of some hundreds on a loaded machine. A fault of the client would be there every time.
fn check_with_patience(kind: Kind) -> anyhow::Result<()> {
    for _ in 0..2 {
        match check(kind) {
            Err(error) if !error.is::<Unavailable>() => eprintln!("generation {kind}, once more: {error:#}"),
            outcome => return outcome,
        }
    }
    check(kind)
}

#[test]
fn the_client_works_with_servers_of_every_generation() -> anyhow::Result<()> {
    for kind in Kind::GO {
        match check_with_patience(kind) {
            Err(error) if error.is::<Unavailable>() && std::env::var_os("FRONTIER_OFFLINE").is_some() => {
                eprintln!(
                    "\n!!!!! SKIPPED: no server of generation {kind}, as FRONTIER_OFFLINE wants it !!!!!\n"
                );
            }
            outcome => outcome.with_context(|| format!("generation {kind}"))?,
        }
    }
    Ok(())
}
