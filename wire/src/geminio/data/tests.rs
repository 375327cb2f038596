use proptest::{collection::vec, prelude::*};

use super::*;

fn parse(text: &str) -> Result<Data<&[u8]>, DataError> {
    Data::parse(Piece::Input(text.as_bytes()), Fields::Message)
}

fn written(object: &Object<'_>) -> String {
    let mut out = Vec::new();
    object.put(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn fields_are_found_where_they_lie() {
    let text = r#"{"key":"ZWNobw==","value":"YWJj","topic":"t","custom":"AAAAAAAAACo=","error":"no","timeout":5,"deadline":"2026-05-02T09:27:48Z","context":{"deadline":"2026-05-02T09:27:47Z"}}"#;
    let data = parse(text).unwrap();
    assert_eq!((data.key(), data.value(), data.topic()), (&b"ZWNobw=="[..], &b"YWJj"[..], "t"));
    assert_eq!((data.custom(), data.error()), (&b"AAAAAAAAACo="[..], "no"));
    assert_eq!(data.deadline(), Time::parse(b"2026-05-02T09:27:47Z"));
    assert_eq!(data.rewritten(), 0);
    assert_eq!(written(&data.object()), text);
}

/// What Go takes although it does not write it so.
#[test]
fn unusual_ways_of_writing_are_read() {
    let same = r#"{"value":"YWJj","topic":"t"}"#;
    for text in [
        r#" { "topic" : "t" , "value" : "YWJj" } "#,
        "\t{\"VALUE\":\"YWJj\",\r\n\"Topic\":\"t\"}",
        r#"{"unknown":{"a":[1,{"b":null}]},"value":"YWJj","topic":"t"}"#,
        r#"{"value":"eA==","value":"YWJj","topic":"x","topic":"t"}"#,
        r#"{"value":"YW\r\nJj","topic":"\u0074"}"#,
        r#"{"value":[97,98,99],"topic":"t"}"#,
        r#"{"value":"Y\u0057Jj","topic":"t","topic":null,"key":null,"deadline":null,"context":null,"timeout":null}"#,
        r#"{"v\u0061lue":"YWJj","topic":"t","custom":"","error":"","timeout":0}"#,
    ] {
        assert_eq!(written(&parse(text).unwrap().object()), same, "{text}");
    }
    for text in ["null", "{}", " null ", r#"{"value":"","topic":null}"#, r#"{"value":"eA==","value":null}"#] {
        assert_eq!(written(&parse(text).unwrap().object()), "{}", "{text}");
    }
}

#[test]
fn what_go_refuses_is_refused() {
    for (text, error) in [
        ("", DataError::Type { at: 0 }),
        ("[]", DataError::Type { at: 0 }),
        ("{}x", DataError::Syntax { at: 2 }),
        ("{}{}", DataError::Syntax { at: 2 }),
        (r#"{"error":5}"#, DataError::Type { at: 9 }),
        (r#"{"timeout":"5s"}"#, DataError::Type { at: 11 }),
        (r#"{"timeout":5.0}"#, DataError::Type { at: 11 }),
        (r#"{"value":"YQ"}"#, DataError::Base64 { at: 10 }),
        (r#"{"value":"YWJ-"}"#, DataError::Base64 { at: 10 }),
        (r#"{"value":"YQ==YQ=="}"#, DataError::Base64 { at: 10 }),
        (r#"{"value":7}"#, DataError::Type { at: 9 }),
        (r#"{"value":[256]}"#, DataError::Type { at: 10 }),
        (r#"{"value":{}}"#, DataError::Type { at: 9 }),
        (r#"{"deadline":""}"#, DataError::Time { at: 13 }),
        (r#"{"deadline":"2026-05-02 09:27:48Z"}"#, DataError::Time { at: 13 }),
        (r#"{"context":[]}"#, DataError::Type { at: 11 }),
        (r#"{"value":"YWJj""#, DataError::Syntax { at: 15 }),
    ] {
        assert_eq!(parse(text).err(), Some(error), "{text}");
    }
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(40), "]".repeat(40));
    assert_eq!(parse(&deep).err(), Some(DataError::Depth));
}

#[test]
fn broken_text_becomes_readable_text() {
    let data = Data::parse(Piece::Input(&b"{\"topic\":\"a\xffb\"}"[..]), Fields::Message).unwrap();
    assert_eq!(data.topic(), "a\u{fffd}b");
    assert_eq!(parse(r#"{"error":"\ud800"}"#).unwrap().error(), "\u{fffd}");
}

#[test]
fn fields_of_other_packets_are_ignored() {
    let text = r#"{"meta":"aGk=","value":5,"peer":"svc","error":"no"}"#;
    let session = Data::parse(Piece::Input(text.as_bytes()), Fields::Session).unwrap();
    assert_eq!((session.meta(), session.peer(), session.error()), (&b"aGk="[..], "svc", "no"));
    let register = Data::parse(Piece::Input(text.as_bytes()), Fields::Register).unwrap();
    assert_eq!((register.meta(), register.error()), (&b""[..], "no"));
}

#[test]
fn a_payload_of_a_counted_packet_is_shared() {
    let text = Bytes::from_static(br#"{"value":"YWJj"}"#);
    let data = Data::<Bytes>::parse(Piece::Owned(text.clone()), Fields::Message).unwrap();
    let value = data.shared_value();
    assert_eq!(value.as_ptr(), text[10..].as_ptr());
    assert_eq!(value, "YWJj");
    let rewritten = Bytes::from_static(br#"{"value":[97]}"#);
    let data = Data::<Bytes>::parse(Piece::Owned(rewritten), Fields::Message).unwrap();
    assert_eq!(data.shared_value(), "YQ==");
}

#[test]
fn the_tail_of_custom_comes_and_goes() {
    assert_eq!(append_tail(b"Q1U=", 42), b"CU\0\0\0\0\0\0\0\x2a");
    assert_eq!(split_tail(b"Q1UAAAAAAAAAKg=="), Some((b"CU".to_vec(), 42)));
    assert_eq!(split_tail(b"AAAAAAAAACo="), Some((Vec::new(), 42)));
    assert_eq!(split_tail(b"AAAAAAAAAA=="), None);
    assert_eq!(split_tail(b""), None);
}

#[test]
fn lead_and_tail_around_a_payload_are_the_object() {
    let object = Object {
        key: Content::Plain(b"echo"),
        value: Content::Plain(b"abc"),
        topic: "t<",
        custom: Content::Plain(b"CU"),
        deadline: Some(Time::ZERO),
        context: Some(Time::ZERO),
        ..Object::default()
    };
    let (mut lead, mut tail) = (Vec::new(), Vec::new());
    object.put_lead(&mut lead);
    object.put_tail(&mut tail);
    let parts = [&lead[..], b"YWJj", &tail[..]].concat();
    assert_eq!(String::from_utf8(parts).unwrap(), written(&object));
    let whole = r#"{"key":"ZWNobw==","value":"YWJj","topic":"t\u003c","custom":"Q1U=","deadline":"0001-01-01T00:00:00Z","context":{"deadline":"0001-01-01T00:00:00Z"}}"#;
    assert_eq!(written(&object), whole);
}

fn content() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, String, Vec<u8>, String, Option<u64>)> {
    (
        vec(any::<u8>(), 0..40),
        vec(any::<u8>(), 0..200),
        any::<String>(),
        vec(any::<u8>(), 0..20),
        any::<String>(),
        any::<Option<u64>>(),
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read((key, value, topic, custom, error, deadline) in content()) {
        let object = Object {
            key: Content::Plain(&key),
            value: Content::Plain(&value),
            topic: &topic,
            custom: Content::Plain(&custom),
            error: &error,
            deadline: deadline.map(Time::from_unix_nanos),
            ..Object::default()
        };
        let text = written(&object);
        let data = parse(&text).unwrap();
        prop_assert_eq!(decode(data.key()), key);
        prop_assert_eq!(decode(data.value()), value);
        prop_assert_eq!(data.topic(), &topic);
        prop_assert_eq!(decode(data.custom()), custom);
        prop_assert_eq!(data.error(), &error);
        prop_assert_eq!(data.deadline(), deadline.map(Time::from_unix_nanos));
        prop_assert_eq!(written(&data.object()), text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[{}\\[\\]\":,a-z0-9=\\\\ -]{0,60}") {
        let _ = parse(&text);
        let _ = parse(&format!("{{\"value\":\"{text}\"}}"));
        let _ = parse(&format!("{{\"topic\":{text}}}"));
    }
}
