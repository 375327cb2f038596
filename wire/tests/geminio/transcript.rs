//! The transcripts in `testdata/geminio/`, whose README describes their form.

use std::{fs, path::PathBuf};

use super::sha256;

/// A transcript: packets in the order in which they were seen.
pub(crate) struct Transcript {
    /// `folder/scenario`.
    pub(crate) name: String,
    pub(crate) lines: Vec<Line>,
}

/// A packet.
pub(crate) struct Line {
    /// The connection it belongs to.
    pub(crate) leg: String,
    pub(crate) from_client: bool,
    pub(crate) ms: u64,
    /// The whole packet, or its beginning if it is cut.
    pub(crate) bytes: Vec<u8>,
    pub(crate) cut: Option<Cut>,
}

/// What is known of a packet of which only the beginning is there.
pub(crate) struct Cut {
    pub(crate) len: usize,
    pub(crate) sha256: String,
}

/// All transcripts, by name.
pub(crate) fn all() -> Vec<Transcript> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/geminio");
    let mut transcripts = Vec::new();
    for folder in fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
    {
        for file in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let [folder, stem] =
                [folder.file_name(), file.file_stem()].map(|name| name.unwrap().to_str().unwrap());
            let text = fs::read(&file).unwrap();
            let text = String::from_utf8_lossy(&text);
            let lines = text.lines().filter(|line| !line.starts_with("# ")).map(Line::parse).collect();
            transcripts.push(Transcript { name: format!("{folder}/{stem}"), lines });
        }
    }
    transcripts.sort_by(|a, b| a.name.cmp(&b.name));
    transcripts
}

impl Line {
    fn parse(line: &str) -> Self {
        let parse = || {
            let (rest, packet) = line.rsplit_once(' ')?;
            let (rest, ms) = rest.rsplit_once(' ')?;
            let rest = rest.trim_end();
            let (leg, direction) = rest.rsplit_once(':').unwrap_or(("", rest));
            let from_client = match direction {
                "C>S" => true,
                "S>C" => false,
                _ => return None,
            };
            let (hex, cut) = match packet.split_once('~') {
                None => (packet, None),
                Some((hex, cut)) => {
                    let (len, sha256) = cut.split_once("B~sha256:")?;
                    (hex, Some(Cut { len: len.parse().ok()?, sha256: sha256.to_owned() }))
                }
            };
            let bytes = hex.as_bytes().chunks(2);
            let bytes = bytes.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
            Some(Self {
                leg: leg.to_owned(),
                from_client,
                ms: ms.parse().ok()?,
                bytes: bytes.collect::<Option<_>>()?,
                cut,
            })
        };
        parse().unwrap_or_else(|| panic!("no packet: {line}"))
    }

    /// Where it stands, for people.
    pub(crate) fn place(&self) -> String {
        format!("{} {} at {} ms", self.leg, if self.from_client { "C>S" } else { "S>C" }, self.ms)
    }

    /// The whole packet. Cut ones are rebuilt from what their payloads are made of, and recognised by their hash.
    pub(crate) fn packet(&self) -> Option<Vec<u8>> {
        let Some(cut) = &self.cut else { return Some(self.bytes.clone()) };
        let mut candidates = candidates(&self.bytes, cut.len).into_iter().map(|build| build());
        candidates.find(|packet| {
            packet.len() == cut.len && packet.starts_with(&self.bytes) && sha256::hex(packet) == cut.sha256
        })
    }
}

/// The end of every Go packet without deadlines.
const UNSET: &str = r#","deadline":"0001-01-01T00:00:00Z","context":{"deadline":"0001-01-01T00:00:00Z"}}"#;

/// Builds a packet that may be the one.
type Build<'a> = Box<dyn Fn() -> Vec<u8> + 'a>;

/// Packets that begin like this and may have this length.
fn candidates(start: &[u8], len: usize) -> Vec<Build<'_>> {
    if start[1] == 0x61 {
        // Raw bytes: zeros, a text of 16 bytes, or numbers counted up to some prime or power.
        return [1, 16, 251, 256].into_iter().map(|period| raw(start, len, period)).collect();
    }
    let mut found = vec![ending(start, len, b"", UNSET.to_owned())];
    for name in ["nosuch", "eecho"] {
        found.push(ending(start, len, b"", format!("no such rpc: {name}\"{UNSET}")));
    }
    // An error of one repeated letter, or a payload of one repeated byte.
    let (_, group) = start.split_last_chunk::<4>().unwrap();
    for shift in 0..4 {
        let mut group = *group;
        group.rotate_left(shift);
        found.push(ending(start, len, &group, "\"}".to_owned()));
        for padding in ["", "=", "=="] {
            found.push(ending(start, len, &group, format!("{padding}\"{UNSET}")));
        }
        // The last digit of a padded payload stands for fewer bits.
        for (padding, bits) in [("=", 0x3c), ("==", 0x30)] {
            let end = format!("{padding}\"{UNSET}");
            found.push(Box::new(move || {
                let mut packet = ending(start, len, &group, end.clone())();
                let last = packet.len() - end.len() - 1;
                let digit = DIGITS.iter().position(|digit| *digit == packet[last]);
                packet[last] = digit.map_or(0, |digit| DIGITS[digit & bits]);
                packet
            }));
        }
    }
    found
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Raw bytes that repeat, or are counted, with this period.
fn raw(start: &[u8], len: usize, period: usize) -> Build<'_> {
    Box::new(move || {
        let (head, payload) = start.split_at(22);
        let counted: Vec<u8> = (0..period).map(|i| i as u8).collect();
        let unit = if period < payload.len() { &payload[..period] } else { &counted[..] };
        let mut packet = [head, &unit.repeat(len / period + 1)].concat();
        packet.truncate(len);
        packet
    })
}

/// The start, then `middle` again and again, then `end`, of which less is taken if there is no room.
fn ending<'a>(start: &'a [u8], len: usize, middle: &[u8], end: String) -> Build<'a> {
    let middle = middle.to_vec();
    Box::new(move || {
        let missing = len - start.len();
        let mut packet = start.to_vec();
        if missing > end.len() {
            packet.extend(middle.repeat(missing / 4 + 1));
            packet.truncate(len - end.len());
        }
        packet.extend(&end.as_bytes()[end.len().saturating_sub(missing)..]);
        packet
    })
}
