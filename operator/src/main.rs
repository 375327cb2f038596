//! The binary `frontier-operator`: flags, logs, then the operator until a signal.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use frontier_operator::{
    app::App,
    cli::{self, Cli},
};
use frontier_ops::{
    config::{Environment, Log, Problems},
    life::live,
    telemetry,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            // The log may not be up yet, and a person reads this.
            eprintln!("frontier-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    if let Some(command) = cli.command {
        return cli::run(command, &mut std::io::stdout().lock());
    }
    let (mut log, mut problems) = (Log::default(), Problems::new(None));
    log.apply(&cli.log_flags(), &Environment::of_process(), &mut problems);
    if let Some(problem) = problems.errors().next() {
        anyhow::bail!("{}", problems.line_of(problem));
    }
    let telemetry = telemetry::init(&log).context("logs cannot be started")?;
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("a cryptography provider was installed already");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("operator")
        .enable_all()
        .build()
        .context("runtime")?;
    let code = runtime.block_on(live(async || App::start(cli, &telemetry).await));
    // Whatever still runs has had its time in `App::stop`, or a second signal wants no more of it.
    runtime.shutdown_background();
    Ok(code?)
}
