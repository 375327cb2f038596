//! What the status says: pure, from what was observed and what it said before.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use super::observe::{Count, Observed};
use crate::api::{ConditionType, FrontierClusterStatus, Phase};

/// What the API server takes in a condition.
const MESSAGE_MAX: usize = 1024;

/// The status of a cluster. Times move only where a condition changes between true and false.
pub(super) fn next(
    before: Option<&FrontierClusterStatus>,
    observed: &Observed,
    generation: Option<i64>,
    now: Timestamp,
) -> FrontierClusterStatus {
    let trouble = observed.troubles.first();
    let settled = trouble.is_none() && observed.is_settled();
    let phase = match trouble {
        Some(_) => Phase::Failed,
        None if settled => Phase::Running,
        None => Phase::Pending,
    };
    let message = match trouble {
        Some(_) => {
            let all: Vec<&str> = observed.troubles.iter().map(|trouble| trouble.message.as_str()).collect();
            shortened(&all.join("; "))
        }
        None if settled => "Good to go!".to_owned(),
        None => waiting(observed),
    };
    let (available, progress) = (observed.is_available(), waiting(observed));
    let word =
        |yes: bool, yes_word: &'static str, no_word: &'static str| if yes { yes_word } else { no_word };
    let progressing = trouble.is_none() && !settled;
    let progress_reason = match trouble {
        Some(_) => "ReconcileFailed",
        None => word(settled, "ReconcileSucceeded", "ReconcileInProgress"),
    };
    let degraded_reason = match trouble {
        Some(trouble) => trouble.reason.name(),
        None => word(settled, "AllComponentsReady", "ReconcileInProgress"),
    };
    let conditions = [
        (
            ConditionType::Available,
            available,
            word(available, "AllComponentsReady", "ComponentsNotReady"),
            &progress,
        ),
        (ConditionType::Progressing, progressing, progress_reason, &message),
        (ConditionType::Degraded, trouble.is_some(), degraded_reason, &message),
    ];
    let conditions = conditions.map(|(type_, holds, reason, message)| {
        let status = if holds { "True" } else { "False" };
        let old = before.and_then(|before| before.conditions.iter().find(|old| old.type_ == type_.name()));
        let since = old.filter(|old| old.status == status).map(|old| old.last_transition_time.clone());
        Condition {
            type_: type_.name().to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.clone(),
            observed_generation: generation,
            last_transition_time: since.unwrap_or(Time(now)),
        }
    });
    FrontierClusterStatus {
        phase: Some(phase),
        message: Some(message),
        conditions: conditions.into(),
        observed_generation: generation,
        frontier_ready_replicas: observed.gateways.ready,
        frontlas_ready_replicas: observed.atlas.ready,
    }
}

fn waiting(observed: &Observed) -> String {
    let of = |name: &str, count: Count| format!("{name} {}/{} ready", count.ready, count.wanted);
    let mut parts = vec![of("frontier", observed.gateways), of("frontlas", observed.atlas)];
    parts.extend(observed.redis.map(|redis| of("redis", redis)));
    parts.join(", ")
}

/// At most as long as the API server takes it, cut between characters.
pub(super) fn shortened(text: &str) -> String {
    if text.len() <= MESSAGE_MAX {
        return text.to_owned();
    }
    let end = (0..=MESSAGE_MAX - 4).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{} …", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::{
        super::trouble::{Area, Reason, Trouble},
        *,
    };

    const READY: Count = Count { wanted: 1, ready: 1, settled: true };
    const WAITING: Count = Count { wanted: 2, ready: 1, settled: false };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn words(status: &FrontierClusterStatus) -> Vec<(String, String, String)> {
        let triple = |c: &Condition| (c.type_.clone(), c.status.clone(), c.reason.clone());
        status.conditions.iter().map(triple).collect()
    }

    fn triples(list: [(&str, &str, &str); 3]) -> Vec<(String, String, String)> {
        list.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())).into()
    }

    #[test]
    fn the_words_are_those_that_users_know() {
        let ready = Observed { gateways: READY, atlas: READY, ..Observed::default() };
        let status = next(None, &ready, Some(2), at(1));
        assert_eq!((status.phase, status.message.as_deref()), (Some(Phase::Running), Some("Good to go!")));
        assert_eq!(
            words(&status),
            triples([
                ("Available", "True", "AllComponentsReady"),
                ("Progressing", "False", "ReconcileSucceeded"),
                ("Degraded", "False", "AllComponentsReady"),
            ])
        );
        assert_eq!((status.observed_generation, status.frontier_ready_replicas), (Some(2), 1));
        let waits = Observed { gateways: WAITING, atlas: READY, ..Observed::default() };
        let status = next(None, &waits, None, at(1));
        assert_eq!(status.message.as_deref(), Some("frontier 1/2 ready, frontlas 1/1 ready"));
        assert_eq!(
            words(&status),
            triples([
                ("Available", "False", "ComponentsNotReady"),
                ("Progressing", "True", "ReconcileInProgress"),
                ("Degraded", "False", "ReconcileInProgress"),
            ])
        );
        let trouble = Trouble::new(Reason::PortTaken, Area::Service, "30012 is taken");
        let broken = Observed { gateways: READY, atlas: READY, troubles: vec![trouble], redis: None };
        let status = next(None, &broken, None, at(1));
        assert_eq!((status.phase, status.message.as_deref()), (Some(Phase::Failed), Some("30012 is taken")));
        assert_eq!(
            words(&status),
            triples([
                ("Available", "True", "AllComponentsReady"),
                ("Progressing", "False", "ReconcileFailed"),
                ("Degraded", "True", "PortTaken"),
            ])
        );
    }

    #[test]
    fn nothing_changes_while_nothing_happens() {
        let ready = Observed { gateways: READY, atlas: READY, ..Observed::default() };
        let first = next(None, &ready, Some(1), at(1));
        assert_eq!(next(Some(&first), &ready, Some(1), at(2)), first);
        let waits = Observed { gateways: WAITING, atlas: READY, ..Observed::default() };
        let second = next(Some(&first), &waits, Some(1), at(3));
        let times: Vec<i64> =
            second.conditions.iter().map(|c| c.last_transition_time.0.as_second()).collect();
        assert_eq!(times, [3, 3, 1], "Degraded was false and is");
    }

    #[test]
    fn long_messages_are_cut() {
        let text = shortened(&"ü".repeat(2000));
        assert!(text.len() <= MESSAGE_MAX && text.ends_with(" …"), "{}", text.len());
    }
}
