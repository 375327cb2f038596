//! What a gateway is to be told: kept as sets, so that it is bounded however slowly the gateway reads.

use std::collections::BTreeSet;

use frontier_api::bucket::edge_bucket;
use frontier_api::registry::{Cut as CutMessage, Lost, Resync, ToGateway, to_gateway::Kind};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::store::{CUTS, Cut};

/// Buckets asked for in one message.
const BUCKETS: usize = 512;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Wants {
    wants: Mutex<Wanted>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Wanted {
    edges: BTreeSet<u16>,
    services: BTreeSet<u16>,
    cuts: Vec<Cut>,
}

// === impl Wants ===

impl Wants {
    /// Asks for buckets; gives how many were not asked for already.
    pub(super) fn resync(
        &self,
        edges: impl IntoIterator<Item = u16>,
        services: impl IntoIterator<Item = u16>,
    ) -> usize {
        let mut wants = self.wants.lock();
        let before = wants.edges.len() + wants.services.len();
        wants.edges.extend(edges);
        wants.services.extend(services);
        let asked = wants.edges.len() + wants.services.len() - before;
        if asked > 0 {
            self.news.notify_one();
        }
        asked
    }

    /// Ends sessions; gives the buckets of those for which there is no room.
    pub(super) fn cut(&self, mut cuts: Vec<Cut>) -> Vec<u16> {
        if cuts.is_empty() {
            return Vec::new();
        }
        let mut wants = self.wants.lock();
        let surplus = cuts.split_off(cuts.len().min(CUTS.saturating_sub(wants.cuts.len())));
        wants.cuts.append(&mut cuts);
        self.news.notify_one();
        surplus.iter().map(|cut| edge_bucket(cut.edge)).collect()
    }

    /// The next message; waits for one.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&self) -> ToGateway {
        loop {
            if let Some(kind) = self.wants.lock().take() {
                return ToGateway { kind: Some(kind) };
            }
            self.news.notified().await;
        }
    }
}

// === impl Wanted ===

impl Wanted {
    fn take(&mut self) -> Option<Kind> {
        if !self.cuts.is_empty() {
            let cuts = self.cuts.drain(..self.cuts.len().min(BUCKETS));
            let lost = |cut: Cut| Lost { id: cut.edge, epoch: cut.epoch, newer: cut.newer };
            return Some(Kind::Cut(CutMessage { edges: cuts.map(lost).collect() }));
        }
        let take = |set: &mut BTreeSet<u16>| -> Vec<u32> {
            std::iter::from_fn(|| set.pop_first()).take(BUCKETS).map(u32::from).collect()
        };
        let (edge_buckets, service_buckets) = (take(&mut self.edges), take(&mut self.services));
        let any = !edge_buckets.is_empty() || !service_buckets.is_empty();
        any.then_some(Kind::Resync(Resync { edge_buckets, service_buckets }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn cuts_go_first_and_nothing_is_asked_twice_at_once() {
        let wants = Wants::default();
        assert_eq!(wants.resync([3, 1], [9]), 3);
        assert_eq!(wants.resync([1], [9]), 0);
        let cut = Cut { edge: 7, epoch: 1, newer: 2 };
        assert!(wants.cut(vec![cut]).is_empty());
        assert!(matches!(wants.next().await.kind, Some(Kind::Cut(cut)) if cut.edges[0].id == 7));
        let Some(Kind::Resync(resync)) = wants.next().await.kind else { panic!("no resync") };
        assert_eq!((resync.edge_buckets, resync.service_buckets), (vec![1, 3], vec![9]));
        assert_eq!(wants.resync([1], []), 1, "it may be asked for again");
    }

    #[test]
    fn what_has_no_room_is_given_back_as_buckets() {
        let wants = Wants::default();
        let cuts = |n| vec![Cut { edge: 7, epoch: 1, newer: 2 }; n];
        assert!(wants.cut(cuts(CUTS)).is_empty());
        assert_eq!(wants.cut(cuts(2)), [edge_bucket(7); 2]);
    }
}
