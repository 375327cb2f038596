//! A reader of JSON text that finds what it is asked for and checks the rest, without building values.
//!
//! It accepts what Go's decoder accepts: any white space, any unknown field, any escape. Its stack is bounded by [`MAX_DEPTH`], its
//! memory by the text.

use std::borrow::Cow;

use super::data::DataError;

/// Nesting of arrays and objects that is followed. Bodies of peers nest twice; Go follows 10,000.
pub(super) const MAX_DEPTH: u8 = 32;

/// A cursor over JSON text.
#[derive(Debug)]
pub(super) struct Json<'a> {
    text: &'a [u8],
    at: usize,
}

/// A string: where it lies between its quotes, and whether that has escapes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub(super) start: usize,
    pub(super) raw: &'a [u8],
    pub(super) escaped: bool,
}

impl<'a> Json<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The same text, read from `at` on.
    pub(super) fn back_to(&self, at: usize) -> Self {
        Self { text: self.text, at }
    }

    /// The next byte that is no white space.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.text.get(self.at) {
            self.skip(1);
        }
        self.text.get(self.at).copied()
    }

    /// What has not been read, and where that begins.
    pub(super) fn rest(&self) -> (usize, &'a [u8]) {
        (self.at, self.text.get(self.at..).unwrap_or_default())
    }

    pub(super) fn skip(&mut self, n: usize) {
        self.at = self.at.saturating_add(n);
    }

    /// Consumes the byte if it is next.
    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.skip(1);
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), DataError> {
        if self.eat(byte) { Ok(()) } else { Err(DataError::Syntax { at: self.at }) }
    }

    /// Consumes `null` if it is next.
    pub(super) fn eat_null(&mut self) -> Result<bool, DataError> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.literal(b"null")?;
        Ok(true)
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), DataError> {
        let (at, rest) = self.rest();
        if !rest.starts_with(word) {
            return Err(DataError::Syntax { at });
        }
        self.skip(word.len());
        Ok(())
    }

    /// An object or `null`: `field` is called with each name and must consume the value.
    pub(super) fn object(
        &mut self,
        mut field: impl FnMut(&mut Self, Cow<'a, [u8]>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        if self.eat_null()? {
            return Ok(());
        }
        if self.peek() != Some(b'{') {
            return Err(DataError::Type { at: self.at });
        }
        self.skip(1);
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            let name = self.string()?;
            self.expect(b':')?;
            field(self, name.unescape())?;
            if self.eat(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }

    /// Nothing but white space may be left.
    pub(super) fn end(&mut self) -> Result<(), DataError> {
        if self.peek().is_none() { Ok(()) } else { Err(DataError::Syntax { at: self.at }) }
    }

    /// A string.
    pub(super) fn string(&mut self) -> Result<Text<'a>, DataError> {
        if self.peek() != Some(b'"') {
            return Err(DataError::Type { at: self.at });
        }
        self.skip(1);
        let (start, rest) = self.rest();
        let mut escaped = false;
        let mut bytes = rest.iter().enumerate();
        while let Some((i, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.skip(i.saturating_add(1));
                    return Ok(Text { start, raw: rest.get(..i).unwrap_or_default(), escaped });
                }
                b'\\' => {
                    escaped = true;
                    let good = match bytes.next() {
                        Some((_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => true,
                        Some((_, b'u')) => {
                            bytes.by_ref().take(4).filter(|(_, digit)| digit.is_ascii_hexdigit()).count() == 4
                        }
                        Some(_) | None => false,
                    };
                    if !good {
                        return Err(DataError::Syntax { at: start.saturating_add(i) });
                    }
                }
                0..0x20 => return Err(DataError::Syntax { at: start.saturating_add(i) }),
                _ => {}
            }
        }
        Err(DataError::Syntax { at: self.text.len() })
    }

    /// A number as it is written.
    pub(super) fn number(&mut self) -> Result<&'a [u8], DataError> {
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return Err(DataError::Type { at: self.at });
        }
        let (at, rest) = self.rest();
        let in_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let len = rest.iter().position(|byte| !in_number(byte)).unwrap_or(rest.len());
        let number = rest.get(..len).unwrap_or_default();
        if !is_number(number) {
            return Err(DataError::Syntax { at });
        }
        self.skip(len);
        Ok(number)
    }

    /// Any value, which nobody asked for.
    pub(super) fn skip_value(&mut self, depth: u8) -> Result<(), DataError> {
        let deeper = depth.checked_sub(1).ok_or(DataError::Depth);
        match self.peek() {
            Some(b'{') => {
                let deeper = deeper?;
                self.object(|json, _| json.skip_value(deeper))
            }
            Some(b'[') => {
                let deeper = deeper?;
                self.array(|json| json.skip_value(deeper))
            }
            Some(b'"') => self.string().map(drop),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(_) | None => self.number().map(drop).map_err(|_| DataError::Syntax { at: self.at }),
        }
    }

    /// An array: `item` must consume one value.
    pub(super) fn array(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        self.expect(b'[')?;
        if self.eat(b']') {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.eat(b']') {
                return Ok(());
            }
            self.expect(b',')?;
        }
    }
}

/// `-0.5e+3` and the like, as the grammar of JSON has it.
fn is_number(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, rest) = split_digits(text);
    if whole.is_empty() || whole.len() > 1 && whole.first() == Some(&b'0') {
        return false;
    }
    let rest = match rest {
        [b'.', fraction @ ..] => match split_digits(fraction) {
            ([], _) => return false,
            (_, rest) => rest,
        },
        _ => rest,
    };
    match rest {
        [] => true,
        [b'e' | b'E', b'+' | b'-', exponent @ ..] | [b'e' | b'E', exponent @ ..] => {
            let (digits, rest) = split_digits(exponent);
            !digits.is_empty() && rest.is_empty()
        }
        [..] => false,
    }
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let len = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(len).unwrap_or_default()
}

