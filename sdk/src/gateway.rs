//! The gateways of a service, as its user sees them.

use crate::{site::Site, state::State};

/// A gateway that a service is connected to, or wants to be. See [`Service::gateways`](crate::Service::gateways).
///
/// ```
/// # frontier::testing::scene::play(async |svc: frontier::Service| {
/// for gateway in svc.gateways() {
///     println!("{} at {}: {}", gateway.name(), gateway.addr(), gateway.state());
/// }
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct GatewayInfo {
    name: String,
    addr: String,
    listed: bool,
    state: State,
}

// === impl GatewayInfo ===

impl GatewayInfo {
    /// What the cluster calls it; empty outside of clusters, and before the cluster has named it.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// let names: Vec<_> = svc.gateways().iter().map(|gateway| gateway.name().to_owned()).collect();
    /// # drop(names);
    /// # });
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where this service connects to it.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// let addresses: Vec<_> = svc.gateways().iter().map(|gateway| gateway.addr().to_owned()).collect();
    /// # drop(addresses);
    /// # });
    /// ```
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Whether the cluster still has it on its list. One that has not is left when its connection ends, and no earlier. Outside of clusters
    /// always true.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// assert!(svc.gateways().iter().all(|gateway| gateway.is_listed()));
    /// # });
    /// ```
    #[must_use]
    pub const fn is_listed(&self) -> bool {
        self.listed
    }

    /// The state of the connection to it.
    ///
    /// ```
    /// # frontier::testing::scene::play(async |svc: frontier::Service| {
    /// let connected = svc.gateways().iter().filter(|gateway| gateway.state().is_connected()).count();
    /// # drop(connected);
    /// # });
    /// ```
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn of(site: &Site) -> Self {
        Self { name: site.name(), addr: site.addr(), listed: site.is_listed(), state: site.state() }
    }
}
