//! Queues against real brokers, which the tests start themselves; what they hold is read by clients that have no part in this project.
//!
//! `FRONTIER_SOAK_KILLS` is how often each broker is killed under load; once unless set.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails by panicking")]

mod amqp;
mod harness;
#[cfg(feature = "kafka")]
mod kafka;
mod nats;
mod nsq;
mod proxy;
mod redis;
mod secure;
mod slow;
mod sources;
