//! A message as it came from a broker, and what makes it one for an edge.

use std::sync::Arc;

use bytes::Bytes;

use crate::{amqp::Properties, headers};

/// What a message takes beside its texts and bytes.
const RECORD: usize = 512;

/// A message of a broker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mail {
    /// In the order in which they came.
    pub(crate) headers: Vec<(String, Bytes)>,
    pub(crate) body: Bytes,
    /// AMQP: its properties.
    pub(crate) properties: Option<Arc<Properties>>,
    /// What is wrong with it, as far as its broker's client has seen.
    pub(crate) flaw: Option<Flaw>,
}

/// Why a message is for no edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// It is dead-lettered.
    Malformed(&'static str),
    /// It is not here as a whole, so nothing can be done with it but to drop it.
    TooLong,
}

// === impl Mail ===

impl Mail {
    /// Bytes that it counts for in the bound of a source.
    pub(crate) fn cost(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
        RECORD + headers + self.body.len() + self.properties.as_ref().map_or(0, |one| one.len())
    }

    fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The edge that it is for and its topic, which is `topic` where it names none.
    pub(crate) fn address(&self, topic: &Arc<str>) -> Result<(u64, Arc<str>), &'static str> {
        if let Some(Flaw::Malformed(why)) = self.flaw {
            return Err(why);
        }
        let edge = self.header(headers::EDGE_ID).ok_or("no edge-id")?;
        // Digits only: a sign or a blank is what a number in another form begins with.
        let digits = edge.iter().all(u8::is_ascii_digit);
        let edge = std::str::from_utf8(edge).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        let edge = edge.filter(|edge| *edge != 0).ok_or("the edge-id is not the number of an edge")?;
        let topic: Arc<str> = match self.header(headers::TOPIC) {
            Some(name) => std::str::from_utf8(name).map_err(|_| "the topic is not text")?.into(),
            None => Arc::clone(topic),
        };
        if topic.is_empty() {
            return Err("no topic");
        }
        Ok((edge, topic))
    }

    /// What the edge gets beside the body: everything that is not said in another way.
    pub(crate) fn for_edge(&self) -> Vec<(String, Bytes)> {
        let told = |name: &str| {
            name.eq_ignore_ascii_case(headers::EDGE_ID) || name.eq_ignore_ascii_case(headers::TOPIC)
        };
        self.headers.iter().filter(|(name, _)| !told(name)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(headers: &[(&str, &'static [u8])]) -> Mail {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), Bytes::from_static(value)));
        Mail { headers: headers.collect(), ..Mail::default() }
    }

    #[test]
    fn an_edge_is_named_by_its_number() {
        let (topic, none) = (Arc::from("news"), Arc::from(""));
        let good = mail(&[("Edge-Id", b"7"), ("topic", b"a/b"), ("unit", b"C")]);
        assert_eq!(good.address(&none), Ok((7, Arc::from("a/b"))));
        assert_eq!(good.for_edge(), [("unit".to_owned(), Bytes::from_static(b"C"))]);
        assert_eq!(mail(&[("edge-id", b"18446744073709551615")]).address(&topic).unwrap().0, u64::MAX);
        assert_eq!(mail(&[("edge-id", b"7")]).address(&none), Err("no topic"));
        for bad in [&b""[..], b"0", b"+7", b" 7", b"7 ", b"-1", b"0x7", b"18446744073709551616", b"\xff"] {
            let bad = Bytes::from_static(bad);
            let mail = Mail { headers: vec![("edge-id".to_owned(), bad.clone())], ..Mail::default() };
            assert!(mail.address(&topic).is_err(), "{bad:?}");
        }
        assert_eq!(mail(&[]).address(&topic), Err("no edge-id"));
    }
}
