//! Where a message goes at its broker: a template of the destination.
//!
//! `telemetry.{label.region:unknown}` and the like: `{topic}`, `{edge_id}`, `{label.NAME}` and `{label.NAME:otherwise}`. What an edge says
//! of itself must not lead its messages astray, so the value of a label may have letters, digits, `-` and `_` only: no dot that is a level
//! of a subject, no slash, no wildcard.

use std::{fmt::Write, sync::Arc};

use crate::core::card::EdgeCard;

/// Bytes of the longest value of a label that a destination may have.
const LONGEST_VALUE: usize = 128;

/// See the module documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// None: the topic itself.
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Topic,
    EdgeId,
    Label { name: Box<str>, otherwise: Option<Box<str>> },
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{` without `}`, or the other way round.
    #[error("`{{` and `}}` must come in pairs")]
    Pairs,
    /// `{colour}`.
    #[error("unknown field {{{0}}}; there are {{topic}}, {{edge_id}} and {{label.NAME}}")]
    Unknown(String),
}

/// Why there is no destination for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoDestination {
    /// The edge does not have the label, or not with a value that may be part of one.
    Label,
}

// === impl Template ===

impl Template {
    /// Reads one; an empty text means the topic itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while !rest.is_empty() {
            let Some((before, behind)) = rest.split_once('{') else {
                if rest.contains('}') {
                    return Err(TemplateError::Pairs);
                }
                parts.push(Part::Text(rest.into()));
                break;
            };
            let Some((field, behind)) = behind.split_once('}') else { return Err(TemplateError::Pairs) };
            if before.contains('}') || field.contains('{') {
                return Err(TemplateError::Pairs);
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            parts.push(Part::parse(field)?);
            rest = behind;
        }
        Ok(Self { parts })
    }

    /// Where a message of an edge goes.
    pub(super) fn destination(&self, topic: &Arc<str>, card: &EdgeCard) -> Result<Arc<str>, NoDestination> {
        if self.parts.is_empty() {
            return Ok(Arc::clone(topic));
        }
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Topic => text.push_str(topic),
                Part::EdgeId => {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "{}", card.id);
                }
                Part::Label { name, otherwise } => {
                    let given = card.labels().find(|(key, _)| *key == &**name).map(|(_, value)| value);
                    let value = given.filter(|value| is_plain(value)).or(otherwise.as_deref());
                    text.push_str(value.ok_or(NoDestination::Label)?);
                }
            }
        }
        Ok(text.into())
    }
}

impl Part {
    fn parse(field: &str) -> Result<Self, TemplateError> {
        match (field, field.strip_prefix("label.")) {
            ("topic", _) => Ok(Self::Topic),
            ("edge_id", _) => Ok(Self::EdgeId),
            (_, Some(label)) => {
                let (name, otherwise) = match label.split_once(':') {
                    Some((name, otherwise)) => (name, Some(otherwise.into())),
                    None => (label, None),
                };
                if name.is_empty() {
                    return Err(TemplateError::Unknown(field.to_owned()));
                }
                Ok(Self::Label { name: name.into(), otherwise })
            }
            (_, None) => Err(TemplateError::Unknown(field.to_owned())),
        }
    }
}

fn is_plain(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !value.is_empty() && value.len() <= LONGEST_VALUE && value.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{NoDestination, Template, TemplateError};
    use crate::core::card::EdgeCard;

    fn card(labels: &[(&str, &str)]) -> EdgeCard {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        EdgeCard::new((42, 1), ([127, 0, 0, 1], 1).into(), b"", labels)
    }

    fn destination(template: &str, labels: &[(&str, &str)]) -> Result<String, NoDestination> {
        let template = Template::parse(template).unwrap();
        template.destination(&Arc::from("a/b"), &card(labels)).map(|text| text.to_string())
    }

    #[test]
    fn fields_are_filled_in() {
        for (template, expected) in [
            ("", "a/b"),
            ("{topic}", "a/b"),
            ("plain", "plain"),
            ("x.{edge_id}.{topic}", "x.42.a/b"),
            ("{label.region}-{label.kind:other}", "eu-other"),
            ("{label.kind:}!", "!"),
        ] {
            assert_eq!(destination(template, &[("region", "eu")]), Ok(expected.to_owned()), "{template}");
        }
    }

    #[test]
    fn a_label_leads_nowhere_that_nobody_meant() {
        let long = "x".repeat(129);
        for value in ["", "a.b", "a/b", ">", "*", "a b", "ä", "\n", &long] {
            let labels = [("region", value)];
            assert_eq!(destination("t.{label.region}", &labels), Err(NoDestination::Label), "{value:?}");
            assert_eq!(destination("t.{label.region:none}", &labels), Ok("t.none".to_owned()), "{value:?}");
        }
        assert_eq!(destination("t.{label.region}", &[]), Err(NoDestination::Label));
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in ["{", "}", "a{b", "{topic}}", "{{topic}}", "a}b{topic}"] {
            assert_eq!(Template::parse(text), Err(TemplateError::Pairs), "{text}");
        }
        for text in ["{}", "{colour}", "{label.}", "{label}", "{Topic}"] {
            assert!(matches!(Template::parse(text), Err(TemplateError::Unknown(_))), "{text}");
        }
    }
}
