//! Points in time as Go writes them into JSON (RFC 3339 with up to nine digits of a second).

/// Seconds from year 1, where Go's zero time lies, to 1970.
const ZERO_SECONDS: i64 = -62_135_596_800;
const SECONDS_PER_DAY: i64 = 86_400;
/// Go's zero time, which is in most packets.
const ZERO_TEXT: &[u8] = b"0001-01-01T00:00:00Z";
/// Longest text of a time: `2026-05-02T09:27:48.123456789+08:00`.
pub const MAX_TEXT: usize = 35;

/// A point in time, with the offset it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Since 1970, negative before.
    seconds: i64,
    nanos: u32,
    /// Minutes that the writer's clock is ahead of UTC.
    offset: i16,
}

// === impl Time ===

impl Time {
    /// Go's zero time: no time is set.
    pub const ZERO: Self = Self { seconds: ZERO_SECONDS, nanos: 0, offset: 0 };

    /// So many nanoseconds since 1970, in UTC.
    #[must_use]
    pub fn from_unix_nanos(nanos: u64) -> Self {
        let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
        Self { seconds, nanos: u32::try_from(nanos % 1_000_000_000).unwrap_or_default(), offset: 0 }
    }

    /// Nanoseconds since 1970; 0 for a time before, the most there is for one far ahead.
    #[must_use]
    pub fn unix_nanos(self) -> u64 {
        let Ok(seconds) = u64::try_from(self.seconds) else { return 0 };
        seconds.saturating_mul(1_000_000_000).saturating_add(self.nanos.into())
    }

    /// Whether this is [`Time::ZERO`].
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.seconds == ZERO_SECONDS && self.nanos == 0
    }

    /// Reads a time; `None` if this is none.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text == ZERO_TEXT {
            return Some(Self::ZERO);
        }
        let (day, rest) = text.split_at_checked(10)?;
        let days = parse_day(day)?;
        let (clock, rest) = rest.split_at_checked(9)?;
        let [b'T', h1, h2, b':', m1, m2, b':', s1, s2] = *clock else { return None };
        let (hour, minute, second) = (two(h1, h2, 23)?, two(m1, m2, 59)?, two(s1, s2, 59)?);
        let (nanos, rest) = parse_fraction(rest)?;
        let offset = parse_offset(rest)?;
        let clock =
            hour.saturating_mul(3_600).saturating_add(minute.saturating_mul(60)).saturating_add(second);
        let seconds = days.saturating_mul(SECONDS_PER_DAY).saturating_add(clock);
        let seconds = seconds.saturating_sub(i64::from(offset).saturating_mul(60));
        Some(Self { seconds, nanos, offset })
    }

    /// Appends the text that Go writes for this time.
    pub fn put(self, out: &mut Vec<u8>) {
        if self == Self::ZERO {
            return out.extend_from_slice(ZERO_TEXT);
        }
        let local = self.seconds.saturating_add(i64::from(self.offset).saturating_mul(60));
        let (year, month, day) = civil(local.div_euclid(SECONDS_PER_DAY));
        let clock = local.rem_euclid(SECONDS_PER_DAY);
        put_number(out, year, 4);
        for (mark, value) in
            [(b'-', month), (b'-', day), (b'T', clock / 3_600), (b':', clock / 60 % 60), (b':', clock % 60)]
        {
            out.push(mark);
            put_number(out, value, 2);
        }
        if self.nanos > 0 {
            out.push(b'.');
            put_number(out, self.nanos.into(), 9);
            while out.last() == Some(&b'0') {
                out.pop();
            }
        }
        if self.offset == 0 {
            out.push(b'Z');
        } else {
            out.push(if self.offset < 0 { b'-' } else { b'+' });
            let minutes = i64::from(self.offset.unsigned_abs());
            put_number(out, minutes / 60, 2);
            out.push(b':');
            put_number(out, minutes % 60, 2);
        }
    }
}

/// Digits at least `width` of them.
fn put_number(out: &mut Vec<u8>, value: i64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut left = value.unsigned_abs();
    let mut used = 0_usize;
    for digit in digits.iter_mut().rev() {
        if left == 0 && used >= width {
            break;
        }
        *digit = u8::try_from(left % 10).unwrap_or_default().saturating_add(b'0');
        left /= 10;
        used = used.saturating_add(1);
    }
    out.extend_from_slice(digits.get(digits.len().saturating_sub(used)..).unwrap_or_default());
}

fn digit(byte: u8) -> Option<i64> {
    byte.is_ascii_digit().then(|| i64::from(byte.wrapping_sub(b'0')))
}

/// Two digits up to a value.
fn two(tens: u8, ones: u8, most: i64) -> Option<i64> {
    let value = digit(tens)?.saturating_mul(10).saturating_add(digit(ones)?);
    (value <= most).then_some(value)
}

