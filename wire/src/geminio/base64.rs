//! Base64 as Go writes bytes into JSON: the standard alphabet with `=` padding.
//!
//! The gateway passes encoded payloads on as they are, so what is needed most is a quick check that they are well-formed: a Go receiver
//! drops its whole connection otherwise.

/// `=`.
const PAD: u8 = b'=';

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// No digit.
const NONE: u8 = 0xff;

/// The value of each byte as a digit.
const DIGITS: [u8; 256] = digits();

/// Bytes looked at together when a payload is checked: enough for the compiler to use its widest registers.
const LANE: usize = 32;

const fn digits() -> [u8; 256] {
    let mut table = [NONE; 256];
    let mut digit = 0_u8;
    while digit < 64 {
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler: a fault would not build")]
        {
            table[ALPHABET[digit as usize] as usize] = digit;
        }
        digit = digit.saturating_add(1);
    }
    table
}

/// Bytes of the encoding of `len` bytes.
#[must_use]
pub const fn encoded_len(len: usize) -> usize {
    len.div_ceil(3).saturating_mul(4)
}

/// Bytes that a well-formed encoding stands for.
#[must_use]
pub fn decoded_len(encoded: &[u8]) -> usize {
    let padding = encoded.iter().rev().take(2).filter(|byte| **byte == PAD).count();
    (encoded.len() / 4).saturating_mul(3).saturating_sub(padding)
}

/// How many bytes from the front on are digits (no padding).
#[must_use]
pub fn digits_in_front(bytes: &[u8]) -> usize {
    let mut front = 0_usize;
    let (lanes, _) = bytes.as_chunks::<LANE>();
    for lane in lanes {
        // Without an early exit inside a lane this becomes a handful of vector instructions.
        if !lane.iter().fold(true, |all, byte| all & is_digit(*byte)) {
            break;
        }
        front = front.saturating_add(LANE);
    }
    let rest = bytes.get(front..).unwrap_or_default();
    front.saturating_add(rest.iter().position(|byte| !is_digit(*byte)).unwrap_or(rest.len()))
}

/// Range comparisons rather than a table: they can be done for many bytes at once.
const fn is_digit(byte: u8) -> bool {
    let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    let number = byte.wrapping_sub(b'0') < 10;
    letter | number | (byte == b'+') | (byte == b'/')
}

/// Whether this is a complete encoding: whole groups, padded, nothing in between.
#[must_use]
pub fn is_well_formed(encoded: &[u8]) -> bool {
    let digits = digits_in_front(encoded);
    let padding = encoded.get(digits..).unwrap_or_default();
    encoded.len().is_multiple_of(4) && padding.len() <= 2 && padding.iter().all(|byte| *byte == PAD)
}

/// Appends the encoding of `bytes`.
pub fn encode_to(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(encoded_len(bytes.len()));
    let (groups, rest) = bytes.as_chunks::<3>();
    for [a, b, c] in groups {
        out.extend_from_slice(&group(*a, *b, *c));
    }
    match rest {
        [a] => {
            let [first, second, _, _] = group(*a, 0, 0);
            out.extend_from_slice(&[first, second, PAD, PAD]);
        }
        [a, b] => {
            let [first, second, third, _] = group(*a, *b, 0);
            out.extend_from_slice(&[first, second, third, PAD]);
        }
        [..] => {}
    }
}

/// The encoding of three bytes.
fn group(a: u8, b: u8, c: u8) -> [u8; 4] {
    let bits = u32::from_be_bytes([0, a, b, c]);
    [18, 12, 6, 0].map(|shift| {
        let digit = usize::try_from((bits >> shift) & 0x3f).unwrap_or_default();
        ALPHABET.get(digit).copied().unwrap_or(PAD)
    })
}

/// Appends what `encoded` stands for; false, with nothing appended, if that is not well-formed.
pub fn decode_to(out: &mut Vec<u8>, encoded: &[u8]) -> bool {
    if !is_well_formed(encoded) {
        return false;
    }
    out.reserve(decoded_len(encoded));
    let (groups, _) = encoded.as_chunks::<4>();
    let Some((last, whole)) = groups.split_last() else { return true };
    for group in whole {
        out.extend_from_slice(&three(*group));
    }
    let [a, b, c] = three(*last);
    match last {
        [_, _, PAD, PAD] => out.push(a),
        [_, _, _, PAD] => out.extend_from_slice(&[a, b]),
        [..] => out.extend_from_slice(&[a, b, c]),
    }
    true
}

/// What four digits stand for; padding counts as 0.
fn three(group: [u8; 4]) -> [u8; 3] {
    let [a, b, c, d] = group.map(|byte| {
        let digit = DIGITS.get(usize::from(byte)).copied().unwrap_or(NONE);
        u32::from(if digit == NONE { 0 } else { digit })
    });
    let [_, first, second, third] = ((a << 18) | (b << 12) | (c << 6) | d).to_be_bytes();
    [first, second, third]
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn encode(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_to(&mut out, bytes);
        out
    }

    fn decode(encoded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode_to(&mut out, encoded).then_some(out)
    }

    #[test]
    fn known_encodings() {
        // The examples of RFC 4648, section 10.
        let pairs: [(&[u8], &[u8]); 7] = [
            (b"", b""),
            (b"f", b"Zg=="),
            (b"fo", b"Zm8="),
            (b"foo", b"Zm9v"),
            (b"foob", b"Zm9vYg=="),
            (b"fooba", b"Zm9vYmE="),
            (b"foobar", b"Zm9vYmFy"),
        ];
        for (plain, encoded) in pairs {
            assert_eq!(encode(plain), encoded);
            assert_eq!(decode(encoded).unwrap(), plain);
            assert_eq!(decoded_len(encoded), plain.len());
            assert_eq!(encoded_len(plain.len()), encoded.len());
        }
    }

    #[test]
    fn malformed_encodings_are_refused() {
        for bad in ["Zg", "Zg=", "Zg===", "====", "Z===", "Zg==Zg==", "Zm9-", "Zm9_", "Zm 9", "Zm9v\n"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn every_byte_is_a_digit_or_not() {
        for byte in 0..=u8::MAX {
            let known = ALPHABET.contains(&byte);
            assert_eq!(is_digit(byte), known, "{byte}");
            assert_eq!(DIGITS[usize::from(byte)] != NONE, known, "{byte}");
            for at in [0, 5, 31, 32, 40, 63] {
                let mut bytes = [b'A'; 64];
                bytes[at] = byte;
                assert_eq!(digits_in_front(&bytes), if known { 64 } else { at });
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(bytes in vec(any::<u8>(), 0..200)) {
            let encoded = encode(&bytes);
            prop_assert!(is_well_formed(&encoded));
            prop_assert_eq!(decoded_len(&encoded), bytes.len());
            prop_assert_eq!(decode(&encoded).unwrap(), bytes);
        }

        #[test]
        fn any_bytes_are_refused_or_decoded(bytes in vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes);
        }
    }
}
