//! Which binary is tested: `FRONTIER_BIN`, or the one that cargo builds from this tree with the profile of the tests. Either has fault
//! points (feature `testing` of the gateway), or the tests that need them fail.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::Context;

/// What the panic of a fault point says, and so what a binary that has them contains.
const MARK: &[u8] = b"fault point: frontier.fault.";

static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// The binary, built on first use.
///
/// # Errors
/// When it does not compile.
pub fn path() -> anyhow::Result<&'static Path> {
    let built = BINARY.get_or_init(|| match std::env::var_os("FRONTIER_BIN") {
        Some(path) => Ok(path.into()),
        None => build().map_err(|error| format!("{error:#}")),
    });
    built.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// Whether the binary has fault points; for tests that need them.
///
/// # Errors
/// When it has none: a test that did not run would look like one that has passed.
pub fn needs_fault_points() -> anyhow::Result<()> {
    let binary = std::fs::read(path()?)?;
    let has = binary.windows(MARK.len()).any(|window| window == MARK);
    anyhow::ensure!(
        has,
        "FRONTIER_BIN has no fault points; build it with --features frontier-gateway/testing"
    );
    Ok(())
}

fn build() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "frontier-gateway", "--bin", "frontier"]);
    command.args(["--features", "frontier-gateway/testing"]);
    command.args(["--message-format", "json-render-diagnostics", "--profile", &profile()?]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
    let output = command.output().context("cargo cannot be run")?;
    anyhow::ensure!(output.status.success(), "frontier cannot be built");
    let messages = String::from_utf8(output.stdout)?;
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut binaries =
        artifacts.filter_map(|artifact| Some(PathBuf::from(artifact.get("executable")?.as_str()?)));
    binaries.next_back().context("cargo named no binary")
}

/// Tests run from `target/<folder>/deps/<test>`; the folder tells the profile.
fn profile() -> anyhow::Result<String> {
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).and_then(Path::file_name).and_then(|name| name.to_str());
    let folder = folder.context("where is this test?")?;
    Ok(if folder == "debug" { "dev".to_owned() } else { folder.to_owned() })
}
