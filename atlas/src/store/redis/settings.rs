//! How Redis is reached. Nothing here is left to a default of the client library.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where servers are, who we are, and how long we wait.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which servers.
    pub mode: Mode,
    /// For the servers that hold data.
    pub credentials: Credentials,
    /// The number of the database; a Redis Cluster has only 0.
    pub database: u8,
    /// Encrypts every connection, those to sentinels included.
    pub tls: Option<Tls>,
    /// Shown by `CLIENT LIST`. Without spaces.
    pub client_name: String,
    /// For a connection with its TLS handshake, and again for its authentication.
    pub connect_timeout: Duration,
    /// For up to 1,024 commands that are sent in one go, everything included.
    pub command_timeout: Duration,
    /// Between attempts to connect again: at first and at most. It doubles in between, with jitter.
    pub backoff: (Duration, Duration),
    /// Commands that may wait for Redis at once; who comes beyond is told [`Busy`](crate::store::StoreError::Busy).
    pub in_flight: u32,
}

/// How the servers of the store belong together.
#[derive(Clone, Debug)]
pub enum Mode {
    /// One server, or a name that always leads to the one that takes writes.
    Standalone {
        /// Where.
        address: Address,
    },
    /// A master that sentinels watch over. They are asked at each connection and every second; most answers decide.
    Sentinel {
        /// Where they are. Others that they know are not asked.
        sentinels: Vec<Address>,
        /// What they call the master.
        master: String,
        /// For the sentinels.
        credentials: Credentials,
    },
    /// A Redis Cluster.
    Cluster {
        /// Some of its servers; they tell of the others.
        seeds: Vec<Address>,
    },
}

/// A name or an IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A user and a password. Without a password nobody is authenticated; without a user, the default one is meant.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user, for servers with access control lists.
    pub username: Option<String>,
    /// The password; not shown by `Debug`.
    pub password: Option<String>,
}

/// TLS to Redis. Files are read again for each connection, so they may be renewed at any time.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Who signed the servers' certificates, in PEM; without it, the roots of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate and its chain, in PEM, if servers want one.
    pub cert: Option<PathBuf>,
    /// The key to `cert`, in PEM.
    pub key: Option<PathBuf>,
    /// The name in the servers' certificates, if it is not the host that is connected to.
    pub server_name: Option<String>,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// There is nowhere to connect to.
    #[error("no address of Redis is given")]
    NoAddress,
    /// Only database 0 exists.
    #[error("a Redis Cluster has no database {0}")]
    Database(u8),
    /// One of `cert` and `key` is missing.
    #[error("a certificate and its key belong together")]
    HalfIdentity,
    /// A file of certificates or keys.
    #[error("{path}: {problem}")]
    File {
        /// Which.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Certificates and key do not make a TLS client.
    #[error("TLS to Redis: {0}")]
    Tls(#[from] rustls::Error),
    /// The name in the certificates is none.
    #[error("`{0}` is no name of a server")]
    ServerName(String),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a host and a port")]
pub struct AddressError(String);

// === impl Settings ===

impl Settings {
    /// What to reach, with everything else as in production.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            credentials: Credentials::default(),
            database: 0,
            tls: None,
            client_name: "frontlas".to_owned(),
            // A server that is up answers within milliseconds; one that is not should be given up before leases (4 s) end.
            connect_timeout: Duration::from_secs(2),
            command_timeout: Duration::from_secs(2),
            backoff: (Duration::from_millis(50), Duration::from_secs(2)),
            // About 20 MiB of commands.
            in_flight: 65_536,
        }
    }

    /// Whether these settings can be used at all, files included.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SettingsError> {
        let addresses = match &self.mode {
            Mode::Standalone { .. } => 1,
            Mode::Sentinel { sentinels, .. } => sentinels.len(),
            Mode::Cluster { seeds } => seeds.len(),
        };
        if addresses == 0 {
            return Err(SettingsError::NoAddress);
        }
        if matches!(self.mode, Mode::Cluster { .. }) && self.database != 0 {
            return Err(SettingsError::Database(self.database));
        }
        self.tls.as_ref().map_or(Ok(()), |tls| super::tls::client(tls).map(drop))
    }
}

// === impl Address ===

impl Address {
    /// From its parts.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // An IPv6 address without brackets would lose its last group to the port.
        if bare.is_none() && host.contains([':', '[', ']']) {
            return Err(wrong());
        }
        let host = bare.unwrap_or(host);
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

// === impl Credentials ===

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "…");
        f.debug_struct("Credentials").field("username", &self.username).field("password", &password).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_and_ports() {
        for text in ["redis:6379", "10.0.0.1:1", "[::1]:6379", "a.b-c:65535"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "redis", "redis:", ":6379", "redis:65536", "::1:6379", "[]:1", "a b:1", "[::1:6379"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let credentials = Credentials { username: Some("me".into()), password: Some("hush".into()) };
        assert!(!format!("{credentials:?}").contains("hush"));
    }

    #[test]
    fn what_cannot_work_is_told_at_once() {
        let cluster = Settings::new(Mode::Cluster { seeds: vec![Address::new("a", 1)] });
        assert!(cluster.check().is_ok());
        let wrong = Settings { database: 1, ..cluster.clone() };
        assert!(matches!(wrong.check(), Err(SettingsError::Database(1))));
        let wrong = Settings::new(Mode::Cluster { seeds: Vec::new() });
        assert!(matches!(wrong.check(), Err(SettingsError::NoAddress)));
        let ca = Some(PathBuf::from("/nowhere/ca.pem"));
        let wrong = Settings { tls: Some(Tls { ca, ..Tls::default() }), ..cluster.clone() };
        assert!(matches!(wrong.check(), Err(SettingsError::File { .. })));
        let server_name = Some("not a name".to_owned());
        let wrong = Settings { tls: Some(Tls { server_name, ..Tls::default() }), ..cluster };
        assert!(matches!(wrong.check(), Err(SettingsError::ServerName(_))));
    }
}
