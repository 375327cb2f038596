//! TLS and mutual TLS on the ports of edges and services; certificates that change; what is not TLS.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    certs::{Authority, Leaf, NAME},
    gateway::{Config, Gateway, Line, binary},
    peer::{Dial, Peer, Wire, Worker},
    wait::{SOON, until},
};
use frontier_wire::error::ErrorCode;
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Files are looked at every 5 s.
const RELOADED: Duration = Duration::from_secs(20);

/// An authority, a folder, and a certificate in it.
struct Fixture {
    authority: Authority,
    dir: TempDir,
    leaf: Leaf,
    pair: Value,
}

impl Fixture {
    fn new() -> anyhow::Result<Self> {
        let (authority, dir) = (Authority::new()?, tempfile::tempdir()?);
        let leaf = authority.issue("first")?;
        let pair = leaf.write(dir.path(), "gateway")?;
        Ok(Self { authority, dir, leaf, pair })
    }

    /// TLS on both ports.
    fn config(&self) -> Config {
        let tls = json!({"enable": true, "certs": [self.pair]});
        Config::new().set("edgebound.listen.tls", tls.clone()).set("servicebound.listen.tls", tls)
    }

    /// Mutual TLS on one port.
    fn mutual(&self, bound: &str) -> anyhow::Result<Config> {
        let ca = self.dir.path().join("ca.crt");
        std::fs::write(&ca, &self.authority.pem)?;
        let tls = json!({"enable": true, "mtls": true, "ca_certs": [ca], "certs": [self.pair]});
        Ok(Config::new().set(&format!("{bound}.listen.tls"), tls))
    }
}

fn connect(dial: &Dial, addr: SocketAddr, client: &Arc<ClientConfig>) -> anyhow::Result<Peer> {
    let attempt = dial.attempt_over(Wire::dial_tls(addr, client)?)?;
    attempt.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))
}

/// The certificate that a new connection is shown.
fn shown(addr: SocketAddr, client: &Arc<ClientConfig>) -> anyhow::Result<Vec<u8>> {
    let tls = ClientConnection::new(Arc::clone(client), ServerName::try_from(NAME)?)?;
    let mut stream = StreamOwned::new(tls, TcpStream::connect(addr)?);
    stream.sock.set_read_timeout(Some(SOON))?;
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    let chain = stream.conn.peer_certificates().context("no certificate")?;
    Ok(chain.first().context("empty chain")?.to_vec())
}

fn handshakes(gateway: &Gateway, outcome: &str, least: f64) -> anyhow::Result<()> {
    gateway.metric_reaches("frontier_tls_handshakes_total", &[&format!("outcome=\"{outcome}\"")], least)
}

/// Waits until the other side has closed.
fn closed(mut io: TcpStream) -> anyhow::Result<()> {
    io.set_read_timeout(Some(SOON))?;
    let mut buffer = [0; 256];
    loop {
        match io.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error).context("the connection is still open"),
        }
    }
}

#[test]
fn calls_and_large_bodies_travel_over_tls() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let gateway = Gateway::start(&fixture.config().shards(2))?;
    let client = fixture.authority.client(None)?;
    let dial = Dial::service(gateway.services(), "s")?.methods(&["echo"]);
    let service = Worker::echo(connect(&dial, gateway.services(), &client)?);
    let mut edge = connect(&Dial::edge(gateway.edges())?, gateway.edges(), &client)?;
    for len in [2, 60_000, 3 << 20] {
        let body = vec![len as u8; len];
        let answer = edge.call("echo", &body, Duration::from_secs(30))?;
        ensure!(answer.as_deref() == Ok(&body), "{len} bytes");
    }
    drop(service.stop()?);
    handshakes(&gateway, "established", 2.0)
}

