//! The authority that answers the core's questions about identities.

use std::sync::Arc;

use anyhow::Context;

use crate::config::Config;
use crate::identity::authority::Authority;
use crate::identity::ticket::{DEFAULT_LIFE, TicketKeys};

/// The authority of a configuration.
pub(super) fn authority(config: &Config) -> anyhow::Result<Arc<Authority>> {
    let key = match config.identity.load_key().map_err(anyhow::Error::msg).context("identity.key")? {
        Some(key) => key,
        None => {
            let mut key = vec![0; 32];
            getrandom::fill(&mut key).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
            key
        }
    };
    Ok(Arc::new(Authority::new(None, TicketKeys::new(&key, &[]), DEFAULT_LIFE)))
}
