//! Which binaries are tested: `FRONTIER_BIN` and `FRONTLAS_BIN`, or those that cargo builds from this tree with the profile of the tests.
//! The gateway has fault points (its feature `testing`), or the tests that need them fail.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::Context;

/// What the panic of a fault point says, and so what a binary that has them contains.
const MARK: &[u8] = b"fault point: frontier.fault.";

static GATEWAY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
static FRONTLAS: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// The binary `frontier`, built on first use.
///
/// # Errors
/// When it does not compile.
pub fn path() -> anyhow::Result<&'static Path> {
    let built = GATEWAY.get_or_init(|| {
        given_or_built(
            "FRONTIER_BIN",
            &["--package", "frontier-gateway", "--bin", "frontier", "--features", "frontier-gateway/testing"],
        )
    });
    built.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// The binary `frontlas`, built on first use.
///
/// # Errors
/// When it does not compile.
pub fn frontlas() -> anyhow::Result<&'static Path> {
    let built = FRONTLAS.get_or_init(|| {
        given_or_built("FRONTLAS_BIN", &["--package", "frontier-atlas", "--bin", "frontlas"])
    });
    built.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn given_or_built(variable: &str, target: &[&str]) -> Result<PathBuf, String> {
    match std::env::var_os(variable) {
        Some(path) => Ok(path.into()),
        None => build(target).map_err(|error| format!("{error:#}")),
    }
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

fn build(target: &[&str]) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet"]).args(target);
    command.args(["--message-format", "json-render-diagnostics", "--profile", &profile()?]);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
    let output = command.output().context("cargo cannot be run")?;
    anyhow::ensure!(output.status.success(), "{} cannot be built", target.join(" "));
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