#[test]
fn changed_certificates_hold_for_new_connections_and_old_ones_stay() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let gateway = Gateway::start(&fixture.config())?;
    let client = fixture.authority.client(None)?;
    let dial = Dial::service(gateway.services(), "s")?.methods(&["echo"]);
    let service = Worker::echo(connect(&dial, gateway.services(), &client)?);
    let mut old = connect(&Dial::edge(gateway.edges())?, gateway.edges(), &client)?;
    assert_eq!(shown(gateway.edges(), &client)?, fixture.leaf.der.to_vec());
    // A change that cannot be used is no change.
    std::fs::write(fixture.dir.path().join("gateway.crt"), "nothing")?;
    let broken = |line: &Line| line.message().starts_with("changed certificates cannot be used");
    gateway.log().wait(RELOADED, broken)?;
    assert_eq!(shown(gateway.edges(), &client)?, fixture.leaf.der.to_vec());
    let second = fixture.authority.issue("second")?;
    second.write(fixture.dir.path(), "gateway")?;
    gateway.log().wait(RELOADED, |line| {
        line.message() == "certificates reloaded" && line.text_of("listener") == "edgebound"
    })?;
    assert_eq!(shown(gateway.edges(), &client)?, second.der.to_vec());
    assert_eq!(old.call("echo", b"still here", SOON)?, Ok(b"still here".to_vec()));
    drop(service);
    Ok(())
}

#[test]
fn mutual_tls_takes_clients_of_the_authority_only() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let gateway = Gateway::start(&fixture.mutual("edgebound")?)?;
    let dial = Dial::edge(gateway.edges())?;
    let known = fixture.authority.issue("edge-1")?;
    let stranger = Authority::new()?.issue("edge-1")?;
    drop(connect(&dial, gateway.edges(), &fixture.authority.client(Some(&known))?)?);
    for (identity, outcome) in [(None, "no_certificate"), (Some(&stranger), "bad_certificate")] {
        let client = fixture.authority.client(identity)?;
        ensure!(connect(&dial, gateway.edges(), &client).is_err(), "{outcome}: welcome");
        handshakes(&gateway, outcome, 1.0)?;
        let line = |line: &Line| {
            line.text_of("reason") == "tls handshake failed" && line.text_of("outcome") == outcome
        };
        gateway.log().wait(SOON, line).with_context(|| outcome.to_owned())?;
    }
    Ok(())
}

#[test]
fn the_name_in_a_certificate_is_an_identity() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let tokens = fixture.dir.path().join("tokens.yaml");
    std::fs::write(&tokens, "subjects:\n- {name: plants, subject: CN=plant-*, role: edge, ids: [7]}\n")?;
    let gateway = Gateway::start(&fixture.mutual("edgebound")?.set("auth.tokens", tokens.to_string_lossy()))?;
    let dial = Dial::edge(gateway.edges())?.wish(7);
    let plant = fixture.authority.client(Some(&fixture.authority.issue("plant-1")?))?;
    assert_eq!(connect(&dial, gateway.edges(), &plant)?.id(), 7);
    let other = fixture.authority.client(Some(&fixture.authority.issue("office-1")?))?;
    let refusal = dial.attempt_over(Wire::dial_tls(gateway.edges(), &other)?)?.err().context("welcome")?;
    assert_eq!(refusal.code, ErrorCode::Unauthenticated, "{refusal:?}");
    Ok(())
}

#[test]
fn services_may_have_mutual_tls_of_their_own() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let gateway = Gateway::start(&fixture.mutual("servicebound")?)?;
    drop(Dial::edge(gateway.edges())?.connect().context("the port of edges is plain")?);
    let dial = Dial::service(gateway.services(), "billing")?;
    let known = fixture.authority.issue("billing-1")?;
    let stranger = Authority::new()?.issue("billing-1")?;
    drop(connect(&dial, gateway.services(), &fixture.authority.client(Some(&known))?)?);
    for (identity, outcome) in [(None, "no_certificate"), (Some(&stranger), "bad_certificate")] {
        let client = fixture.authority.client(identity)?;
        ensure!(connect(&dial, gateway.services(), &client).is_err(), "{outcome}: welcome");
        handshakes(&gateway, outcome, 1.0)?;
    }

    let tokens = fixture.dir.path().join("tokens.yaml");
    std::fs::write(
        &tokens,
        "subjects:\n- {name: billing, subject: CN=billing-*, role: service, methods: []}\n",
    )?;
    let config = fixture.mutual("servicebound")?.set("auth.tokens", tokens.to_string_lossy());
    let gateway = Gateway::start(&config)?;
    let billing = fixture.authority.client(Some(&known))?;
    drop(connect(&dial, gateway.services(), &billing)?);
    let other = fixture.authority.client(Some(&fixture.authority.issue("office-1")?))?;
    let refused = |dial: &Dial, client| {
        dial.attempt_over(Wire::dial_tls(gateway.services(), client)?)?.err().context("welcome")
    };
    assert_eq!(refused(&dial, &other)?.code, ErrorCode::Unauthenticated);
    let nosy = Dial::service(gateway.services(), "billing")?.methods(&["edge_online"]);
    assert_eq!(refused(&nosy, &billing)?.code, ErrorCode::PermissionDenied);
    Ok(())
}

