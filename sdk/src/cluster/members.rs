//! The gateways of a cluster that a client is connected to, or wants to be.
//!
//! A gateway is known by the address at which services connect: one that has moved is another gateway, and one that merely has another name
//! is the same. What the list says decides whom to connect to, and the connections themselves decide whom to leave: a gateway that is not
//! listed any more is left only when its connection has ended.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
};

use frontier_api::cluster::Frontier;
use tokio::{
    select,
    sync::{mpsc, oneshot},
};

use super::{GATEWAYS_MAX, list::News};
use crate::{address::Address, client::Shared, error::ConnectError, site::Site, state::State};

/// See the module documentation.
pub(super) struct Members {
    shared: Arc<Shared>,
    /// By address.
    sites: BTreeMap<String, Arc<Site>>,
    /// The addresses on the list, by the names of the gateways.
    listed: HashMap<String, String>,
    last_lane: u64,
    /// What cannot be connected to, by name: said once.
    unusable: HashMap<String, String>,
    /// What became of the addresses of atlas since one of them answered.
    failed: usize,
    failure: Option<Arc<ConnectError>>,
    /// Waits for the first gateway, or for the news that there is none.
    first: Option<oneshot::Sender<Result<(), ConnectError>>>,
}

// === impl Members ===

impl Members {
    pub(super) fn new(
        shared: Arc<Shared>,
        known: Vec<Address>,
        first: oneshot::Sender<Result<(), ConnectError>>,
    ) -> Self {
        let mut members = Self {
            shared,
            sites: BTreeMap::new(),
            listed: HashMap::new(),
            last_lane: 0,
            unusable: HashMap::new(),
            failed: 0,
            failure: None,
            first: Some(first),
        };
        for address in known {
            members.connect(address, None);
        }
        members.shared.set_sites(members.sites.values());
        members
    }

