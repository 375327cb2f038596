//! A service of a Go program in a cluster of ours: it polls the registry by gRPC, connects to every gateway by geminio and asks where an
//! edge is before it calls. The program is `e2e/go/cluster`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use frontier::{Edge, Request};
use frontier_e2e::{
    cluster::{Cluster, Plan, Store},
    program::Program,
    redis::Redis,
    wait::{SOON, until},
};
use tokio::runtime::Runtime;

/// Seconds between two looks at the list of gateways; the Go SDK has 10.
const POLL: &str = "0.5";

/// Builds the program; none without network where that is wanted.
fn program() -> anyhow::Result<Option<PathBuf>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("go/cluster");
    let output =
        Command::new("go").args(["mod", "download"]).current_dir(&source).output().context("Go is needed")?;
    if !output.status.success() && std::env::var_os("FRONTIER_OFFLINE").is_some() {
        eprintln!("\n!!!!! SKIPPED: no Go service in a cluster, as FRONTIER_OFFLINE wants it !!!!!\n");
        return Ok(None);
    }
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Beside the test's own binary, in the target folder.
    let test = std::env::current_exe()?;
    let path = test.parent().context("where is this test?")?.join("clusterpeer");
    let output =
        Command::new("go").args(["build", "-o"]).arg(&path).arg(".").current_dir(&source).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(path))
}

/// What the program says to a call.
fn call(service: &mut Program, edge: &Edge, text: &str) -> anyhow::Result<String> {
    let outcomes = [format!("answer {} ", edge.id()), format!("failed {} ", edge.id())];
    let before = outcomes.each_ref().map(|outcome| service.said(outcome).len());
    service.types(&format!("{} who {text}", edge.id()))?;
    let new = || {
        outcomes.iter().zip(before).find_map(|(outcome, before)| service.said(outcome).get(before).cloned())
    };
    until("an answer", SOON, new).with_context(|| service.printed())
}

#[test]
fn a_service_of_a_go_program_reaches_every_edge_and_follows_it() -> anyhow::Result<()> {
    let Some(program) = program()? else { return Ok(()) };
    let plan = Plan { atlases: 1, gateways: 2, edges: 0, services: 0, ..Plan::default() };
    let mut cluster = Cluster::start(Store::One(Redis::start([""; 0])?), &plan)?;
    let runtime = Runtime::new()?;
    let mut edges = Vec::new();
    for at in 0..4 {
        let addresses: Vec<String> = cluster.order(at).iter().map(ToString::to_string).collect();
        let who = move |request: Request| async move {
            Ok::<_, frontier::Error>(format!("{} of {at}", String::from_utf8_lossy(request.body())))
        };
        edges.push(runtime.block_on(Edge::builder(addresses).method("who", who).connect())?);
    }
    let registry = cluster.atlas(0)?.api().to_string();
    let mut service = Program::start(&program, [registry.as_str(), POLL])?;
    service.says("joined")?;
    until("both gateways", SOON, || (service.said("joined").len() == 2).then_some(()))
        .with_context(|| service.printed())?;
    for (at, edge) in edges.iter().enumerate() {
        let answer = call(&mut service, edge, "first")?;
        ensure!(answer.contains(&format!("first of {at} by ")), "{answer}");
    }

    // Its edges go to the other gateway, and the list loses one.
    cluster.kill_gateway(0)?;
    service.says("left")?;
    for (at, edge) in edges.iter().enumerate() {
        let mut tries = 0;
        until("the edge at its new place", SOON, || {
            tries += 1;
            let answer = call(&mut service, edge, &format!("try{tries}")).ok()?;
            answer.contains(&format!("of {at} by ")).then_some(())
        })
        .with_context(|| service.printed())?;
    }

    // Started again, the gateway is used again.
    cluster.restart_gateway(0)?;
    until("the gateway again", SOON, || (service.said("joined").len() == 3).then_some(()))
        .with_context(|| service.printed())?;

    // Who does not exist is said to be nowhere, with the text that Go programs know.
    service.types("4711 who anybody")?;
    let line = service.says("failed 4711")?;
    ensure!(line.contains("not found") || line.contains("not online"), "{line}");
    service.end_input();
    ensure!(service.exit()?.success(), "{}", service.printed());
    Ok(())
}
