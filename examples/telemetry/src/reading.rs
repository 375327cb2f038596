//! One reading, and how it travels: `name=web-1 every=2000 load=0.31 cpu=12.50 mem=41.20 rx=10.12 tx=3.30`.

use std::time::Duration;

/// What is read: the word it travels under, and how it is shown.
pub(crate) const METRICS: [(&str, &str); 5] =
    [("load", "load"), ("cpu", "cpu %"), ("mem", "memory %"), ("rx", "in KiB/s"), ("tx", "out KiB/s")];
/// The first of them, by which an edge is tuned.
pub(crate) const LOAD: usize = 0;

/// Longest name that is shown, in characters.
const LONGEST: usize = 24;

/// See the module documentation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// The machine. One word of printable characters.
    pub(crate) name: String,
    /// How often it is read now.
    pub(crate) every: Duration,
    /// In the order of [`METRICS`].
    pub(crate) values: [f64; METRICS.len()],
}

// === impl Reading ===

impl Reading {
    pub(crate) fn encode(&self) -> String {
        let mut text = format!("name={} every={}", self.name, self.every.as_millis());
        for ((word, _), value) in METRICS.iter().zip(self.values) {
            text.push_str(&format!(" {word}={value:.2}"));
        }
        text
    }

    /// `None` if it is no reading.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let field =
            |word: &str| text.split(' ').find_map(|field| field.strip_prefix(word)?.strip_prefix('='));
        let number = |word| field(word)?.parse::<f64>().ok().filter(|value| value.is_finite());
        let mut values = [0.0; METRICS.len()];
        for (value, (word, _)) in values.iter_mut().zip(METRICS) {
            *value = number(word)?;
        }
        let every = Duration::from_millis(field("every")?.parse().ok()?);
        Some(Self { name: one_word(field("name")?), every, values })
    }
}

/// What of a name can be sent and shown.
pub(crate) fn one_word(name: &str) -> String {
    let word: String = name.chars().filter(|c| !c.is_control() && !c.is_whitespace()).take(LONGEST).collect();
    if word.is_empty() { "unnamed".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_survives_its_way() {
        let reading = Reading {
            name: one_word("web 1\u{1b}[2J"),
            every: Duration::from_millis(250),
            values: [0.25, 99.5, 41.0, 0.0, 1_234.75],
        };
        assert_eq!(Reading::decode(reading.encode().as_bytes()), Some(reading));
    }

    #[test]
    fn what_is_no_reading_is_not_taken_for_one() {
        let sound = "name=a every=1 load=1 cpu=2 mem=3 rx=4 tx=5";
        assert!(Reading::decode(sound.as_bytes()).is_some());
        for broken in ["", "name=a", &sound.replace("cpu=2", "cpu=NaN"), &sound.replace(" tx=5", "")] {
            assert_eq!(Reading::decode(broken.as_bytes()), None, "{broken}");
        }
        assert_eq!(Reading::decode(&[0xff]), None);
    }
}
