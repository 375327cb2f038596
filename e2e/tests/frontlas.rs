//! The registry as a process: its command line, ports and readiness, with Redis there, away, and unwilling.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    certs::{Authority, NAME},
    frontlas::{Config, Frontlas},
    gateway::frontlas_binary,
    http,
    redis::Redis,
    wait::SOON,
};
use rustix::process::Signal;

/// Runs the binary to its end.
fn run(args: &[&str], envs: &[(&str, &str)]) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(frontlas_binary()?);
    let Output { status, stdout, stderr } = command.args(args).envs(envs.iter().copied()).output()?;
    Ok((status.code(), String::from_utf8(stdout)? + &String::from_utf8(stderr)?))
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("path")
}

/// An address where nobody listens: it was free a moment ago.
fn nobody() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[test]
fn version_and_help_say_what_this_is() -> anyhow::Result<()> {
    let (code, text) = run(&["version"], &[])?;
    ensure!(code == Some(0) && text.starts_with("frontlas "), "{code:?} {text}");
    let (code, text) = run(&["--help"], &[])?;
    assert_eq!(code, Some(0));
    for word in ["--config", "--loglevel", "--daemon-rlimit-nofile", "check-config", "40011", "REDIS_TYPE"] {
        ensure!(text.contains(word), "{word} is not in the help:\n{text}");
    }
    assert_eq!(run(&["--no-such-flag"], &[])?.0, Some(2));
    Ok(())
}

#[test]
fn check_config_and_the_start_name_every_problem_with_its_line() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("frontlas.yaml");
    std::fs::write(
        &file,
        "redis:\n  mode: sentinel\n  passwort: x\ncontrol_plane:\n  listen: {network: udp}\n",
    )?;
    let parts = [
        ":3: redis.passwort: unknown key; did you mean `password`?",
        ":5: control_plane.listen.network: udp is not supported",
        "redis.sentinel.addrs: no address of Redis is given",
        "redis.sentinel.master_name: is missing",
    ];
    for args in [&["check-config", path(&file)?][..], &["--config", path(&file)?]] {
        let (code, text) = run(args, &[])?;
        assert_eq!(code, Some(1), "{text}");
        for part in parts {
            ensure!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }
    std::fs::write(&file, "redis: {mode: memory}\n")?;
    let (code, text) = run(&["check-config", path(&file)?], &[])?;
    ensure!(code == Some(0) && text.contains("memory of this process"), "{code:?} {text}");
    Ok(())
}

#[test]
fn a_taken_port_fails_the_start() -> anyhow::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let addr = taken.local_addr()?.to_string();
    for key in ["control_plane.listen.addr", "frontier_plane.listen.addr", "observability.addr"] {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("frontlas.yaml");
        std::fs::write(&file, Config::new().set(key, addr.as_str()).text())?;
        let (code, text) = run(&["--config", path(&file)?], &[])?;
        assert_eq!(code, Some(1), "{key}: {text}");
        ensure!(text.contains(&addr) && text.contains("in use"), "{key}: {text}");
    }
    Ok(())
}

#[test]
fn the_environment_and_flags_win_over_the_file() -> anyhow::Result<()> {
    // Free a moment ago; the variables take ports, not addresses.
    let (api, gateways, redis) = (nobody()?.port(), nobody()?.port(), nobody()?);
    let config = Config::new()
        .env("FRONTLAS_CONTROLPLANE_PORT", &api.to_string())
        .env("FRONTLAS_FRONTIERPLANE_PORT", &gateways.to_string())
        .env("REDIS_TYPE", "standalone")
        .env("REDIS_ADDRS", &redis.to_string())
        .env("REDIS_USER", "user")
        .env("REDIS_PASSWORD", "hunter2")
        .env("REDIS_DB", "3")
        .args(["--loglevel", "debug"]);
    let frontlas = Frontlas::start(&config)?;
    assert_eq!((frontlas.api().port(), frontlas.gateways().port()), (api, gateways));
    let text = http::get(frontlas.admin(), "/config")?.body;
    ensure!(!text.contains("hunter2"), "{text}");
    let config: serde_json::Value = serde_json::from_str(&text)?;
    let redis_config = &config["redis"];
    assert_eq!((&redis_config["mode"], &redis_config["standalone"]["db"]), (&"standalone".into(), &3.into()));
    assert_eq!(redis_config["standalone"]["addr"], redis.to_string());
    assert_eq!((&redis_config["username"], &config["log"]["level"]), (&"user".into(), &"debug".into()));
    Ok(())
}

