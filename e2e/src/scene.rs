//! What tests of bad input have in common: a gateway, bystanders that must notice nothing, and a look at memory and descriptors when
//! the offenders are gone.

use std::time::Duration;

use anyhow::Context;

use crate::{
    bystanders::Bystanders,
    gateway::{Config, Gateway},
    wait::{SOON, until},
};

/// The allocator gives pages back to the system in the ten seconds after they were freed.
const GIVEN_BACK: Duration = Duration::from_secs(20);

/// See the module documentation.
#[derive(Debug)]
pub struct Scene {
    /// The gateway.
    pub gateway: Gateway,
    bystanders: Bystanders,
    fds: usize,
    rss: u64,
}

// === impl Scene ===

impl Scene {
    /// Starts the gateway and the bystanders.
    ///
    /// # Errors
    /// When one of them does not come up.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let gateway = Gateway::start(config)?;
        let bystanders = Bystanders::start(&gateway)?;
        // The first scrape makes what later ones use again.
        gateway.metric("frontier_accepts_total", &[])?;
        let (fds, rss) = (gateway.proc().fds()?, gateway.proc().rss()?);
        Ok(Self { gateway, bystanders, fds, rss })
    }

    /// Waits until so many refusals of a kind were counted.
    ///
    /// # Errors
    /// When they are not.
    pub fn refused(&self, reason: &str, least: u32) -> anyhow::Result<()> {
        self.gateway.metric_reaches(
            "frontier_refusals_total",
            &[&format!("reason=\"{reason}\"")],
            f64::from(least),
        )
    }

    /// Waits for a line in the log with this message, or with this reason for what it says.
    ///
    /// # Errors
    /// When none comes.
    pub fn logged(&self, what: &str) -> anyhow::Result<()> {
        self.gateway
            .log()
            .wait(SOON, |line| line.message() == what || line.text_of("reason") == what)
            .with_context(|| format!("line {what:?}"))?;
        Ok(())
    }

    /// Bytes of memory beyond those at the start.
    ///
    /// # Errors
    /// When the gateway is gone.
    pub fn growth(&self) -> anyhow::Result<u64> {
        Ok(self.gateway.proc().rss()?.saturating_sub(self.rss))
    }

    /// Calls of bystanders are answered at this moment.
    ///
    /// # Errors
    /// When they are not.
    pub fn unnoticed(&self) -> anyhow::Result<()> {
        self.bystanders.still_answered()
    }

    /// The offenders are gone: their descriptors are closed, memory is within `mib` of what it was, and no call of a bystander was
    /// late or lost.
    ///
    /// # Errors
    /// When one of these is not so.
    pub fn end(self, mib: u64) -> anyhow::Result<()> {
        let (proc, fds) = (self.gateway.proc(), self.fds);
        let mut last = Ok(0);
        let closed = until("descriptors of the offenders closed", SOON, || {
            last = proc.fds();
            last.as_ref().is_ok_and(|now| *now <= fds).then_some(())
        });
        closed.with_context(|| format!("{fds} before, now {last:?}"))?;
        let mut last = Ok(0);
        let freed = until("memory given back", GIVEN_BACK, || {
            last = self.growth();
            last.as_ref().is_ok_and(|growth| *growth <= mib << 20).then_some(())
        });
        freed.with_context(|| format!("grown by {last:?} bytes"))?;
        self.bystanders.finish()
    }
}
