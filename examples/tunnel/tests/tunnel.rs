//! The tunnel with the real gateway: real programs through it, and everything TCP can say.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use frontier_e2e::{
    gateway::{Config, Gateway},
    program::Program,
    wait::{SOON, until},
};

const TUNNEL: &str = env!("CARGO_BIN_EXE_tunnel");

#[test]
fn files_of_a_web_server_come_through_unharmed() -> anyhow::Result<()> {
    needs(&["python3", "curl"])?;
    let dir = tempfile::tempdir()?;
    let file: Vec<u8> = (0_u32..3 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    std::fs::write(dir.path().join("file"), &file)?;
    let folder = dir.path().to_str().context("path")?;
    let args = ["-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder];
    let server = Program::start("python3", args)?;
    let line = server.says("Serving HTTP on")?;
    let port = line.split("port ").nth(1).and_then(|rest| rest.split(' ').next()).context("port")?;

    let tunnel = Tunnel::start(port.parse()?)?;
    let url = format!("http://{}/file", tunnel.addr);
    let downloads = [0, 1, 2].map(|_| curl(&url));
    for download in downloads {
        let output = download?.wait_with_output()?;
        ensure!(
            output.status.success(),
            "curl: {}{} bytes of {}\nlistener: {}\nagent: {}",
            String::from_utf8_lossy(&output.stderr),
            output.stdout.len(),
            file.len(),
            tunnel.listener.printed(),
            tunnel.agent.printed(),
        );
        assert_eq!(output.stdout.len(), file.len());
        assert_eq!(digest(&SHA256, &output.stdout).as_ref(), digest(&SHA256, &file).as_ref());
    }
    tunnel.end()
}

#[test]
fn a_redis_session_works() -> anyhow::Result<()> {
    needs(&["redis-server", "redis-cli"])?;
    let dir = tempfile::tempdir()?;
    let (server, port) = redis(dir.path())?;
    let tunnel = Tunnel::start(port)?;
    let value = "v".repeat(300_000);
    let session = format!(
        "PING\nSET greeting \"hello over the tunnel\"\nGET greeting\nINCR n\nINCR n\nSET big {value}\nSTRLEN big\nGET big\n"
    );
    let output = redis_cli(tunnel.addr.port(), &session)?;
    let answers: Vec<&str> = output.lines().collect();
    assert_eq!(answers, ["PONG", "OK", "hello over the tunnel", "1", "2", "OK", "300000", &value]);
    // What was said through the tunnel is in the server.
    assert_eq!(redis_cli(port, "GET n\n")?.trim(), "2");
    drop(server);
    tunnel.end()
}

#[test]
fn a_half_close_leaves_the_other_direction_open() -> anyhow::Result<()> {
    let target = TcpListener::bind("127.0.0.1:0")?;
    let tunnel = Tunnel::start(target.local_addr()?.port())?;
    let mut client = tunnel.connect()?;
    client.write_all(b"all I have to say")?;
    client.shutdown(Shutdown::Write)?;
    let mut server = accept(&target)?;
    let mut heard = String::new();
    server.read_to_string(&mut heard)?;
    assert_eq!(heard, "all I have to say");
    server.write_all(b"and the answer to it")?;
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    assert_eq!(answer, "and the answer to it");
    tunnel.listener.says("closed; 17 bytes there, 20 bytes back")?;
    tunnel.agent.says("closed; 17 bytes to it, 20 bytes from it")?;
    tunnel.end()
}

#[test]
fn a_reset_arrives_as_a_reset_from_either_end() -> anyhow::Result<()> {
    let target = TcpListener::bind("127.0.0.1:0")?;
    let tunnel = Tunnel::start(target.local_addr()?.port())?;
    for server_resets in [true, false] {
        let mut client = tunnel.connect()?;
        client.write_all(b"x")?;
        let mut server = accept(&target)?;
        server.read_exact(&mut [0])?;
        let (resets, mut other) = if server_resets { (server, client) } else { (client, server) };
        reset(resets)?;
        let error = other.read(&mut [0]).err().context("an end where a reset was expected")?;
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "server resets: {server_resets}");
    }
    tunnel.end()
}

#[test]
fn a_reader_that_does_not_read_stops_its_writer_and_hears_of_a_reset() -> anyhow::Result<()> {
    // Far more than all buffers on the way may hold: windows of 4 MiB and of the kernel's sockets.
    const MUCH: usize = 256 << 20;
    let target = TcpListener::bind("127.0.0.1:0")?;
    let tunnel = Tunnel::start(target.local_addr()?.port())?;
    let fill = || -> anyhow::Result<(TcpStream, TcpStream, usize)> {
        let mut client = tunnel.connect()?;
        client.set_write_timeout(Some(Duration::from_secs(1)))?;
        let chunk = vec![7; 64 << 10];
        let mut sent = 0;
        while sent < MUCH {
            match client.write(&chunk) {
                Ok(n) => sent += n,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(sent < MUCH / 4, "{sent} bytes were taken that nobody read");
        Ok((client, accept(&target)?, sent))
    };

    let (client, mut server, sent) = fill()?;
    client.shutdown(Shutdown::Write)?;
    let read = io::copy(&mut server, &mut io::sink())?;
    assert_eq!(read, sent as u64, "and what was taken arrives");

    let (client, server, _) = fill()?;
    reset(client)?;
    // Nobody reads, so nothing moves; still both ends hear that it is over.
    tunnel.agent.says("reset: the stream")?;
    let error = io::copy(&mut &server, &mut io::sink()).err().context("an end where a reset was expected")?;
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    tunnel.end()
}

#[test]
fn a_tunnel_that_ends_does_not_pretend_that_all_was_said() -> anyhow::Result<()> {
    let target = TcpListener::bind("127.0.0.1:0")?;
    let tunnel = Tunnel::start(target.local_addr()?.port())?;
    let mut client = tunnel.connect()?;
    let mut server = accept(&target)?;
    server.write_all(b"half of an ans")?;
    client.read_exact(&mut [0; 14])?;
    client.shutdown(Shutdown::Write)?;
    tunnel.end()?;
    let error = client.read(&mut [0]).err().context("an end where a reset was expected")?;
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    Ok(())
}

#[test]
fn what_cannot_be_reached_is_said_in_words_and_reset() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let allow = closed.to_string();
    let _agent = agent(&gateway, "home", &allow)?;
    for (edge, to, words) in [
        ("home", "127.0.0.1:1", "may not dial 127.0.0.1:1: it is not in its --allow list"),
        ("home", allow.as_str(), "cannot dial 127.0.0.1:"),
        ("office", allow.as_str(), "no agent office is online; online: home ("),
        ("4711", allow.as_str(), "edge_not_online"),
    ] {
        let (listener, addr) = listener(&gateway, edge, to)?;
        let mut client = TcpStream::connect(addr)?;
        client.set_read_timeout(Some(SOON))?;
        let error = client.read(&mut [0]).err().context("an end where a reset was expected")?;
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        listener.says(words)?;
    }
    Ok(())
}

#[test]
fn without_a_gateway_the_program_says_so() -> anyhow::Result<()> {
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let output = Command::new(TUNNEL)
        .args(["agent", "--allow", "*:*", "--gateway"])
        .arg(format!("tcp://{nobody}"))
        .output()?;
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr)?;
    assert!(text.contains("cannot connect to the gateway") && text.contains("refused"), "{text}");
    Ok(())
}

/// A gateway, an agent and a listener that leads to a port of this machine.
struct Tunnel {
    agent: Program,
    listener: Program,
    addr: SocketAddr,
    _gateway: Gateway,
}

// === impl Tunnel ===

impl Tunnel {
    fn start(port: u16) -> anyhow::Result<Self> {
        let gateway = Gateway::start(&Config::new())?;
        let target = format!("127.0.0.1:{port}");
        let agent = agent(&gateway, "home", &target)?;
        let (listener, addr) = listener(&gateway, "home", &target)?;
        Ok(Self { agent, listener, addr, _gateway: gateway })
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let client = TcpStream::connect(self.addr)?;
        client.set_read_timeout(Some(SOON))?;
        Ok(client)
    }

    /// Ctrl-C ends both.
    fn end(mut self) -> anyhow::Result<()> {
        for program in [&mut self.listener, &mut self.agent] {
            program.interrupt()?;
            ensure!(program.exit()?.success());
        }
        Ok(())
    }
}

fn agent(gateway: &Gateway, name: &str, allow: &str) -> anyhow::Result<Program> {
    let edges = format!("tcp://{}", gateway.edges());
    let agent = Program::start(TUNNEL, ["agent", "--gateway", &edges, "--name", name, "--allow", allow])?;
    agent.says(&format!("agent {name} is edge"))?;
    Ok(agent)
}

fn listener(gateway: &Gateway, edge: &str, to: &str) -> anyhow::Result<(Program, SocketAddr)> {
    let services = format!("tcp://{}", gateway.services());
    let args = ["listen", "--gateway", &services, "--edge", edge, "--to", to, "--listen", "127.0.0.1:0"];
    let listener = Program::start(TUNNEL, args)?;
    let line = listener.says(" leads to ")?;
    let addr = line.split(' ').next().context("address")?.parse()?;
    Ok((listener, addr))
}

fn accept(listener: &TcpListener) -> anyhow::Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let (io, _) = until("connection", SOON, || listener.accept().ok())?;
    io.set_nonblocking(false)?;
    io.set_read_timeout(Some(SOON))?;
    Ok(io)
}

