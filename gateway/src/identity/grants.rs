//! What tokens and certificate subjects are entitled to.
//!
//! Tokens are kept as SHA-256 hashes and looked up by them, so neither this table nor the time of a look-up tells anything about a
//! token. They must be long and random: a hash does not protect a guessable one.

use std::{collections::HashMap, fmt, ops::RangeInclusive, sync::Arc};

use aws_lc_rs::digest::{self, SHA256, SHA256_OUTPUT_LEN};
use frontier_wire::native::hello::Role;

use crate::core::identity::Subject;

/// The SHA-256 hash of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; SHA256_OUTPUT_LEN]);

/// The edge or service IDs an identity may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IdSet {
    /// None in particular: the ID service or the gateway chooses.
    #[default]
    Unlisted,
    /// Any it wishes for.
    Any,
    /// One of these, and no other.
    Listed(Vec<RangeInclusive<u64>>),
}

/// One identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// For logs.
    pub name: String,
    /// What it may be.
    pub role: Role,
    /// The IDs it may have.
    pub ids: IdSet,
    /// The reserved methods it may offer as a service or use as an edge; `None` = what its role may by default.
    pub reserved: Option<Arc<[String]>>,
}

/// Which certificates an entry is for: a name as in [`Subject`] (`CN=…`, `DNS:…`, `URI:…`, `EMAIL:…`, `IP:…`), or a text without
/// such a prefix for any kind of name. `*` at the end stands for any ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectPattern {
    /// Prefix with its separator; empty = any kind.
    kind: &'static str,
    text: String,
    /// The text is the beginning of a name.
    open: bool,
}

/// Everybody who is known.
#[derive(Debug, Default)]
pub struct Grants {
    tokens: HashMap<TokenHash, Arc<Entry>>,
    /// In the order of the file: the first that fits counts.
    subjects: Vec<(SubjectPattern, Arc<Entry>)>,
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// Not 64 hex digits.
    #[error("a token hash has 64 hex digits (SHA-256), not {len} characters")]
    Hash {
        /// What was found.
        len: usize,
    },
    /// Two entries for one token.
    #[error("the token of {first:?} and of {second:?} is the same")]
    SameToken {
        /// The entry that had it.
        first: String,
        /// The entry that came with it again.
        second: String,
    },
    /// Nothing to compare with.
    #[error("empty subject")]
    EmptySubject,
    /// A star that is not the last character.
    #[error("subject {text:?}: a star may only be the last character")]
    Star {
        /// The pattern.
        text: String,
    },
    /// An ID or range that cannot be.
    #[error("{text:?} is neither an ID (from 1), a range FIRST-LAST, nor *")]
    Ids {
        /// What was found.
        text: String,
    },
}

// === impl TokenHash ===

impl TokenHash {
    /// Of a token.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest::digest(&SHA256, token).as_ref());
        Self(hash)
    }

    /// The hash itself.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As a file has it: 64 hex digits, which is what `printf %s "$TOKEN" | sha256sum` prints.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, GrantError> {
        let error = GrantError::Hash { len: text.chars().count() };
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        let digits = digits.filter(|digits| digits.len() == 2 * SHA256_OUTPUT_LEN).ok_or(error)?;
        let mut hash = [0; SHA256_OUTPUT_LEN];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
        }
        Ok(Self(hash))
    }
}

impl fmt::Debug for TokenHash {
    /// The beginning: enough to find the line in a file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}

// === impl IdSet ===

impl IdSet {
    /// `*`, or IDs and ranges `FIRST-LAST`. An empty list leaves the choice to others.
    ///
    /// # Errors
    /// When an item is none of them.
    pub fn parse<'a>(items: impl IntoIterator<Item = &'a str>) -> Result<Self, GrantError> {
        let mut ranges = Vec::new();
        for item in items {
            if item == "*" {
                return Ok(Self::Any);
            }
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let range = || Some(first.trim().parse().ok()?..=last.trim().parse().ok()?);
            let range = range().filter(|range: &RangeInclusive<u64>| *range.start() > 0 && !range.is_empty());
            ranges.push(range.ok_or_else(|| GrantError::Ids { text: item.to_owned() })?);
        }
        Ok(if ranges.is_empty() { Self::Unlisted } else { Self::Listed(ranges) })
    }

