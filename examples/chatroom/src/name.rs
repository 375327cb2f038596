//! Names of members.

use std::{fmt, str::FromStr};

use frontier::EdgeInfo;

use crate::META;

/// Longest name, in characters.
const LONGEST: usize = 32;

/// What a member is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name(String);

// === impl Name ===

impl Name {
    /// The name of an edge; `None` if it is no member of a chat, an error if the name is not one.
    pub(crate) fn of(edge: &EdgeInfo) -> Option<Result<Self, &'static str>> {
        let name = edge.meta().strip_prefix(META.as_bytes())?;
        Some(std::str::from_utf8(name).map_err(|_| "the name is no text").and_then(str::parse))
    }

    /// The name of somebody whose name is taken already.
    pub(crate) fn with_number(&self, number: u64) -> Self {
        Self(format!("{}-{number}", self.0))
    }
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.chars().count() > LONGEST {
            return Err("a name has 1 to 32 characters");
        }
        if !text.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_') {
            return Err("a name has letters, digits, - and _");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn a_name_is_short_and_harmless() {
        assert!("ada_1-Ä".parse::<Name>().is_ok());
        assert!("".parse::<Name>().is_err());
        assert!("a b".parse::<Name>().is_err());
        assert!("\u{1b}[2J".parse::<Name>().is_err());
        assert!("x".repeat(33).parse::<Name>().is_err());
    }
}
