//! What is wrong with a cluster, and what follows from it.

use std::time::Duration;

use crate::render::{Kind, Part};

/// Something that somebody has to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) reason: Reason,
    /// For people.
    pub(super) message: String,
    /// Where it comes from, which names the event.
    pub(super) area: Area,
    /// The part that stays as it is until this is mended.
    held: Option<Part>,
}

/// What it is, in the word that stands in the condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The spec cannot be carried out.
    InvalidSpec,
    /// A secret or a key in it is not there.
    SecretMissing,
    /// What is in a secret cannot be used.
    SecretMalformed,
    /// A node port is taken.
    PortTaken,
    /// An object of that name belongs to somebody else.
    NameTaken,
    /// The operator may not do what it has to.
    Forbidden,
    /// The API refuses an object.
    Rejected,
    /// An image cannot be had.
    ImagePullFailed,
    /// Containers end or cannot be made.
    PodsFailing,
    /// Pods run and do not get ready.
    PodsNotReady,
    /// Pods find no node.
    PodsUnschedulable,
}

/// Where trouble comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    /// The spec itself.
    Spec,
    /// Services.
    Service,
    /// Secrets with certificates, and those that are made.
    Secret,
    /// The secret with the password of Redis.
    Password,
    /// Pods and what makes them, and all else.
    Deployment,
}

// === impl Trouble ===

impl Trouble {
    pub(super) fn new(reason: Reason, area: Area, message: impl Into<String>) -> Self {
        Self { reason, area, message: message.into(), held: None }
    }

    /// The spec cannot be carried out.
    pub(super) fn invalid(message: String) -> Self {
        Self::new(Reason::InvalidSpec, Area::Spec, message)
    }

    /// A secret cannot be used, and so the part that needs it stays as it is.
    pub(super) fn secret(reason: Reason, part: Part, message: String) -> Self {
        Self { held: Some(part), ..Self::new(reason, Area::Secret, message) }
    }

    /// The password of Redis cannot be had.
    pub(super) fn password(reason: Reason, part: Part, message: String) -> Self {
        Self { held: Some(part), ..Self::new(reason, Area::Password, message) }
    }

    /// What the API says to a write; `None` = another attempt may succeed without anybody acting.
    pub(super) fn of_write(kind: Kind, name: &str, error: &kube::Error) -> Option<Self> {
        let kube::Error::Api(status) = error else { return None };
        let area = Area::of(kind);
        let said = format!("{} {name}: {}", kind.name(), status.message);
        match status.code {
            403 => Some(Self::new(Reason::Forbidden, area, said)),
            422 if kind == Kind::Service && status.message.contains("provided port is already allocated") => {
                Some(Self::new(Reason::PortTaken, area, format!("{said} (see nodePort)")))
            }
            400 | 404 | 405 | 413 | 415 | 422 => Some(Self::new(Reason::Rejected, area, said)),
            _ => None,
        }
    }

    /// Whether objects of this part stay as they are.
    pub(super) fn holds(&self, part: Option<Part>) -> bool {
        self.held.is_some() && self.held == part
    }

    /// When to look again, if nothing that is watched changes before.
    pub(super) fn again(&self) -> Duration {
        Duration::from_secs(match self.reason {
            Reason::InvalidSpec => 300,
            Reason::SecretMissing | Reason::SecretMalformed => 60,
            Reason::Forbidden | Reason::Rejected => 30,
            Reason::PortTaken | Reason::NameTaken => 10,
            Reason::ImagePullFailed
            | Reason::PodsFailing
            | Reason::PodsNotReady
            | Reason::PodsUnschedulable => 5,
        })
    }
}

// === impl Reason ===

impl Reason {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::InvalidSpec => "InvalidSpec",
            Self::SecretMissing => "SecretMissing",
            Self::SecretMalformed => "SecretMalformed",
            Self::PortTaken => "PortTaken",
            Self::NameTaken => "NameTaken",
            Self::Forbidden => "Forbidden",
            Self::Rejected => "Rejected",
            Self::ImagePullFailed => "ImagePullFailed",
            Self::PodsFailing => "PodsFailing",
            Self::PodsNotReady => "PodsNotReady",
            Self::PodsUnschedulable => "PodsUnschedulable",
        }
    }
}

// === impl Area ===

impl Area {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Service => Self::Service,
            Kind::Secret => Self::Secret,
            Kind::ConfigMap
            | Kind::StatefulSet
            | Kind::Deployment
            | Kind::PodDisruptionBudget
            | Kind::HorizontalPodAutoscaler
            | Kind::ServiceMonitor
            | Kind::PrometheusRule => Self::Deployment,
        }
    }

    /// The reason of its events: those that the Go operator has.
    pub(super) const fn event(self) -> &'static str {
        match self {
            Self::Spec => "InvalidSpec",
            Self::Service => "ServiceEnsureFailed",
            Self::Secret => "TLSEnsureFailed",
            // The Go operator never looked at it.
            Self::Password => "RedisPasswordFailed",
            Self::Deployment => "DeploymentEnsureFailed",
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn said(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Status::failure(message, "Invalid").with_code(code).boxed())
    }

    #[test]
    fn a_password_that_is_not_there_is_not_called_tls() {
        let trouble =
            Trouble::password(Reason::SecretMissing, Part::Atlas, "secret a is not there".to_owned());
        assert_eq!((trouble.area.event(), trouble.holds(Some(Part::Atlas))), ("RedisPasswordFailed", true));
        let trouble =
            Trouble::secret(Reason::SecretMissing, Part::Gateway, "secret a is not there".to_owned());
        assert_eq!(trouble.area.event(), "TLSEnsureFailed");
    }

    #[test]
    fn what_the_api_says_is_told_apart() {
        let of = |kind, code, message: &str| {
            Trouble::of_write(kind, "a-svc", &said(code, message)).map(|t| t.reason)
        };
        let taken = "Service \"a-svc\" is invalid: spec.ports[0].nodePort: Invalid value: 30012: provided port is already allocated";
        assert_eq!(of(Kind::Service, 422, taken), Some(Reason::PortTaken));
        assert_eq!(of(Kind::Service, 422, "The range of valid ports is 30000-32767"), Some(Reason::Rejected));
        assert_eq!(of(Kind::Deployment, 403, "forbidden"), Some(Reason::Forbidden));
        for code in [409, 429, 500, 503] {
            assert_eq!(of(Kind::Deployment, code, "later"), None, "{code}");
        }
    }
}
