//! Configuration files: what users pass through, with what the operator sets over it.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Map, Value, json};

use super::{Part, Scene, Style, names::Names};
use crate::api::Tls;

/// Where pods find their file.
pub(super) const FOLDER: &str = "/etc/frontier";

/// Where gateways find the key of resume tickets.
pub(super) const IDENTITY: &str = "/app/conf/identity";

/// Where the registry finds files for TLS to Redis.
pub(super) const REDIS_TLS: &str = "/app/conf/redis/tls";

/// The files of pods that have one.
pub(super) fn maps(scene: &Scene<'_>) -> Result<Vec<ConfigMap>, serde_json::Error> {
    let mut maps = Vec::new();
    if scene.gateway_style() == Style::Own {
        maps.push(map(scene, "frontier", Part::Gateway, &gateway(scene))?);
    }
    if scene.atlas_style() == Style::Own {
        maps.push(map(scene, "frontlas", Part::Atlas, &atlas(scene))?);
    }
    Ok(maps)
}

/// The gateways' file.
pub(super) fn gateway(scene: &Scene<'_>) -> Value {
    let spec = &scene.cluster.spec.frontier;
    let given = spec.config.as_ref().map(|config| Value::Object(config.0.clone()));
    // What the file in the image says, so that a file that says nothing changes nothing.
    let mut file = json!({
        "edgebound": {"edgeid_alloc_when_no_idservice_on": true},
        "identity": {"key": format!("{IDENTITY}/key")},
    });
    lay(&mut file, given.unwrap_or_default());
    for (bound, tls) in [("edgebound", &spec.edgebound.tls), ("servicebound", &spec.servicebound.tls)] {
        if let Some(tls) = tls.as_ref().filter(|tls| tls.enabled) {
            lay(&mut file, json!({ bound: {"listen": {"tls": listen_tls(bound, tls)}} }));
        }
    }
    file
}

/// The registry's file.
pub(super) fn atlas(scene: &Scene<'_>) -> Value {
    let spec = &scene.cluster.spec.frontlas;
    let mut file = spec.config.as_ref().map_or_else(|| json!({}), |config| Value::Object(config.0.clone()));
    let tls = spec.redis.as_ref().and_then(|redis| redis.tls.as_ref()).filter(|tls| tls.enabled);
    if let Some(tls) = tls {
        let mut keys = Map::from_iter([("enable".to_owned(), Value::Bool(true))]);
        if tls.ca_certificate_secret_ref.is_some() {
            keys.insert("ca".to_owned(), format!("{REDIS_TLS}/ca.crt").into());
        }
        if tls.certificate_key_secret_ref.is_some() {
            keys.insert("cert".to_owned(), format!("{REDIS_TLS}/tls.crt").into());
            keys.insert("key".to_owned(), format!("{REDIS_TLS}/tls.key").into());
        }
        if let Some(name) = &tls.server_name {
            keys.insert("server_name".to_owned(), name.as_str().into());
        }
        lay(&mut file, json!({"redis": {"tls": keys}}));
    }
    file
}

/// Folder of the certificate and key of a port.
pub(super) fn pair_folder(bound: &str) -> String {
    format!("/app/conf/{bound}/tls/secret")
}

/// Folder of the authority of a port.
pub(super) fn ca_folder(bound: &str) -> String {
    format!("/app/conf/{bound}/tls/ca")
}

fn listen_tls(bound: &str, tls: &Tls) -> Value {
    let folder = pair_folder(bound);
    let mut keys = json!({
        "enable": true,
        "certs": [{"cert": format!("{folder}/tls.crt"), "key": format!("{folder}/tls.key")}],
    });
    if tls.mtls {
        lay(&mut keys, json!({"mtls": true, "ca_certs": [format!("{}/ca.crt", ca_folder(bound))]}));
    }
    keys
}

/// Lays what `over` says over `under`, block by block.
fn lay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (under, over) => *under = over,
    }
}

fn map(scene: &Scene<'_>, what: &str, part: Part, file: &Value) -> Result<ConfigMap, serde_json::Error> {
    let names: &Names = &scene.names;
    // JSON is YAML too.
    let text = serde_json::to_string_pretty(file)? + "\n";
    Ok(ConfigMap {
        metadata: scene.meta(&names.with(what), part),
        data: Some([(format!("{what}.yaml"), text)].into()),
        ..ConfigMap::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_laid_over_each_other_and_other_values_replaced() {
        let mut under = json!({"a": {"b": 1, "c": [1]}, "d": 2});
        lay(&mut under, json!({"a": {"c": [2], "e": {"f": 3}}, "d": null}));
        assert_eq!(under, json!({"a": {"b": 1, "c": [2], "e": {"f": 3}}, "d": 2}));
    }
}
