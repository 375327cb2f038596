//! Says how a cluster is: its status, and an event where something began or ended.

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType},
};
use serde_json::json;

use super::{Context, LookError, MANAGER, observe::Observed, status};
use crate::api::{FrontierCluster, FrontierClusterStatus, Phase};

impl Context {
    /// Writes the status if it says something new, and events of what has changed.
    pub(super) async fn tell<K>(
        &self,
        cluster: &K,
        before: Option<&FrontierClusterStatus>,
        observed: &Observed,
    ) -> Result<(), LookError>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        let meta = cluster.meta();
        let namespace = meta.namespace.clone().unwrap_or_default();
        let name = cluster.name_any();
        let api: Api<FrontierCluster> = Api::namespaced(self.client.clone(), &namespace);
        let status = status::next(before, observed, meta.generation, Timestamp::now());
        if before == Some(&status) {
            return Ok(());
        }
        let patch = json!({ "status": status });
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch_status(&name, &params, &Patch::Merge(&patch)).await {
            Ok(_) => {}
            // It went away meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(LookError::of("status")(error)),
        }
        for event in events(before, &status, observed) {
            if let Err(error) = self.recorder.publish(&event, &cluster.object_ref(&())).await {
                tracing::warn!(cluster = name, %error, "an event could not be written");
            }
        }
        Ok(())
    }
}

fn events(
    before: Option<&FrontierClusterStatus>,
    now: &FrontierClusterStatus,
    observed: &Observed,
) -> Vec<Event> {
    let was = |phase: Phase| before.is_some_and(|before| before.phase == Some(phase));
    let reason = |status: &FrontierClusterStatus| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Degraded")
            .map(|condition| condition.reason.clone())
    };
    let event = |type_, reason: &str, note: String| Event {
        type_,
        reason: reason.to_owned(),
        note: Some(status::shortened(&note)),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    match (now.phase, observed.troubles.first()) {
        (Some(Phase::Running), _) if !was(Phase::Running) => {
            let (gateways, atlas) = (observed.gateways, observed.atlas);
            let note = format!(
                "FrontierCluster is available: frontier={}/{} frontlas={}/{}",
                gateways.ready, gateways.wanted, atlas.ready, atlas.wanted
            );
            vec![event(EventType::Normal, "Available", note)]
        }
        (Some(Phase::Failed), Some(trouble))
            if !was(Phase::Failed) || before.and_then(reason) != reason(now) =>
        {
            let note = format!("{}: {}", trouble.reason.name(), trouble.message);
            vec![event(EventType::Warning, trouble.area.event(), note)]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            observe::Count,
            trouble::{Area, Reason, Trouble},
        },
        *,
    };

    #[test]
    fn events_tell_what_began_and_nothing_twice() {
        let count = Count { wanted: 1, ready: 1, settled: true };
        let ready = Observed { gateways: count, atlas: count, ..Observed::default() };
        let trouble = |reason| Trouble::new(reason, Area::Service, "no");
        let broken = |reason| Observed { troubles: vec![trouble(reason)], ..ready.clone() };
        let status = |before: Option<&FrontierClusterStatus>, observed: &Observed| {
            status::next(before, observed, None, Timestamp::UNIX_EPOCH)
        };
        let notes = |before: Option<&FrontierClusterStatus>, observed: &Observed| {
            let now = status(before, observed);
            let events = events(before, &now, observed);
            events.into_iter().map(|event| (event.reason, event.note.unwrap_or_default())).collect::<Vec<_>>()
        };
        let good = status(None, &ready);
        let note = "FrontierCluster is available: frontier=1/1 frontlas=1/1";
        assert_eq!(notes(None, &ready), [("Available".to_owned(), note.to_owned())]);
        assert_eq!(notes(Some(&good), &ready), []);
        let bad = status(Some(&good), &broken(Reason::PortTaken));
        let said = |reason: &str| [("ServiceEnsureFailed".to_owned(), format!("{reason}: no"))];
        assert_eq!(notes(Some(&good), &broken(Reason::PortTaken)), said("PortTaken"));
        assert_eq!(notes(Some(&bad), &broken(Reason::PortTaken)), []);
        assert_eq!(notes(Some(&bad), &broken(Reason::Rejected)), said("Rejected"));
        assert_eq!(notes(Some(&bad), &ready).len(), 1);
    }
}
