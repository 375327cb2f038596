//! Tests of the whole library: against the gateway within the process, and against a scripted peer where every frame matters.
//!
//! Time is paused, except where sockets are real: it advances only while everything waits, so nothing here sleeps and every timeout is
//! exact.

mod calls;
#[cfg(feature = "cluster")]
mod cluster;
mod guide;
mod messages;
mod presence;
mod reconnect;
mod script;
mod streams;
mod tls;

use std::time::Duration;

use crate::{Edge, Error, Service, testing::Gateway};

/// A gateway with a service `svc` that takes topic `t`, and an edge.
async fn trio() -> (Gateway, Service, Edge) {
    let gateway = Gateway::start();
    let service = gateway.service().name("svc").topics(["t"]).connect().await.unwrap();
    let edge = gateway.edge().meta("e").connect().await.unwrap();
    (gateway, service, edge)
}

/// Bytes that differ from their neighbours, so that swapped and lost pieces are seen.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(31) >> 3) as u8 ^ n as u8).collect()
}

/// Waits for something that another task does, without a timeout of its own: a test that hangs is a test that failed.
async fn until(mut done: impl AsyncFnMut() -> bool) {
    while !done().await {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Until nobody has anything to do any more: paused time advances only then.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn code(error: Error) -> &'static str {
    error.code().name()
}