/// Ends a connection by RST.
fn reset(io: TcpStream) -> anyhow::Result<()> {
    rustix::net::sockopt::set_socket_linger(&io, Some(Duration::ZERO))?;
    Ok(())
}

fn curl(url: &str) -> anyhow::Result<std::process::Child> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--noproxy", "*", url]);
    Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

fn redis(dir: &Path) -> anyhow::Result<(Program, u16)> {
    // The server does not say which port it found, so it is told one that was free a moment ago; another program may be faster.
    for _ in 0..5 {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (text, dir) = (port.to_string(), dir.to_str().context("path")?);
        let args = ["--port", &text, "--bind", "127.0.0.1", "--save", "", "--dir", dir];
        let server = Program::start("redis-server", args)?;
        if server.says("eady to accept connections").is_ok() {
            return Ok((server, port));
        }
    }
    anyhow::bail!("redis-server does not start")
}

/// What `redis-cli` prints for the commands typed into it.
fn redis_cli(port: u16, session: &str) -> anyhow::Result<String> {
    let mut command = Command::new("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    let mut cli = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    cli.stdin.take().context("input")?.write_all(session.as_bytes())?;
    let Output { status, stdout, .. } = cli.wait_with_output()?;
    ensure!(status.success(), "redis-cli: {status}");
    Ok(String::from_utf8(stdout)?)
}

/// Says which programs are not on this machine: a test that did not run must not look like one that has passed.
fn needs(programs: &[&str]) -> anyhow::Result<()> {
    for program in programs {
        let mut command = Command::new(program);
        let found = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.with_context(|| format!("{program} is not installed, and this test needs it"))?;
    }
    Ok(())
}
