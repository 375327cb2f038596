//! SIGHUP: the file is read again, and what can change without a restart does.

use std::{future::Future, sync::Arc};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::{config::Config, queues::Queues, sources::Sources};

/// Reads the configuration again as it was read at the start; the text of an error has all problems.
pub type Reload = Arc<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// Hears signals from now on; the answer follows them for ever. What a wrong file says is left alone.
pub(super) fn follow(
    queues: Arc<Queues>,
    sources: Arc<Sources>,
    reload: Option<Reload>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut signals = signal(SignalKind::hangup()).context("SIGHUP")?;
    Ok(async move {
        while signals.recv().await.is_some() {
            let Some(reload) = reload.clone() else { continue };
            // Files of passwords and identities may be on slow disks.
            let read = tokio::task::spawn_blocking(move || reload()).await;
            match read.map_err(|error| error.to_string()).and_then(|config| config) {
                Ok(config) => apply(&queues, &sources, &config),
                Err(error) => tracing::error!(%error, "the file is wrong; what it said before holds on"),
            }
        }
    })
}

fn apply(queues: &Queues, sources: &Sources, config: &Config) {
    match sources.replace(&config.mqm) {
        Ok(changes) if changes.begun.is_empty() && changes.ended.is_empty() => {
            if !config.mqm.sources.is_empty() {
                tracing::info!("SIGHUP: sources stay as they are");
            }
        }
        Ok(changes) => tracing::info!(
            begun = changes.begun.join(", "),
            ended = changes.ended.join(", "),
            "SIGHUP: sources have changed"
        ),
        // Half of a file is not applied.
        Err(error) => return tracing::error!(%error, "SIGHUP: queues and sources stay as they are"),
    }
    match queues.replace(&config.mqm) {
        Ok(changes) if changes.begun.is_empty() && changes.ended.is_empty() => {
            if !config.mqm.queues().is_empty() {
                tracing::info!("SIGHUP: queues stay as they are");
            }
        }
        Ok(changes) => tracing::info!(
            begun = changes.begun.join(", "),
            ended = changes.ended.join(", "),
            "SIGHUP: queues have changed"
        ),
        Err(error) => tracing::error!(%error, "SIGHUP: queues stay as they are"),
    }
}
