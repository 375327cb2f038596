use std::io::BufRead as _;

use frontier_ops::tls::{
    server::{Files, server_config},
    testing::{Ca, Dir, block, connect},
};
use proptest::prelude::*;
use rustls::ClientConnection;

use super::{buffers::RECORD_OVERHEAD, *};
use crate::tls::testing::Pipe;

/// A client and a server with a pipe in each direction.
struct Pair {
    client: ClientConnection,
    server: TlsIo,
    scratch: TlsScratch,
    to_server: Pipe,
    to_client: Pipe,
    /// Plain bytes that the server received.
    received: Vec<u8>,
    /// Plain bytes that the client received since it was last asked.
    answered: Vec<u8>,
}

fn configs(
    version: Option<&'static rustls::SupportedProtocolVersion>,
) -> (Arc<ServerConfig>, Arc<rustls::ClientConfig>) {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let tls = block(vec![dir.pair("a", &ca.issue("a", &["a.example"]))]);
    let config = server_config(&tls, &Files::read(&tls), &[]).unwrap();
    (Arc::new(config), ca.client(None, version))
}

impl Pair {
    fn new(version: Option<&'static rustls::SupportedProtocolVersion>, capacity: usize, step: usize) -> Self {
        let (server, client) = configs(version);
        Self {
            client: connect(&client, "a.example"),
            server: TlsIo::accept(server).unwrap(),
            scratch: TlsScratch::default(),
            to_server: Pipe::new(capacity, step),
            to_client: Pipe::new(capacity, step),
            received: Vec::new(),
            answered: Vec::new(),
        }
    }

    fn established(version: Option<&'static rustls::SupportedProtocolVersion>) -> Self {
        let mut pair = Self::new(version, 1 << 20, 1 << 20);
        pair.run();
        assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
        pair
    }

    fn server_read(&mut self) -> Result<ReadOutcome, TlsError> {
        self.server.read(&mut self.to_server, &mut self.scratch, &mut self.received)
    }

    fn server_write(&mut self, slices: &[&[u8]]) -> usize {
        let slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        self.server.write_vectored(&mut self.to_client, &mut self.scratch, &slices).unwrap()
    }

    fn client_send(&mut self) -> bool {
        self.client.wants_write() && self.client.write_tls(&mut self.to_server).is_ok()
    }

    fn client_receive(&mut self) -> bool {
        if !self.client.read_tls(&mut self.to_client).is_ok_and(|len| len > 0) {
            return false;
        }
        self.client.process_new_packets().unwrap();
        // Rustls reads no further while the client leaves its plain bytes alone.
        let mut reader = self.client.reader();
        while let Ok(chunk) = reader.fill_buf().map(<[u8]>::to_vec)
            && !chunk.is_empty()
        {
            reader.consume(chunk.len());
            self.answered.extend(chunk);
        }
        true
    }

    /// Moves bytes until nothing moves.
    fn run(&mut self) {
        loop {
            let sent = self.client_send();
            let outcome = self.server_read().unwrap();
            let flushed = self.server.wants_write() && {
                let before = self.to_client.len();
                self.server.flush(&mut self.to_client).unwrap();
                self.to_client.len() > before
            };
            let received = self.client_receive();
            if !(sent || outcome.wire > 0 || flushed || received) {
                return;
            }
        }
    }

