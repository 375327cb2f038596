//! The example in a real cluster: an edge is answered, and another edge is asked by way of the service.

use anyhow::{Context, ensure};
use frontier_e2e::{
    frontlas::{Config as AtlasConfig, Frontlas},
    gateway::{Config, Gateway},
    program::Program,
};

const ECHO: &str = env!("CARGO_BIN_EXE_frontier-echo");

#[test]
fn an_edge_is_answered_by_a_service_that_found_the_gateway_in_the_registry() -> anyhow::Result<()> {
    let atlas = Frontlas::start(&AtlasConfig::new())?;
    let gateway = Gateway::start(&Config::new().env("FRONTLAS_ADDR", &atlas.gateways().to_string()))?;
    let frontlas = format!("http://{}", atlas.api());
    let mut service = Program::start(ECHO, ["service", "--frontlas", &frontlas, "--name", "one"])?;
    service.says("one answers")?;

    let address = format!("tcp://{}", gateway.edges());
    let mut edge = Program::start(ECHO, ["edge", "--gateway", &address, "--name", "a", "--stay", "hi"])?;
    let line = edge.says("(edge ")?;
    ensure!(line.starts_with("hi from one"), "{line}");
    edge.interrupt()?;
    ensure!(edge.exit()?.success(), "{}", edge.printed());
    service.interrupt()?;
    let status = service.exit().context("the service does not end")?;
    ensure!(status.success(), "{}", service.printed());
    Ok(())
}
