//! The processes of the cluster, as children.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long one may take to listen.
const START: Duration = Duration::from_secs(15);

/// What vouches for edges' IDs at both gateways; anything secret of 32 bytes.
const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// Where everybody listens.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    redis: u16,
    atlas: [u16; 3],
    /// Services, edges, control plane and admin port of each gateway.
    gateways: [[u16; 4]; 2],
}

/// What is run, and where its files are.
pub(crate) struct Home {
    pub(crate) gateway: PathBuf,
    pub(crate) atlas: PathBuf,
    pub(crate) ports: Ports,
    pub(crate) dir: TempDir,
}

/// The running cluster; ends with this value.
pub(crate) struct Cluster {
    home: Home,
    redis: Option<Child>,
    atlas: Child,
    gateways: [Child; 2],
}

const NAMES: [&str; 2] = ["one", "two"];

// === impl Ports ===

impl Ports {
    /// Those of the documentation; the second gateway's are ten above the first one's.
    pub(crate) const fn usual() -> Self {
        Self {
            redis: 46379,
            atlas: [40011, 40012, 9092],
            gateways: [[30011, 30012, 30010, 9091], [30021, 30022, 30020, 9101]],
        }
    }

    /// Some that are free now: held together, so that they differ.
    pub(crate) fn free() -> anyhow::Result<Self> {
        let held: Vec<TcpListener> =
            (0..12).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let ports: Vec<u16> = held
            .iter()
            .map(TcpListener::local_addr)
            .map(|addr| addr.map(|addr| addr.port()))
            .collect::<Result<_, _>>()?;
        let [redis, a, b, c, rest @ ..] = &ports[..] else { bail!("no ports") };
        let gateways = [rest[..4].try_into()?, rest[4..8].try_into()?];
        Ok(Self { redis: *redis, atlas: [*a, *b, *c], gateways })
    }
}

// === impl Cluster ===

impl Cluster {
    /// Starts Redis if there is one, then atlas, then the gateways.
    pub(crate) async fn start(home: Home, memory: bool) -> anyhow::Result<Self> {
        let ports = home.ports.clone();
        for port in ports.gateways.iter().flatten().chain(&ports.atlas).chain([&ports.redis]) {
            // Somebody else's process on the same port would be taken for ours.
            TcpListener::bind(("127.0.0.1", *port)).with_context(|| format!("port {port} is in use"))?;
        }
        let mut redis = if memory { None } else { start_redis(ports.redis, home.dir.path())? };
        if let Some(redis) = &mut redis {
            wait_for(redis, "Redis", ports.redis).await?;
        }
        let store = match &redis {
            Some(_) => format!(
                "redis: {{mode: standalone, standalone: {{network: tcp, addr: '127.0.0.1:{}', db: 0}}}}",
                ports.redis
            ),
            None => "redis: {mode: memory}".to_owned(),
        };
        let [control, frontier, admin] = ports.atlas;
        let text = format!(
            "control_plane: {{listen: {{network: tcp, addr: '127.0.0.1:{control}'}}}}\n\
             frontier_plane: {{listen: {{network: tcp, addr: '127.0.0.1:{frontier}'}}}}\n\
             observability: {{addr: '127.0.0.1:{admin}'}}\nlog: {{level: warn}}\n{store}\n"
        );
        let mut atlas = child(&home.atlas, &home.dir.path().join("frontlas.yaml"), &text)?;
        for port in ports.atlas {
            wait_for(&mut atlas, "atlas", port).await?;
        }
        let gateways = [home.start_gateway(0).await?, home.start_gateway(1).await?];
        Ok(Self { home, redis, atlas, gateways })
    }

    /// What atlas keeps its state in.
    pub(crate) fn store(&self) -> String {
        match &self.redis {
            Some(_) => format!("Redis (127.0.0.1:{})", self.home.ports.redis),
            None => "its own memory (Redis is not installed, or not wanted)".to_owned(),
        }
    }

    /// Where clients ask.
    pub(crate) fn atlas_address(&self) -> String {
        format!("http://127.0.0.1:{}", self.home.ports.atlas[0])
    }

