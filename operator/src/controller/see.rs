//! What rendering must know of the world: secrets, checked, and what there is already.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{LocalObjectReference, Secret, Service},
};
use kube::{Api, ResourceExt as _};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};

use super::{
    Context, LookError,
    trouble::{Reason, Trouble},
};
use crate::{
    api::{AdvertiseMode, FrontierCluster, FrontierClusterSpec, Tls},
    hash,
    render::{Kind, Names, Pair, Part, Running, Seen, TlsFiles},
};

/// Names of the secrets that a spec refers to.
pub(super) fn secrets_of(spec: &FrontierClusterSpec) -> Vec<&str> {
    let mut names = Vec::new();
    for tls in [&spec.frontier.edgebound.tls, &spec.frontier.servicebound.tls].into_iter().flatten() {
        names.extend(tls.certificate_key_secret_ref.as_ref().map(|reference| reference.name.as_str()));
        names.extend(tls.ca_certificate_secret_ref.as_ref().map(|reference| reference.name.as_str()));
    }
    if let Some(redis) = &spec.frontlas.redis {
        names.extend(redis.password_secret.as_ref().map(|reference| reference.name.as_str()));
        if let Some(tls) = &redis.tls {
            names.extend(tls.certificate_key_secret_ref.as_ref().map(|reference| reference.name.as_str()));
            names.extend(tls.ca_certificate_secret_ref.as_ref().map(|reference| reference.name.as_str()));
        }
    }
    names
}

// === impl Context ===

impl Context {
    /// Looks at everything that matters for what is rendered; what is wrong with it comes beside it.
    pub(super) async fn see(&self, cluster: &FrontierCluster) -> Result<(Seen, Vec<Trouble>), LookError> {
        let namespace = cluster.namespace().unwrap_or_default();
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &namespace);
        let names = Names::new(cluster);
        let (spec, mut troubles) = (&cluster.spec, Vec::new());
        let mut seen = Seen::default();
        for (part, running) in [(Part::Gateway, &mut seen.gateway), (Part::Atlas, &mut seen.atlas)] {
            let name = names.app(part);
            let live =
                deployments.get_opt(&name).await.map_err(LookError::of(format!("Deployment {name}")))?;
            *running = live.as_ref().map(Running::of);
        }
        let secrets = Secrets { api: Api::namespaced(self.client.clone(), &namespace) };
        for (tls, files) in [
            (&spec.frontier.edgebound.tls, &mut seen.edge_tls),
            (&spec.frontier.servicebound.tls, &mut seen.service_tls),
        ] {
            let Some(Tls { mtls, certificate_key_secret_ref: pair, ca_certificate_secret_ref: ca, .. }) =
                tls.as_ref().filter(|tls| tls.enabled)
            else {
                continue;
            };
            let ca = ca.as_ref().filter(|_| *mtls);
            *files =
                secrets.files(Part::Gateway, pair.as_ref(), ca).await?.map_err(|t| troubles.push(t)).ok();
        }
        if let Some(redis) = &spec.frontlas.redis {
            if let Some(tls) = redis.tls.as_ref().filter(|tls| tls.enabled) {
                let (pair, ca) = (&tls.certificate_key_secret_ref, &tls.ca_certificate_secret_ref);
                let files = secrets.files(Part::Atlas, pair.as_ref(), ca.as_ref()).await?;
                seen.redis_tls = files.map_err(|t| troubles.push(t)).ok();
            }
            if let Some(selector) = &redis.password_secret {
                let password = secrets.password(&selector.name, &selector.key).await?;
                seen.redis_password = password.map_err(|t| troubles.push(t)).ok();
            }
        } else {
            seen.own_redis_password = secrets.kept(&names.with("redis"), "password").await?;
        }
        seen.identity_key = secrets.kept(&names.with("frontier-identity"), "key").await?;
        if let Some(advertise) = &spec.frontier.edgebound.advertise
            && advertise.mode != AdvertiseMode::Address
        {
            let services: Api<Service> = Api::namespaced(self.client.clone(), &namespace);
            let name = names.edgebound();
            let service = services.get_opt(&name).await.map_err(LookError::of(format!("Service {name}")))?;
            if let Some(service) = service {
                seen.edge_node_port = service.spec.and_then(|spec| spec.ports?.first()?.node_port);
                let ingress =
                    service.status.and_then(|status| status.load_balancer?.ingress?.into_iter().next());
                seen.load_balancer = ingress.and_then(|ingress| ingress.ip.or(ingress.hostname));
            }
        }
        if spec.monitoring.as_ref().is_some_and(|monitoring| monitoring.enabled) {
            seen.monitoring = self.has_monitoring().await?;
        }
        Ok((seen, troubles))
    }

    /// Whether the Prometheus operator's resources are there.
    async fn has_monitoring(&self) -> Result<bool, LookError> {
        match self.client.list_api_group_resources(&Kind::ServiceMonitor.resource().api_version).await {
            Ok(list) => {
                let has = |kind: Kind| list.resources.iter().any(|resource| resource.kind == kind.name());
                Ok(has(Kind::ServiceMonitor) && has(Kind::PrometheusRule))
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(LookError::of("resources of the Prometheus operator")(error)),
        }
    }
}

