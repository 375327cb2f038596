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
    Forget,
    Members,
    Probe,
    Find,
}

/// Tells from an answer whether keys were changed.
pub(super) type Changed = fn(&Value) -> bool;

/// What to send.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) what: What,
    /// Of one slot.
    pub(super) keys: Vec<String>,
    pub(super) args: Vec<Value>,
    /// How many of the keys it writes, the first ones, and whether it did so, by its answer; `None` for what only reads, and for plain
    /// commands, which have no echo.
    pub(super) writes: Option<(usize, Changed)>,
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
    pub(super) const ALL: [Self; 14] = [
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
        Self::Forget,
        Self::Members,
        Self::Probe,
        Self::Find,
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
            Self::Forget => include_str!("forget.lua"),
            Self::Members => include_str!("members.lua"),
            Self::Probe => include_str!("probe.lua"),
            Self::Find => include_str!("find.lua"),
        }
    }

    /// Whether it runs also when Redis has no memory left. What it adds is bounded by the number of gateways, and without it the leases of
    /// all of them would end.
    pub(super) const fn runs_when_full(self) -> bool {
        matches!(self, Self::Join | Self::Renew | Self::Leave | Self::Forget)
    }
}

// === impl Call ===

impl Call {
    pub(super) fn command(name: &'static str, key: String, args: Vec<Value>) -> Self {
        Self { slot: slot(&key), what: What::Command(name), keys: vec![key], args, writes: None }
    }

    pub(super) fn script(script: Script, keys: Vec<String>, args: Vec<Value>) -> Self {
        let slot = keys.first().map_or(0, |key| slot(key));
        Self { what: What::Script(script), keys, args, writes: None, slot }
    }

    /// It writes its first key.
    pub(super) fn writes(self, changed: Changed) -> Self {
        self.writes_keys(1, changed)
    }

    pub(super) fn writes_keys(mut self, keys: usize, changed: Changed) -> Self {
        self.writes = Some((keys, changed));
        self
    }

    /// The keys it writes.
    pub(super) fn written(&self) -> impl Iterator<Item = &str> {
        let count = self.writes.map_or(0, |(keys, _)| keys);
        self.keys.iter().take(count).map(String::as_str)
    }
}
