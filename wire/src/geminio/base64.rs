//! Base64 as Go writes bytes into JSON: the standard alphabet with `=` padding.
//!
//! The gateway passes encoded payloads on as they are, so what is needed most is a quick check that they are well-formed: a Go receiver
//! drops its whole connection otherwise.

/// `=`.
const PAD: u8 = b'=';

/// Bytes looked at together when a payload is checked: enough for the compiler to use its widest registers.
const LANE: usize = 32;
/// Digits turned into values together.
const BATCH: usize = 256;

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
    let start = out.len();
    out.resize(start.saturating_add(encoded_len(bytes.len())), 0);
    let space = out.get_mut(start..).unwrap_or_default();
    let (groups, rest) = bytes.as_chunks::<6>();
    let (places, last_place) = space.as_chunks_mut::<8>();
    let mut places = places.iter_mut();
    for (group, place) in groups.iter().zip(&mut places) {
        *place = split(*group);
    }
    let mut last = [0; 6];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    let last_place = places.next().map_or(last_place, |place| place.as_mut_slice());
    for (to, from) in last_place.iter_mut().zip(split(last)) {
        *to = from;
    }
    // In a pass of its own, which the compiler does for many bytes at once.
    for value in space.iter_mut() {
        *value = digit(*value);
    }
    let padding = match rest.len() % 3 {
        0 => 0,
        1 => 2,
        _ => 1,
    };
    for byte in space.iter_mut().rev().take(padding) {
        *byte = PAD;
    }
}

/// Six bytes as eight values below 64: cut in halves three times, all at once.
const fn split([a, b, c, d, e, f]: [u8; 6]) -> [u8; 8] {
    let bits = u64::from_be_bytes([0, a, b, c, 0, d, e, f]);
    let bits = (bits << 4) & 0x0fff_0000_0fff_0000 | bits & 0x0000_0fff_0000_0fff;
    let bits = (bits << 2) & 0x3f00_3f00_3f00_3f00 | bits & 0x003f_003f_003f_003f;
    bits.to_be_bytes()
}

/// The way back.
const fn join(values: [u8; 8]) -> [u8; 6] {
    let bits = u64::from_be_bytes(values);
    let bits = (bits >> 2) & 0x0fc0_0fc0_0fc0_0fc0 | bits & 0x003f_003f_003f_003f;
    let bits = (bits >> 4) & 0x00ff_f000_00ff_f000 | bits & 0x0000_0fff_0000_0fff;
    let [_, a, b, c, _, d, e, f] = bits.to_be_bytes();
    [a, b, c, d, e, f]
}

/// The digit of a value below 64, by steps from one range of digits to the next.
fn digit(value: u8) -> u8 {
    let step = |from: u8, by: u8| u8::from(value >= from).wrapping_mul(by);
    let steps = [step(26, 6), step(52, 75_u8.wrapping_neg()), step(62, 15_u8.wrapping_neg()), step(63, 3)];
    steps.into_iter().fold(value.wrapping_add(b'A'), u8::wrapping_add)
}

/// The value of a digit; of any other byte some value below 64.
fn value(digit: u8) -> u8 {
    let from = |first: u8, by: u8| u8::from(digit >= first).wrapping_mul(by);
    let only = |one: u8, by: u8| u8::from(digit == one).wrapping_mul(by);
    let steps =
        [from(b'A', 69_u8.wrapping_neg()), from(b'a', 6_u8.wrapping_neg()), only(b'/', 12), only(b'+', 15)];
    steps.into_iter().fold(digit.wrapping_add(4), u8::wrapping_add) & 0x3f
}

/// Appends what `encoded` stands for; false, with nothing appended, if that is not well-formed.
pub fn decode_to(out: &mut Vec<u8>, encoded: &[u8]) -> bool {
    if !is_well_formed(encoded) {
        return false;
    }
    let start = out.len();
    let end = start.saturating_add(decoded_len(encoded));
    out.resize(start.saturating_add((encoded.len() / 4).saturating_mul(3)), 0);
    let (places, last_place) = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<6>();
    let mut places = places.iter_mut();
    let mut values = [0; BATCH];
    for batch in encoded.chunks(BATCH) {
        for (to, digit) in values.iter_mut().zip(batch) {
            *to = value(*digit);
        }
        let (groups, _) = values.as_chunks::<8>();
        let mut groups = groups.iter();
        for (place, group) in places.by_ref().take(batch.len() / 8).zip(&mut groups) {
            *place = join(*group);
        }
        if let Some(group) = groups.next().filter(|_| batch.len() % 8 == 4) {
            // Half a group, at the very end.
            for (to, from) in last_place.iter_mut().zip(join(*group)) {
                *to = from;
            }
        }
    }
    // The last group may stand for fewer bytes.
    out.truncate(end);
    true
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

    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    #[test]
    fn every_value_has_its_digit() {
        for (i, known) in (0_u8..).zip(ALPHABET) {
            assert_eq!((digit(i), value(*known)), (*known, i));
        }
    }

    #[test]
    fn every_byte_is_a_digit_or_not() {
        for byte in 0..=u8::MAX {
            let known = ALPHABET.contains(&byte);
            assert_eq!(is_digit(byte), known, "{byte}");
            assert!(value(byte) < 64);
            for at in [0, 5, 31, 32, 40, 63] {
                let mut bytes = [b'A'; 64];
                bytes[at] = byte;
                assert_eq!(digits_in_front(&bytes), if known { 64 } else { at });
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(bytes in vec(any::<u8>(), 0..900)) {
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
