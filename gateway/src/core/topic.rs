//! Patterns of topics, as MQTT writes them: `a/+/b`, `a/#`.
//!
//! Levels are apart by `/`. `+` stands for one level, whatever it is, also an empty one; `#` at the end for any number of levels, also
//! none: `a/#` takes `a`, `a/b` and `a/b/c`. Everything else stands for itself, byte for byte.

use std::fmt;

/// See the module documentation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TopicPattern {
    text: Box<str>,
    /// Bytes before the first wildcard.
    literal: usize,
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing.
    #[error("an empty pattern takes nothing")]
    Empty,
    /// `a/#/b`, `a#`.
    #[error("`#` stands for the rest of a topic: it must be the last level, alone")]
    Rest,
    /// `a+/b`.
    #[error("`+` stands for a whole level: it must be alone in it")]
    Level,
}

// === impl TopicPattern ===

impl TopicPattern {
    /// Reads one.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let mut levels = text.split('/').peekable();
        let (mut at, mut literal) = (0, None);
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(PatternError::Rest);
            }
            if level.contains('+') && level != "+" {
                return Err(PatternError::Level);
            }
            if matches!(level, "#" | "+") {
                literal.get_or_insert(at);
            }
            at += level.len() + 1;
        }
        Ok(Self { text: text.into(), literal: literal.unwrap_or(text.len()) })
    }

    /// Whether it takes a topic.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let mut given = topic.split('/');
        for level in self.text.split('/') {
            let fits = match (level, given.next()) {
                // The rest, also none of it: `a/#` takes `a`.
                ("#", _) => return true,
                ("+", Some(_)) => true,
                (level, Some(given)) => level == given,
                (_, None) => false,
            };
            if !fits {
                return false;
            }
        }
        given.next().is_none()
    }

    /// Bytes before the first wildcard: of two patterns that take a topic, the one that has more of them goes before.
    #[must_use]
    pub const fn literal(&self) -> usize {
        self.literal
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PatternError, TopicPattern};

    fn pattern(text: &str) -> TopicPattern {
        TopicPattern::parse(text).unwrap()
    }

    #[test]
    fn wildcards_take_what_mqtt_says() {
        for (text, takes, leaves) in [
            ("a/+/b", &["a/x/b", "a//b", "a/+/b"][..], &["a/b", "a/x/y/b", "a/x/b/c", "A/x/b"][..]),
            ("a/#", &["a", "a/", "a/b", "a/b/c"], &["ab", "b/a", ""]),
            ("#", &["a", "", "a/b", "/"], &[]),
            ("+", &["a", ""], &["a/b", "/"]),
            ("+/+", &["a/b", "/"], &["a", "a/b/c"]),
            ("a/+/#", &["a/b", "a/b/c"], &["a"]),
            ("a/b", &["a/b"], &["a/b/", "a", "a/bc"]),
        ] {
            for topic in takes {
                assert!(pattern(text).matches(topic), "{text} takes {topic}");
            }
            for topic in leaves {
                assert!(!pattern(text).matches(topic), "{text} leaves {topic}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (text, why) in [
            ("", PatternError::Empty),
            ("a/#/b", PatternError::Rest),
            ("a#", PatternError::Rest),
            ("##", PatternError::Rest),
            ("a+/b", PatternError::Level),
            ("++", PatternError::Level),
        ] {
            assert_eq!(TopicPattern::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn the_literal_part_ends_at_the_first_wildcard() {
        for (text, literal) in [("a/+/b", 2), ("a/b/#", 4), ("#", 0), ("+/a", 0), ("a/b", 3), ("/#", 1)] {
            assert_eq!(pattern(text).literal(), literal, "{text}");
        }
    }

    /// Level by level, in the way that nobody would do it with strings.
    fn model(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern.split_first(), topic.split_first()) {
            (Some((&"#", _)), _) | (None, None) => true,
            (Some((level, pattern)), Some((given, topic))) => {
                (*level == "+" || level == given) && model(pattern, topic)
            }
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    proptest! {
        #[test]
        fn matches_as_the_model_does(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "+"]), 1..5),
            rest in any::<bool>(),
            topic in prop::collection::vec(prop::sample::select(vec!["a", "b", ""]), 1..6),
        ) {
            let mut levels = pattern;
            if rest {
                levels.push("#");
            }
            prop_assume!(levels != [""]);
            let parsed = super::TopicPattern::parse(&levels.join("/")).unwrap();
            prop_assert_eq!(parsed.matches(&topic.join("/")), model(&levels, &topic));
        }

        #[test]
        fn no_text_is_too_much(text in ".{0,40}", topic in ".{0,40}") {
            if let Ok(pattern) = TopicPattern::parse(&text) {
                let _ = pattern.matches(&topic);
                prop_assert!(pattern.literal() <= text.len());
            }
        }
    }
}
