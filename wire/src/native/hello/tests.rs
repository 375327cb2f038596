use proptest::{
    collection::{btree_map, vec},
    prelude::*,
};

use super::*;
use crate::{
    error::ErrorCode,
    native::{frame::MAX_BODY_FRAME, head::Names, presence::EdgeInfoBuilder},
};

fn service() -> Hello {
    let mut hello = Hello::new(Role::Service, InstanceId::new([7; 16]));
    hello.name = "files".into();
    hello.service_version = "1.2.3".into();
    hello.topics = vec!["telemetry".into(), "*".into()];
    hello.methods = vec!["sum".into(), "edge_online".into()];
    hello.labels = BTreeMap::from([("zone".into(), "a".into())]);
    hello
}

fn edge() -> Hello {
    let mut hello = Hello::new(Role::Edge, InstanceId::new([9; 16]));
    hello.meta = b"sn-42".to_vec();
    hello.methods = vec!["echo".into()];
    hello
}

/// Through the wire, under the default limits.
fn admit(hello: &Hello) -> Result<Hello, HelloError> {
    admit_under(hello, &HelloLimits::default())
}

fn admit_under(hello: &Hello, limits: &HelloLimits) -> Result<Hello, HelloError> {
    let mut head = Vec::new();
    hello.encode(&mut head);
    assert_eq!(head.len(), hello.encoded_len());
    let decoded = Hello::decode(&head, limits);
    // A dialer that checks beforehand learns the same.
    assert_eq!(decoded.as_ref().map(|_| ()), hello.check(limits).as_ref().copied());
    decoded
}

fn welcome() -> Welcome {
    Welcome {
        version: 1,
        features: 0,
        id: 1,
        epoch: 2,
        ticket: vec![1, 2, 3],
        shards: 1,
        stream_window: 65_536,
        heartbeat_ms: 20_000,
        max_body: 16 << 20,
        max_in_flight: 1_024,
    }
}

fn decode_welcome(welcome: &Welcome) -> Result<Welcome, WelcomeError> {
    let mut head = Vec::new();
    welcome.encode(&mut head);
    assert_eq!(head.len(), welcome.encoded_len());
    Welcome::decode(&head)
}

#[test]
fn both_roles_are_admitted_as_they_are() {
    assert_eq!(admit(&service()), Ok(service()));
    assert_eq!(admit(&edge()), Ok(edge()));
}

#[test]
fn every_length_is_limited_at_n_plus_one() {
    type Set = fn(&mut Hello, String);
    let limits = HelloLimits {
        meta: 9,
        token: 8,
        ticket: 7,
        label_key: 6,
        label_value: 5,
        name: 4,
        ..HelloLimits::default()
    };
    let cases: [(Part, usize, Set); 9] = [
        (Part::Meta, 9, |hello, text| hello.meta = text.into()),
        (Part::Token, 8, |hello, text| hello.token = text.into()),
        (Part::Ticket, 7, |hello, text| hello.ticket = text.into()),
        (Part::LabelKey, 6, |hello, text| drop(hello.labels.insert(text, String::new()))),
        (Part::LabelValue, 5, |hello, text| drop(hello.labels.insert(String::new(), text))),
        (Part::Name, 4, |hello, text| hello.name = text),
        (Part::ServiceVersion, 4, |hello, text| hello.service_version = text),
        (Part::Topic, 4, |hello, text| hello.topics.push(text)),
        (Part::Method, 4, |hello, text| hello.methods.push(text)),
    ];
    for (part, max, set) in cases {
        let mut hello = Hello::new(Role::Service, InstanceId::new([0; 16]));
        set(&mut hello, "x".repeat(max));
        assert_eq!(admit_under(&hello, &limits), Ok(hello.clone()), "{part} at its limit");
        let mut hello = Hello::new(Role::Service, InstanceId::new([0; 16]));
        set(&mut hello, "x".repeat(max + 1));
        assert_eq!(admit_under(&hello, &limits), Err(HelloError::TooLong { part, len: max + 1, max }));
    }
}

#[test]
fn counts_are_limited_at_n_plus_one() {
    let limits = HelloLimits { labels: 3, names: 4, ..HelloLimits::default() };
    let mut hello = service();
    hello.labels.extend([("b".into(), String::new()), ("c".into(), String::new())]);
    assert!(admit_under(&hello, &limits).is_ok());
    hello.labels.insert("d".into(), String::new());
    let error = HelloError::TooMany { part: Part::Labels, count: 4, max: 3 };
    assert_eq!(admit_under(&hello, &limits), Err(error));

    let mut hello = service();
    assert!(admit_under(&hello, &limits).is_ok());
    hello.topics.push("fifth".into());
    let error = HelloError::TooMany { part: Part::Names, count: 5, max: 4 };
    assert_eq!(admit_under(&hello, &limits), Err(error));
}

