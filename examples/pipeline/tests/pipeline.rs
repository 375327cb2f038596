//! The pipeline as CI runs it.

use anyhow::ensure;
use frontier_e2e::{gateway::binary, program::Program};

#[test]
fn what_edges_publish_comes_out_of_the_broker() -> anyhow::Result<()> {
    let gateway = binary()?;
    let args = ["--once".as_ref(), "--gateway-binary".as_ref(), gateway.as_os_str()];
    let mut pipeline = Program::start(env!("CARGO_BIN_EXE_frontier-pipeline"), args)?;
    pipeline.says("readings.north")?;
    pipeline.says("readings.south")?;
    pipeline.says("readings.nowhere")?;
    pipeline.says("came out.")?;
    ensure!(pipeline.exit()?.success());
    Ok(())
}
