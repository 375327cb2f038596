//! Scenarios end to end: the real load against the real relay on loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::*;
use crate::{relay::Relay, sample::Sample};

/// A relay that serves until it is dropped, in front of a port that the load will listen on.
struct Running {
    edge: SocketAddr,
    far: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let far = free.local_addr().unwrap();
        drop(free);
        let mut relay = Relay::bind("127.0.0.1:0".parse().unwrap(), far, 100_000).unwrap();
        let edge = relay.addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = Some(thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                relay.turn(Some(Duration::from_millis(5))).unwrap();
            }
        }));
        Self { edge, far, stop, thread }
    }

    fn target(&self) -> Target {
        Target {
            edge: self.edge,
            service: None,
            far: Some(self.far),
            service_conns: 1,
            source: None,
            warmup: 0.02,
            seconds: 0.1,
            servers: vec![std::process::id()],
            pin: None,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(thread::panicking() || ended.is_ok());
        }
    }
}

fn exchange() -> ExchangeArgs {
    ExchangeArgs { down: false, edges: 3, in_flight: 2, payload: 64, rate: None, stall: false }
}

fn assert_measured(sample: &Sample) {
    assert!(sample.ops > 10, "{sample:?}");
    assert_eq!(sample.latency.count, sample.ops);
    assert!(sample.server_nanos > 0 && sample.seconds >= 0.1);
}

#[test]
fn calls_and_messages_pass_a_relay_in_both_directions() {
    for kind in [Kind::Call, Kind::Publish] {
        for down in [false, true] {
            let relay = Running::start();
            let sample = Exchange::run(kind, &ExchangeArgs { down, ..exchange() }, &relay.target()).unwrap();
            assert_measured(&sample);
        }
    }
}

#[test]
fn large_payloads_pass_a_relay() {
    let relay = Running::start();
    let args = ExchangeArgs { payload: 65_536, in_flight: 8, ..exchange() };
    assert_measured(&Exchange::run(Kind::Call, &args, &relay.target()).unwrap());
}

#[test]
fn a_paced_load_keeps_its_rate() {
    let relay = Running::start();
    let args = ExchangeArgs { rate: Some(1_000.0), ..exchange() };
    let sample = Exchange::run(Kind::Call, &args, &relay.target()).unwrap();
    assert_measured(&sample);
    assert!((50.0..200.0).contains(&(sample.ops as f64)), "{} calls in 0.1 s", sample.ops);
}

#[test]
fn a_stalled_edge_does_not_end_the_run() {
    let relay = Running::start();
    let args = ExchangeArgs { stall: true, ..exchange() };
    let sample = Exchange::run(Kind::Call, &args, &relay.target()).unwrap();
    assert_measured(&sample);
    assert!(sample.figure("stalled_sent") > 0.0);
}
