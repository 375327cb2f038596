//! The store on Redis, as the configuration says.

use std::path::{Path, PathBuf};

use anyhow::Context;
use frontier_ops::config::SecretSource;

use crate::{
    config::{self, Redis as Config},
    store::{
        Redis,
        redis::{Address, Credentials, Mode, Settings, Tls},
    },
};

/// Begins to connect; returns at once.
pub(super) fn redis(config: &Config) -> anyhow::Result<Redis> {
    Ok(Redis::connect(settings(config)?)?)
}

fn settings(config: &Config) -> anyhow::Result<Settings> {
    let (mode, database) = match config.mode {
        config::Mode::Sentinel => {
            let sentinel = &config.sentinel;
            let mode = Mode::Sentinel {
                sentinels: addresses(&sentinel.addrs)?,
                master: sentinel.master_name.clone(),
                credentials: credentials(&sentinel.sentinel_username, sentinel.sentinel_password.as_ref())
                    .context("redis.sentinel.sentinel_password")?,
            };
            (mode, sentinel.db)
        }
        config::Mode::Cluster => (Mode::Cluster { seeds: addresses(&config.cluster.addrs)? }, 0),
        // Who has no Redis does not come here.
        config::Mode::Standalone | config::Mode::Memory => {
            let address = config.standalone.addr.parse()?;
            (Mode::Standalone { address }, config.standalone.db)
        }
    };
    let tls = config.tls.enable.then(|| Tls {
        ca: given(&config.tls.ca),
        cert: given(&config.tls.cert),
        key: given(&config.tls.key),
        server_name: Some(config.tls.server_name.clone()).filter(|name| !name.is_empty()),
    });
    Ok(Settings {
        credentials: credentials(&config.username, config.password.as_ref()).context("redis.password")?,
        database,
        tls,
        client_name: config.clientname.clone(),
        connect_timeout: config.dial_timeout,
        command_timeout: config.read_timeout.max(config.write_timeout),
        backoff: (config.min_retry_backoff, config.max_retry_backoff),
        ..Settings::new(mode)
    })
}

fn addresses(addrs: &[String]) -> anyhow::Result<Vec<Address>> {
    Ok(addrs.iter().map(|addr| addr.parse()).collect::<Result<_, _>>()?)
}

fn credentials(username: &str, password: Option<&SecretSource>) -> anyhow::Result<Credentials> {
    let password = password.map(SecretSource::load).transpose()?;
    Ok(Credentials {
        username: Some(username.to_owned()).filter(|name| !name.is_empty()),
        password: password.map(|password| password.expose().to_owned()),
    })
}

fn given(path: &Path) -> Option<PathBuf> {
    Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty())
}
