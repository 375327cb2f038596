//! Secrets: checked copies of the users' certificates, which pods mount, and what the operator makes up itself.
//!
//! Pods mount copies so that a broken certificate never reaches them: the last good one stays in force.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};

use super::{Part, Scene, Style};

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// PEM, the chain.
    pub cert: Vec<u8>,
    /// PEM.
    pub key: Vec<u8>,
}

/// Files for TLS, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// What is shown to peers.
    pub pair: Option<Pair>,
    /// By what peers are verified, PEM.
    pub ca: Option<Vec<u8>>,
}

pub(super) fn all(scene: &Scene<'_>) -> Vec<Secret> {
    let names = &scene.names;
    let mut all = Vec::new();
    for (bound, tls) in [("edgebound", &scene.seen.edge_tls), ("servicebound", &scene.seen.service_tls)] {
        let Some(TlsFiles { pair, ca }) = tls else { continue };
        if let Some(Pair { cert, key }) = pair {
            let name = names.with(&format!("{bound}-certkey-certificate"));
            let data = [("tls.crt", cert.as_slice()), ("tls.key", key.as_slice())];
            all.push(secret(scene, &name, Part::Gateway, "kubernetes.io/tls", data));
        }
        if let Some(ca) = ca {
            let name = names.with(&format!("{bound}-ca-certificate"));
            all.push(secret(scene, &name, Part::Gateway, "Opaque", [("ca.crt", ca.as_slice())]));
        }
    }
    if let Some(TlsFiles { pair, ca }) = &scene.seen.redis_tls {
        let pair = pair
            .iter()
            .flat_map(|pair| [("tls.crt", pair.cert.as_slice()), ("tls.key", pair.key.as_slice())]);
        let ca = ca.iter().map(|ca| ("ca.crt", ca.as_slice()));
        all.push(secret(scene, &names.with("redis-tls"), Part::Atlas, "Opaque", pair.chain(ca)));
    }
    if scene.cluster.spec.frontlas.redis.is_none() {
        let data = [("password", scene.seen.own_redis_password.as_bytes())];
        all.push(secret(scene, &names.with("redis"), Part::Redis, "Opaque", data));
    }
    if scene.gateway_style() == Style::Own {
        let data = [("key", scene.seen.identity_key.as_bytes())];
        all.push(secret(scene, &names.with("frontier-identity"), Part::Gateway, "Opaque", data));
    }
    all
}

fn secret<'a>(
    scene: &Scene<'_>,
    name: &str,
    part: Part,
    type_: &str,
    data: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Secret {
    let data = data.into_iter().map(|(key, bytes)| (key.to_owned(), ByteString(bytes.to_vec())));
    Secret {
        metadata: scene.meta(name, part),
        type_: Some(type_.to_owned()),
        data: Some(data.collect::<BTreeMap<_, _>>()),
        ..Secret::default()
    }
}

// === impl Pair ===

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pair")
    }
}
