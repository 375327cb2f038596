use rcgen::PKCS_RSA_SHA256;
use rustls::{HandshakeKind, ServerConnection};

use super::*;
use crate::{
    config::CertKey,
    tls::testing::{Ca, Dir, Leaf, block, connect, mutual},
};

/// The certificate that a client of `ca` gets when it asks for `name`, or why it gets none.
fn shown(ca: &Ca, config: &Arc<ServerConfig>, name: &str) -> Result<CertificateDer<'static>, rustls::Error> {
    let client = handshake(connect(&ca.client(None, None), name), config)?;
    Ok(client.peer_certificates().unwrap()[0].clone().into_owned())
}

/// Runs a handshake in memory; the client's error counts first.
fn handshake(
    mut client: rustls::ClientConnection,
    config: &Arc<ServerConfig>,
) -> Result<rustls::ClientConnection, rustls::Error> {
    let mut server = ServerConnection::new(Arc::clone(config)).unwrap();
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        let mut sent = Vec::new();
        client.write_tls(&mut sent).unwrap();
        server.read_tls(&mut &sent[..]).unwrap();
        let refused = server.process_new_packets().err();
        let mut sent = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut sent).unwrap();
        }
        let mut sent = &sent[..];
        while !sent.is_empty() {
            client.read_tls(&mut sent).unwrap();
            client.process_new_packets()?;
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
    }
    Ok(client)
}

fn config(tls: &Tls) -> Result<Arc<ServerConfig>, CertError> {
    server_config(tls, &Files::read(tls), &[]).map(Arc::new)
}

#[test]
fn the_name_asked_for_picks_the_certificate() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let a = ca.issue("a", &["a.example"]);
    let b = ca.issue("b", &["B.example", "*.b.example"]);
    let tls = block(vec![dir.pair("a", &a), dir.pair("b", &b)]);
    let config = config(&tls).unwrap();
    assert_eq!(shown(&ca, &config, "a.example"), Ok(a.der.clone()));
    assert_eq!(shown(&ca, &config, "b.example"), Ok(b.der.clone()));
    assert_eq!(shown(&ca, &config, "x.b.example"), Ok(b.der.clone()));
    // The first is the default; the client does not take it, since it has another name.
    for name in ["c.example", "x.y.b.example", "127.0.0.1"] {
        let refused = shown(&ca, &config, name).unwrap_err();
        assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{name}: {refused}");
    }
    let resolver = ByName::new(Files::read(&tls).pairs(&tls).unwrap()).unwrap();
    let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
    let default = resolver.pick(Some("c.example"), &schemes).unwrap();
    assert_eq!(default.end_entity_cert().unwrap(), &a.der);
    assert_eq!(resolver.pick(None, &schemes).unwrap().end_entity_cert().unwrap(), &a.der);
}

#[test]
fn of_two_for_one_name_the_client_gets_the_one_it_understands() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let rsa = ca.issue_with("rsa", &["a.example"], &PKCS_RSA_SHA256);
    let ecdsa = ca.issue("ecdsa", &["a.example"]);
    let tls = block(vec![dir.pair("rsa", &rsa), dir.pair("ecdsa", &ecdsa)]);
    let resolver = ByName::new(Files::read(&tls).pairs(&tls).unwrap()).unwrap();
    let pick = |schemes: &[SignatureScheme]| {
        resolver.pick(Some("A.example"), schemes).unwrap().end_entity_cert().unwrap().clone().into_owned()
    };
    assert_eq!(pick(&[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256]), rsa.der);
    assert_eq!(pick(&[SignatureScheme::ECDSA_NISTP256_SHA256]), ecdsa.der);
    assert_eq!(pick(&[SignatureScheme::ED448]), rsa.der, "the first of all, to fail with");
}

#[test]
fn both_versions_and_only_strong_suites_are_spoken() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let config = config(&block(vec![dir.pair("a", &ca.issue("a", &["a.example"]))])).unwrap();
    for version in rustls::ALL_VERSIONS {
        let client = connect(&ca.client(None, Some(version)), "a.example");
        let client = handshake(client, &config).unwrap();
        assert_eq!(client.protocol_version(), Some(version.version));
    }
    let names: Vec<String> =
        provider().cipher_suites.iter().map(|suite| format!("{:?}", suite.suite())).collect();
    assert_eq!(names.len(), 9);
    assert!(
        names.iter().all(|name| name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_")),
        "{names:?}"
    );
    assert!(names.iter().all(|name| name.contains("GCM") || name.contains("CHACHA20")), "{names:?}");
}

#[test]
fn a_client_resumes_by_ticket_unless_it_must_show_a_certificate() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let leaf = ca.issue("a", &["a.example"]);
    let plain = config(&block(vec![dir.pair("a", &leaf)])).unwrap();
    let mutual = config(&mutual(vec![dir.pair("a", &leaf)], vec![dir.write("ca.crt", &ca.pem)])).unwrap();
    let kinds = |config: &Arc<ServerConfig>| {
        let client = ca.client(Some(&leaf), None);
        [(); 2].map(|()| handshake(connect(&client, "a.example"), config).unwrap().handshake_kind().unwrap())
    };
    let full = |kind| matches!(kind, HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest);
    let [first, second] = kinds(&plain);
    assert!(full(first) && second == HandshakeKind::Resumed, "{first:?} {second:?}");
    let [first, second] = kinds(&mutual);
    assert!(full(first) && full(second), "{first:?} {second:?}");
}

