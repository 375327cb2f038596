//! The simulated driver: the shard core under virtual time, on an in-memory network, with every choice made by a seed.
//!
//! ```text
//!  Plan ──▶ World ── agents (scripted native peers) ──▶ Stage ── pipes ── shards (the real core)
//!                      └── Ledger: what must come of everything they do
//! ```
//! A [`stage::Stage`] does to the core what the mio driver does, in an order that the seed decides: which shard runs, which socket is read,
//! how much of it, how much of a write is taken, in which order the messages of other shards are handled. A [`lab::Lab`] lets a test
//! say by hand what peers do; a [`world::World`] lets agents do it and checks every answer, order, byte, event and counter.
//!
//! A failure prints its seed. `SIM_SEED=n` runs that seed alone and prints what happens, `SIM_SEEDS=n` runs so many per scenario.

pub mod dialer;
pub mod gate;
pub mod lab;
pub mod net;
pub mod rng;
pub mod stage;
