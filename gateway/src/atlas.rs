//! The gateway's link to the cluster's registry, atlas: it tells who is here, keeps a lease, learns the cluster's time, and ends sessions
//! of edges that have a newer one at another gateway. Nothing else of the gateway waits for it or depends on it.
//!
//! ```text
//!  shards ── claims, releases ──▶ Roll ◀── looks ── Reporter ── Attach (bidi) ──▶ atlas
//!    ▲                                                 │  └──── Renew (unary, a connection of its own) ──▶
//!    └────────────── Lost, cluster time ◀── Source ◀───┘
//! ```
//!
//! - [`Reporter`] decides what is said and when. It knows neither sockets nor shards: [`Dial`] gives it a link, [`Source`] what is here.
//!   It runs on tokio's clock alone, so a simulation can run it.
//! - [`OwnSessions`] is the [`Source`] of a running gateway, [`AtlasDial`] the [`Dial`] to a real atlas.
//! - [`Status`] is what operators see of it.

mod advertised;
mod attached;
mod backoff;
mod dial;
mod link;
mod reporter;
mod services;
mod source;
mod status;
#[cfg(test)]
mod tests;

pub use self::{
    advertised::advertised,
    dial::{AtlasDial, Heard, Renewals},
    link::{Dial, Link, LinkError, Renew, Trouble},
    reporter::{Identity, Reporter},
    source::{BucketSet, OwnSessions, Source},
    status::Status,
};