#[test]
fn mutual_tls_takes_clients_of_its_authorities_only() {
    let (ca, other, dir) = (Ca::new("ca"), Ca::new("other"), Dir::new());
    let tls = mutual(vec![dir.pair("a", &ca.issue("a", &["a.example"]))], vec![dir.write("ca.crt", &ca.pem)]);
    let config = config(&tls).unwrap();
    let outcome = |identity: Option<&Leaf>| {
        handshake(connect(&ca.client(identity, None), "a.example"), &config).map(drop)
    };
    assert_eq!(outcome(Some(&ca.issue("client", &[]))), Ok(()));
    // The client learns it by an alert, whichever side's error comes first.
    let refused = |result: Result<(), rustls::Error>| result.unwrap_err().to_string();
    let none = refused(outcome(None));
    assert!(none.contains("CertificateRequired") || none.contains("sent no certificates"), "{none}");
    let wrong = refused(outcome(Some(&other.issue("client", &[]))));
    assert!(wrong.contains("UnknownCA") || wrong.contains("UnknownIssuer"), "{wrong}");
}

#[test]
fn several_authorities_are_all_trusted() {
    let (ca, other, dir) = (Ca::new("ca"), Ca::new("other"), Dir::new());
    let leaf = dir.pair("a", &ca.issue("a", &["a.example"]));
    let both = dir.write("both.crt", &format!("{}{}", ca.pem, other.pem));
    let config = config(&mutual(vec![leaf], vec![both])).unwrap();
    for client in [ca.issue("x", &[]), other.issue("y", &[])] {
        handshake(connect(&ca.client(Some(&client), None), "a.example"), &config).unwrap();
    }
}

#[test]
fn errors_name_the_file() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let good = dir.pair("good", &ca.issue("good", &["a.example"]));
    let other = dir.pair("other", &ca.issue("other", &["b.example"]));
    let text = dir.write("text", "not a certificate");
    let cut = dir.write("cut", "-----BEGIN CERTIFICATE-----\nMIIB");
    let absent = dir.path().join("absent");
    let with = |cert: &PathBuf, key: &PathBuf| {
        let bad = CertKey { cert: cert.clone(), key: key.clone() };
        let both = block(vec![good.clone(), bad.clone()]);
        let left_out = Files::read(&both).unusable(&both);
        assert_eq!(left_out.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1]);
        assert!(config(&both).is_ok(), "the good one is enough");
        let error = config(&block(vec![bad])).unwrap_err().to_string();
        assert_eq!(error, left_out[0].1.to_string());
        error
    };
    for (error, file, what) in [
        (with(&absent, &good.key), &absent, "No such file"),
        (with(&good.cert, &absent), &absent, "No such file"),
        (with(&text, &good.key), &text, "no certificate found"),
        (with(&cut, &good.key), &cut, "no certificate found"),
        (with(&good.cert, &good.cert), &good.cert, "no private key found"),
        (with(&good.cert, &other.key), &other.key, "keys may not be consistent"),
    ] {
        assert!(error.contains(&file.display().to_string()) && error.contains(what), "{error}");
    }
    let authority =
        |file: &PathBuf| config(&mutual(vec![good.clone()], vec![file.clone()])).unwrap_err().to_string();
    assert!(authority(&absent).contains("absent"));
    assert!(authority(&text).contains("no certificate found"));
    assert!(matches!(config(&block(Vec::new())), Err(CertError::NoPairs)));
    assert!(matches!(config(&mutual(vec![good], Vec::new())), Err(CertError::NoAuthority(_))));
}

#[test]
fn a_certificate_of_version_1_is_shown_if_the_key_is_its_own() {
    let dir = Dir::new();
    let cert = dir.write("v1.crt", include_str!("../testdata/v1.crt"));
    let key = dir.write("v1.key", include_str!("../testdata/v1.key"));
    let v3 = dir.pair("v3", &Ca::new("ca").issue("a", &["a.example"]));
    let tls = block(vec![v3.clone(), CertKey { cert: cert.clone(), key }]);
    let files = Files::read(&tls);
    assert_eq!((files.unusable(&tls).len(), files.first_version(&tls)), (0, vec![1]));
    let alone = block(tls.certs[1..].to_vec());
    assert!(config(&alone).is_ok());
    let resolver = ByName::new(Files::read(&alone).pairs(&alone).unwrap()).unwrap();
    let shown = resolver.pick(Some("old.example"), &[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
    assert_eq!(shown.cert, files.chain(&cert).unwrap());
    let error = config(&block(vec![CertKey { cert, key: v3.key }])).unwrap_err().to_string();
    assert!(error.contains("keys may not be consistent"), "{error}");
}

#[test]
fn a_file_without_end_is_refused() {
    let error = read_file(Path::new("/dev/zero")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn keys_do_not_show_in_logs() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let tls = block(vec![dir.pair("a", &ca.issue("a", &["a.example"]))]);
    let shown = format!("{:?}", Files::read(&tls));
    assert!(shown.contains("a.key") && shown.len() < 400, "{shown}");
}
