//! Tokens: who may come in, and under which ID.

use anyhow::Context;
use frontier_e2e::{
    gateway::{Config, Gateway},
    peer::{Dial, Refusal},
    wait::{SOON, until},
};
use frontier_wire::error::ErrorCode;
use rustix::process::Signal;

/// The token `test` is an edge's and may have two kinds of IDs.
const EDGE: &str = "- {name: sensors, role: edge, ids: [7, 100-199], \
                    sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}\n";
/// The token `foo` is a service's that may not hear of edges.
const SERVICE: &str = "- {name: orders, role: service, methods: [], \
                       sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae}\n";

fn refused(dial: &Dial) -> anyhow::Result<Refusal> {
    dial.attempt()?.err().context("welcome")
}

#[test]
fn tokens_decide_on_role_id_and_reserved_methods() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("tokens.yaml");
    std::fs::write(&file, format!("tokens:\n{EDGE}{SERVICE}"))?;
    let gateway = Gateway::start(&Config::new().set("auth.tokens", file.to_string_lossy()))?;
    let edge = |token: &[u8]| {
        Ok::<_, anyhow::Error>(Dial::edge(gateway.edges())?.with(|hello| hello.token = token.to_vec()))
    };
    for token in [&b""[..], b"guess"] {
        assert_eq!(refused(&edge(token)?)?.code, ErrorCode::Unauthenticated);
    }
    assert_eq!(refused(&edge(b"foo")?)?.code, ErrorCode::PermissionDenied, "a service's token");
    for id in [7, 150] {
        assert_eq!(edge(b"test")?.wish(id).connect()?.id(), id);
    }
    assert_eq!(refused(&edge(b"test")?.wish(8))?.code, ErrorCode::PermissionDenied);
    let service = Dial::service(gateway.services(), "s")?.with(|hello| hello.token = b"foo".to_vec());
    assert_ne!(service.clone().wish(9).connect()?.id(), 9, "no token lists it");
    assert_eq!(refused(&service.methods(&["edge_online"]))?.code, ErrorCode::PermissionDenied);
    Ok(())
}

#[test]
fn a_ticket_is_good_for_the_token_that_got_it_alone() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("tokens.yaml");
    // `foo` and `test`, neither of which lists an ID.
    let other = SERVICE.replace("role: service, methods: [],", "role: edge,");
    std::fs::write(&file, format!("tokens:\n{}{other}", EDGE.replace("ids: [7, 100-199], ", "")))?;
    let gateway = Gateway::start(&Config::new().set("auth.tokens", file.to_string_lossy()))?;
    let come = |token: &[u8], ticket: &[u8]| {
        let dial = Dial::edge(gateway.edges())?.with(|hello| {
            (hello.token, hello.ticket) = (token.to_vec(), ticket.to_vec());
        });
        dial.connect()
    };
    let first = come(b"test", b"")?;
    let (id, ticket) = (first.id(), first.welcome().ticket.clone());
    drop(first);
    assert_ne!(come(b"foo", &ticket)?.id(), id, "somebody else's");
    gateway.metric_reaches("frontier_tickets_total", &["outcome=\"foreign\""], 1.0)?;
    assert_eq!(come(b"test", &ticket)?.id(), id);
    Ok(())
}

#[test]
fn a_changed_file_holds_for_new_sessions_after_a_hangup() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("tokens.yaml");
    std::fs::write(&file, format!("tokens:\n{EDGE}"))?;
    let gateway = Gateway::start(&Config::new().set("auth.tokens", file.to_string_lossy()))?;
    let dial = Dial::edge(gateway.edges())?.with(|hello| hello.token = b"test".to_vec());
    let mut old = dial.clone().wish(7).connect()?;
    std::fs::write(&file, format!("tokens:\n{SERVICE}"))?;
    gateway.signal(Signal::HUP)?;
    until("the token is taken back", SOON, || {
        dial.attempt().is_ok_and(|attempt| attempt.is_err()).then_some(())
    })?;
    old.sync(SOON).context("a session that was admitted stays")
}