    /// Name, address for edges and address for services of each gateway.
    pub(crate) fn gateways(&self) -> [(&'static str, String, String); 2] {
        [0, 1].map(|at| {
            let [services, edges, ..] = self.home.ports.gateways[at];
            (NAMES[at], format!("tcp://127.0.0.1:{edges}"), format!("tcp://127.0.0.1:{services}"))
        })
    }

    /// Kills the second gateway, without any warning.
    pub(crate) async fn kill_second(&mut self) -> anyhow::Result<()> {
        Ok(self.gateways[1].kill().await?)
    }

    /// Starts it again.
    pub(crate) async fn start_second(&mut self) -> anyhow::Result<()> {
        self.gateways[1] = self.home.start_gateway(1).await?;
        Ok(())
    }

    /// Waits until a process has ended, which none should.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        let [one, two] = &mut self.gateways;
        let redis = async {
            match &mut self.redis {
                Some(redis) => redis.wait().await,
                None => std::future::pending().await,
            }
        };
        let (name, status) = tokio::select! {
            status = one.wait() => ("gateway one", status),
            status = two.wait() => ("gateway two", status),
            status = self.atlas.wait() => ("atlas", status),
            status = redis => ("Redis", status),
        };
        match status {
            Ok(status) => anyhow!("{name} ended ({status})"),
            Err(error) => error.into(),
        }
    }
}

// === impl Home ===

impl Home {
    async fn start_gateway(&self, at: usize) -> anyhow::Result<Child> {
        let [services, edges, control, admin] = self.ports.gateways[at];
        let name = NAMES[at];
        let text = format!(
            "daemon: {{frontier_id: {name}}}\n\
             edgebound:\n  listen: {{network: tcp, addr: '127.0.0.1:{edges}'}}\n  edgeid_alloc_when_no_idservice_on: true\n\
             servicebound: {{listen: {{network: tcp, addr: '127.0.0.1:{services}'}}}}\n\
             controlplane: {{enable: true, listen: {{network: tcp, addr: '127.0.0.1:{control}'}}}}\n\
             observability: {{addr: '127.0.0.1:{admin}'}}\n\
             frontlas: {{enable: true, dial: {{addrs: ['127.0.0.1:{}']}}}}\n\
             identity: {{key: {KEY}}}\nlog: {{level: warn}}\n",
            self.ports.atlas[1]
        );
        let mut gateway = child(&self.gateway, &self.dir.path().join(format!("{name}.yaml")), &text)?;
        for port in [services, edges] {
            wait_for(&mut gateway, name, port).await?;
        }
        Ok(gateway)
    }
}

/// Redis with nothing on disk, if it is installed.
fn start_redis(port: u16, dir: &Path) -> anyhow::Result<Option<Child>> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.arg("--dir").arg(dir).stdout(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    match command.spawn() {
        Ok(child) => Ok(Some(child)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("redis-server"),
    }
}

/// A process of ours with this configuration. What it has to say is shown.
fn child(binary: &Path, config: &Path, text: &str) -> anyhow::Result<Child> {
    std::fs::write(config, text).with_context(|| format!("cannot write {}", config.display()))?;
    let mut command = Command::new(binary);
    // Whatever the shell has set for other gateways is not meant for these.
    for name in [
        "NODE_NAME",
        "FRONTIER_ID",
        "FRONTLAS_ADDR",
        "FRONTIER_EDGEBOUND_PORT",
        "FRONTIER_SERVICEBOUND_PORT",
        "REDIS_TYPE",
        "FRONTLAS_CONTROLPLANE_PORT",
        "FRONTLAS_FRONTIERPLANE_PORT",
    ] {
        command.env_remove(name);
    }
    command.arg("--config").arg(config).stdout(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot start {}", binary.display()))
}

async fn wait_for(child: &mut Child, name: &str, port: u16) -> anyhow::Result<()> {
    let deadline = Instant::now() + START;
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("{name} ended ({status}); is one of its ports in use?");
        }
        if Instant::now() > deadline {
            bail!("{name} does not listen on port {port}");
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