    fn client_plain(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answered)
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

const VERSIONS: [&rustls::SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

#[test]
fn handshake_survives_single_bytes() {
    for version in VERSIONS {
        let mut pair = Pair::new(Some(version), 1 << 16, 1);
        pair.run();
        assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
        assert_eq!(pair.server.protocol_version(), Some(version.version));
        assert_eq!(pair.server.held(), 0);
    }
}

#[test]
fn bytes_behind_the_handshake_are_not_lost() {
    for version in VERSIONS {
        let mut pair = Pair::new(Some(version), 1 << 20, 1 << 20);
        // Plain bytes written before the handshake leave with the client's last flight.
        pair.client.writer().write_all(b"right behind").unwrap();
        pair.run();
        assert_eq!(pair.received, b"right behind");
    }
}

#[test]
fn many_slices_become_few_records() {
    let mut pair = Pair::established(None);
    let before = pair.to_client.len();
    let small: Vec<&[u8]> = vec![b"0123456789"; 100];
    assert_eq!(pair.server_write(&small), 1000);
    let sent = pair.to_client.len() - before;
    assert!(sent < 1000 + 2 * RECORD_OVERHEAD, "one record, not a hundred: {sent}");
    pair.run();
    assert_eq!(pair.client_plain(), b"0123456789".repeat(100));
}

#[test]
fn slices_of_any_size_arrive_in_order() {
    let mut pair = Pair::established(None);
    let (large, small) = (pattern(40_000), pattern(100));
    assert_eq!(pair.server_write(&[&small, &[], &large, &small, &large[..1]]), 40_201);
    pair.run();
    assert!(pair.client_plain() == [&small[..], &large, &small, &large[..1]].concat());
    assert_eq!(pair.server_write(&[]), 0);
    assert_eq!(pair.server_write(&[&[], &[]]), 0);
}

#[test]
fn a_full_socket_bounds_what_is_accepted() {
    let mut pair = Pair::established(None);
    pair.to_client.capacity = 1000;
    pair.server.set_buffer_limit(20_000);
    let bytes = pattern(100_000);
    let mut accepted = pair.server_write(&[&bytes]);
    assert_eq!(accepted, 20_000, "one batch, of which the socket took 1000 bytes");
    assert!(pair.server.wants_write());
    assert!((19_000..22_000).contains(&pair.server.held()), "{}", pair.server.held());
    assert_eq!(pair.server_write(&[&bytes[accepted..]]), 0, "nothing more while that waits");
    let mut arrived = Vec::new();
    while arrived.len() < bytes.len() {
        pair.run();
        arrived.extend(pair.client_plain());
        accepted += pair.server_write(&[&bytes[accepted..]]);
    }
    assert!(arrived == bytes);
    assert!(!pair.server.wants_write());
    assert_eq!(pair.server.held(), 0);
}

#[test]
fn a_read_says_whether_the_socket_ran_dry() {
    let mut pair = Pair::established(None);
    assert_eq!(pair.server_read().unwrap().state, ReadState::WouldBlock);
    let bytes = pattern(60_000);
    pair.client.set_buffer_limit(None);
    pair.client.writer().write_all(&bytes).unwrap();
    pair.client.writer().write_all(&bytes).unwrap();
    while pair.client_send() {}
    let first = pair.server_read().unwrap();
    assert_eq!((first.wire, first.state), (INBOUND, ReadState::More));
    assert_eq!(first.plain, 60_000, "four whole records; the fifth is incomplete");
    let second = pair.server_read().unwrap();
    assert_eq!(second.state, ReadState::Short);
    assert_eq!(pair.server_read().unwrap().state, ReadState::WouldBlock);
    assert!(pair.received == [&bytes[..], &bytes].concat());
}

#[test]
fn an_incomplete_record_is_kept_and_freed() {
    let mut pair = Pair::established(None);
    pair.client.writer().write_all(&pattern(10_000)).unwrap();
    pair.to_server.capacity = 4_000;
    pair.client_send();
    let outcome = pair.server_read().unwrap();
    assert_eq!((outcome.wire, outcome.plain), (4_000, 0));
    assert!(pair.server.held() >= 4_000);
    // Writing while an incomplete record waits must leave it alone.
    assert_eq!(pair.server_write(&[b"meanwhile"]), 9);
    pair.run();
    assert!(pair.received == pattern(10_000));
    assert_eq!(pair.client_plain(), b"meanwhile");
    assert_eq!(pair.server.held(), 0);
}

#[test]
fn announced_end_is_told_from_truncation() {
    let mut pair = Pair::established(None);
    pair.client.writer().write_all(b"last words").unwrap();
    pair.client.send_close_notify();
    while pair.client_send() {}
    let outcome = pair.server_read().unwrap();
    assert_eq!((outcome.plain, outcome.state), (10, ReadState::Closed));
    assert_eq!(pair.server_read().unwrap().state, ReadState::Closed);
    // The other direction lives on.
    assert_eq!(pair.server_write(&[b"answer"]), 6);
    assert!(pair.server.close_notify(&mut pair.to_client, &mut pair.scratch).unwrap());
    while pair.client_receive() {}
    assert_eq!(pair.client_plain(), b"answer");
    let io = &mut pair.to_client;
    assert!(pair.server.write_vectored(io, &mut pair.scratch, &[IoSlice::new(b"x")]).is_err());

    let mut cut = Pair::established(None);
    cut.to_server.ended = true;
    assert_eq!(cut.server_read().unwrap().state, ReadState::Truncated);
    assert_eq!(cut.server_read().unwrap().state, ReadState::Truncated);
}

#[test]
fn garbage_fails_with_an_alert() {
    let mut pair = Pair::new(None, 1 << 16, 1 << 16);
    pair.to_server.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let error = pair.server_read().unwrap_err();
    assert!(matches!(error, TlsError::Protocol(rustls::Error::InvalidMessage(_))), "{error}");
    assert!(pair.server.wants_write());
    pair.server.flush(&mut pair.to_client).unwrap();
    let mut alert = [0; 7];
    pair.to_client.read_exact(&mut alert).unwrap();
    assert_eq!(alert[0], 21, "an alert record");
    assert!(pair.server_read().is_err(), "once failed, always failed");
    let io = &mut pair.to_client;
    assert!(pair.server.write_vectored(io, &mut pair.scratch, &[IoSlice::new(b"x")]).is_err());
}

#[test]
fn a_changed_record_fails_with_an_alert() {
    for version in VERSIONS {
        let mut pair = Pair::established(Some(version));
        pair.client.writer().write_all(b"secret").unwrap();
        let mut record = Vec::new();
        pair.client.write_tls(&mut record).unwrap();
        *record.last_mut().unwrap() ^= 1;
        pair.to_server.write_all(&record).unwrap();
        // A second bad record must not be looked at any more.
        pair.to_server.write_all(&record).unwrap();
        let error = pair.server_read().unwrap_err();
        assert!(matches!(error, TlsError::Protocol(rustls::Error::DecryptError)), "{error}");
        assert!(pair.received.is_empty());
        assert!(pair.server.flush(&mut pair.to_client).unwrap());
        assert!(pair.client.read_tls(&mut pair.to_client).is_ok());
        let told = pair.client.process_new_packets().unwrap_err();
        assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
    }
}

#[test]
fn an_endless_handshake_message_is_cut() {
    let mut pair = Pair::new(None, 1 << 20, 1 << 20);
    // ClientHello of 65,535 bytes in fragments of one byte: 65 KiB of records long before the message is whole.
    let mut fragment = vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
    fragment.extend([22, 3, 1, 0, 1, 0].repeat(12_000));
    pair.to_server.write_all(&fragment).unwrap();
    let error = loop {
        match pair.server_read() {
            Ok(outcome) => assert_ne!(outcome.state, ReadState::WouldBlock, "not cut"),
            Err(error) => break error,
        }
        assert!(pair.server.held() <= 2 * MAX_PARTIAL_HANDSHAKE);
    };
    assert!(matches!(error, TlsError::Oversized { .. }), "{error}");
    assert_eq!(pair.server.held(), 0);
}

#[test]
fn a_key_update_is_answered() {
    let mut pair = Pair::established(Some(&rustls::version::TLS13));
    pair.client.refresh_traffic_keys().unwrap();
    pair.client.writer().write_all(b"with new keys").unwrap();
    pair.run();
    assert_eq!(pair.received, b"with new keys");
    assert_eq!(pair.server_write(&[b"so are mine"]), 11);
    pair.run();
    assert_eq!(pair.client_plain(), b"so are mine");
    assert_eq!(pair.server.held(), 0);
}

#[test]
fn writing_before_the_handshake_is_refused() {
    let mut pair = Pair::new(None, 100, 100);
    let slices = [IoSlice::new(b"early")];
    let error = pair.server.write_vectored(&mut pair.to_client, &mut pair.scratch, &slices).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the sockets do, both directions arrive whole and in order, and nothing is held at the end.
    #[test]
    fn any_steps_carry_both_directions(
        sizes in proptest::collection::vec((0_usize..40_000, any::<bool>()), 1..8),
        capacity in 1_usize..30_000,
        step in 1_usize..30_000,
        tls12: bool,
    ) {
        let mut pair = Pair::established(Some(if tls12 { VERSIONS[0] } else { VERSIONS[1] }));
        for pipe in [&mut pair.to_server, &mut pair.to_client] {
            (pipe.capacity, pipe.step) = (capacity, step);
        }
        let (mut up, mut down, mut arrived) = (Vec::new(), Vec::new(), Vec::new());
        for (size, from_client) in sizes {
            let bytes = pattern(size);
            let mut left = &bytes[..];
            while !left.is_empty() {
                let accepted =
                    if from_client { pair.client.writer().write(left).unwrap() } else { pair.server_write(&[left]) };
                left = &left[accepted..];
                pair.run();
                arrived.extend(pair.client_plain());
            }
            if from_client { up.extend(bytes) } else { down.extend(bytes) }
        }
        pair.run();
        arrived.extend(pair.client_plain());
        prop_assert!(pair.received == up);
        prop_assert!(arrived == down);
        prop_assert_eq!(pair.server.held(), 0);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), valid: bool) {
        let mut pair = Pair::new(None, 1 << 16, 1 << 16);
        if valid {
            pair.client.write_tls(&mut pair.to_server).unwrap();
        }
        pair.to_server.write_all(&bytes).unwrap();
        while pair.server_read().is_ok_and(|outcome| outcome.state != ReadState::WouldBlock) {}
        drop(pair.server.flush(&mut pair.to_client));
    }
}

#[test]
fn a_socket_that_fails_is_not_called_bad_data() {
    let kind = |error: TlsError| io::Error::from(error).kind();
    assert_eq!(kind(TlsError::Socket(io::ErrorKind::ConnectionReset.into())), io::ErrorKind::ConnectionReset);
    assert_eq!(kind(TlsError::Protocol(rustls::Error::DecryptError)), io::ErrorKind::InvalidData);
    assert_eq!(kind(TlsError::Oversized { len: 1 }), io::ErrorKind::InvalidData);
}
