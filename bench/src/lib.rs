//! Programs that measure Frontier beside its neighbours and print one table (`make bench`, `docs/benchmarks.md`).
//!
//! ```text
//!   run (harness) ──starts──▶ relay │ gateway │ nats-server │ mosquitto      pinned to one core
//!        │                         ▲
//!        └────starts──▶ load │ nats │ mqtt ──── reads the server's CPU and memory from /proc, pinned to the other core
//!                          │
//!                          └── one JSON line: a [`sample::Sample`]
//! ```
//!
//! - [`relay`]: the bare relay and the bare accept server that the bounds are measured against.
//! - [`load`]: native edges and services in one process, without runtime, for relay and gateway alike; [`load::geminio`]: the same for
//!   edges and services of the Go system.
//! - [`client`]: the same through the SDK; [`tasks`]: how client libraries are driven.
//! - [`peers`]: Go clients, in a process of their own.
//! - [`brokers`]: what the peers speak: async-nats, MQTT 3.1.1.
//! - [`store`]: the registry's store on Redis, beside a bare `GET` (`make bench-cluster`).
//! - [`harness`]: servers, rows, repetition, the table.
//! - [`proc`], [`hist`], [`sample`], [`scrape`]: how things are measured.
//! - [`net`]: pinning, limits, the epoll set.

pub mod brokers;
pub mod client;
pub mod harness;
pub mod hist;
pub mod load;
pub mod net;
pub mod out;
pub mod peers;
pub mod proc;
pub mod relay;
pub mod sample;
pub mod scrape;
pub mod store;
pub mod tasks;
