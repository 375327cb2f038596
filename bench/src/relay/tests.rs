//! Both servers on real loopback sockets, turned by the test itself.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use super::*;

const STEP: Option<Duration> = Some(Duration::from_millis(5));

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A relay with a buffer of `buffer` bytes to a fresh upstream listener, turned in a thread until all its pairs are over.
fn relay(buffer: usize) -> (SocketAddr, TcpListener, thread::JoinHandle<()>) {
    let upstream = TcpListener::bind(loopback()).unwrap();
    let mut relay = Relay::bind(loopback(), upstream.local_addr().unwrap(), buffer).unwrap();
    let addr = relay.addr().unwrap();
    let turning = thread::spawn(move || {
        while relay.pairs() == 0 {
            relay.turn(STEP).unwrap();
        }
        while relay.pairs() > 0 {
            relay.turn(STEP).unwrap();
        }
    });
    (addr, upstream, turning)
}

#[test]
fn bytes_pass_both_ways_and_half_close_travels() {
    let (addr, listener, turning) = relay(1024);
    let mut edge = TcpStream::connect(addr).unwrap();
    edge.write_all(b"question").unwrap();
    edge.shutdown(Shutdown::Write).unwrap();
    let (mut service, _) = listener.accept().unwrap();
    let mut got = String::new();
    service.read_to_string(&mut got).unwrap();
    assert_eq!(got, "question");
    service.write_all(b"answer").unwrap();
    drop(service);
    got.clear();
    edge.read_to_string(&mut got).unwrap();
    assert_eq!(got, "answer");
    turning.join().unwrap();
}

#[test]
fn a_slow_reader_gets_every_byte_in_order() {
    let (addr, listener, turning) = relay(4096);
    let sent: Vec<u8> = (0..8 << 20).map(|i: u32| (i / 7) as u8).collect();
    let expected = sent.clone();
    let writer = thread::spawn(move || {
        let mut edge = TcpStream::connect(addr).unwrap();
        edge.write_all(&sent).unwrap();
        edge.shutdown(Shutdown::Write).unwrap();
        assert_eq!(edge.read(&mut [0; 1]).unwrap(), 0);
    });
    let (mut service, _) = listener.accept().unwrap();
    // By the time all 8 MiB are here the relay has met a full socket: loopback holds less than that.
    let mut got = vec![0; expected.len()];
    for piece in got.chunks_mut(100_000) {
        service.read_exact(piece).unwrap();
    }
    assert!(got == expected);
    drop(service);
    writer.join().unwrap();
    turning.join().unwrap();
}

#[test]
fn a_dead_upstream_ends_the_edge() {
    let gone = TcpListener::bind(loopback()).unwrap().local_addr().unwrap();
    let mut relay = Relay::bind(loopback(), gone, 1024).unwrap();
    let addr = relay.addr().unwrap();
    let edge = thread::spawn(move || {
        let mut edge = TcpStream::connect(addr).unwrap();
        edge.read(&mut [0; 1])
    });
    while !edge.is_finished() {
        relay.turn(STEP).unwrap();
    }
    assert!(matches!(edge.join().unwrap(), Ok(0) | Err(_)));
    assert_eq!(relay.pairs(), 0);
}

#[test]
fn the_greeter_answers_a_whole_hello_once_and_holds() {
    let mut greeter = Greeter::bind(loopback(), 10, vec![4; 5]).unwrap();
    let addr = greeter.addr().unwrap();
    let guest = thread::spawn(move || {
        let mut socket = TcpStream::connect(addr).unwrap();
        socket.write_all(&[1; 6]).unwrap();
        socket.write_all(&[1; 4]).unwrap();
        let mut answer = [9; 5];
        socket.read_exact(&mut answer).unwrap();
        answer
    });
    while greeter.guests() == 0 {
        greeter.turn(STEP).unwrap();
    }
    while greeter.guests() > 0 {
        greeter.turn(STEP).unwrap();
    }
    assert_eq!(guest.join().unwrap(), [4; 5]);
    assert!(Greeter::bind(loopback(), LONG, Vec::new()).is_err());
}

const LONG: usize = 4097;
