use std::{
    fs,
    io::{Read as _, Write as _},
};

use super::*;
use crate::tls::testing::{Ca, Dir, Leaf, block, connect};

struct Listener {
    ca: Ca,
    dir: Dir,
    store: Arc<CertStore>,
}

impl Listener {
    fn new() -> Self {
        let (ca, dir) = (Ca::new("ca"), Dir::new());
        let tls = block(vec![dir.pair("a", &ca.issue("first", &["a.example"]))]);
        let store = Arc::new(CertStore::load("test", &tls, &[]).unwrap());
        Self { ca, dir, store }
    }

    fn replace(&self, common_name: &str) -> Leaf {
        let leaf = self.ca.issue(common_name, &["a.example"]);
        self.dir.pair("a", &leaf);
        leaf
    }

    fn connect(&self) -> Session {
        let mut session = Session {
            client: connect(&self.ca.client(None, None), "a.example"),
            server: rustls::ServerConnection::new(self.store.current()).unwrap(),
        };
        while session.client.is_handshaking() || session.server.is_handshaking() {
            session.turn();
        }
        session
    }
}

struct Session {
    client: rustls::ClientConnection,
    server: rustls::ServerConnection,
}

impl Session {
    /// Carries bytes both ways once; what the server got.
    fn turn(&mut self) -> Vec<u8> {
        let (mut up, mut down, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        self.client.write_tls(&mut up).unwrap();
        let mut up = &up[..];
        while !up.is_empty() {
            self.server.read_tls(&mut up).unwrap();
            let state = self.server.process_new_packets().unwrap();
            let mut bytes = vec![0; state.plaintext_bytes_to_read()];
            self.server.reader().read_exact(&mut bytes).unwrap();
            plain.append(&mut bytes);
        }
        while self.server.wants_write() {
            self.server.write_tls(&mut down).unwrap();
        }
        let mut down = &down[..];
        while !down.is_empty() {
            self.client.read_tls(&mut down).unwrap();
            self.client.process_new_packets().unwrap();
        }
        plain
    }

    fn shown(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.client.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

#[test]
fn new_connections_get_new_certificates_and_old_ones_live_on() {
    let listener = Listener::new();
    let mut old = listener.connect();
    assert!(matches!(listener.store.check(), Check::Unchanged));
    let second = listener.replace("second");
    assert!(matches!(listener.store.check(), Check::Reloaded));
    assert!(matches!(listener.store.check(), Check::Unchanged));
    assert_eq!(listener.connect().shown(), second.der);
    assert_ne!(old.shown(), second.der);
    old.client.writer().write_all(b"still here").unwrap();
    assert_eq!(old.turn(), b"still here");
    assert_eq!((listener.store.reloads(), listener.store.failures()), (1, 0));
}

#[test]
fn a_broken_change_keeps_the_old_and_counts_once() {
    let listener = Listener::new();
    let before = listener.connect().shown();
    listener.dir.write("a.crt", "-----BEGIN CERTIFICATE-----\ncut");
    let Check::Broken(error) = listener.store.check() else { panic!("taken") };
    assert!(error.to_string().contains("a.crt"), "{error}");
    assert!(matches!(listener.store.check(), Check::Unchanged), "logged once per change");
    assert_eq!(listener.connect().shown(), before);
    fs::remove_file(listener.dir.path().join("a.crt")).unwrap();
    assert!(matches!(listener.store.check(), Check::Broken(_)), "another change");
    assert_eq!((listener.store.reloads(), listener.store.failures()), (0, 2));
    let repaired = listener.replace("repaired");
    assert!(matches!(listener.store.check(), Check::Reloaded));
    assert_eq!(listener.connect().shown(), repaired.der);
}

#[test]
fn a_key_that_comes_after_its_certificate_is_waited_for() {
    let listener = Listener::new();
    let next = listener.ca.issue("next", &["a.example"]);
    listener.dir.write("a.crt", &next.cert_pem);
    assert!(matches!(listener.store.check(), Check::Broken(CertError::Pair { .. })));
    listener.dir.write("a.key", &next.key_pem);
    assert!(matches!(listener.store.check(), Check::Reloaded));
    assert_eq!(listener.connect().shown(), next.der);
}

#[test]
fn a_pair_left_out_at_the_start_may_come_later_but_not_go_again() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let (good, late) = (ca.issue("good", &["a.example"]), ca.issue("late", &["b.example"]));
    let certs = vec![dir.pair("good", &good), dir.pair("late", &late)];
    dir.write("late.crt", "");
    let store = CertStore::load("test", &block(certs), &[]).unwrap();
    dir.write("late.crt", "still nothing");
    assert!(matches!(store.check(), Check::Reloaded), "what is left out holds nobody up");
    dir.write("late.crt", &late.cert_pem);
    assert!(matches!(store.check(), Check::Reloaded));
    dir.write("late.crt", "");
    let Check::Broken(error) = store.check() else { panic!("a pair in force was dropped") };
    assert!(error.to_string().contains("late.crt"), "{error}");
}

#[test]
fn files_put_back_as_they_were_are_not_in_the_way() {
    let listener = Listener::new();
    let cert = fs::read_to_string(listener.dir.path().join("a.crt")).unwrap();
    listener.dir.write("a.crt", "");
    assert!(matches!(listener.store.check(), Check::Broken(_)));
    listener.dir.write("a.crt", &cert);
    assert!(matches!(listener.store.check(), Check::Reloaded));
}

#[tokio::test(start_paused = true)]
async fn watching_takes_changes_until_it_is_stopped() {
    let listener = Listener::new();
    let (readiness, stop) = (Readiness::default(), CancellationToken::new());
    let stores = vec![Arc::clone(&listener.store)];
    let watching = watch(stores, DEFAULT_INTERVAL, readiness.clone(), stop.clone());
    listener.dir.write("a.crt", "");
    let changed = async {
        // Time is paused: it jumps to the next look whenever nothing else is left to do.
        while readiness.report().degraded.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!((listener.store.failures(), readiness.is_ready()), (1, true));
        let second = listener.replace("second");
        while listener.store.reloads() == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(listener.connect().shown(), second.der);
        while !readiness.report().degraded.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        stop.cancel();
    };
    tokio::join!(watching, changed);
    assert_eq!(listener.store.reloads(), 1);
}
