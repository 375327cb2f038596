//! RabbitMQ of Debian, started by hand in a directory of its own, and `pika` to read it.

use std::{net::SocketAddr, path::Path, process::Command, sync::Arc};

use frontier_ops::testing::free_port;
use parking_lot::Mutex;

use super::process::{Server, output};

/// The Python that has Debian's pika.
const PYTHON: &str = "/usr/bin/python3";

/// A RabbitMQ.
pub struct Rabbit(pub Server, Arc<Mutex<String>>);

// === impl Rabbit ===

impl Rabbit {
    /// Starts one with these lines in its configuration.
    pub fn start(lines: &str) -> anyhow::Result<Self> {
        let lines = Arc::new(Mutex::new(lines.to_owned()));
        let used = Arc::clone(&lines);
        // Nodes are known by name at a port of their own, and by nobody else but their own tools.
        let (dist, epmd) = (free_port()?, free_port()?);
        Ok(Self(Server::start(move |dir, addr| command(dir, addr, dist, epmd, &used.lock()))?, lines))
    }

    /// Its configuration has these lines instead from the next start on.
    pub fn set(&self, lines: &str) {
        lines.clone_into(&mut self.1.lock());
    }

    /// Runs Python with `channel` open, on the default virtual host as `guest`.
    pub fn python(&self, code: &str) -> anyhow::Result<String> {
        let head = format!(
            "import pika, json\nc = pika.BlockingConnection(pika.ConnectionParameters('127.0.0.1', {}))\n\
             channel = c.channel()\n",
            self.0.addr().port()
        );
        output(Command::new(PYTHON).args(["-c", &format!("{head}{code}")]), 60)
    }

    /// The bodies in a queue, taken off it.
    pub fn drain(&self, queue: &str) -> anyhow::Result<Vec<String>> {
        let text = self.python(&format!(
            "while True:\n  m, p, body = channel.basic_get('{queue}', auto_ack=True)\n  if m is None: break\n  \
             print(body.decode())\n"
        ))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

fn command(dir: &Path, addr: SocketAddr, dist: SocketAddr, epmd: SocketAddr, lines: &str) -> Command {
    let text = format!(
        "listeners.tcp.1 = {addr}\nloopback_users = none\nlog.file = false\nlog.console = true\n{lines}\n"
    );
    // Files that cannot be written make the start fail, with the reason.
    drop(std::fs::write(dir.join("rabbitmq.conf"), text));
    drop(std::fs::write(dir.join("plugins"), "[].\n"));
    let mut command = Command::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    command
        .env("HOME", dir)
        .env("RABBITMQ_NODENAME", format!("frontier{}@localhost", addr.port()))
        .env("RABBITMQ_DIST_PORT", dist.port().to_string())
        .env("ERL_EPMD_PORT", epmd.port().to_string())
        .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"))
        .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", dir.join("logs"))
        .env("RABBITMQ_PID_FILE", dir.join("pid"))
        .env("RABBITMQ_CONF_ENV_FILE", dir.join("none"))
        // Two cores are shared with the tests.
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none");
    command
}