/// Reads secrets.
struct Secrets {
    api: Api<Secret>,
}

// === impl Secrets ===

impl Secrets {
    async fn get(&self, name: &str) -> Result<Option<Secret>, LookError> {
        self.api.get_opt(name).await.map_err(LookError::of(format!("Secret {name}")))
    }

    /// A key of a secret that has to be there.
    async fn key(&self, part: Part, name: &str, key: &str) -> Result<Result<Vec<u8>, Trouble>, LookError> {
        let missing = |what: String| Ok(Err(Trouble::secret(Reason::SecretMissing, part, what)));
        let Some(secret) = self.get(name).await? else {
            return missing(format!("secret {name} is not there"));
        };
        match secret.data.and_then(|mut data| data.remove(key)).filter(|bytes| !bytes.0.is_empty()) {
            Some(bytes) => Ok(Ok(bytes.0)),
            None => missing(format!("secret {name} has no {key}")),
        }
    }

    /// A hash of a password that changes with it. It is keyed by the secret's UID, which only those know who may read the secret: whoever may
    /// read pods finds the hash there, and is not to try passwords by it.
    async fn password(&self, name: &str, key: &str) -> Result<Result<String, Trouble>, LookError> {
        let missing = |what: String| Ok(Err(Trouble::password(Reason::SecretMissing, Part::Atlas, what)));
        let Some(secret) = self.get(name).await? else {
            return missing(format!("secret {name} is not there"));
        };
        let uid = secret.uid().unwrap_or_default();
        match secret.data.and_then(|mut data| data.remove(key)).filter(|bytes| !bytes.0.is_empty()) {
            Some(bytes) => Ok(Ok(hash::keyed(&uid, &bytes.0))),
            None => missing(format!("secret {name} has no {key}")),
        }
    }

    /// Certificates, checked.
    async fn files(
        &self,
        part: Part,
        pair: Option<&LocalObjectReference>,
        ca: Option<&LocalObjectReference>,
    ) -> Result<Result<TlsFiles, Trouble>, LookError> {
        let malformed = |what: String| Ok(Err(Trouble::secret(Reason::SecretMalformed, part, what)));
        let mut files = TlsFiles::default();
        if let Some(LocalObjectReference { name }) = pair {
            let cert = match self.key(part, name, "tls.crt").await? {
                Ok(cert) => cert,
                Err(trouble) => return Ok(Err(trouble)),
            };
            let key = match self.key(part, name, "tls.key").await? {
                Ok(key) => key,
                Err(trouble) => return Ok(Err(trouble)),
            };
            if let Err(problem) = check_pair(&cert, &key) {
                return malformed(format!("secret {name}: {problem}"));
            }
            files.pair = Some(Pair { cert, key });
        }
        if let Some(LocalObjectReference { name }) = ca {
            let ca = match self.key(part, name, "ca.crt").await? {
                Ok(ca) => ca,
                Err(trouble) => return Ok(Err(trouble)),
            };
            if let Err(problem) = certificates(&ca) {
                return malformed(format!("secret {name}: ca.crt {problem}"));
            }
            files.ca = Some(ca);
        }
        Ok(Ok(files))
    }

    /// What was made up once and is kept, or something new.
    async fn kept(&self, name: &str, key: &str) -> Result<String, LookError> {
        let bytes = self.get(name).await?.and_then(|secret| secret.data?.remove(key));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0).ok()).filter(|text| text.len() >= 64);
        Ok(text.unwrap_or_else(random_hex))
    }
}

/// 32 random bytes.
fn random_hex() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check_pair(cert: &[u8], key: &[u8]) -> Result<(), String> {
    let chain = certificates(cert).map_err(|problem| format!("tls.crt {problem}"))?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|_| "tls.key is no private key in PEM".to_owned())?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|_| "tls.key is of a kind that is not supported".to_owned())?;
    match CertifiedKey::new(chain, key).keys_match() {
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            Err("tls.key does not belong to tls.crt".to_owned())
        }
        // Version 1 certificates cannot be looked into, but gateways show them.
        _ => Ok(()),
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err("has no certificate in PEM".to_owned()),
        Err(_) => Err("is not PEM".to_owned()),
    }
}