#[test]
fn the_shipped_file_of_the_go_system_starts() -> anyhow::Result<()> {
    let frontlas = Frontlas::start(
        &Config::new()
            .set("daemon.pprof.enable", true)
            .set("frontier_plane.expiration.service_meta", 30)
            .set("redis.pool_size", 10),
    )?;
    for key in ["daemon.pprof.enable", "frontier_plane.expiration.service_meta", "redis.pool_size"] {
        let lines = frontlas.log().find(|line| line.level() == "WARN" && line.to_string().contains(key));
        assert_eq!(lines.len(), 1, "{key} has no effect, and the log says so once");
    }
    frontlas.ready()
}

#[test]
fn without_redis_it_is_ready_answers_and_drains() -> anyhow::Result<()> {
    let mut frontlas = Frontlas::start(&Config::new())?;
    frontlas.ready()?;
    assert_eq!(http::get(frontlas.admin(), "/healthz")?.body, "ok");
    let answer = http::get(frontlas.api(), "/cluster/v1/frontiers")?;
    ensure!(answer.status == 200 && answer.body.contains("frontiers"), "{answer:?}");
    assert_eq!(http::get(frontlas.api(), "/nowhere")?.status, 404);
    assert_eq!(http::get(frontlas.gateways(), "/")?.status, 404, "gateways come by gRPC");
    let labels = ["port=\"control_plane\"", "method=\"ListFrontiers\"", "code=\"ok\""];
    assert_eq!(frontlas.metric("frontlas_requests_total", &labels)?, 1.0);
    assert_eq!(frontlas.metric("frontlas_members", &[])?, 0.0);
    let level = http::request(frontlas.admin(), "PUT", "/log-level", &[], "debug")?;
    assert_eq!(level.status, 200, "{level:?}");

    frontlas.signal(Signal::TERM)?;
    let status = frontlas.wait_exit(SOON)?;
    ensure!(status.code() == Some(0), "{status:?}");
    frontlas.log().wait(SOON, |line| line.message() == "atlas stopped")?;
    Ok(())
}

#[test]
fn while_it_drains_probes_are_told_and_a_second_signal_ends_it_at_once() -> anyhow::Result<()> {
    let slow = Config::new().set("drain.accept_for", "60s").set("drain.seconds", 120);
    let mut frontlas = Frontlas::start(&slow)?;
    frontlas.ready()?;
    frontlas.signal(Signal::TERM)?;
    frontlas.says_ready(|answer| answer.status == 503 && answer.body == "not ready: draining")?;
    let answer = http::get(frontlas.api(), "/cluster/v1/frontiers")?;
    assert_eq!(answer.status, 200, "who has not noticed yet is served");
    let begin = Instant::now();
    frontlas.signal(Signal::TERM)?;
    frontlas.wait_exit(SOON)?;
    ensure!(begin.elapsed() < Duration::from_secs(20), "it waited for {:?}", begin.elapsed());
    Ok(())
}

#[test]
fn redis_may_come_later_and_go_again() -> anyhow::Result<()> {
    let mut redis = Redis::start([""; 0])?;
    redis.kill();
    let frontlas = Frontlas::start(&Config::redis(redis.addr()))?;
    frontlas.says_ready(|answer| answer.status == 503 && answer.body.starts_with("not ready: redis: "))?;
    assert_eq!(http::get(frontlas.admin(), "/healthz")?.status, 200, "a probe of life must not end it");
    let answer = http::get(frontlas.api(), "/cluster/v1/frontiers")?;
    ensure!(answer.status == 502 && answer.body.contains("the store cannot be reached"), "{answer:?}");
    redis.restart()?;
    frontlas.ready()?;
    assert_eq!(http::get(frontlas.api(), "/cluster/v1/frontiers")?.status, 200);
    redis.kill();
    frontlas.says_ready(|answer| answer.status == 503 && answer.body.contains("redis: "))?;
    redis.restart()?;
    frontlas.ready()
}