#[test]
fn flood_of_empty_names_is_refused_by_its_count_before_decoding() {
    // Two bytes each on the wire, a `String` each in memory.
    let head = [0x6a, 0].repeat(30_000);
    let error = HelloError::TooMany { part: Part::Names, count: 30_000, max: 1_024 };
    assert_eq!(Hello::decode(&head, &HelloLimits::default()), Err(error));
    let head = [0x62, 0].repeat(30_000);
    let error = HelloError::TooMany { part: Part::Labels, count: 30_000, max: 64 };
    assert_eq!(Hello::decode(&head, &HelloLimits::default()), Err(error));
}

#[test]
fn names_must_not_be_empty() {
    let mut hello = service();
    hello.topics.push(String::new());
    assert_eq!(admit(&hello), Err(HelloError::Empty { part: Part::Topic }));
    let mut hello = edge();
    hello.methods.push(String::new());
    assert_eq!(admit(&hello), Err(HelloError::Empty { part: Part::Method }));
}

#[test]
fn edges_may_not_say_what_only_services_say() {
    type Set = fn(&mut Hello);
    let cases: [(Part, Set); 3] = [
        (Part::Name, |hello| hello.name = "files".into()),
        (Part::ServiceVersion, |hello| hello.service_version = "1".into()),
        (Part::Topic, |hello| hello.topics = vec!["t".into()]),
    ];
    for (part, set) in cases {
        let mut hello = edge();
        set(&mut hello);
        assert_eq!(admit(&hello), Err(HelloError::OnlyServices { part }));
    }
}

#[test]
fn edges_may_not_offer_reserved_methods() {
    for name in RESERVED_METHODS {
        assert!(is_reserved(name));
        let mut hello = edge();
        hello.methods.push(name.into());
        let error = admit(&hello).unwrap_err();
        assert_eq!(error, HelloError::Reserved { name });
        assert_eq!(error.code(), ErrorCode::PermissionDenied);
    }
    assert!(!is_reserved("Edge_online") && !is_reserved("edge_onlin"));
}

#[test]
fn role_version_and_instance_are_needed() {
    let head = |change: fn(&mut proto::Hello)| {
        let mut hello = edge().to_proto();
        change(&mut hello);
        Hello::decode(&hello.encode_to_vec(), &HelloLimits::default())
    };
    assert_eq!(head(|hello| hello.role = 0), Err(HelloError::Role { role: 0 }));
    assert_eq!(head(|hello| hello.role = 9), Err(HelloError::Role { role: 9 }));
    assert_eq!(head(|hello| hello.version = 0), Err(HelloError::Version { version: 0 }));
    assert_eq!(head(|hello| hello.instance.clear()), Err(HelloError::Instance { len: 0 }));
    assert_eq!(head(|hello| hello.instance.push(1)), Err(HelloError::Instance { len: 17 }));
    assert!(head(|_| {}).is_ok());
}

#[test]
fn version_and_features_agreed_are_those_both_have() {
    let mut hello = edge();
    assert_eq!(hello.agree(), (1, 0));
    (hello.version, hello.features) = (7, u64::MAX);
    assert_eq!(admit(&hello).unwrap().agree(), (VERSION, FEATURES));
}

#[test]
fn start_window_has_a_default_and_a_least_value() {
    let window = |window| {
        let hello = proto::Hello { stream_window: window, ..edge().to_proto() };
        Hello::decode(&hello.encode_to_vec(), &HelloLimits::default()).map(|hello| hello.stream_window)
    };
    assert_eq!(window(0), Ok(262_144));
    assert_eq!(window(4_096), Ok(4_096));
    assert_eq!(window(4_095), Err(HelloError::StreamWindow { window: 4_095 }));
    assert_eq!(window(u32::MAX), Ok(u32::MAX));
    let window =
        |stream_window| decode_welcome(&Welcome { stream_window, ..welcome() }).map(|w| w.stream_window);
    assert_eq!(window(0), Ok(262_144));
    assert_eq!(window(4_096), Ok(4_096));
    assert_eq!(window(4_095), Err(WelcomeError::StreamWindow { window: 4_095 }));
}

#[test]
fn rejection_tells_the_dialer_why() {
    let mut hello = edge();
    hello.meta = vec![0; 16_385];
    let error = admit(&hello).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert_eq!(error.to_string(), "meta of 16385 bytes, at most 16384 allowed");
}

#[test]
fn welcome_needs_an_id_and_usable_limits() {
    assert_eq!(decode_welcome(&welcome()), Ok(welcome()));
    let missing = |welcome: Welcome| decode_welcome(&welcome).unwrap_err();
    assert_eq!(missing(Welcome { id: 0, ..welcome() }), WelcomeError::Missing { field: "id" });
    assert_eq!(
        missing(Welcome { heartbeat_ms: 0, ..welcome() }),
        WelcomeError::Missing { field: "heartbeat_ms" }
    );
    assert_eq!(missing(Welcome { max_body: 0, ..welcome() }), WelcomeError::Missing { field: "max_body" });
    assert_eq!(
        missing(Welcome { max_in_flight: 0, ..welcome() }),
        WelcomeError::Missing { field: "max_in_flight" }
    );
    assert_eq!(decode_welcome(&Welcome { shards: 0, ..welcome() }).map(|w| w.shards), Ok(1));
}

