//! The binary `frontier`: flags, configuration, logs, then the gateway until a signal.

use std::{process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Parser;
use frontier_gateway::{
    app::{App, Reload},
    cli::{self, Cli},
    config,
};
use frontier_ops::{config::Environment, life::live, telemetry};

/// Less memory per idle connection than the system's allocator, and freed pages go back in the background.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            // The log may not be up yet, and a person reads this.
            eprintln!("frontier: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let env = Environment::of_process();
    if let Some(command) = &cli.command {
        return Ok(cli::run(cli, command, env, &mut std::io::stdout().lock())?);
    }
    let loaded = config::load(&cli.sources(env.clone())).map_err(|error| anyhow::anyhow!("{error}"))?;
    let telemetry = telemetry::init(&loaded.config.log).context("logs cannot be started")?;
    for warning in cli.warnings() {
        tracing::warn!("{warning}");
    }
    telemetry::log_config(&loaded.config, &loaded.problems);
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("a cryptography provider was installed already");
    }
    let reload: Reload = {
        let (cli, env) = (cli.clone(), env);
        Arc::new(move || match config::load(&cli.sources(env.clone())) {
            Ok(loaded) => Ok(loaded.config),
            Err(error) => Err(error.to_string()),
        })
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("control runtime")?;
    let code = runtime.block_on(live(async || App::start(&loaded.config, &telemetry, Some(reload)).await));
    // Whatever still runs has had its time in `App::stop`, or a second signal wants no more of it.
    runtime.shutdown_background();
    Ok(code?)
}
