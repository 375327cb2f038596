//! TLS to a real Redis.

use std::path::Path;
use std::time::{Duration, Instant};

use frontier_atlas::store::redis::{Address, Mode, Settings, Tls};
use frontier_atlas::store::{Redis, Store};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::rules::{HORIZON, online, record_of};
use crate::server::{SOON, Server, connect, eventually, free_port};

/// Writes `ca.pem`, and `NAME.pem` with `NAME.key` signed by it.
fn certificates(dir: &Path, name: &str, host: &str) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With the name that leaves have as well, OpenSSL would take them for their own issuers.
    params.distinguished_name.push(DnType::CommonName, "authority");
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    for name in [name, "client"] {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), leaf.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn start(dir: &Path, clients: &str) -> (Server, Settings) {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let port = free_port();
    let server = Server::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &path("server.pem"),
        "--tls-key-file",
        &path("server.key"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-auth-clients",
        clients,
    ]);
    let address = Address::new("127.0.0.1", port);
    let settings = Settings { mode: Mode::Standalone { address }, ..server.settings() };
    (server, settings)
}

async fn works(redis: &Redis) {
    redis.write_edges(&[online(1, 1)], HORIZON).await.unwrap();
    assert_eq!(redis.edges(&[1]).await.unwrap(), [Some(record_of(1, 1))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_trusted_is_talked_to_and_nobody_else() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(dir.path(), "server", "redis.example");
    certificates(other.path(), "server", "redis.example");
    let (_server, settings) = start(dir.path(), "no");
    let with = |ca: &Path, name: Option<&str>| {
        let tls = Tls { ca: Some(ca.join("ca.pem")), server_name: name.map(str::to_owned), ..Tls::default() };
        Settings { tls: Some(tls), ..settings.clone() }
    };
    works(&connect(with(dir.path(), Some("redis.example"))).await).await;
    // Another CA, another name, and no TLS at all.
    for (settings, says) in [
        (with(other.path(), Some("redis.example")), "InvalidCertificate"),
        (with(dir.path(), Some("other.example")), "NotValidForName"),
        (with(dir.path(), None), "NotValidForName"),
        (settings.clone(), ""),
    ] {
        let redis = Redis::connect(settings).unwrap();
        let start = Instant::now();
        eventually("it is refused", async || {
            redis.edges(&[1]).await.is_err_and(|error| {
                let text = error.to_string();
                error.kind() == "unreachable" && !text.contains("not connected yet") && text.contains(says)
            })
        })
        .await;
        assert!(start.elapsed() < Duration::from_secs(5) && redis.connections().opened == 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_may_want_certificates_and_files_may_be_renewed() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path(), "server", "127.0.0.1");
    let (mut server, settings) = start(dir.path(), "yes");
    let tls = Tls { ca: Some(dir.path().join("ca.pem")), ..Tls::default() };
    let without = Redis::connect(Settings { tls: Some(tls.clone()), ..settings.clone() }).unwrap();
    let file = |name: &str| Some(dir.path().join(name));
    let tls = Tls { cert: file("client.pem"), key: file("client.key"), ..tls };
    let redis = connect(Settings { tls: Some(tls), ..settings }).await;
    works(&redis).await;
    assert_eq!(without.connections().opened, 0);
    assert!(without.edges(&[1]).await.is_err());
    // All certificates are renewed, by another CA; the next connection uses them.
    certificates(dir.path(), "server", "127.0.0.1");
    server.kill();
    server.restart();
    redis.connected(SOON).await.unwrap();
    works(&redis).await;
}
