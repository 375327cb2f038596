//! Queues of message brokers, as the gateway uses them: a message is handed over and its confirmation by the broker comes back.
//!
//! ```text
//!  try_publish ──► flights (bounded) ──► driver ──► Link of one broker ──► socket
//!       Done  ◄── confirm, deadline, loss ◄──┘
//! ```
//!
//! - [`Queue`] is the handle: [`Queue::try_publish`] never waits, and [`Done`] learns exactly once how it ended.
//! - [`driver`] connects, again and again; [`Broker`] and [`Link`] are what a new kind of broker implements.
//! - [`Source`] is the other way round: what a broker has for edges goes through a [`Door`].
//! - [`config`] is the block `mqm` of the gateway's file, and [`config::Mqm::queues`] lists the queues in use.
//!
//! The crate knows brokers and nothing of gateways: which topic goes to which queue is decided by its caller.

#![deny(missing_docs)]

mod amqp;
mod backoff;
pub mod config;
pub mod driver;
mod error;
mod flights;
mod headers;
#[cfg(feature = "kafka")]
mod kafka;
mod limit;
mod message;
mod nats;
mod nsq;
mod pipeline;
mod queue;
mod redis;
mod socket;
mod source;
mod state;
#[cfg(feature = "testing")]
pub mod testing;

pub use self::{
    driver::{Broker, ConnectError, Link, Outbox, Outgoing},
    error::{Kind, PublishError},
    message::{Done, Message, MessageId, Passed},
    queue::{OpenError, Options, Queue, Stats, open},
    source::{Door, Parcel, Settle, Source, SourceOptions, SourceStats, Undone, open_source},
    state::State,
};
