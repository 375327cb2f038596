//! The operator against a real API server and its controllers; pods need not run.
//!
//! `FRONTIER_E2E_KUBECONFIG=… cargo test -p frontier-operator --test cluster -- --ignored --test-threads=1`, with a cluster of which nothing
//! is needed afterwards. The operator has exactly the rights of `deploy/install.yaml`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod faults;
mod stories;
mod takeover;
mod world;
