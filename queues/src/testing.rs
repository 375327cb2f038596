//! Brokers as processes of one test: real ones, on free ports of this machine, with directories of their own.
//!
//! They can be killed and started again with what they had on disk, and stopped and continued by signals.

#![expect(clippy::missing_errors_doc, reason = "what a test cannot have, it fails for")]

mod kafka;
mod nats;
mod nsq;
mod process;
mod rabbit;
mod redis;

pub use self::{kafka::Kafka, nats::Nats, nsq::Nsq, process::Server, rabbit::Rabbit, redis::Redis};
pub use frontier_ops::testing::free_port;
/// Kafka's client itself, to be compared with.
#[cfg(feature = "kafka")]
pub use rdkafka;
