//! Where a server listens and whom it dials: the `listen`, `dial` and `tls` blocks.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    problem::Problems,
    read::{FromNode, Section},
    value::{ListenAddr, split_host_port},
    yaml::Value,
};
use crate::tls::server::Files;

/// `listen`: one listening port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listen {
    /// Always `tcp`; `udp` is refused.
    pub network: String,
    /// The address to listen on.
    pub addr: ListenAddr,
    /// `host:port` that other machines reach this port by; empty = not announced.
    pub advertised_addr: String,
    /// TLS on this port.
    pub tls: Tls,
}

// === impl Listen ===

impl Listen {
    /// A plain TCP port on `addr`, a constant.
    #[must_use]
    pub fn on(addr: &str) -> Self {
        Self {
            network: "tcp".to_owned(),
            // The callers are defaults, which tests parse.
            addr: ListenAddr::parse(addr).expect("a default address is well formed"),
            advertised_addr: String::new(),
            tls: Tls::default(),
        }
    }

    /// Reads the block.
    pub fn read(section: &mut Section<'_>, default: Self) -> Self {
        Self {
            network: section.value("network", default.network),
            addr: section.value("addr", default.addr),
            advertised_addr: section.value("advertised_addr", default.advertised_addr),
            tls: section.section("tls", |tls| {
                tls.dead(
                    &["insecure_skip_verify"],
                    "a listener decides by `mtls` whether clients are verified",
                );
                Tls::read(tls)
            }),
        }
    }

    /// Reports what is wrong with a block that is in use.
    pub fn validate(&self, key: &str, problems: &mut Problems) {
        match self.network.as_str() {
            "tcp" => {}
            "udp" => problems.error(
                format!("{key}.network"),
                "udp is not supported: its handshake never completed in practice; use tcp",
            ),
            other => problems.error(format!("{key}.network"), format!("unsupported network: {other}")),
        }
        if !self.advertised_addr.is_empty()
            && let Err(message) = split_host_port(&self.advertised_addr)
        {
            problems.error(format!("{key}.advertised_addr"), message);
        }
        self.tls.validate_listener(&format!("{key}.tls"), problems);
    }
}

/// `dial`: addresses that a server connects to; one is picked at random each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dial {
    /// Always `tcp`.
    pub network: String,
    /// `host:port` each.
    pub addrs: Vec<String>,
    /// TLS towards them: without `mtls` the system's roots verify the peer (`insecure_skip_verify` turns that off),
    /// with it `ca_certs` do, and `certs` are shown.
    pub tls: Tls,
}

// === impl Dial ===

impl Default for Dial {
    fn default() -> Self {
        Self { network: "tcp".to_owned(), addrs: Vec::new(), tls: Tls::default() }
    }
}

impl Dial {
    /// Reads the block.
    pub fn read(section: &mut Section<'_>) -> Self {
        section.also("addrs", &["addr"]);
        section.dead(&["advertised_addr"], "only listeners are announced");
        Self {
            network: section.value("network", "tcp".to_owned()),
            // Documents and samples show `addr: host:port`, so a single address is as good as a list.
            addrs: section
                .optional_by("addrs", |node| match Vec::from_node(node) {
                    Ok(addrs) => Ok(addrs),
                    Err(_) if matches!(node.value, Value::Scalar { .. }) => {
                        String::from_node(node).map(|addr| vec![addr])
                    }
                    Err(message) => Err(message),
                })
                .unwrap_or_default(),
            tls: section.section("tls", |tls| {
                let skip = tls.value("insecure_skip_verify", false);
                Tls { insecure_skip_verify: skip, ..Tls::read(tls) }
            }),
        }
    }

    /// Checks a block that is in use; `empty` is the complaint about a list without addresses.
    pub fn validate(&self, key: &str, empty: &str, problems: &mut Problems) {
        if self.network != "tcp" {
            problems.error(format!("{key}.network"), format!("unsupported network: {}", self.network));
        }
        if self.addrs.is_empty() {
            problems.error(format!("{key}.addrs"), empty);
        }
        for addr in &self.addrs {
            if let Err(message) = split_host_port(addr) {
                problems.error(format!("{key}.addrs"), message);
            }
        }
        if self.tls.enable && self.tls.mtls {
            self.tls.validate_mutual(&format!("{key}.tls"), problems);
        }
    }
}

/// `tls`: certificates of a listener or a dialer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Whether TLS is spoken.
    pub enable: bool,
    /// Whether both sides show certificates.
    pub mtls: bool,
    /// PEM files of the authorities that the other side's certificate is verified with.
    pub ca_certs: Vec<PathBuf>,
    /// Our certificates; the name that the client asks for (SNI) picks one.
    pub certs: Vec<CertKey>,
    /// Dialers only: accept any certificate.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
}

/// A certificate chain and its private key, PEM files both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertKey {
    /// The chain, the leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

// === impl Tls ===

impl Tls {
    fn read(section: &mut Section<'_>) -> Self {
        Self {
            enable: section.value("enable", false),
            mtls: section.value("mtls", false),
            ca_certs: section.value("ca_certs", Vec::new()),
            certs: section.list("certs", |pair| CertKey {
                cert: pair.value("cert", PathBuf::new()),
                key: pair.value("key", PathBuf::new()),
            }),
            insecure_skip_verify: false,
        }
    }

    fn validate_listener(&self, key: &str, problems: &mut Problems) {
        if !self.enable {
            // Samples carry `mtls: true` in blocks that are off; it means nothing there, as before.
            return;
        }
        if self.mtls {
            self.validate_mutual(key, problems);
        } else {
            self.validate_certs(key, problems);
        }
    }

    fn validate_mutual(&self, key: &str, problems: &mut Problems) {
        self.validate_certs(key, problems);
        if self.ca_certs.is_empty() {
            problems.error(
                format!("{key}.ca_certs"),
                "mtls needs at least one authority to verify the other side with",
            );
        }
        if let Err(error) = Files::read(self).authorities(self) {
            problems.error(format!("{key}.ca_certs"), error.to_string());
        }
    }

    /// A pair that cannot be used is left out with a warning, as in the Go system; none at all is an error.
    fn validate_certs(&self, key: &str, problems: &mut Problems) {
        let files = Files::read(self);
        for index in files.first_version(self) {
            let message =
                "certificate of X.509 version 1, which many clients refuse; issue it again as version 3";
            problems.warn(format!("{key}.certs[{index}]"), message);
        }
        let unusable = files.unusable(self);
        for (index, error) in &unusable {
            problems.warn(format!("{key}.certs[{index}]"), format!("left out: {error}"));
        }
        if unusable.len() == self.certs.len() {
            problems
                .error(format!("{key}.certs"), "TLS needs at least one certificate and key that can be used");
        }
    }
}