    /// Lives until the client closes.
    pub(super) async fn run(mut self, mut news: mpsc::Receiver<News>, mut hints: mpsc::Receiver<Frontier>) {
        let shared = self.shared.clone();
        let mut pulse = shared.pulse();
        loop {
            self.report();
            select! {
                biased;
                () = shared.closing.cancelled() => break,
                Some(news) = news.recv() => self.on_news(news),
                Some(hint) = hints.recv() => self.on_hint(&hint),
                Ok(()) = pulse.changed() => {}
            }
            self.leave_gone();
        }
        for site in self.sites.values() {
            // Leaves by itself, within the time closing may take.
            site.ended.cancelled().await;
        }
        shared.end(&Arc::new(ConnectError::Closed));
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::All(gateways) => {
                self.listed.clear();
                for gateway in gateways {
                    self.list(gateway);
                }
                self.have_list();
            }
            News::Put(gateways) => {
                for gateway in gateways {
                    self.list(gateway);
                }
                self.have_list();
            }
            News::Gone(gateways) => {
                for gateway in gateways {
                    self.unlist(&gateway);
                }
                self.have_list();
            }
            News::Failed(error) => {
                let error = Arc::new(error);
                self.failed = self.failed.saturating_add(1);
                self.failure = Some(error.clone());
                let Some(cluster) = &self.shared.cluster else { return };
                if self.failed >= cluster.atlas.len() {
                    cluster.settled.store(true, Ordering::Relaxed);
                    let attempt = u32::try_from(self.failed).unwrap_or(u32::MAX);
                    self.shared.set_without(State::Reconnecting { attempt, error });
                }
            }
        }
    }

    /// Notes that a gateway is on the list, and connects to it if that is news.
    fn list(&mut self, gateway: Frontier) {
        let Frontier { frontier_id, advertised_sb_addr, .. } = gateway;
        if self.listed.len() >= GATEWAYS_MAX && !self.listed.contains_key(&frontier_id) {
            tracing::debug!(frontier = %frontier_id, most = GATEWAYS_MAX, "there are more gateways than are connected to");
            return;
        }
        match Address::parse(&advertised_sb_addr) {
            Ok(address) => {
                self.unusable.remove(&frontier_id);
                let key = address.to_string();
                let before = self.listed.insert(frontier_id.clone(), key.clone());
                // One that has used up its attempts, and says that it is there, is tried again.
                let said_anew = before.as_ref() != Some(&key);
                if said_anew && self.sites.get(&key).is_some_and(|site| site.state().is_closed()) {
                    self.sites.remove(&key);
                }
                self.connect(address, Some(&frontier_id));
            }
            Err(error) => {
                self.listed.remove(&frontier_id);
                if self.unusable.len() >= GATEWAYS_MAX {
                    self.unusable.clear();
                }
                let before = self.unusable.insert(frontier_id.clone(), advertised_sb_addr.clone());
                if before.as_ref() != Some(&advertised_sb_addr) {
                    tracing::warn!(%error, frontier = %frontier_id, "a gateway has no usable address for services");
                }
            }
        }
    }

    /// Notes that a gateway is on the list no more. Not the one that has taken its name meanwhile.
    fn unlist(&mut self, gateway: &Frontier) {
        let Frontier { frontier_id, advertised_sb_addr, .. } = gateway;
        let was = Address::parse(advertised_sb_addr).ok().map(|address| address.to_string());
        let is = self.listed.get(frontier_id);
        if was.is_none() || was.as_ref() == is {
            self.listed.remove(frontier_id);
        }
    }

    /// The list has changed, or was confirmed.
    fn have_list(&mut self) {
        (self.failed, self.failure) = (0, None);
        let names: HashMap<&String, &String> = self.listed.iter().map(|(name, addr)| (addr, name)).collect();
        for (addr, site) in &self.sites {
            site.set_listed(names.get(addr).map(|name| name.as_str()));
        }
        if let Some(cluster) = &self.shared.cluster {
            cluster.settled.store(true, Ordering::Relaxed);
        }
        self.shared.set_sites(self.sites.values());
        let error = Arc::new(ConnectError::NoGateway { known: 0, last: None });
        self.shared.set_without(State::Reconnecting { attempt: 0, error });
    }

    /// Atlas says that an edge is at a gateway which the list has not yet.
    fn on_hint(&mut self, gateway: &Frontier) {
        let Ok(address) = Address::parse(&gateway.advertised_sb_addr) else { return };
        if self.sites.contains_key(&address.to_string()) {
            return;
        }
        if let Some(site) = self.connect(address, Some(&gateway.frontier_id)) {
            // Until the list says the same it is left again should it fail.
            site.set_listed(None);
            self.shared.set_sites(self.sites.values());
        }
    }

    /// Connects to a gateway, unless that was begun before.
    fn connect(&mut self, address: Address, name: Option<&str>) -> Option<Arc<Site>> {
        let key = address.to_string();
        if let Some(site) = self.sites.get(&key) {
            return Some(site.clone());
        }
        if self.sites.len() >= GATEWAYS_MAX {
            tracing::debug!(%address, most = GATEWAYS_MAX, "there are more gateways than are connected to");
            return None;
        }
        self.last_lane += 1;
        let site = Site::new(self.shared.clone(), self.last_lane, vec![address]);
        if name.is_some() {
            site.set_listed(name);
        }
        tracing::debug!(%site, "a gateway is there");
        drop(site.start(false));
        self.sites.insert(key, site.clone());
        Some(site)
    }

    /// Leaves the gateways that are not listed and whose connection has ended.
    fn leave_gone(&mut self) {
        let before = self.sites.len();
        self.sites.retain(|_, site| {
            let over = matches!(site.state(), State::Reconnecting { .. } | State::Closed { .. });
            let stays = site.is_listed() || !over;
            if !stays {
                tracing::debug!(%site, "a gateway is gone");
                site.closing.cancel();
            }
            stays
        });
        if self.sites.len() < before {
            self.shared.set_sites(self.sites.values());
        }
    }

    /// Tells who waits for the first gateway, once it is connected or all that there are have failed.
    fn report(&mut self) {
        if self.first.is_none() {
            return;
        }
        let states: Vec<State> = self.sites.values().map(|site| site.state()).collect();
        let settled = self.shared.cluster.as_ref().is_some_and(super::Cluster::is_settled);
        let outcome = if states.iter().any(State::is_connected) {
            Ok(())
        } else if !settled || states.iter().any(|state| matches!(state, State::Connecting)) {
            return;
        } else {
            Err(self.why_none(&states))
        };
        if let Some(first) = self.first.take() {
            let _ = first.send(outcome);
        }
    }

    fn why_none(&self, states: &[State]) -> ConnectError {
        if let (true, Some(failure)) = (states.is_empty(), &self.failure)
            && let ConnectError::Atlas { address, reason } = &**failure
        {
            return ConnectError::Atlas { address: address.clone(), reason: reason.clone() };
        }
        let last = states.iter().find_map(|state| match state {
            State::Reconnecting { error, .. } | State::Closed { reason: error } => Some(error.clone()),
            _ => None,
        });
        ConnectError::NoGateway { known: states.len(), last }
    }
}
