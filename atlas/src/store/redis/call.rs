//! One command, as it is routed, sent and repeated.

use fred::prelude::Value;

use super::keys::slot;

/// A script; see the files beside this one. Each touches declared keys only and compares before it writes, so it may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Edges,
    Services,
    Replace,
    ReplaceServices,
    LeaveCuts,
    TakeCuts,
    Tidy,
    Join,
    Renew,
    Leave,
    Members,
    Probe,
}

/// What to send.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) what: What,
    /// Of one slot.
    pub(super) keys: Vec<String>,
    pub(super) args: Vec<Value>,
    /// Tells from the answer whether the keys were changed; `None` for what only reads, and for plain commands, which have no echo.
    pub(super) changed: Option<fn(&Value) -> bool>,
    pub(super) slot: u16,
}

/// Which kind of command.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Command(&'static str),
    Script(Script),
}

// === impl Script ===

impl Script {
    pub(super) const ALL: [Self; 12] = [
        Self::Edges,
        Self::Services,
        Self::Replace,
        Self::ReplaceServices,
        Self::LeaveCuts,
        Self::TakeCuts,
        Self::Tidy,
        Self::Join,
        Self::Renew,
        Self::Leave,
        Self::Members,
        Self::Probe,
    ];

    pub(super) const fn source(self) -> &'static str {
        match self {
            Self::Edges => include_str!("edges.lua"),
            Self::Services => include_str!("services.lua"),
            Self::Replace => include_str!("replace.lua"),
            Self::ReplaceServices => include_str!("replace_services.lua"),
            Self::LeaveCuts => include_str!("leave_cuts.lua"),
            Self::TakeCuts => include_str!("take_cuts.lua"),
            Self::Tidy => include_str!("tidy.lua"),
            Self::Join => include_str!("join.lua"),
            Self::Renew => include_str!("renew.lua"),
            Self::Leave => include_str!("leave.lua"),
            Self::Members => include_str!("members.lua"),
            Self::Probe => include_str!("probe.lua"),
        }
    }

    /// Whether it runs also when Redis has no memory left. What it adds is bounded by the number of gateways, and without it the leases of
    /// all of them would end.
    pub(super) const fn runs_when_full(self) -> bool {
        matches!(self, Self::Join | Self::Renew | Self::Leave)
    }
}

// === impl Call ===

impl Call {
    pub(super) fn command(name: &'static str, key: String, args: Vec<Value>) -> Self {
        Self { slot: slot(&key), what: What::Command(name), keys: vec![key], args, changed: None }
    }

    pub(super) fn script(script: Script, keys: Vec<String>, args: Vec<Value>) -> Self {
        let slot = keys.first().map_or(0, |key| slot(key));
        Self { what: What::Script(script), keys, args, changed: None, slot }
    }

    pub(super) fn writes(mut self, changed: fn(&Value) -> bool) -> Self {
        self.changed = Some(changed);
        self
    }
}
