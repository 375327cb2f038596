//! Asks sentinels where the master is. All are asked at once and most answers decide, so that one that was cut off from the others, and
//! still believes in an old master, misleads nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use fred::prelude::Value;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::errors::store_error;
use super::link::{Link, Role};
use super::settings::{Address, Settings};
use crate::store::StoreError;

/// See the module documentation.
pub(super) struct Sentinels {
    addresses: Vec<Address>,
    master: String,
    /// Kept from one question to the next.
    links: Mutex<BTreeMap<Address, Arc<Link>>>,
}

// === impl Sentinels ===

impl Sentinels {
    pub(super) fn new(addresses: Vec<Address>, master: String) -> Self {
        Self { addresses, master, links: Mutex::new(BTreeMap::new()) }
    }

    /// Where the master is.
    pub(super) async fn master(&self, settings: &Settings) -> Result<Address, StoreError> {
        let asked = join_all(self.addresses.iter().map(|sentinel| self.ask(settings, sentinel))).await;
        let (mut votes, mut why) = (BTreeMap::<Address, usize>::new(), None);
        for answer in asked {
            match answer {
                Ok(master) => *votes.entry(master).or_default() += 1,
                Err(error) => why = Some(error),
            }
        }
        let most = votes.into_iter().max_by_key(|(_, votes)| *votes).map(|(master, _)| master);
        most.ok_or_else(|| why.unwrap_or_else(|| StoreError::Unreachable("no sentinel was asked".to_owned())))
    }

    async fn ask(&self, settings: &Settings, sentinel: &Address) -> Result<Address, StoreError> {
        let kept = self.links.lock().remove(sentinel);
        let link = match kept {
            Some(link) => link,
            None => Arc::new(Link::open(settings, sentinel, Role::Sentinel).await?.0),
        };
        let question = vec!["GET-MASTER-ADDR-BY-NAME".into(), self.master.as_str().into()];
        let asked = timeout(settings.connect_timeout, link.plain("SENTINEL", question)).await;
        let answer = asked.map_err(|_| StoreError::Unreachable(format!("{sentinel} does not answer")))?;
        let answer = answer.map_err(|error| store_error(&error))?;
        // Only what has answered is kept: after anything else the next question has a new connection.
        self.links.lock().insert(sentinel.clone(), link);
        read(answer).ok_or_else(|| {
            StoreError::Unreachable(format!("the sentinel {sentinel} knows no master `{}`", self.master))
        })
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} sentinels", self.master, self.addresses.len())
    }
}

/// A host and a port.
fn read(answer: Value) -> Option<Address> {
    let mut parts = answer.into_array().into_iter();
    let (host, port) = (parts.next()?.as_string()?, parts.next()?.as_string()?);
    Some(Address::new(host, port.parse().ok()?))
}
