//! `nats-server` with JetStream on disk.

use std::{path::Path, process::Command};

use super::process::Server;

/// A NATS server.
pub struct Nats(pub Server);

// === impl Nats ===

impl Nats {
    /// Starts one with these lines in its configuration.
    pub fn start(lines: &str) -> anyhow::Result<Self> {
        let lines = lines.to_owned();
        Ok(Self(Server::start(move |dir, addr| {
            let text = format!(
                "listen: \"{addr}\"\njetstream {{ store_dir: \"{}\" }}\n{lines}\n",
                dir.join("js").display()
            );
            let config = dir.join("nats.conf");
            // A file that cannot be written makes the start fail, with the reason.
            drop(std::fs::write(&config, text));
            // Debian puts it where only root looks.
            let sbin = Path::new("/usr/sbin/nats-server");
            let mut command = Command::new(if sbin.exists() { sbin } else { Path::new("nats-server") });
            command.arg("-c").arg(config);
            command
        })?))
    }
}
