//! Flags, environment, files, and what a start that fails says.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, ensure};
use frontier_e2e::{
    gateway::{Config, Gateway, binary},
    http,
    peer::Dial,
};

/// Runs the binary to its end.
fn run(args: &[&str], envs: &[(&str, &str)]) -> anyhow::Result<(Option<i32>, String)> {
    let mut command = Command::new(binary()?);
    let Output { status, stdout, stderr } = command.args(args).envs(envs.iter().copied()).output()?;
    Ok((status.code(), String::from_utf8(stdout)? + &String::from_utf8(stderr)?))
}

fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("path")
}

#[test]
fn version_and_help_say_what_this_is() -> anyhow::Result<()> {
    let (code, text) = run(&["version"], &[])?;
    ensure!(code == Some(0) && text.starts_with("frontier "), "{code:?} {text}");
    let (code, text) = run(&["--help"], &[])?;
    assert_eq!(code, Some(0));
    for word in ["--config", "--loglevel", "--shards", "check-config", "30012", "FRONTIER_EDGEBOUND_PORT"] {
        ensure!(text.contains(word), "{word} is not in the help:\n{text}");
    }
    assert_eq!(run(&["--no-such-flag"], &[])?.0, Some(2));
    Ok(())
}

#[test]
fn check_config_names_every_problem_with_its_line() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("frontier.yaml");
    std::fs::write(
        &file,
        "edgebound:\n  listen:\n    addr: 0.0.0.0:30012\n    network: udp\nlimits:\n  handshakes: 8\n  stal: 3s\n",
    )?;
    let (code, text) = run(&["check-config", path(&file)?], &[])?;
    assert_eq!(code, Some(1), "{text}");
    for part in [
        ":4: edgebound.listen.network: udp is not supported",
        ":7: limits.stal: unknown key; did you mean `stall`?",
        "2 errors",
    ] {
        ensure!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    // The gateway says the same and does not start.
    let (code, start) = run(&["--config", path(&file)?], &[])?;
    assert_eq!(code, Some(1));
    ensure!(start.contains("udp is not supported") && start.contains("did you mean `stall`?"), "{start}");
    std::fs::write(&file, "limits:\n  stall: 3s\n")?;
    let (code, text) = run(&["check-config", path(&file)?], &[])?;
    assert_eq!(code, Some(0), "{text}");
    std::fs::write(&file, "limits:\n  stal: 3s\n")?;
    let (code, text) = run(&["check-config", "--unknown-keys", "warn", path(&file)?], &[])?;
    ensure!(code == Some(0) && text.contains("warning"), "{code:?} {text}");
    Ok(())
}

#[test]
fn a_taken_port_fails_the_start() -> anyhow::Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let addr = taken.local_addr()?.to_string();
    for key in [
        "edgebound.listen.addr",
        "servicebound.listen.addr",
        "controlplane.listen.addr",
        "observability.addr",
    ] {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("frontier.yaml");
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
    let free = || Ok::<_, anyhow::Error>(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
    let (edges, services) = (free()?, free()?);
    let config = Config::new()
        .env("FRONTIER_EDGEBOUND_PORT", &edges.to_string())
        .env("FRONTIER_SERVICEBOUND_PORT", &services.to_string())
        .env("FRONTIER_DRAIN_SECONDS", "7")
        .env("NODE_NAME", "n1")
        .args(["--shards", "2", "--loglevel", "debug"]);
    let gateway = Gateway::start(&config)?;
    assert_eq!((gateway.edges().port(), gateway.services().port()), (edges, services));
    let config: serde_json::Value = serde_json::from_str(&http::get(gateway.admin()?, "/config")?.body)?;
    assert_eq!(config["drain"]["seconds"], 7, "{config}");
    assert_eq!(config["daemon"]["frontier_id"], "frontier-n1");
    assert_eq!((&config["shards"], &config["log"]["level"]), (&2.into(), &"debug".into()));
    drop(Dial::edge(gateway.edges())?.connect()?);
    Ok(())
}

#[test]
fn files_of_the_go_system_work_with_their_misspelt_keys() -> anyhow::Result<()> {
    let gateway = Gateway::start(
        &Config::new().set("daemon.pprof.enable", true).set("dao.debug", true).set("log.verbosity", 4),
    )?;
    for key in ["daemon.pprof.enable", "dao.debug", "log.verbosity"] {
        let lines = gateway.log().find(|line| line.level() == "WARN" && line.to_string().contains(key));
        assert_eq!(lines.len(), 1, "{key} has no effect, and the log says so once");
    }
    Ok(())
}