/// `2026-05-02` as days since 1970.
fn parse_day(text: &[u8]) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *text else { return None };
    let year = two(y1, y2, 99)?.saturating_mul(100).saturating_add(two(y3, y4, 99)?);
    let (month, day) = (two(m1, m2, 12)?, two(d1, d2, 31)?);
    if month == 0 || day == 0 || day > month_days(year, month) {
        return None;
    }
    Some(days_before(year, month).saturating_add(day).saturating_sub(1))
}

/// `.123` as nanoseconds, and what follows. No fraction is 0; digits beyond the ninth are dropped as in Go.
fn parse_fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let [b'.', rest @ ..] = text else { return Some((0, text)) };
    let len = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, rest) = rest.split_at_checked(len).filter(|(digits, _)| !digits.is_empty())?;
    let padded = digits.iter().chain(std::iter::repeat(&b'0')).take(9);
    let value = padded.fold(0_u32, |value, byte| {
        value.saturating_mul(10).saturating_add(u32::from(byte.wrapping_sub(b'0')))
    });
    Some((value, rest))
}

/// `Z` or `+08:00` as minutes.
fn parse_offset(text: &[u8]) -> Option<i16> {
    match *text {
        [b'Z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let minutes = two(h1, h2, 23)?.saturating_mul(60).saturating_add(two(m1, m2, 59)?);
            let minutes = i16::try_from(minutes).ok()?;
            Some(if sign == b'-' { minutes.saturating_neg() } else { minutes })
        }
        _ => None,
    }
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970 to the first day of a month of a year from 0 on.
fn days_before(year: i64, month: i64) -> i64 {
    // Leap days before this year, counting year 0 as one.
    let past = year.saturating_sub(1);
    let leap = past.div_euclid(4).saturating_sub(past.div_euclid(100)).saturating_add(past.div_euclid(400));
    let months: i64 = (1..month).map(|month| month_days(year, month)).sum();
    // 719,162 days lie between 0001-01-01 and 1970-01-01.
    past.saturating_mul(365).saturating_add(leap).saturating_add(months).saturating_sub(719_162)
}

/// Year, month and day of a number of days since 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    // A guess that is never late and at most one year early, as 146,097 days are 400 years.
    let mut year = days.saturating_add(719_162).saturating_mul(400).div_euclid(146_097).clamp(0, 9_999);
    while days_before(year.saturating_add(1), 1) <= days {
        year = year.saturating_add(1);
    }
    while year > 0 && days_before(year, 1) > days {
        year = year.saturating_sub(1);
    }
    let mut month = 1_i64;
    while month < 12 && days_before(year, month.saturating_add(1)) <= days {
        month = month.saturating_add(1);
    }
    (year, month, days.saturating_sub(days_before(year, month)).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(time: Time) -> String {
        let mut out = Vec::new();
        time.put(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_come_back() {
        for known in [
            "0001-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "1970-01-01T00:00:00Z",
            "1969-12-31T23:59:59.999999999Z",
            "2000-02-29T12:00:00.5Z",
            "2026-05-02T09:27:48.123456789+08:00",
            "2026-11-22T18:17:20.02157095Z",
            "2024-12-31T23:59:59-12:30",
            "9999-12-31T23:59:59Z",
        ] {
            assert_eq!(text(Time::parse(known.as_bytes()).unwrap()), known);
        }
    }

    #[test]
    fn instants_are_right() {
        let nanos = |text: &str| Time::parse(text.as_bytes()).unwrap().unix_nanos();
        assert_eq!(nanos("1970-01-01T00:00:01.5Z"), 1_500_000_000);
        assert_eq!(nanos("2026-05-02T09:27:48.123456789+08:00"), 1_777_685_268_123_456_789);
        assert_eq!(nanos("2026-05-02T01:27:48.123456789Z"), 1_777_685_268_123_456_789);
        assert_eq!(nanos("0001-01-01T00:00:00Z"), 0);
        assert_eq!(Time::parse(b"0001-01-01T00:00:00Z"), Some(Time::ZERO));
        assert!(Time::ZERO.is_zero());
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "2026-05-02 09:27:48Z",
            "2026-05-02T09:27:48",
            "2026-13-02T09:27:48Z",
            "2026-02-29T09:27:48Z",
            "2026-00-01T09:27:48Z",
            "2026-05-02T24:27:48Z",
            "2026-05-02T09:60:48Z",
            "2026-05-02T09:27:60Z",
            "2026-05-02T09:27:48.Z",
            "2026-05-02T09:27:48+0800",
            "2026-05-02T09:27:48ZZ",
            "2026-5-2T09:27:48Z",
        ] {
            assert_eq!(Time::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_survives(nanos: u64) {
            let time = Time::from_unix_nanos(nanos);
            prop_assert_eq!(Time::parse(text(time).as_bytes()), Some(time));
            prop_assert_eq!(time.unix_nanos(), nanos);
            prop_assert!(text(time).len() <= MAX_TEXT);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9T:.Z+-]{0,40}") {
            let _ = Time::parse(text.as_bytes());
        }
    }
}
