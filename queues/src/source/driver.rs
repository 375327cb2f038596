//! The life of a source's connection: connect, use, lose, connect again; addresses in turn, with pauses as those of queues.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures::FutureExt;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{Inflow, Origin, desk::Desk};
use crate::{
    ConnectError, State,
    backoff::Backoff,
    driver::{CONNECT, GRACE, shorten},
};

/// Runs until the source closes.
pub(super) async fn run<O: Origin>(mut origin: O, desk: Arc<Desk>) {
    let (mut backoff, mut lost_at) = (Backoff::new(), Instant::now());
    let mut turn = 0;
    loop {
        let addresses = origin.addresses();
        let (mut refused, mut reason) = (false, "no address is configured".to_owned());
        for _ in 0..addresses.len() {
            let index = turn % addresses.len();
            turn += 1;
            let address = Arc::clone(&addresses[index]);
            let connecting = AssertUnwindSafe(timeout(CONNECT, origin.connect(index, &desk))).catch_unwind();
            let Some(connected) = desk.quit.run_until_cancelled(connecting).await else { return };
            let error = match connected {
                Ok(Ok(Ok(inflow))) => {
                    let since = Instant::now();
                    reason = consume(inflow, &desk, &address).await;
                    if desk.quit.is_cancelled() {
                        return;
                    }
                    lost_at = Instant::now();
                    // One that is lost at once is no better than none.
                    if since.elapsed() > GRACE {
                        backoff = Backoff::new();
                    }
                    break;
                }
                Ok(Ok(Err(error))) => error,
                Ok(Err(_)) => ConnectError::unreachable("no connection in time"),
                Err(_) => ConnectError::unreachable("the driver failed"),
            };
            refused |= error.refused;
            reason = shorten(format!("{address}: {error}"));
        }
        if refused || lost_at.elapsed() >= GRACE || addresses.is_empty() {
            down(&desk, &reason);
        }
        if desk.quit.run_until_cancelled(sleep(backoff.next())).await.is_none() {
            return;
        }
    }
}

async fn consume<I: Inflow>(inflow: I, desk: &Arc<Desk>, address: &Arc<str>) -> String {
    let name = &desk.options.name;
    desk.connected();
    info!(source = %name, %address, "consuming from the broker");
    desk.state.send_replace(State::Up { address: Arc::clone(address) });
    let ended = AssertUnwindSafe(inflow.run(desk)).catch_unwind().await;
    let reason = shorten(ended.unwrap_or_else(|_| "the driver failed".to_owned()));
    desk.lost();
    if desk.quit.is_cancelled() {
        info!(source = %name, %address, "the source is closed");
    } else {
        warn!(source = %name, %address, reason, "lost the broker; connecting again");
        desk.state.send_replace(State::Connecting);
    }
    reason
}

fn down(desk: &Desk, reason: &str) {
    let new = State::Down { reason: Arc::from(reason) };
    let changed = desk.state.send_if_modified(|state| {
        let changed = *state != new;
        state.clone_from(&new);
        changed
    });
    if changed {
        warn!(source = %desk.options.name, reason, "the source is down; trying on");
    }
}