#[test]
fn welcome_of_a_version_not_offered_is_refused() {
    for version in [0, 2] {
        let error = decode_welcome(&Welcome { version, ..welcome() }).unwrap_err();
        assert_eq!(error, WelcomeError::Version { version });
    }
}

#[test]
fn secrets_stay_out_of_logs() {
    let mut hello = edge();
    hello.token = b"open sesame".to_vec();
    hello.ticket = b"let me in".to_vec();
    let shown = format!("{hello:?} {:?}", Welcome { ticket: b"let me in".to_vec(), ..welcome() });
    for secret in
        ["open sesame", "let me in", &format!("{:?}", b"open sesame"), &format!("{:?}", b"let me in")]
    {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("09090909090909090909090909090909"), "{shown}");
}

#[test]
fn registration_is_limited_with_what_is_there_already() {
    let limits = HelloLimits { names: 4, name: 5, ..HelloLimits::default() };
    let check = |methods: &[&str], topics: &[&str], present| {
        let mut head = Vec::new();
        Names::encode(&mut head, methods.iter().copied(), topics.iter().copied());
        limits.check_registration(&Names::parse(&head).unwrap(), present)
    };
    assert_eq!(check(&["a", "12345"], &["b"], 1), Ok(()));
    let error = HelloError::TooMany { part: Part::Names, count: 5, max: 4 };
    assert_eq!(check(&["a", "12345"], &["b"], 2), Err(error));
    let error = HelloError::TooLong { part: Part::Topic, len: 6, max: 5 };
    assert_eq!(check(&[], &["123456"], 0), Err(error));
    assert_eq!(check(&[""], &[], 0), Err(HelloError::Empty { part: Part::Method }));
    assert_eq!(
        check(&["a"], &[], usize::MAX),
        Err(HelloError::TooMany { part: Part::Names, count: usize::MAX, max: 4 })
    );
}

#[test]
fn whatever_an_edge_may_say_fits_one_frame_to_a_service() {
    let limits = HelloLimits::default();
    let meta = vec![0; limits.meta];
    let value = "v".repeat(limits.label_value);
    let keys: Vec<String> =
        (0..limits.labels).map(|i| format!("{i:0>width$}", width = limits.label_key)).collect();
    let labels = keys.iter().map(|key| (key.as_str(), value.as_str()));
    let addr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535";
    let info = EdgeInfoBuilder::new(u64::MAX, u64::MAX).meta(&meta).addr(addr).labels(labels);
    assert!(info.page_len() <= MAX_BODY_FRAME as usize, "{} bytes", info.page_len());
}

prop_compose! {
    fn any_hello()(
        numbers in (1_u32.., any::<u64>(), any::<u64>(), any::<u32>(), MIN_STREAM_WINDOW..),
        service: bool, ticket in vec(any::<u8>(), 0..64), instance: [u8; 16], meta in vec(any::<u8>(), 0..64),
        token in vec(any::<u8>(), 0..64), name in ".{0,8}", service_version in ".{0,8}",
        labels in btree_map(".{0,8}", ".{0,8}", 0..4), topics in vec(".{1,8}", 0..4), methods in vec("[a-z]{1,8}", 0..4),
    ) -> Hello {
        let (version, features, wished_id, pool_index, stream_window) = numbers;
        let role = if service { Role::Service } else { Role::Edge };
        let (name, service_version, topics) = if service { (name, service_version, topics) } else { Default::default() };
        Hello {
            version, features, role, wished_id, ticket, instance: InstanceId::new(instance), pool_index, meta, token, name,
            service_version, labels, topics, methods, stream_window,
        }
    }
}

proptest! {
    #[test]
    fn hello_survives_the_wire(hello in any_hello()) {
        prop_assert_eq!(admit(&hello), Ok(hello));
    }

    #[test]
    fn welcome_survives_the_wire(
        features: u64, id in 1_u64.., epoch: u64, ticket in vec(any::<u8>(), 0..64), shards in 1_u32..,
        stream_window in MIN_STREAM_WINDOW.., heartbeat_ms in 1_u32.., max_body in 1_u64.., max_in_flight in 1_u32..,
    ) {
        let welcome = Welcome {
            version: VERSION, features, id, epoch, ticket, shards, stream_window, heartbeat_ms, max_body, max_in_flight,
        };
        prop_assert_eq!(decode_welcome(&welcome), Ok(welcome));
    }

    #[test]
    fn bent_hello_is_refused_or_within_the_limits(hello in any_hello(), bends in vec((any::<u16>(), any::<u8>()), 0..4)) {
        let mut head = Vec::new();
        hello.encode(&mut head);
        for (at, value) in bends {
            let at = usize::from(at) % head.len();
            head[at] = value;
        }
        let limits = HelloLimits { meta: 30, name: 6, labels: 2, names: 4, ..HelloLimits::default() };
        let index = Hello::pool_index_of(&head);
        if let Ok(hello) = Hello::decode(&head, &limits) {
            prop_assert_eq!(hello.check(&limits), Ok(()));
            prop_assert_eq!(index, Some(hello.pool_index));
        }
        let _ = Welcome::decode(&head);
    }
}
