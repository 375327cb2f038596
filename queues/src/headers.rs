//! What travels beside the body: our headers and the application's.

use std::{
    borrow::Cow,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::Message;

/// The edge, in decimal.
pub(crate) const EDGE_ID: &str = "edge-id";
/// The topic that the edge named.
pub(crate) const TOPIC: &str = "topic";
/// The same in every copy of a message.
pub(crate) const MESSAGE_ID: &str = "message-id";
/// When the gateway took the message, RFC 3339 in UTC.
pub(crate) const TIME: &str = "time";
/// What the body is.
pub(crate) const CONTENT_TYPE: &str = "content-type";
/// The trace.
pub(crate) const TRACEPARENT: &str = "traceparent";

const OURS: [&str; 6] = [EDGE_ID, TOPIC, MESSAGE_ID, TIME, CONTENT_TYPE, TRACEPARENT];

/// Whether a name is one of ours, in any case.
pub(crate) fn is_ours(name: &str) -> bool {
    OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name))
}

/// The texts of ours, then the application's; a name of ours among those is left out, as ours are to be trusted.
pub(crate) fn each<'m>(message: &'m Message) -> impl Iterator<Item = (&'m str, Cow<'m, [u8]>)> {
    let text = |text: String| Cow::Owned(text.into_bytes());
    let passed = message.passed.is_some();
    let ours = [
        Some((EDGE_ID, text(message.edge.to_string()))),
        Some((TOPIC, Cow::Borrowed(message.topic.as_bytes()))),
        Some((MESSAGE_ID, text(message.id.to_string()))),
        Some((TIME, text(rfc3339(message.time)))),
        message.content_type.as_ref().map(|value| (CONTENT_TYPE, Cow::Borrowed(value.as_bytes()))),
        message.traceparent.as_ref().map(|value| (TRACEPARENT, Cow::Borrowed(value.as_bytes()))),
    ];
    let ours = if passed { [const { None }; OURS.len()] } else { ours };
    let own = message.headers.iter().filter(move |(name, _)| passed || !is_ours(name));
    ours.into_iter().flatten().chain(own.map(|(name, value)| (name.as_str(), Cow::Borrowed(&value[..]))))
}

/// `2026-11-23T16:31:15.123Z`. Times before 1970 are written as 1970.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// Year, month and day of a number of days since 1970-01-01. Years are counted from March, so that the leap day comes last.
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use bytes::Bytes;

    use super::*;
    use crate::MessageId;

    #[test]
    fn times_are_those_of_the_calendar() {
        // `date -u -d @N +%FT%TZ`
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.250Z"),
            (951_782_399, "2000-02-28T23:59:59.250Z"),
            (951_782_400, "2000-02-29T00:00:00.250Z"),
            (1_709_251_200, "2024-03-01T00:00:00.250Z"),
            (4_107_542_399, "2100-02-28T23:59:59.250Z"),
            (4_107_542_400, "2100-03-01T00:00:00.250Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 250)), text);
        }
    }

    #[test]
    fn ours_win_over_the_applications() {
        let message = Message {
            id: MessageId::from_random(1),
            edge: 7,
            topic: Arc::from("a/b"),
            destination: Arc::from("a.b"),
            body: Bytes::new(),
            time: UNIX_EPOCH,
            content_type: None,
            traceparent: Some(Arc::from("00-1-2-03")),
            headers: vec![
                ("Edge-ID".to_owned(), Bytes::from_static(b"8")),
                ("unit".to_owned(), Bytes::from_static(b"C")),
                ("content-type".to_owned(), Bytes::from_static(b"evil")),
            ],
            deadline: Instant::now(),
            passed: None,
        };
        let found: Vec<(&str, String)> = each(&message)
            .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
            .collect();
        let id = message.id.to_string();
        assert_eq!(
            found,
            [
                ("edge-id", "7".to_owned()),
                ("topic", "a/b".to_owned()),
                ("message-id", id),
                ("time", "1970-01-01T00:00:00.000Z".to_owned()),
                ("traceparent", "00-1-2-03".to_owned()),
                ("unit", "C".to_owned()),
            ]
        );
    }
}