#[test]
fn what_is_not_tls_is_closed_with_a_line_and_a_count() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let gateway = Gateway::start(&fixture.config().set("limits.handshake", "1s"))?;
    let before = gateway.proc().fds()?;
    let offenders: [(&str, &[u8]); 3] = [
        ("not_tls", b"GET / HTTP/1.1\r\nhost: example\r\n\r\n"),
        ("not_tls", b"\x00\x01\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00"),
        // A record that never ends.
        ("timed_out", b"\x16\x03\x01"),
    ];
    let start = Instant::now();
    for (outcome, bytes) in offenders {
        let mut io = TcpStream::connect(gateway.edges())?;
        io.write_all(bytes)?;
        let addr = io.local_addr()?;
        closed(io).context(outcome)?;
        let of = |line: &Line| line.addr("client.addr") == Some(addr);
        let line = gateway.log().wait(SOON, of).context(outcome)?;
        let seen = [line.message(), line.text_of("role"), line.text_of("reason"), line.text_of("outcome")];
        assert_eq!(seen, ["refused", "edge", "tls handshake failed", outcome]);
        assert_eq!(gateway.log().find(of).len(), 1, "{outcome}");
    }
    ensure!(start.elapsed() > Duration::from_millis(900), "cut before the limit");
    let scan = TcpStream::connect(gateway.services())?;
    let addr = scan.local_addr()?;
    drop(scan);
    gateway.log().wait(SOON, |line| {
        line.addr("client.addr") == Some(addr) && line.message() == "closed before Hello"
    })?;
    handshakes(&gateway, "not_tls", 2.0)?;
    handshakes(&gateway, "timed_out", 1.0)?;
    handshakes(&gateway, "gone", 1.0)?;
    until("descriptors closed", SOON, || (gateway.proc().fds().ok()? <= before).then_some(()))
}

#[test]
fn a_silent_peer_behind_tls_has_one_handshake_limit_in_all() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let gateway = Gateway::start(&fixture.config().set("limits.handshake", "4s"))?;
    let client = fixture.authority.client(None)?;
    let tls = ClientConnection::new(client, ServerName::try_from(NAME)?)?;
    let start = Instant::now();
    let mut stream = StreamOwned::new(tls, TcpStream::connect(gateway.edges())?);
    // Most of the time goes by before the handshake.
    until("most of the limit", SOON, || (start.elapsed() > Duration::from_millis(3_500)).then_some(()))?;
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    closed(stream.sock)?;
    gateway.metric_reaches("frontier_refusals_total", &["reason=\"timeout\""], 1.0)?;
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(7), "TLS and Hello had {took:?} together");
    Ok(())
}

#[test]
fn a_pair_that_cannot_be_used_is_left_out() -> anyhow::Result<()> {
    let fixture = Fixture::new()?;
    let absent: &Path = &fixture.dir.path().join("absent");
    let bad = [
        json!({"cert": absent, "key": absent}),
        // A certificate with another's key.
        json!({"cert": fixture.pair["cert"], "key": fixture.authority.issue("x")?.write(fixture.dir.path(), "x")?["key"]}),
    ];
    for bad in bad {
        let tls = json!({"enable": true, "certs": [bad, fixture.pair]});
        let config = Config::new().set("edgebound.listen.tls", tls);
        let file = fixture.dir.path().join("frontier.yaml");
        std::fs::write(&file, config.text())?;
        let check = Command::new(binary()?).arg("check-config").arg(&file).output()?;
        let text = String::from_utf8(check.stdout)?;
        ensure!(
            check.status.success() && text.contains("edgebound.listen.tls.certs[0]: left out: "),
            "{text}"
        );
        let gateway = Gateway::start(&config)?;
        let warned = |line: &Line| line.level() == "WARN" && line.to_string().contains("left out: ");
        gateway.log().wait(SOON, warned)?;
        assert_eq!(shown(gateway.edges(), &fixture.authority.client(None)?)?, fixture.leaf.der.to_vec());
    }
    Ok(())
}
