//! `daemon.rlimit`: how many files, and so connections, the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use super::read::Section;

/// `daemon.rlimit`. Off, the soft limit is raised to the hard one, as Go's runtime does for every program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RLimit {
    /// Whether `nofile` is asked for. `--daemon-rlimit-nofile` switches it on.
    pub enable: bool,
    /// Open files wanted; `None` = as many as the hard limit allows.
    pub nofile: Option<u64>,
}

/// What came of [`RLimit::apply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NofileOutcome {
    /// Files that can be open now; `None` = no limit.
    pub limit: Option<u64>,
    /// What was asked for, if the system did not allow it.
    pub refused: Option<u64>,
}

// === impl RLimit ===

impl RLimit {
    /// Reads the block.
    pub fn read(section: &mut Section<'_>) -> Self {
        Self {
            enable: section.value("enable", false),
            // Zero and -1 stand for "not set" in old files and flags.
            nofile: section.optional::<i64>("nofile").and_then(positive),
        }
    }

    /// What `--daemon-rlimit-nofile` says: it has always overwritten the key, also with "none"; a number asks for it to be set.
    pub fn apply_flag(&mut self, nofile: i64) {
        self.nofile = positive(nofile);
        self.enable |= nofile > 0;
    }

    /// Sets the limit of this process, as near to what is wanted as the system allows.
    #[must_use]
    pub fn apply(&self) -> NofileOutcome {
        let now = getrlimit(Resource::Nofile);
        let wanted = self.nofile.filter(|_| self.enable);
        let target = match (wanted, now.maximum) {
            // Above the hard limit: needs a privilege that containers often have.
            (Some(wanted), Some(hard)) if wanted > hard => {
                let both = Rlimit { current: Some(wanted), maximum: Some(wanted) };
                if setrlimit(Resource::Nofile, both).is_ok() {
                    return NofileOutcome { limit: Some(wanted), refused: None };
                }
                Some(hard)
            }
            (Some(wanted), _) => Some(wanted),
            (None, hard) => hard,
        };
        let done = setrlimit(Resource::Nofile, Rlimit { current: target, maximum: now.maximum });
        let limit = if done.is_ok() { target } else { now.current };
        NofileOutcome { limit, refused: wanted.filter(|wanted| limit.is_some_and(|limit| limit < *wanted)) }
    }
}

/// A count, where zero and negative numbers stand for none.
fn positive(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}
