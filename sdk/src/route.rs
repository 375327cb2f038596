//! The way of an operation about an edge: to the gateway where the edge is.
//!
//! A client of one gateway has one way. In a cluster the edge is looked up, and an operation that was surely not passed on, because the
//! edge had moved or the gateway had gone, looks for its new place: once for an edge that moved.

use tokio::time::{Instant, timeout_at};

use crate::{
    client::Client,
    error::{Error, Result},
    op::Op,
    promise::{Promise, promise},
};

// === impl Client ===

impl Client {
    /// Brings an operation to an edge and waits for its outcome. `op` makes it of what it consists of.
    pub(crate) async fn carry<T, P: Clone>(
        &self,
        edge: u64,
        parts: P,
        op: impl Fn(Promise<T>, P) -> Op,
        deadline: Instant,
    ) -> Result<T> {
        #[cfg(feature = "cluster")]
        if self.shared.is_cluster() {
            let mut route = self.shared.find_way(edge, deadline).await?;
            loop {
                let (promise, answer) = promise();
                let submitted = route.site.submit(op(promise, parts.clone()), edge, deadline).await;
                route.is_taken();
                let outcome = match submitted {
                    Ok(()) => timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(Error::deadline())),
                    Err(error) => Err(error),
                };
                match outcome {
                    Err(error) => self.shared.find_another_way(&mut route, edge, error, deadline).await?,
                    Ok(answer) => return Ok(answer),
                }
            }
        }
        let (promise, answer) = promise();
        self.shared.only_site()?.submit(op(promise, parts), edge, deadline).await?;
        timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(Error::deadline()))
    }
}