impl<'a> Text<'a> {
    /// The string's bytes; not necessarily UTF-8.
    pub(super) fn unescape(self) -> Cow<'a, [u8]> {
        if !self.escaped {
            return Cow::Borrowed(self.raw);
        }
        let mut out = Vec::with_capacity(self.raw.len());
        let mut rest = self.raw;
        while let [byte, after @ ..] = rest {
            rest = after;
            if *byte != b'\\' {
                out.push(*byte);
                continue;
            }
            let [kind, after @ ..] = rest else { break };
            rest = after;
            match kind {
                b'b' => out.push(8),
                b'f' => out.push(12),
                b'n' => out.push(b'\n'),
                b'r' => out.push(b'\r'),
                b't' => out.push(b'\t'),
                b'u' => {
                    let (character, after) = escaped_character(rest);
                    rest = after;
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                other => out.push(*other),
            }
        }
        Cow::Owned(out)
    }
}

/// The character behind `\u`, and what follows; half of a surrogate pair counts as U+FFFD.
fn escaped_character(rest: &[u8]) -> (char, &[u8]) {
    let (unit, rest) = hex_unit(rest);
    if !(0xd800..0xe000).contains(&unit) {
        return (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), rest);
    }
    if let [b'\\', b'u', second @ ..] = rest
        && unit < 0xdc00
    {
        let (low, after) = hex_unit(second);
        if (0xdc00..0xe000).contains(&low) {
            let code = ((unit & 0x3ff) << 10 | low & 0x3ff).saturating_add(0x1_0000);
            return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), after);
        }
    }
    (char::REPLACEMENT_CHARACTER, rest)
}

/// Four hexadecimal digits.
fn hex_unit(rest: &[u8]) -> (u32, &[u8]) {
    let (digits, rest) = rest.split_at_checked(4).unwrap_or_default();
    let value = digits
        .iter()
        .fold(0_u32, |value, digit| (value << 4) | char::from(*digit).to_digit(16).unwrap_or_default());
    (value, rest)
}

/// Appends a string as Go writes it: quoted, with `<`, `>`, `&` and the line separators of Unicode escaped too.
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if text
        .bytes()
        .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&'))
    {
        out.extend_from_slice(text.as_bytes());
        return out.push(b'"');
    }
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '<' | '>' | '&' | '\0'..'\u{20}' | '\u{2028}' | '\u{2029}' => put_escape(out, character.into()),
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

fn put_escape(out: &mut Vec<u8>, unit: u32) {
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        let digit = char::from_digit((unit >> shift) & 0xf, 16).unwrap_or('0');
        out.extend_from_slice(digit.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &[u8]) -> Result<(), DataError> {
        let mut json = Json::new(text);
        json.skip_value(MAX_DEPTH)?;
        json.end()
    }

    fn unescaped(text: &str) -> String {
        let text = format!("\"{text}\"");
        let string = Json::new(text.as_bytes()).string().unwrap().unescape().into_owned();
        String::from_utf8(string).unwrap()
    }

    #[test]
    fn values_of_every_kind_are_passed() {
        for good in [
            "{}",
            "[]",
            " { \"a\" : [ 1 , -2.5e+3 , true , false , null , \"x\\u0041\" ] }\r\n\t",
            "0",
            "-0",
            "1E9",
            "\"\"",
            "null",
        ] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for bad in [
            "",
            "{",
            "}",
            "[",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "tru",
            "nul",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12",
            "\"\n\"",
            "{}x",
            "{}{}",
            "'a'",
            "+1",
        ] {
            assert!(check(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn nesting_is_followed_so_far() {
        let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
        assert_eq!(check(&nested(MAX_DEPTH.into())), Ok(()));
        assert_eq!(check(&nested(usize::from(MAX_DEPTH) + 1)), Err(DataError::Depth));
        assert_eq!(check(&vec![b'['; 1 << 20]), Err(DataError::Depth));
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(unescaped(r#"\"\\\/\b\f\n\r\t"#), "\"\\/\u{8}\u{c}\n\r\t");
        assert_eq!(unescaped(r"\u00e4\u20AC"), "ä€");
        assert_eq!(unescaped(r"\ud83d\ude00"), "😀");
        assert_eq!(unescaped(r"\ud800x\udc00"), "\u{fffd}x\u{fffd}");
        assert_eq!(unescaped(r"\ud83d\u0041"), "\u{fffd}A");
    }

    #[test]
    fn strings_are_written_as_go_does() {
        let mut out = Vec::new();
        put_string(&mut out, "a\"\\\n\r\t\u{8}\u{c}\u{1}<>&\u{2028}\u{2029}ä\u{7f}");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\"a\\\"\\\\\\n\\r\\t\\b\\f\\u0001\\u003c\\u003e\\u0026\\u2028\\u2029ä\u{7f}\""
        );
    }

    proptest! {
        #[test]
        fn written_strings_are_read_back(text in any::<String>()) {
            let mut out = Vec::new();
            put_string(&mut out, &text);
            let mut json = Json::new(&out);
            prop_assert_eq!(json.string().unwrap().unescape(), text.as_bytes());
            prop_assert_eq!(json.end(), Ok(()));
        }

        #[test]
        fn any_text_is_passed_or_refused(text in "[\\[\\]{}\":,0-9a-z\\\\ .-]{0,60}") {
            let _ = check(text.as_bytes());
        }
    }
}
