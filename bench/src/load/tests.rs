//! Scenarios end to end: the real load against the real relay on loopback.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use frontier_wire::native::reader::Frame;

use super::{
    drive::{Dial as _, Lost, Next, Role, Scenario},
    native::{Native, Net},
    peer::Lane,
    *,
};
use crate::{relay::Relay, sample::Sample};

/// A relay that serves until it is dropped, in front of a port that the load will listen on.
pub(super) struct Running {
    edge: SocketAddr,
    far: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    pub(super) fn start() -> Self {
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

    pub(super) fn target(&self) -> Target {
        Target {
            edge: self.edge,
            service: None,
            far: Some(self.far),
            service_conns: 1,
            source: None,
            warmup: 0.02,
            seconds: 0.25,
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

pub(super) fn assert_measured(sample: &Sample) {
    // How many is a matter of what else the machine does.
    assert!(sample.ops > 0, "{sample:?}");
    assert_eq!(sample.latency.count, sample.ops);
    assert!(sample.server_nanos > 0 && sample.seconds >= 0.25);
}

#[test]
fn calls_and_messages_pass_a_relay_in_both_directions() {
    for kind in [Kind::Call, Kind::Publish] {
        for down in [false, true] {
            let relay = Running::start();
            let sample =
                Exchange::run::<Native>(kind, &ExchangeArgs { down, ..exchange() }, &relay.target()).unwrap();
            assert_measured(&sample);
        }
    }
}

#[test]
fn large_payloads_pass_a_relay() {
    let relay = Running::start();
    let args = ExchangeArgs { payload: 65_536, in_flight: 8, ..exchange() };
    assert_measured(&Exchange::run::<Native>(Kind::Call, &args, &relay.target()).unwrap());
}

#[test]
fn a_paced_load_keeps_its_rate() {
    let relay = Running::start();
    let args = ExchangeArgs { rate: Some(1_000.0), ..exchange() };
    let start = Instant::now();
    let sample = Exchange::run::<Native>(Kind::Call, &args, &relay.target()).unwrap();
    assert_measured(&sample);
    let due = 1_000.0 * start.elapsed().as_secs_f64();
    assert!(sample.ops as f64 <= due, "{} calls of {due} that were due", sample.ops);
}

#[test]
fn a_stalled_edge_does_not_end_the_run() {
    let relay = Running::start();
    let args = ExchangeArgs { stall: true, ..exchange() };
    let sample = Exchange::run::<Native>(Kind::Call, &args, &relay.target()).unwrap();
    assert_measured(&sample);
    assert!(sample.figure("stalled_sent") > 0.0);
}

#[test]
fn small_calls_pass_beside_big_ones() {
    let relay = Running::start();
    for (big, big_rate) in [(0, None), (2, None), (1, Some(50e6))] {
        let args = BesideArgs { small_rate: 500.0, big, big_size: 1 << 20, big_rate };
        let sample = Beside::run(&args, &relay.target()).unwrap();
        assert_measured(&sample);
        assert_eq!(sample.figure("big_bytes_per_second") > 0.0, big > 0, "{sample:?}");
        assert!(big_rate.is_none_or(|rate| sample.figure("big_bytes_per_second") < 2.0 * rate));
    }
}

#[test]
fn a_stream_passes_a_relay_in_both_directions() {
    for down in [false, true] {
        let relay = Running::start();
        let sample = Stream::run::<Native>(&StreamArgs { down, write: 32_768 }, &relay.target()).unwrap();
        assert!(sample.figure("bytes_per_second") > 0.0, "{sample:?}");
    }
}

pub(super) fn fleet(edge: SocketAddr) -> FleetArgs {
    FleetArgs {
        edge,
        edges: 60,
        warm: 10,
        concurrency: 8,
        methods: 0,
        source: "127.0.0.1".parse().unwrap(),
        per_source: 25,
        tls: None,
        hold: false,
        metrics: None,
        storm: false,
        crash: false,
        servers: vec![std::process::id()],
        pin: None,
        limit: 20.0,
    }
}

/// The far ends of a relayed fleet: they only greet.
struct Hosts(Arc<AtomicBool>);

impl Scenario<Native> for Hosts {
    fn ready(&mut self, _: &mut Net, _: usize) -> Result<()> {
        Ok(())
    }

    fn heard(&mut self, _: &mut Net, _: usize, _: (Lane, Frame<&[u8]>)) -> Result<()> {
        Ok(())
    }

    fn lost(&mut self, _: &mut Net, _: Role, _: Lost) -> Result<()> {
        Ok(())
    }

    fn turn(&mut self, _: &mut Net, _: Instant) -> Result<Next> {
        let over = self.0.load(Ordering::Relaxed);
        Ok(if over { Next::Done } else { Next::Wait(Duration::from_millis(5)) })
    }
}

#[test]
fn a_fleet_comes_up_from_several_addresses() {
    let mut net = Net::new().unwrap();
    let edge = net.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let mut hosts = Hosts(Arc::clone(&over));
    let serving = thread::spawn(move || net.run(&mut hosts, Duration::from_secs(30)));
    let sample = Fleet::run(&FleetArgs { methods: 3, ..fleet(edge) }).unwrap();
    assert_eq!((sample.ops, sample.latency.count), (50, 50));
    assert!(sample.server_nanos > 0);
    over.store(true, Ordering::Relaxed);
    serving.join().unwrap().unwrap();
}

#[test]
fn the_greeter_passes_for_a_gateway() {
    let (hello, answer) = greeting().unwrap();
    let mut greeter = crate::relay::Greeter::bind("127.0.0.1:0".parse().unwrap(), hello, answer).unwrap();
    let edge = greeter.addr().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&over);
    let serving = thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            greeter.turn(Some(Duration::from_millis(5))).unwrap();
        }
    });
    let sample = Fleet::run(&fleet(edge)).unwrap();
    over.store(true, Ordering::Relaxed);
    serving.join().unwrap();
    assert_eq!((sample.ops, sample.latency.count), (50, 50));
}

#[test]
fn who_only_looks_in_is_nobody() {
    let relay = Running::start();
    let looking = std::net::TcpStream::connect(relay.edge).unwrap();
    let edge = relay.edge;
    let gone = thread::spawn(move || {
        drop(looking);
        (0..20).for_each(|_| drop(std::net::TcpStream::connect(edge)));
    });
    assert_measured(&Exchange::run::<Native>(Kind::Call, &exchange(), &relay.target()).unwrap());
    gone.join().unwrap();
}
