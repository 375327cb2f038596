//! What the store knows of a Go gateway and its edges.

use frontier_api::bucket::{EDGE_BUCKETS, SERVICE_BUCKETS};

use super::GoLinks;
use super::book::Found;
use crate::record::{EdgeRecord, Instance, ServiceRecord};
use crate::store::{Store, StoreError};

/// Buckets read at once.
const STRIDE: u16 = 256;

/// What the store has of a gateway.
pub(super) type Holdings = (Vec<(u64, EdgeRecord)>, Vec<(u64, ServiceRecord)>);

/// Where edges are that a gateway has told of.
pub(super) type Places = Vec<(u64, Found)>;

// === impl GoLinks ===

impl<S: Store> GoLinks<S> {
    /// Everything that the store has of a gateway.
    pub(super) async fn holdings(&self, instance: Instance) -> Result<Holdings, StoreError> {
        let _turn = self.adoption.acquire().await;
        let (mut edges, mut services) = (Vec::new(), Vec::new());
        for first in (0..EDGE_BUCKETS).step_by(usize::from(STRIDE)) {
            let buckets: Vec<u16> = (first..first.saturating_add(STRIDE).min(EDGE_BUCKETS)).collect();
            let all = self.store.edge_buckets(&buckets).await?.into_iter().flatten();
            edges.extend(all.filter(|(_, record)| record.claim.instance == instance));
        }
        let buckets: Vec<u16> = (0..SERVICE_BUCKETS).collect();
        let all = self.store.service_buckets(&buckets).await?.into_iter().flatten();
        let own = all.filter(|((_, holder), _)| *holder == instance);
        services.extend(own.map(|((id, _), record)| (id, record)));
        Ok((edges, services))
    }

    /// Where these edges are.
    pub(super) async fn look_up(&self, instance: Instance, edges: Vec<u64>) -> Result<Places, StoreError> {
        let records = self.store.edges(&edges).await?;
        let roster = self.store.members().await?;
        let found = |record: Option<EdgeRecord>| match record {
            Some(record) if record.claim.instance == instance => Found::Here(record),
            Some(record) if roster.lives(record.claim.instance) => Found::Elsewhere,
            Some(_) | None => Found::Nowhere,
        };
        Ok(edges.into_iter().zip(records.into_iter().map(found)).collect())
    }
}