    /// Whether it forbids an ID.
    #[must_use]
    pub fn forbids(&self, id: u64) -> bool {
        match self {
            Self::Unlisted | Self::Any => false,
            Self::Listed(ranges) => !ranges.iter().any(|range| range.contains(&id)),
        }
    }

    /// The only ID there is, if there is just one.
    #[must_use]
    pub fn only(&self) -> Option<u64> {
        match self {
            Self::Listed(ranges) => match ranges.as_slice() {
                [range] if range.start() == range.end() => Some(*range.start()),
                _ => None,
            },
            Self::Unlisted | Self::Any => None,
        }
    }
}

// === impl SubjectPattern ===

impl SubjectPattern {
    const KINDS: [&'static str; 5] = ["CN=", "DNS:", "URI:", "EMAIL:", "IP:"];

    /// As a file has it.
    ///
    /// # Errors
    /// When it is empty or has a star in front of its end.
    pub fn parse(text: &str) -> Result<Self, GrantError> {
        let kind = Self::KINDS.into_iter().find(|kind| text.starts_with(kind)).unwrap_or_default();
        let name = &text[kind.len()..];
        let (stem, open) = name.strip_suffix('*').map_or((name, false), |stem| (stem, true));
        if name.is_empty() {
            return Err(GrantError::EmptySubject);
        }
        if stem.contains('*') {
            return Err(GrantError::Star { text: text.to_owned() });
        }
        // DNS names come in lower case from certificates.
        let stem = if kind == "DNS:" { stem.to_ascii_lowercase() } else { stem.to_owned() };
        Ok(Self { kind, text: stem, open })
    }

    /// Whether one of the names fits.
    #[must_use]
    pub fn fits(&self, subject: &Subject) -> bool {
        let value = |name: &String| match self.kind {
            "" => Self::KINDS.into_iter().find_map(|kind| name.strip_prefix(kind).map(str::to_owned)),
            kind => name.strip_prefix(kind).map(str::to_owned),
        };
        let fits = |name: String| if self.open { name.starts_with(&self.text) } else { name == self.text };
        subject.names.iter().filter_map(value).any(fits)
    }
}

// === impl Grants ===

impl Grants {
    /// Adds the entry of a token.
    ///
    /// # Errors
    /// When another entry has the same token.
    pub fn add_token(&mut self, hash: TokenHash, entry: Arc<Entry>) -> Result<(), GrantError> {
        if let Some(first) = self.tokens.get(&hash) {
            return Err(GrantError::SameToken { first: first.name.clone(), second: entry.name.clone() });
        }
        self.tokens.insert(hash, entry);
        Ok(())
    }

    /// Adds the entry of certificates, behind those already there.
    pub fn add_subject(&mut self, pattern: SubjectPattern, entry: Arc<Entry>) {
        self.subjects.push((pattern, entry));
    }

    /// The entry of a token.
    #[must_use]
    pub fn by_token(&self, token: &[u8]) -> Option<&Arc<Entry>> {
        self.tokens.get(&TokenHash::of(token))
    }

    /// The first entry that fits a certificate.
    #[must_use]
    pub fn by_subject(&self, subject: &Subject) -> Option<&Arc<Entry>> {
        self.subjects.iter().find(|(pattern, _)| pattern.fits(subject)).map(|(_, entry)| entry)
    }

    /// Entries of tokens and of subjects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len() + self.subjects.len()
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Arc<Entry> {
        Arc::new(Entry { name: name.to_owned(), role: Role::Edge, ids: IdSet::Unlisted, reserved: None })
    }

