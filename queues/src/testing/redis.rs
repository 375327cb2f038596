//! `redis-server` that keeps what it was given, and `redis-cli` to read it.

use std::process::Command;

use super::process::{Server, output};

/// A Redis.
pub struct Redis(pub Server);

// === impl Redis ===

impl Redis {
    /// Starts one with further options, as `["--requirepass", "x"]`.
    pub fn start(options: &[&str]) -> anyhow::Result<Self> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        Ok(Self(Server::start(move |dir, addr| {
            let mut command = Command::new("redis-server");
            command.args(["--port", &addr.port().to_string(), "--bind", "127.0.0.1", "--save", ""]);
            command.args(["--appendonly", "yes", "--dir"]).arg(dir).args(&options);
            command
        })?))
    }

    /// What `redis-cli` prints.
    pub fn cli(&self, args: &[&str]) -> anyhow::Result<String> {
        let port = self.0.addr().port().to_string();
        output(Command::new("redis-cli").args(["-p", &port]).args(args), 30)
    }
}
