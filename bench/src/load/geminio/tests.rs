//! Scenarios end to end: the real load against the real relay on loopback.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use frontier_wire::geminio::connection::Event;

use super::{
    drive::{Geminio, Net},
    *,
};
use crate::load::{
    drive::{Dial as _, Next, Scenario},
    tests::{Running, assert_measured, fleet},
};

fn exchange() -> ExchangeArgs {
    ExchangeArgs { down: false, edges: 3, in_flight: 2, payload: 64, rate: None, stall: false }
}

#[test]
fn calls_and_messages_pass_a_relay_in_both_directions() {
    for kind in [Kind::Call, Kind::Publish] {
        for down in [false, true] {
            let relay = Running::start();
            let args = ExchangeArgs { down, ..exchange() };
            assert_measured(&Exchange::run::<Geminio>(kind, &args, &relay.target()).unwrap());
        }
    }
}

#[test]
fn large_payloads_pass_a_relay() {
    let relay = Running::start();
    let args = ExchangeArgs { payload: 65_536, in_flight: 8, ..exchange() };
    assert_measured(&Exchange::run::<Geminio>(Kind::Call, &args, &relay.target()).unwrap());
}

#[test]
fn a_stream_passes_a_relay_in_both_directions_and_packets_of_any_size() {
    for (down, write) in [(false, 32_768), (true, 1_024)] {
        let relay = Running::start();
        let sample = Stream::run::<Geminio>(&StreamArgs { down, write }, &relay.target()).unwrap();
        assert!(sample.figure("bytes_per_second") > 0.0, "{sample:?}");
    }
}

/// The far ends of a fleet: they only greet.
struct Hosts(Arc<AtomicBool>);

impl Scenario<Geminio> for Hosts {
    fn ready(&mut self, _: &mut Net, _: usize) -> Result<()> {
        Ok(())
    }

    fn heard(&mut self, _: &mut Net, _: usize, event: Event<&[u8]>) -> Result<()> {
        bail!("unexpected {event:?}")
    }

    fn turn(&mut self, _: &mut Net, _: Instant) -> Result<Next> {
        let over = self.0.load(Ordering::Relaxed);
        Ok(if over { Next::Done } else { Next::Wait(Duration::from_millis(5)) })
    }
}

#[test]
fn a_fleet_comes_up_with_its_methods() {
    let mut net = Net::new().unwrap();
    let edge = net.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let mut hosts = Hosts(Arc::clone(&over));
    let sample = thread::scope(|scope| {
        let serving = scope.spawn(move || net.run(&mut hosts, Duration::from_secs(30)));
        let sample = Fleet::run_geminio(&FleetArgs { methods: 3, ..fleet(edge) });
        over.store(true, Ordering::Relaxed);
        // Edges that have left are lost ones to their hosts.
        serving.join().unwrap().map_or_else(|error| assert!(error.to_string().contains("lost")), |()| ());
        sample.unwrap()
    });
    assert_eq!((sample.ops, sample.latency.count), (50, 50));
    assert!(sample.server_nanos > 0);
}
