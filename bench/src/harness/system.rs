//! The systems that are compared, and how each is started for one run: fresh, on loopback ports, with the configuration written here.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::server::{Launcher, Server};

/// Key of resume tickets: they are good after the gateway was started again.
const TICKET_KEY: &str = "66726f6e7469657266726f6e7469657266726f6e7469657266726f6e74696572";
/// How long the gateway's metrics may take to be there after its ports are.
const ADMIN: Duration = Duration::from_secs(2);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum System {
    /// The bare relay.
    Relay,
    /// The bare accept-read-write server.
    Greeter,
    /// The gateway, one shard.
    Gateway(Variant),
    /// nats-server.
    Nats,
    /// mosquitto.
    Mosquitto,
}

/// How the gateway is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Edges connect by TLS.
    pub tls: bool,
    /// No limit on new sessions per second, instead of the default.
    pub any_rate: bool,
}

/// A system that runs.
#[derive(Debug)]
pub struct Running {
    /// Its process.
    pub server: Server,
    /// Where edges or clients connect.
    pub edge: SocketAddr,
    /// Where services connect: the gateway's port, or the one on which the load listens behind the relay.
    pub service: SocketAddr,
    /// The gateway's metrics.
    pub admin: Option<SocketAddr>,
    /// The authority that clients trust.
    pub authority: Option<PathBuf>,
}

// === impl System ===

impl System {
    /// The gateway with defaults.
    pub const GATEWAY: Self = Self::Gateway(Variant { tls: false, any_rate: false });

    /// As the table calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Greeter => "greeter",
            Self::Gateway(_) => "gateway",
            Self::Nats => "nats-server",
            Self::Mosquitto => "mosquitto",
        }
    }

    /// The program of a server that is installed apart from this one; `None` if it is not installed, or one of ours.
    #[must_use]
    pub fn program(self) -> Option<PathBuf> {
        let name = match self {
            Self::Nats | Self::Mosquitto => self.name(),
            Self::Relay | Self::Greeter | Self::Gateway(_) => return None,
        };
        let paths = std::env::var_os("PATH").unwrap_or_default();
        // Debian's are where ordinary users do not look.
        let mut places = std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin")]);
        places.find_map(|dir| Some(dir.join(name)).filter(|path| path.is_file()))
    }

    /// Starts it on a CPU.
    ///
    /// # Errors
    /// If it is not installed or does not come up.
    pub fn start(self, launcher: &Launcher, gateway: &Path, cpu: Option<usize>) -> Result<Running> {
        let (edge, service) = (launcher.port()?, launcher.port()?);
        match self {
            Self::Relay => {
                let args = ["relay", "--listen", &edge.to_string(), "--upstream", &service.to_string()];
                own(launcher, self, cpu, &args, edge, service)
            }
            Self::Greeter => {
                own(launcher, self, cpu, &["greeter", "--listen", &edge.to_string()], edge, service)
            }
            Self::Gateway(variant) => start_gateway(launcher, gateway, cpu, variant, edge, service),
            Self::Nats => {
                let args = ["-a", "127.0.0.1", "-p", &edge.port().to_string()].map(OsString::from);
                foreign(launcher, self, cpu, &args, edge)
            }
            Self::Mosquitto => {
                let path = launcher.dir().join("mosquitto.conf");
                fs::write(&path, mosquitto_conf(edge.port()))?;
                let args = ["-c".into(), path.into_os_string()];
                foreign(launcher, self, cpu, &args, edge)
            }
        }
    }
}

fn own(
    launcher: &Launcher,
    system: System,
    cpu: Option<usize>,
    args: &[&str],
    edge: SocketAddr,
    service: SocketAddr,
) -> Result<Running> {
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let server = launcher.serve(system.name(), cpu, launcher.exe().as_os_str(), &args, &[edge])?;
    Ok(Running { server, edge, service, admin: None, authority: None })
}

fn foreign(
    launcher: &Launcher,
    system: System,
    cpu: Option<usize>,
    args: &[OsString],
    edge: SocketAddr,
) -> Result<Running> {
    let program = system.program().with_context(|| format!("{} is not installed", system.name()))?;
    let server = launcher.serve(system.name(), cpu, program.as_os_str(), args, &[edge])?;
    Ok(Running { server, edge, service: edge, admin: None, authority: None })
}

/// No limits where the defaults would refuse what is measured: mosquitto holds 20 messages in flight and 1,000 in its queue.
fn mosquitto_conf(port: u16) -> String {
    format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\n\
         max_queued_messages 0\nlog_dest stderr\nlog_type error\nset_tcp_nodelay true\n"
    )
}

fn start_gateway(
    launcher: &Launcher,
    gateway: &Path,
    cpu: Option<usize>,
    variant: Variant,
    edge: SocketAddr,
    service: SocketAddr,
) -> Result<Running> {
    if !gateway.is_file() {
        bail!("no gateway at {}: build it or name it by --gateway", gateway.display());
    }
    let (admin, control) = (launcher.port()?, launcher.port()?);
    let authority = variant.tls.then(|| write_certificates(launcher)).transpose()?;
    let dir = launcher.dir().display();
    let tls = if variant.tls {
        format!("\n    tls: {{enable: true, certs: [{{cert: {dir}/server.pem, key: {dir}/server.key}}]}}")
    } else {
        String::new()
    };
    let limits = if variant.any_rate { "limits: {accept_rate: 0}\n" } else { "" };
    let config = format!(
        "edgebound:\n  listen:\n    network: tcp\n    addr: {edge}{tls}\n  edgeid_alloc_when_no_idservice_on: true\n\
         servicebound:\n  listen:\n    network: tcp\n    addr: {service}\n\
         controlplane:\n  enable: true\n  listen:\n    network: tcp\n    addr: {control}\n\
         identity:\n  key: '{TICKET_KEY}'\nobservability:\n  addr: {admin}\nlog:\n  level: warn\n  output: stderr\n{limits}"
    );
    let name = format!("gateway-{}", edge.port());
    let path = launcher.dir().join(format!("{name}.yaml"));
    fs::write(&path, config)?;
    let args = ["--config".into(), path.into_os_string(), "--shards".into(), "1".into()];
    let server = launcher.serve(&name, cpu, gateway.as_os_str(), &args, &[edge, service])?;
    // Without metrics only the breakdown of memory is missing.
    let admin = server.comes_to_listen(admin, ADMIN).then_some(admin);
    Ok(Running { server, edge, service, admin, authority })
}

/// An authority and a certificate for `localhost`, once per run.
fn write_certificates(launcher: &Launcher) -> Result<PathBuf> {
    let path = |name: &str| launcher.dir().join(name);
    let authority = path("authority.pem");
    if authority.exists() {
        return Ok(authority);
    }
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let root = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&leaf_key, &issuer)?;
    fs::write(path("server.pem"), leaf.pem())?;
    fs::write(path("server.key"), leaf_key.serialize_pem())?;
    fs::write(&authority, root.pem())?;
    Ok(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::transport;

    #[test]
    fn the_certificates_are_ones_that_a_client_can_trust() {
        let launcher = Launcher::new().unwrap();
        let authority = write_certificates(&launcher).unwrap();
        assert!(transport::client_config(&authority).is_ok());
        assert_eq!(write_certificates(&launcher).unwrap(), authority);
        assert!(fs::read_to_string(launcher.dir().join("server.key")).unwrap().contains("PRIVATE KEY"));
    }
}
