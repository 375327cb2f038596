//! `nsqd` and `nsq_tail`, built from their Go module.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use frontier_ops::testing::free_port;
use parking_lot::Mutex;

use super::process::{Server, output};

const NSQD: &str = "github.com/nsqio/nsq/apps/nsqd";
const NSQ_TAIL: &str = "github.com/nsqio/nsq/apps/nsq_tail";

/// An nsqd that keeps everything on disk.
pub struct Nsq {
    /// The process.
    pub server: Server,
    tail: PathBuf,
}

// === impl Nsq ===

impl Nsq {
    /// Starts one with further options. The first call on a machine compiles it.
    pub fn start(options: &[&str]) -> anyhow::Result<Self> {
        let (nsqd, tail) = (built("nsqd", NSQD)?, built("nsq_tail", NSQ_TAIL)?);
        let http = free_port()?;
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let server = Server::start(move |dir, addr| {
            let mut command = Command::new(&nsqd);
            command.args(["--tcp-address", &addr.to_string(), "--http-address", &http.to_string()]);
            command
                .args(["--mem-queue-size", "0", "--sync-every", "1", "--data-path"])
                .arg(dir)
                .args(&options);
            command
        })?;
        Ok(Self { server, tail })
    }

    /// What Go's own client publishes in a second, with so many under way.
    pub fn go_rate(&self, size: usize, window: usize, time: Duration) -> anyhow::Result<f64> {
        let args = [
            self.server.addr().to_string(),
            size.to_string(),
            window.to_string(),
            time.as_millis().to_string(),
        ];
        Ok(output(Command::new(built("rate", ".")?).args(args), 60)?.trim().parse()?)
    }

    /// The bodies of the first `count` messages of a topic, by a client that has no part in this project.
    pub fn tail(&self, topic: &str, count: usize) -> anyhow::Result<Vec<String>> {
        Ok(self.print(topic, count)?.lines().map(str::to_owned).collect())
    }

    /// The same as it is printed, a line feed behind each.
    pub fn print(&self, topic: &str, count: usize) -> anyhow::Result<String> {
        // nsqd syncs its files for each message that goes to a new channel.
        let seconds = 60 + count as u64 / 20;
        let (addr, count) = (self.server.addr().to_string(), count.to_string());
        let args = ["--topic", topic, "--channel", "tail", "--nsqd-tcp-address", &addr, "-n", &count];
        output(Command::new(&self.tail).args(args), seconds)
    }
}

/// A program of a module, compiled once.
fn built(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _guard = BUILDING.lock();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = root.join("target/go");
    std::fs::create_dir_all(&target)?;
    let binary = target.join(name);
    let mut build = Command::new("go");
    // Go looks itself whether something is to be done.
    build.current_dir(root.join("e2e/go/nsqd")).args(["build", "-o"]).arg(&binary).arg(package);
    output(&mut build, 500)?;
    Ok(binary)
}
