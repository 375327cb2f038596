//! The gateway as a child process.

use std::{net::TcpListener, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, anyhow, bail};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

/// How long it may take to listen.
const START: Duration = Duration::from_secs(15);

/// A running gateway; ends with this value.
pub(crate) struct Gateway {
    pub(crate) edges: String,
    pub(crate) services: String,
    child: Child,
    /// The folder of its configuration.
    _config: Option<TempDir>,
}

// === impl Gateway ===

impl Gateway {
    /// Starts it on its defaults, or on free ports if `apart` from whatever runs on this machine.
    pub(crate) async fn start(binary: &Path, apart: bool) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command.stdout(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
        let (mut edges, mut services) = (30012, 30011);
        let mut config = None;
        if apart {
            let ports: Vec<u16> = free_ports(4)?;
            (edges, services) = (ports[0], ports[1]);
            let dir = tempfile::tempdir().context("folder for the configuration of the gateway")?;
            let path = dir.path().join("frontier.yaml");
            let text = format!(
                "edgebound:\n  listen: {{network: tcp, addr: '127.0.0.1:{edges}'}}\n  edgeid_alloc_when_no_idservice_on: true\n\
                 servicebound:\n  listen: {{network: tcp, addr: '127.0.0.1:{services}'}}\n\
                 controlplane:\n  enable: true\n  listen: {{network: tcp, addr: '127.0.0.1:{}'}}\n\
                 observability:\n  addr: '127.0.0.1:{}'\n",
                ports[2], ports[3],
            );
            std::fs::write(&path, text).context("configuration of the gateway")?;
            command.arg("--config").arg(&path);
            config = Some(dir);
        }
        for port in [edges, services] {
            // Somebody else's gateway on the same port would be taken for this one.
            TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("port {port} is in use"))?;
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let mut gateway = Self {
            edges: format!("tcp://127.0.0.1:{edges}"),
            services: format!("tcp://127.0.0.1:{services}"),
            child,
            _config: config,
        };
        gateway.wait_for(edges).await?;
        gateway.wait_for(services).await?;
        gateway.is_running()?;
        Ok(gateway)
    }

    async fn wait_for(&mut self, port: u16) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            self.is_running()?;
            if Instant::now() > deadline {
                bail!("the gateway does not listen on port {port}");
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn is_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the gateway ended ({status}); is one of its ports in use?"),
        }
    }

    /// Waits until the gateway has ended, which it should not.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow!("the gateway ended ({status})"),
            Err(error) => error.into(),
        }
    }

    /// The ID of its process.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }
}

/// Resident memory of a process in KiB.
pub(crate) fn memory_kib(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

/// Ports that are free now: held together, so that they differ.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(held
        .iter()
        .map(TcpListener::local_addr)
        .map(|addr| addr.map(|addr| addr.port()))
        .collect::<Result<_, _>>()?)
}
