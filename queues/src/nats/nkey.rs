//! NKEYs: Ed25519 keys as NATS writes them, and signing a server's nonce with one.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The first letters of what is encoded: S of seeds and U of users, each in the upper five bits.
const SEED: u8 = 18 << 3;
const USER: u8 = 20 << 3;

/// A key of a user.
pub(super) struct Key(Ed25519KeyPair);

// === impl Key ===

impl Key {
    /// The key of a seed, `SU…`. Errors show nothing of it.
    pub(super) fn of_seed(text: &str) -> Result<Self, String> {
        let bytes = decode32(text).ok_or("not the seed of an NKEY: not base 32")?;
        let (content, sum) = bytes.split_last_chunk::<2>().ok_or("not the seed of an NKEY: too short")?;
        if crc16(content) != u16::from_le_bytes(*sum) {
            return Err("not the seed of an NKEY: a letter is wrong".to_owned());
        }
        let (head, seed) = content.split_first_chunk::<2>().ok_or("not the seed of an NKEY: too short")?;
        // The kind of key is spread over both bytes.
        let kind = (head[0] & 7) << 5 | head[1] >> 3;
        if head[0] & 0xf8 != SEED || kind != USER {
            return Err("not the seed of a user's NKEY".to_owned());
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(seed);
        pair.map(Self).map_err(|_| "not the seed of an NKEY: wrong length".to_owned())
    }

    /// `U…`
    pub(super) fn public(&self) -> String {
        let mut bytes = vec![USER];
        bytes.extend_from_slice(self.0.public_key().as_ref());
        bytes.extend_from_slice(&crc16(&bytes).to_le_bytes());
        encode(&bytes, 5, BASE32)
    }

    /// The signature as servers read it.
    pub(super) fn sign(&self, nonce: &[u8]) -> String {
        encode(self.0.sign(nonce).as_ref(), 6, BASE64)
    }
}

fn encode(bytes: &[u8], width: u32, alphabet: &[u8]) -> String {
    let mask = (1_u32 << width) - 1;
    let (mut text, mut bits, mut held) = (String::new(), 0_u32, 0_u32);
    for byte in bytes {
        (bits, held) = (bits << 8 | u32::from(*byte), held + 8);
        while held >= width {
            held -= width;
            text.push(char::from(alphabet[(bits >> held & mask) as usize]));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        text.push(char::from(alphabet[(bits << (width - held) & mask) as usize]));
    }
    text
}

fn decode32(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for letter in text.bytes() {
        let value = u32::try_from(BASE32.iter().position(|known| *known == letter)?).ok()?;
        (bits, held) = (bits << 5 | value, held + 5);
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
        bits &= (1 << held) - 1;
    }
    Some(bytes)
}

/// CRC-16 of XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_and_letters_are_the_usual_ones() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(encode(b"foobar", 5, BASE32), "MZXW6YTBOI");
        assert_eq!(decode32("MZXW6YTBOI").unwrap(), b"foobar");
        assert_eq!(encode(b"\xfb\xff", 6, BASE64), "-_8");
    }

    #[test]
    fn the_example_of_nats_is_understood() {
        // From the documentation of NKEY authentication.
        let key = Key::of_seed("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY").unwrap();
        assert_eq!(key.public(), "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4");
        assert_eq!(key.sign(b"nonce").len(), 86);
        for wrong in ["", "SU", "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3AY", "su1"] {
            assert!(Key::of_seed(wrong).is_err(), "{wrong}");
        }
    }
}
