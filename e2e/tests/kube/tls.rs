//! The certificate of the port of edges: a Secret, and whether edges trust it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use frontier::{Edge, TlsOptions};
use frontier_e2e::certs::{Authority, NAME};
use tokio::runtime::Runtime;

use crate::{
    World,
    kube::{Kube, until},
};

/// The Secret's name.
pub(crate) const SECRET: &str = "edge-tls";

/// Puts a certificate of this authority into the Secret.
pub(crate) fn put(kube: &Kube, authority: &Authority) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    authority.issue(NAME)?.write(dir.path(), "edge")?;
    let file = |name: &str, key: &str| format!("--from-file={key}={}", dir.path().join(name).display());
    let (cert, key) = (file("edge.crt", "tls.crt"), file("edge.key", "tls.key"));
    let args = ["create", "secret", "generic", SECRET, "--dry-run=client", "-o", "yaml", &cert, &key];
    kube.apply(&kube.kubectl(args)?).map(drop)
}

/// Connects an edge that trusts this authority alone.
pub(crate) fn connect(runtime: &Runtime, gateway: &str, authority: &Authority) -> anyhow::Result<()> {
    let tls = TlsOptions::new().roots_pem(&authority.pem).server_name(NAME);
    runtime.block_on(async {
        let edge = Edge::builder(format!("tls://{gateway}")).tls(tls).connect().await?;
        edge.close().await;
        Ok(())
    })
}

/// Puts a certificate of another authority where one of `old` was, and waits until it is in force, in the same pods.
pub(crate) fn renewed(world: &World<'_>, gateway: &str, old: &Authority) -> anyhow::Result<()> {
    let (kube, runtime) = (&world.kube, world.runtime);
    let new = Authority::new()?;
    until("an edge by TLS", Duration::from_secs(60), || connect(runtime, gateway, old))?;
    ensure!(connect(runtime, gateway, &new).is_err(), "a certificate of another authority is taken");
    let pods = kube.names("pods")?;
    let begin = Instant::now();
    put(kube, &new)?;
    until("the new certificate", Duration::from_secs(150), || connect(runtime, gateway, &new))?;
    world.took("changed TLS secret until it is in force", begin);
    ensure!(kube.names("pods")? == pods, "pods were replaced: {pods:?}, {:?}", kube.names("pods")?);
    Ok(())
}
