//! What the tests of whole processes are made of. The tests themselves are in `tests/`, one file per story.
//!
//! - [`gateway`]: the built binary `frontier` as a process of one test, with its configuration, log and `/proc` entry.
//! - [`frontlas`]: the built binary `frontlas`; [`redis`]: a real Redis for it.
//! - [`cluster`]: a whole cluster of these with edges and services, and the books of what they ask of each other.
//! - [`clock`]: calendars of processes that step.
//! - [`geminio`]: an edge or service that speaks geminio.
//! - [`peer`]: a scripted edge or service over a blocking socket, which can also misbehave.
//! - [`bystanders`]: an edge and a service that call each other all the time and must notice nothing.
//! - [`player`]: edges and services by command, Go peers of three generations and SDK clients alike.
//! - [`program`]: a program for people as a process of one test, such as an example.
//! - [`proxy`]: a TCP proxy that can fall silent without closing anything.
//! - [`certs`]: certificates, and TLS clients for them.
//! - [`http`]: the few HTTP requests that tests need.
//! - [`scene`]: all of that for a test of bad input, with memory and descriptors looked at afterwards.
//! - [`wait`]: waiting for something to become true, with a deadline.
//!
//! Every test starts processes and ports of its own, so all of them may run at once.

pub mod bystanders;
pub mod certs;
pub mod clock;
pub mod cluster;
pub mod frontlas;
pub mod gateway;
pub mod geminio;
pub mod http;
pub mod peer;
pub mod player;
pub mod program;
pub mod proxy;
pub mod redis;
pub mod scene;
pub mod wait;
