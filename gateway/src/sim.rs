//! The simulated driver: the shard core under virtual time, on an in-memory network, with every choice made by a seed.
//!
//! ```text
//!  test: a Lab, or agents ──▶ Dialers and Guests (native and geminio peers) ──▶ Stage ── pipes ── shards (the real core)
//! ```
//! A [`stage::Stage`] does to the core what the mio driver does, in an order that the seed decides: which shard runs, which socket is read,
//! how much of it, how much of a write is taken, in which order the messages of other shards are handled. After every turn it compares the
//! books that the core keeps with its sessions. A [`lab::Lab`] lets a test say by hand what peers do (`tests/sim_core.rs`); in
//! `tests/sim_seeds.rs` agents do it, and a ledger knows what must come of it.

pub mod dialer;
pub mod gate;
pub mod guest;
pub mod lab;
pub mod net;
pub mod queue;
pub mod rng;
pub mod stage;
