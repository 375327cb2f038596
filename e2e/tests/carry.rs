//! The thinnest whole: one call from an edge to a service through the real binary. If this fails, begin here.

use frontier_e2e::{
    gateway::{Config, Gateway},
    peer::{Dial, Worker},
    wait::SOON,
};

#[test]
fn an_edge_calls_a_service() -> anyhow::Result<()> {
    let gateway = Gateway::start(&Config::new())?;
    let service = Worker::echo(Dial::service(gateway.services(), "s")?.methods(&["echo"]).connect()?);
    let mut edge = Dial::edge(gateway.edges())?.connect()?;
    assert_eq!(edge.call("echo", b"hi", SOON)?, Ok(b"hi".to_vec()));
    service.stop()?;
    Ok(())
}
