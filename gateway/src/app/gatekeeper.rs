//! The authority that answers the core's questions about identities.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use frontier_ops::{parts::Failures, readiness::Readiness};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    identity::{
        SeededRandom,
        authority::Authority,
        ticket::{DEFAULT_LIFE, TicketKey},
    },
    tokens::{TokenFile, watch},
};

/// How often the tokens file is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The authority of a configuration, and the tokens file it must follow.
pub(super) fn authority(config: &Config) -> anyhow::Result<(Arc<Authority>, Option<TokenFile>)> {
    let key = match config.identity.load_key().map_err(anyhow::Error::msg).context("identity.key")? {
        Some(key) => key,
        None => {
            let mut key = vec![0; 32];
            getrandom::fill(&mut key).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
            key
        }
    };
    let (file, grants) = match &config.auth.tokens {
        Some(path) => {
            let (file, grants) = TokenFile::open(path).map_err(|error| anyhow::anyhow!("{error}"))?;
            (Some(file), Some(grants))
        }
        None => (None, None),
    };
    let ids = SeededRandom::from_system().context("no randomness")?;
    Ok((Arc::new(Authority::new(grants, TicketKey::new(&key), DEFAULT_LIFE, ids)), file))
}

/// Follows the tokens file, and reads it again at once on SIGHUP. Without a file the signal only does not end the process.
pub(super) fn follow(
    authority: Arc<Authority>,
    file: Option<TokenFile>,
    readiness: Readiness,
    stop: CancellationToken,
    failed: &Failures,
) -> anyhow::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    let hangup = Arc::new(Notify::new());
    let mut signals = signal(SignalKind::hangup()).context("SIGHUP")?;
    let notify = Arc::clone(&hangup);
    let hear = async move {
        while signals.recv().await.is_some() {
            notify.notify_one();
        }
    };
    tasks.spawn(failed.clone().watch("SIGHUP", stop.clone(), hear));
    if let Some(file) = file {
        let apply = move |grants| authority.set_grants(Some(grants));
        let part = watch(file, LOOK, hangup, readiness, stop.clone(), apply);
        tasks.spawn(failed.clone().watch("identities", stop, part));
    }
    Ok(tasks)
}
