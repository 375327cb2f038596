//! Runs the comparison: servers and drivers as processes of their own, row by row, and one table in the end.
//!
//! - [`run`]: arguments, and where the table goes.
//! - [`rows`], [`storm`]: what is measured and what it must reach.
//! - [`measure`], [`syscalls`]: repetition, steal, medians; system calls per operation.
//! - [`system`], [`server`]: what is compared, how it is configured, and that no process is left behind.
//! - [`table`]: how it is printed.

pub mod measure;
pub mod rows;
pub mod run;
pub mod server;
pub mod storm;
pub mod syscalls;
pub mod system;
pub mod table;
