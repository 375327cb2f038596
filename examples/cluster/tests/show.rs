//! The show as CI runs it: with a registry on Redis, and with one in memory.

use anyhow::ensure;
use frontier_e2e::{
    gateway::{binary, frontlas_binary},
    program::Program,
};

const SHOW: &str = env!("CARGO_BIN_EXE_frontier-cluster-show");

fn show(how: &[&str]) -> anyhow::Result<Vec<String>> {
    let gateway = binary()?;
    let atlas = frontlas_binary()?;
    let mut args =
        vec!["--gateway-binary".as_ref(), gateway.as_os_str(), "--atlas-binary".as_ref(), atlas.as_os_str()];
    args.extend(how.iter().map(|arg| std::ffi::OsStr::new(*arg)));
    let mut show = Program::start(SHOW, args)?;
    show.says("Atlas keeps where everybody is in")?;
    show.says("Gateway two is killed")?;
    show.says("Everything was right.")?;
    ensure!(show.exit()?.success(), "the show was no success");
    Ok(show.said("Atlas keeps"))
}

#[test]
fn edges_of_a_killed_gateway_are_back_on_the_other_one_while_calls_go_on() -> anyhow::Result<()> {
    let said = show(&["--once"])?;
    ensure!(said.iter().any(|line| line.contains("Redis (127.0.0.1:")), "{said:?}");
    Ok(())
}

#[test]
fn so_they_are_with_a_registry_in_memory() -> anyhow::Result<()> {
    let said = show(&["--once", "--memory"])?;
    ensure!(said.iter().any(|line| line.contains("its own memory")), "{said:?}");
    Ok(())
}