    fn subject(names: &[&str]) -> Subject {
        Subject { names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn a_token_is_found_by_its_hash_alone() {
        // printf %s secret | sha256sum
        let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        let mut grants = Grants::default();
        grants.add_token(TokenHash::parse(hash).unwrap(), entry("one")).unwrap();
        assert_eq!(grants.by_token(b"secret").unwrap().name, "one");
        assert!(grants.by_token(b"secret ").is_none());
        assert!(grants.by_token(hash.as_bytes()).is_none(), "a hash is no token");
        let error = grants.add_token(TokenHash::of(b"secret"), entry("two")).unwrap_err();
        assert_eq!(error, GrantError::SameToken { first: "one".into(), second: "two".into() });
    }

    #[test]
    fn hashes_have_64_hex_digits() {
        assert!(TokenHash::parse(&"aB".repeat(32)).is_ok());
        for bad in ["ab".repeat(31), "ab".repeat(33), "zz".repeat(32), "é".repeat(64), String::new()] {
            assert_eq!(TokenHash::parse(&bad), Err(GrantError::Hash { len: bad.chars().count() }));
        }
    }

    #[test]
    fn ids_are_single_ranges_or_any() {
        let listed = IdSet::parse(["7", "10-12", " 20 - 20 "]).unwrap();
        assert_eq!(listed, IdSet::Listed(vec![7..=7, 10..=12, 20..=20]));
        assert!([7, 10, 12, 20].into_iter().all(|id| !listed.forbids(id)));
        assert!([1, 8, 9, 13, u64::MAX].into_iter().all(|id| listed.forbids(id)));
        assert_eq!(listed.only(), None);
        assert_eq!(IdSet::parse(["7"]).unwrap().only(), Some(7));
        assert_eq!(IdSet::parse(["7", "*"]), Ok(IdSet::Any));
        assert_eq!(IdSet::parse([]), Ok(IdSet::Unlisted));
        assert!(!IdSet::Unlisted.forbids(1) && !IdSet::Any.forbids(1));
        for bad in ["0", "0-5", "5-4", "-5", "5-", "x", "", "1-2-3", "18446744073709551616"] {
            assert_eq!(IdSet::parse([bad]), Err(GrantError::Ids { text: bad.to_owned() }), "{bad}");
        }
    }

    #[test]
    fn patterns_fit_by_kind_and_by_beginning() {
        let subject =
            subject(&["CN=edge-42", "DNS:edge.example", "URI:spiffe://fleet/edge/42", "IP:10.0.0.1"]);
        for good in [
            "CN=edge-42",
            "edge-42",
            "CN=edge-*",
            "URI:spiffe://fleet/*",
            "DNS:Edge.example",
            "10.0.0.1",
            "*",
        ] {
            assert!(SubjectPattern::parse(good).unwrap().fits(&subject), "{good}");
        }
        for bad in ["CN=edge-4", "CN=Edge-42", "DNS:edge-42", "EMAIL:*", "edge-42 ", "CN=42"] {
            assert!(!SubjectPattern::parse(bad).unwrap().fits(&subject), "{bad}");
        }
        assert!(!SubjectPattern::parse("*").unwrap().fits(&Subject::default()));
        assert_eq!(SubjectPattern::parse(""), Err(GrantError::EmptySubject));
        assert_eq!(SubjectPattern::parse("CN="), Err(GrantError::EmptySubject));
        assert!(matches!(SubjectPattern::parse("DNS:*.example"), Err(GrantError::Star { .. })));
    }

    #[test]
    fn the_first_pattern_that_fits_counts() {
        let mut grants = Grants::default();
        grants.add_subject(SubjectPattern::parse("CN=edge-1").unwrap(), entry("one"));
        grants.add_subject(SubjectPattern::parse("CN=edge-*").unwrap(), entry("any"));
        assert_eq!(grants.by_subject(&subject(&["CN=edge-1"])).unwrap().name, "one");
        assert_eq!(grants.by_subject(&subject(&["CN=edge-2"])).unwrap().name, "any");
        assert!(grants.by_subject(&subject(&["CN=service"])).is_none());
        assert_eq!(grants.len(), 2);
    }
}