#[test]
fn a_redis_that_hangs_is_noticed() -> anyhow::Result<()> {
    let redis = Redis::start([""; 0])?;
    let frontlas = Frontlas::start(&Config::redis(redis.addr()).set("redis.read_timeout", "500ms"))?;
    frontlas.ready()?;
    redis.signal(Signal::STOP)?;
    frontlas.says_ready(|answer| answer.status == 503 && answer.body.starts_with("not ready: redis: "))?;
    let begin = Instant::now();
    let answer = http::get(frontlas.api(), "/cluster/v1/frontiers")?;
    ensure!(
        answer.status == 502 && begin.elapsed() < Duration::from_secs(10),
        "{answer:?} {:?}",
        begin.elapsed()
    );
    redis.signal(Signal::CONT)?;
    frontlas.ready()
}

#[test]
fn a_wrong_password_is_told_and_not_fatal() -> anyhow::Result<()> {
    let redis = Redis::start(["--requirepass", "right"])?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("password");
    std::fs::write(&file, "right\n")?;
    let wrong = Frontlas::start(&Config::redis(redis.addr()).set("redis.password", "wrong-hunter2"))?;
    wrong.says_ready(|answer| answer.status == 503 && answer.body.contains("does not admit us"))?;
    ensure!(!wrong.readyz()?.body.contains("hunter2"));
    let from_file = format!("file:{}", path(&file)?);
    let right = Frontlas::start(&Config::redis(redis.addr()).set("redis.password", from_file))?;
    right.ready()
}

#[test]
fn redis_by_tls_needs_the_right_authority() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (authority, other) = (Authority::new()?, Authority::new()?);
    let (ca, other_ca) = (dir.path().join("ca.crt"), dir.path().join("other.crt"));
    std::fs::write(&ca, &authority.pem)?;
    std::fs::write(&other_ca, &other.pem)?;
    authority.issue("redis")?.write(dir.path(), "redis")?;
    authority.issue("frontlas")?.write(dir.path(), "frontlas")?;
    let file = |name: &str| dir.path().join(name).into_os_string();
    let redis = Redis::start_tls([
        "--tls-cert-file".into(),
        file("redis.crt"),
        "--tls-key-file".into(),
        file("redis.key"),
        "--tls-ca-cert-file".into(),
        file("ca.crt"),
    ])?;
    let config = |ca: &Path| -> anyhow::Result<Config> {
        Ok(Config::redis(redis.addr())
            .set("redis.tls.enable", true)
            .set("redis.tls.ca", path(ca)?)
            .set("redis.tls.cert", path(&dir.path().join("frontlas.crt"))?)
            .set("redis.tls.key", path(&dir.path().join("frontlas.key"))?)
            .set("redis.tls.server_name", NAME))
    };
    Frontlas::start(&config(&ca)?)?.ready()?;
    let wrong = Frontlas::start(&config(&other_ca)?)?;
    wrong.says_ready(|answer| answer.status == 503 && answer.body.contains("Certificate"))?;
    Ok(())
}

#[test]
fn ports_speak_tls_and_ask_for_certificates() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new()?;
    let ca = dir.path().join("ca.crt");
    std::fs::write(&ca, &authority.pem)?;
    let pair = authority.issue("frontlas")?.write(dir.path(), "frontlas")?;
    let tls =
        |mtls: bool| serde_json::json!({"enable": true, "mtls": mtls, "ca_certs": [ca], "certs": [pair]});
    let frontlas = Frontlas::start(
        &Config::new()
            .set("control_plane.listen.tls", tls(false))
            .set("frontier_plane.listen.tls", tls(true)),
    )?;
    frontlas.ready()?;
    let get = |addr, identity: Option<&str>| {
        let leaf = identity.map(|name| authority.issue(name)).transpose()?;
        http::get_tls(addr, "/cluster/v1/frontiers", authority.client(leaf.as_ref())?, NAME)
    };
    assert_eq!(get(frontlas.api(), None)?.status, 200);
    assert_eq!(get(frontlas.gateways(), Some("frontier-a"))?.status, 404);
    ensure!(get(frontlas.gateways(), None).is_err(), "a gateway without a certificate was let in");
    ensure!(http::get(frontlas.api(), "/cluster/v1/frontiers").is_err(), "plain HTTP on a port of TLS");
    Ok(())
}
