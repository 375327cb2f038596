//! The binary `frontlas`: flags, configuration, logs, then atlas until a signal.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use frontier_atlas::{
    app::App,
    cli::{self, Cli},
    config,
};
use frontier_ops::{config::Environment, life::live, telemetry};

/// Freed pages go back to the system in the background.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            // The log may not be up yet, and a person reads this.
            eprintln!("frontlas: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let env = Environment::of_process();
    if let Some(command) = &cli.command {
        return Ok(cli::run(cli, command, env, &mut std::io::stdout().lock())?);
    }
    let loaded = config::load(&cli.sources(env)).map_err(|error| anyhow::anyhow!("{error}"))?;
    let telemetry = telemetry::init(&loaded.config.log).context("logs cannot be started")?;
    telemetry::log_config(&loaded.config, &loaded.problems);
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("a cryptography provider was installed already");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("atlas")
        .enable_all()
        .build()
        .context("runtime")?;
    let code = runtime.block_on(live(async || App::start(&loaded.config, &telemetry)));
    // Whatever still runs has had its time in `App::stop`, or a second signal wants no more of it.
    runtime.shutdown_background();
    Ok(code?)
}
