use std::{collections::BTreeSet, fs, path::Path};

use frontier_ops::{
    config::{
        ByteSize, ConfigError, Environment, Loaded, LogFile, LogFlags, LogFormat, LogLevel, LogOutput, State,
        UnknownKeys,
    },
    tls::testing::{Ca, Dir},
};

use super::*;

const FILE_KEYS: &str = "\
edgebound:
  listen: {network: tcp, addr: 10.0.0.1:1, advertised_addr: 'edge.example:1'}
  edgeid_alloc_when_no_idservice_on: true
  wait_for_id_service: 3s
servicebound:
  listen: {network: tcp, addr: '[::1]:2', protocols: [native, geminio]}
exchange: {hashby: srcip}
limits: {handshake: 5s, body: 1MiB, sessions: 7, memory: 64MiB}
drain: {accept_for: 1s, seconds: 9}
shards: 3
tls: {threads: 2}
";

/// Loads a text as if it stood in a file.
fn load_text(text: &str) -> Result<Loaded<Config>, ConfigError> {
    load_with(text, Environment::default(), Overrides::default(), UnknownKeys::Error)
}

fn load_with(
    text: &str,
    env: Environment,
    flags: Overrides,
    unknown: UnknownKeys,
) -> Result<Loaded<Config>, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("frontier.yaml");
    fs::write(&path, text).unwrap();
    load(&Sources { file: Some(&path), env, flags, unknown_keys: unknown })
}

/// `(line, key, message)` of every error.
fn errors(text: &str) -> Vec<(Option<u32>, String, String)> {
    let error = load_text(text).expect_err("must be refused");
    error.problems.errors().map(|p| (p.line, p.key.clone(), p.message.clone())).collect()
}

/// The messages of the warnings, with their keys; errors are not expected.
fn warnings(text: &str) -> Vec<(String, String)> {
    let loaded = load_text(text).unwrap();
    loaded.problems.warnings().map(|p| (p.key.clone(), p.message.clone())).collect()
}

fn only_error(text: &str) -> (Option<u32>, String, String) {
    let mut errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

// --- defaults ---

#[test]
fn without_a_file_everything_a_first_look_needs_is_on() {
    let config = load(&Sources::default()).unwrap().config;
    assert_eq!(config, Config::default());
    assert_eq!(config.edgebound.listen.port.addr.as_str(), "0.0.0.0:30012");
    assert_eq!(config.servicebound.listen.port.addr.as_str(), "0.0.0.0:30011");
    assert_eq!(config.controlplane.listen.addr.as_str(), "127.0.0.1:30010");
    assert_eq!(config.observability.addr.as_str(), "0.0.0.0:9091");
    assert!(config.edgebound.edgeid_alloc_when_no_idservice_on && config.controlplane.enable);
}

#[test]
fn with_a_file_the_go_defaults_hold() {
    for empty in ["", "# nothing\n", "edgebound:\nservicebound: ~\nmqm: {}\n"] {
        let config = load_text(empty).unwrap().config;
        assert_eq!(config, Config::of_empty_file(), "{empty:?}");
        assert!(!config.edgebound.edgeid_alloc_when_no_idservice_on && !config.controlplane.enable);
    }
}

#[test]
fn limits_have_their_documented_defaults() {
    let text = serde_json::to_value(Config::default().limits).unwrap();
    let expected = serde_json::json!({
        "handshake": "10s", "head": "16KiB", "meta": "16KiB", "body": "16MiB", "sessions": 1_000_000,
        "streams_per_session": 128, "requests_in_flight": 1024, "messages_in_flight": 1024, "outbox": "4MiB",
        "registrations": 1024, "accept_rate": 10_000, "stall": "30s", "memory": null, "handshakes": 1024,
        "heartbeat": "20s", "control_frames": 10_000, "call_timeout": "30s", "max_call_timeout": "1h",
        "pipes": 1024, "pipe_idle": "10m", "unused_streams": 32,
    });
    assert_eq!(text, expected);
    assert!(Config::default().limits.memory_budget() > ByteSize::mib(16));
}

#[test]
fn counts_of_threads_are_at_least_one() {
    let mut config = Config::default();
    assert!(config.shard_count().get() >= 1 && config.tls_threads().get() >= 1);
    (config.shards, config.tls.threads) = (5, 4);
    assert_eq!((config.shard_count().get(), config.tls_threads().get()), (5, 4));
}

// --- reading ---

#[test]
fn keys_of_a_file_are_read() {
    let config = load_text(FILE_KEYS).unwrap().config;
    assert_eq!(config.edgebound.listen.port.addr.as_str(), "10.0.0.1:1");
    assert_eq!(config.edgebound.listen.port.advertised_addr, "edge.example:1");
    assert_eq!(config.edgebound.wait_for_id_service, Duration::from_secs(3));
    assert_eq!(config.servicebound.listen.protocols, Some(vec![Protocol::Native, Protocol::Geminio]));
    assert_eq!(config.exchange.hashby, HashBy::SrcIp);
    assert_eq!((config.limits.handshake, config.limits.body), (Duration::from_secs(5), ByteSize::mib(1)));
    assert_eq!((config.limits.sessions, config.limits.memory), (7, Some(ByteSize::mib(64))));
    assert_eq!((config.drain.seconds, config.drain.accept_for), (9, Duration::from_secs(1)));
    assert_eq!((config.shards, config.tls.threads), (3, 2));
}

#[test]
fn the_effective_configuration_reads_back_the_same() {
    for text in ["", FILE_KEYS, &sample("frontier_all.yaml")] {
        let config = load_text(text).unwrap().config;
        assert_eq!(load_text(&config.effective()).unwrap().config, config);
    }
}

#[test]
fn yaml_1_1_booleans_and_numbers_as_text_are_understood() {
    let config =
        load_text("edgebound: {edgeid_alloc_when_no_idservice_on: yes}\ndaemon: {frontier_id: 0123}\n");
    let config = config.unwrap().config;
    assert!(config.edgebound.edgeid_alloc_when_no_idservice_on);
    assert_eq!(config.daemon.frontier_id, "0123");
}

#[test]
fn hash_policies_are_named_and_unknown_ones_warn() {
    for (text, policy) in [
        ("edgeid", HashBy::EdgeId),
        ("srcip", HashBy::SrcIp),
        ("random", HashBy::Random),
        ("least_in_flight", HashBy::LeastInFlight),
        ("''", HashBy::EdgeId),
    ] {
        let loaded = load_text(&format!("exchange: {{hashby: {text}}}\n")).unwrap();
        assert_eq!(loaded.config.exchange.hashby, policy, "{text}");
        assert_eq!(loaded.problems.list(), [], "{text}");
    }
    let loaded = load_text("exchange:\n  hashby: roundrobin\n").unwrap();
    assert_eq!(loaded.config.exchange.hashby, HashBy::EdgeId);
    let warning = loaded.problems.warnings().next().unwrap();
    assert_eq!((warning.line, warning.key.as_str()), (Some(2), "exchange.hashby"));
    assert!(
        warning.message.starts_with("unknown policy \"roundrobin\" acts as edgeid"),
        "{}",
        warning.message
    );
}

// --- problems ---

#[test]
fn all_problems_are_reported_at_once_with_their_lines() {
    let text = "\
edgebound:
  listen:
    network: udp
    addr: nowhere
  edgeid_alloc_when_no_idservice_on: perhaps
limits:
  handshake: 10
  sessions: -1
  body: 1
log: {level: loud}
dao: {backend: mysql}
";
    let found = errors(text);
    let places: BTreeSet<(u32, &str)> =
        found.iter().map(|(line, key, _)| (line.unwrap(), key.as_str())).collect();
    let expected = BTreeSet::from([
        (3, "edgebound.listen.network"),
        (4, "edgebound.listen.addr"),
        (5, "edgebound.edgeid_alloc_when_no_idservice_on"),
        (7, "limits.handshake"),
        (8, "limits.sessions"),
        (9, "limits.body"),
        (10, "log.level"),
        (11, "dao.backend"),
    ]);
    assert_eq!(places, expected, "{found:#?}");
}

#[test]
fn problems_print_with_file_line_and_key() {
    let error = load_text("limits:\n  stall: soon\n").unwrap_err();
    let text = error.to_string();
    assert!(text.contains("frontier.yaml:2: limits.stall: expected a duration"), "{text}");
}

#[test]
fn unknown_keys_name_the_nearest_one() {
    let (line, key, message) = only_error("edgebound:\n  lisen:\n    addr: x\n");
    assert_eq!((line, key.as_str()), (Some(2), "edgebound.lisen"));
    assert_eq!(message, "unknown key; did you mean `listen`?");
    assert_eq!(only_error("hashby: random\n").2, "unknown key; did you mean `exchange.hashby`?");
    let (_, _, message) = only_error("drain: {colour: red}\n");
    assert_eq!(message, "unknown key; known here: accept_for, seconds");
}

#[test]
fn unknown_keys_can_be_warnings() {
    let loaded =
        load_with("x: 1\n", Environment::default(), Overrides::default(), UnknownKeys::Warn).unwrap();
    assert_eq!(loaded.problems.warnings().count(), 1);
}

#[test]
fn keys_given_twice_are_refused() {
    let (line, key, message) = only_error("shards: 1\nshards: 2\n");
    assert_eq!(
        (line, key.as_str(), message.as_str()),
        (Some(2), "shards", "given twice, on line 1 and here")
    );
}

#[test]
fn wrong_kinds_say_what_was_expected() {
    let (_, key, message) = only_error("edgebound: [1]\n");
    assert_eq!((key.as_str(), message.as_str()), ("edgebound", "expected a block of keys, found a list"));
    let (_, key, message) = only_error("edgebound: {listen: {tls: {certs: {cert: a}}}}\n");
    assert_eq!(
        (key.as_str(), message.as_str()),
        ("edgebound.listen.tls.certs", "expected a list, found a block of keys")
    );
    let (_, _, message) = only_error("shards: many\n");
    assert_eq!(message, "expected a whole number (usize), found \"many\"");
    assert!(only_error("a: [\n").2.starts_with("not YAML: "));
}

#[test]
fn networks_other_than_tcp_are_refused() {
    let (_, _, message) = only_error("edgebound: {listen: {network: udp}}\n");
    assert!(message.starts_with("udp is not supported"), "{message}");
    assert_eq!(only_error("servicebound: {listen: {network: sctp}}\n").2, "unsupported network: sctp");
    assert_eq!(only_error("servicebound: {listen: {network: ''}}\n").2, "unsupported network: ");
    assert_eq!(
        load_text("controlplane: {enable: false, listen: {network: udp}}\n").unwrap().problems.list(),
        []
    );
}

#[test]
fn ports_must_differ() {
    let (line, key, message) = only_error("controlplane: {enable: true, listen: {addr: '0.0.0.0:30012'}}\n");
    assert_eq!((line, key.as_str()), (Some(1), "controlplane.listen.addr"));
    assert_eq!(message, "0.0.0.0:30012 is the address of edgebound.listen.addr (0.0.0.0:30012) already");
    for addr in [":30012", "[::]:30012", "127.0.0.1:30012"] {
        let (_, key, _) =
            only_error(&format!("controlplane: {{enable: true, listen: {{addr: '{addr}'}}}}\n"));
        assert_eq!(key, "controlplane.listen.addr", "{addr}");
    }
    let two = "edgebound: {listen: {addr: '127.0.0.1:9'}}\nservicebound: {listen: {addr: '127.0.0.2:9'}}\n";
    assert!(load_text(two).is_ok());
    let free = "edgebound: {listen: {addr: '127.0.0.1:0'}}\nservicebound: {listen: {addr: '127.0.0.1:0'}}\n";
    assert!(load_text(free).is_ok());
}

#[test]
fn limits_are_bounded() {
    for (text, key) in [
        ("head: 16385", "head"),
        ("head: 1023, meta: 0", "head"),
        ("meta: 17KiB", "meta"),
        ("body: 65535", "body"),
        ("body: 2GiB", "body"),
        ("sessions: 0", "sessions"),
        ("streams_per_session: 0", "streams_per_session"),
        ("unused_streams: 0", "unused_streams"),
        ("requests_in_flight: 0", "requests_in_flight"),
        ("messages_in_flight: 0", "messages_in_flight"),
        ("registrations: 0", "registrations"),
        ("handshakes: 0", "handshakes"),
        ("outbox: 1KiB", "outbox"),
        ("stall: 0s", "stall"),
        ("handshake: 2h", "handshake"),
        ("heartbeat: 100ms", "heartbeat"),
        ("memory: 1MiB", "memory"),
        ("control_frames: 1", "control_frames"),
        ("call_timeout: 50ms", "call_timeout"),
        ("call_timeout: 2h", "call_timeout"),
        ("max_call_timeout: 20s", "call_timeout"),
        ("max_call_timeout: 2d", "max_call_timeout"),
        ("call_timeout: 100ms, max_call_timeout: 500ms", "max_call_timeout"),
    ] {
        assert_eq!(only_error(&format!("limits: {{{text}}}\n")).1, format!("limits.{key}"), "{text}");
    }
    assert!(load_text("limits: {accept_rate: 0, head: 16KiB, body: 64KiB, meta: 0}\n").is_ok());
    assert!(load_text("limits: {call_timeout: 1d, max_call_timeout: 1d}\n").is_ok());
}

#[test]
fn protocols_are_checked() {
    let (_, key, message) = only_error("edgebound: {listen: {protocols: [gopher]}}\n");
    assert_eq!(key, "edgebound.listen.protocols");
    assert_eq!(message, "line 1: unknown protocol \"gopher\", options: native, geminio, http, mqtt");
    let nothing = errors("edgebound: {listen: {protocols: []}}\n");
    assert!(nothing[0].2.starts_with("nothing could connect"), "{nothing:?}");
    assert_eq!(
        only_error("controlplane: {listen: {protocols: [native]}}\n").1,
        "controlplane.listen.protocols"
    );
}

#[test]
fn sources_are_checked_as_queues_are_and_for_what_would_go_round() {
    let redis = "redis: {addrs: ['r:6379'], stream: q, group: g}";
    let amqp = "amqp: {addrs: ['a:5672'], queue: q}";
    let good = format!(
        "mqm: {{sources: [{{name: one, dead_letter: dead, {redis}}}, {{name: two, dead_letter: dead, {amqp}}}]}}\n"
    );
    let config = load_text(&good).unwrap().config;
    let kinds: Vec<_> = config.mqm.sources.iter().map(|source| source.kind().unwrap()).collect();
    assert_eq!(kinds, [frontier_queues::config::QueueKind::Redis, frontier_queues::config::QueueKind::Amqp]);
    let in_cluster = format!("{good}frontlas: {{enable: true, dial: {{addrs: ['atlas:40012']}}}}\n");
    let (_, key, message) = only_error(&in_cluster);
    assert!(key == "mqm.sources" && message.contains("frontlas.enable"), "{key}: {message}");
    let wrong = |source: &str| errors(&format!("mqm: {{sources: [{{{source}}}]}}\n"))[0].clone();
    for (source, key, text) in [
        (format!("dead_letter: dead, {redis}"), "mqm.sources[0].name", "must have 1 to 64"),
        (format!("name: 'a b', dead_letter: dead, {redis}"), "mqm.sources[0].name", "must have 1 to 64"),
        (
            "name: a, dead_letter: dead".to_owned(),
            "mqm.sources[0]",
            "exactly one of amqp, redis; 0 have them",
        ),
        (format!("name: a, dead_letter: dead, {redis}, {amqp}"), "mqm.sources[0]", "2 have them"),
        (format!("name: a, dead_letter: q, {redis}"), "mqm.sources[0].dead_letter", "go round"),
        (format!("name: a, dead_letter: q, {amqp}"), "mqm.sources[0].dead_letter", "go round"),
        (
            format!("name: a, dead_letter: d, max_deliveries: 0, {redis}"),
            "mqm.sources[0].max_deliveries",
            "1 and 1000",
        ),
        (format!("name: a, dead_letter: d, done_timeout: 2h, {redis}"), "mqm.sources[0].done_timeout", "1h"),
        (
            format!("name: a, dead_letter: d, max_in_flight: 70000, {redis}"),
            "mqm.sources[0].max_in_flight",
            "65535",
        ),
        (
            format!("name: a, dead_letter: d, {}", redis.replace("r:6379", "r")),
            "mqm.sources[0].redis.addrs[0]",
            "has no port",
        ),
        (
            format!("name: a, dead_letter: d, {}", redis.replace("stream: q, ", "")),
            "mqm.sources[0].redis.stream",
            "is missing",
        ),
        (
            format!("name: a, dead_letter: d, {}", amqp.replace("queue: q", "tls: {cert: /x}, queue: q")),
            "mqm.sources[0].amqp.tls.cert",
            "needs its key",
        ),
    ] {
        let (_, found, message) = wrong(&source);
        assert!(found == key && message.contains(text), "{source}: {found}: {message}");
    }
    let twice = |name: &str| format!("mqm: {{sources: [{{name: a, {redis}}}, {{name: {name}, {redis}}}]}}\n");
    assert_eq!(errors(&twice("b"))[0].1, "mqm.sources[1]");
    assert_eq!(errors(&twice("a"))[0].1, "mqm.sources[1].name");
    let none = warnings(&format!("mqm: {{sources: [{{name: a, {redis}}}]}}\n"));
    assert_eq!(none[0].0, "mqm.sources[0].dead_letter");
}

#[test]
fn queues_need_addresses_and_topics_that_can_be_told_apart() {
    let good = "mqm: {redis: {enable: true, addrs: ['r:6379'], producer: {channels: [a], patterns: ['a/+', 'b/#'], \
                map: 'x.{label.region:none}'}}}\n";
    assert!(warnings(good).is_empty());
    for block in ["kafka", "amqp", "nats", "nsq", "redis"] {
        let found = errors(&format!("mqm: {{{block}: {{enable: true}}}}\n"));
        assert_eq!(
            (found[0].1.as_str(), found[0].2.as_str()),
            (&*format!("mqm.{block}.addrs"), "empty address")
        );
    }
    let long = format!("channels: [{}]", "x".repeat(256));
    for (producer, key) in [
        ("patterns: ['a/#/b']", "patterns"),
        ("patterns: ['a+']", "patterns"),
        ("patterns: ['a', '']", "patterns"),
        ("channels: [a], map: '{colour}'", "map"),
        ("channels: [a], map: '{topic'", "map"),
        (&long, "topics"),
    ] {
        let text = format!("mqm: {{redis: {{enable: true, addrs: ['r:6379'], producer: {{{producer}}}}}}}\n");
        assert_eq!(only_error(&text).1, format!("mqm.redis.producer.{key}"), "{producer}");
    }
    // Two queues may take one topic: they share it.
    let two = "mqm: {redis: {enable: true, addrs: ['r:6379'], producer: {channels: [a]}}, \
               nats: {enable: true, addrs: ['n:4222'], producer: {subjects: [a]}}}\n";
    assert!(warnings(two).is_empty());
    let none = warnings("mqm: {redis: {enable: true, addrs: ['r:6379']}}\n");
    assert_eq!((none[0].0.as_str(), none[0].1.as_str()), ("mqm.redis.producer", "takes no topic"));
}

#[test]
fn queue_blocks_are_read_and_checked_though_off() {
    let config = load_text(
        "mqm:\n  kafka: {producer: {idepotent: yes, requiredacks: -1}}\n  amqp:\n    queueBindings: [{queuename: q}]\n    \
         queues: [{name: q, exclustive: true}]\n  nats: {jetStream: {name: s}}\n  redis: {password: 0123, db: 2}\n",
    )
    .unwrap()
    .config;
    assert!(config.mqm.kafka.producer.idempotent && config.mqm.amqp.queues[0].exclusive);
    assert_eq!(config.mqm.kafka.producer.required_acks, -1);
    assert_eq!(config.mqm.amqp.queuebindings[0].queue_name, "q");
    assert_eq!(config.mqm.nats.jetstream.name, "s");
    assert_eq!((config.mqm.redis.login.password.expose(), config.mqm.redis.db), ("0123", 2));
    for (text, key) in [
        ("kafka: {producer: {compression: rar}}", "kafka.producer.compression"),
        ("amqp: {exchanges: [{kind: direct}]}", "amqp.exchanges[0].name"),
        ("amqp: {exchanges: [{name: e, kind: odd}]}", "amqp.exchanges[0].kind"),
        ("amqp: {queuebindings: [{binding_key: k}]}", "amqp.queuebindings[0].queue_name"),
        ("amqp: {producer: {delivery_mode: 3}}", "amqp.producer.delivery_mode"),
        ("amqp: {producer: {priority: 10}}", "amqp.producer.priority"),
        ("nats: {jetstream: {enable: true}}", "nats.jetstream.name"),
    ] {
        assert_eq!(only_error(&format!("mqm: {{{text}}}\n")).1, format!("mqm.{key}"), "{text}");
    }
}

#[test]
fn the_registry_needs_addresses_and_no_interval() {
    assert!(warnings("frontlas: {enable: true, dial: {addr: 'lb:40012'}}\n").is_empty());
    let found = warnings("frontlas: {metrics: {enable: true, interval: 5}}\n");
    assert_eq!(found.len(), 2);
    assert!(found[1].1.contains("totals go with every renewal"), "{found:?}");
    assert_eq!(only_error("frontlas: {enable: true}\n").2, "illegal dial addrs: none is given");
    assert_eq!(
        load_text("frontlas: {enable: true, dial: {addr: 'lb:40012'}}\n").unwrap().config.frontlas.dial.addrs,
        ["lb:40012"]
    );
}

#[test]
fn bypass_needs_addresses_and_knows_its_old_switch() {
    assert_eq!(only_error("edgebound: {bypass_enable: true}\n").2, "illegal bypass addrs: none is given");
    let old = load_text("edgebound: {bypass: {enable: true, network: tcp, addr: '10.0.0.1:8443'}}\n")
        .unwrap()
        .config;
    assert!(old.edgebound.bypass_enable);
    assert_eq!(old.edgebound.bypass.addrs, ["10.0.0.1:8443"]);
    let both = load_text("edgebound: {bypass_enable: false, bypass: {enable: true}}\n").unwrap().config;
    assert!(!both.edgebound.bypass_enable);
}

#[test]
fn waiting_for_an_id_ends_within_the_handshake() {
    assert_eq!(only_error("edgebound: {wait_for_id_service: 11s}\n").1, "edgebound.wait_for_id_service");
}

#[test]
fn keys_without_effect_warn_unless_they_are_zero() {
    let text = "daemon: {pprof: {enable: true, addr: 'x:1', cpu_profile_rate: 0}}\nobservability: {enable: false}\n\
                dao: {backend: sqlite3, debug: true}\nlog: {verbosity: 4, logtostderr: false}\n\
                edgebound: {listen: {tls: {insecure_skip_verify: true}}}\n\
                mqm: {amqp: {producer: {headers: {a: 1}}}}\n";
    let found: Vec<String> =
        warnings(text).into_iter().map(|(key, message)| format!("{key} {message}")).collect();
    let keys: BTreeSet<&str> = found.iter().filter_map(|line| line.split(' ').next()).collect();
    let expected = [
        "daemon.pprof.addr",
        "daemon.pprof.enable",
        "dao.backend",
        "dao.debug",
        "edgebound.listen.tls.insecure_skip_verify",
        "log.verbosity",
        "mqm.amqp.producer.headers",
        "observability.enable",
    ];
    assert_eq!(keys, BTreeSet::from(expected), "{found:#?}");
    assert!(found.iter().all(|line| line.contains("has no effect: ")), "{found:#?}");
}

// --- TLS and other files ---

#[test]
fn tls_needs_a_certificate_that_can_be_read() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let good = dir.pair("a", &ca.issue("a", &["a.example"]));
    let other = dir.pair("b", &ca.issue("b", &["b.example"]));
    let [pem, key, other, authority] =
        [good.cert, good.key, other.key, dir.write("ca.crt", &ca.pem)].map(|path| path.display().to_string());
    let pair = format!("{{cert: {pem}, key: {key}}}");
    let on = |rest: &str| format!("edgebound: {{listen: {{tls: {{enable: true, {rest}}}}}}}\n");

    assert_eq!(only_error(&on("certs: []")).1, "edgebound.listen.tls.certs");
    assert!(load_text(&on(&format!("certs: [{pair}]"))).is_ok());
    for (bad, why) in [
        (format!("{{cert: /nowhere, key: {key}}}"), "left out: /nowhere: "),
        (format!("{{cert: {key}, key: {key}}}"), "no certificate found"),
        (format!("{{cert: {pem}, key: {other}}}"), "keys may not be consistent"),
    ] {
        let partly = warnings(&on(&format!("certs: [{bad}, {pair}]")));
        assert_eq!(partly[0].0, "edgebound.listen.tls.certs[0]");
        assert!(partly[0].1.starts_with("left out: ") && partly[0].1.contains(why), "{partly:?}");
        assert!(load_text(&on(&format!("certs: [{bad}]"))).is_err(), "nothing is left");
    }

    assert_eq!(only_error(&on(&format!("mtls: true, certs: [{pair}]"))).1, "edgebound.listen.tls.ca_certs");
    let missing = on(&format!("mtls: true, certs: [{pair}], ca_certs: [/nowhere]"));
    assert!(only_error(&missing).2.starts_with("/nowhere: "));
    let garbled = on(&format!("mtls: true, certs: [{pair}], ca_certs: [{key}]"));
    assert!(only_error(&garbled).2.contains("no certificate found"));
    assert!(load_text(&on(&format!("mtls: true, certs: [{pair}], ca_certs: [{authority}]"))).is_ok());
}

#[test]
fn tls_that_is_off_is_not_checked() {
    let off = "servicebound: {listen: {tls: {enable: false, mtls: true, certs: [{cert: a, key: b}], ca_certs: [c]}}}\n";
    assert_eq!(load_text(off).unwrap().problems.list(), []);
}

#[test]
fn secrets_come_from_values_or_files() {
    let dir = tempfile::tempdir().unwrap();
    let (token, key) = (dir.path().join("token"), dir.path().join("key"));
    let identities = dir.path().join("identities.yaml");
    fs::write(&token, "s3cret\n").unwrap();
    fs::write(&identities, "tokens: []\n").unwrap();
    fs::write(&key, "00".repeat(32)).unwrap();
    let text = format!(
        "controlplane: {{enable: true, kick_token: {}}}\nidentity: {{key: {}}}\nauth: {{tokens: {}}}\n",
        token.display(),
        key.display(),
        identities.display(),
    );
    let config = load_text(&text).unwrap().config;
    assert_eq!(config.controlplane.kick_token.as_ref().unwrap().load().unwrap().expose(), "s3cret");
    assert_eq!(config.identity.load_key().unwrap(), Some(vec![0; 32]));
    assert_eq!(config.auth.tokens.as_deref(), Some(identities.as_path()));

    let inline = format!(
        "controlplane: {{enable: true, kick_token: s3cret}}\nidentity: {{key: {}}}\n",
        "ab".repeat(32)
    );
    let config = load_text(&inline).unwrap().config;
    assert_eq!(config.controlplane.kick_token.as_ref().unwrap().load().unwrap().expose(), "s3cret");
    assert_eq!(config.identity.load_key().unwrap(), Some(vec![0xab; 32]));
    let shown = format!("{}{config:?}", config.effective());
    assert!(!shown.contains("s3cret") && !shown.contains("abab"), "{shown}");
}

#[test]
fn secrets_that_cannot_be_used_are_refused() {
    let keys = |text: &str| errors(text).into_iter().map(|(_, key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys("controlplane: {enable: true, kick_token: /nowhere}\n"), ["controlplane.kick_token"]);
    assert_eq!(keys("controlplane: {enable: true, kick_token: ''}\n"), ["controlplane.kick_token"]);
    assert_eq!(keys("identity: {key: /nowhere}\n"), ["identity.key"]);
    assert_eq!(keys("identity: {key: abcd}\n"), ["identity.key"]);
    assert_eq!(keys("auth: {tokens: /nowhere}\n"), ["auth.tokens"]);
    let dir = tempfile::tempdir().unwrap();
    let short = dir.path().join("key");
    fs::write(&short, "too short").unwrap();
    let (_, _, message) = only_error(&format!("identity: {{key: {}}}\n", short.display()));
    assert_eq!(message, "the key has 9 bytes; at least 32 are needed");
}

#[test]
fn identities_are_read_and_checked_with_their_own_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identities.yaml");
    let path_text = path.display().to_string();
    fs::write(&path, "tokens:\n- role: robot\n  sha256: abc\n").unwrap();
    let found = errors(&format!("limits: {{}}\nauth:\n  tokens: {path_text}\n"));
    let places: Vec<_> = found.iter().map(|(line, key, _)| (*line, key.as_str())).collect();
    assert_eq!(places, [(Some(3), "auth.tokens"), (Some(3), "auth.tokens")]);
    let messages: Vec<_> = found.iter().map(|(_, _, message)| message.as_str()).collect();
    let begins = |line: u32, key: &str| {
        messages.iter().any(|message| message.starts_with(&format!("{path_text}:{line}: {key}: ")))
    };
    assert!(begins(2, "tokens[0].role") && begins(3, "tokens[0].sha256"), "{messages:?}");
    let (_, _, message) = only_error("auth: {tokens: /nowhere}\n");
    assert!(message.starts_with("cannot read /nowhere: "), "{message}");
}

#[test]
fn pipes_have_their_limits() {
    for (text, good) in [
        ("limits: {pipes: 1, pipe_idle: 1s}\n", true),
        ("limits: {pipe_idle: 1d}\n", true),
        ("limits: {pipes: 0}\n", false),
        ("limits: {pipe_idle: 999ms}\n", false),
        ("limits: {pipe_idle: 25h}\n", false),
    ] {
        assert_eq!(load_text(text).is_ok(), good, "{text}");
    }
}

#[test]
fn hex_is_decoded_strictly() {
    assert_eq!(decode_hex("00fFa5"), Some(vec![0, 255, 0xa5]));
    for text in ["0", "0g", "é0", "0x00"] {
        assert_eq!(decode_hex(text), None, "{text}");
    }
}

#[test]
fn files_that_cannot_be_read_stop_the_start() {
    let missing = load(&Sources { file: Some(Path::new("/nowhere/frontier.yaml")), ..Sources::default() });
    assert!(missing.unwrap_err().to_string().starts_with("cannot read /nowhere/frontier.yaml: "));
    let long = load_text(&"# long\n".repeat(200_000)).unwrap_err();
    assert!(long.to_string().contains("longer than 1 MiB"));
}

// --- environment and flags ---

fn with_env(text: &str, env: Environment) -> Result<Loaded<Config>, ConfigError> {
    load_with(text, env, Overrides::default(), UnknownKeys::Error)
}

#[test]
fn the_environment_wins_over_the_file() {
    let env = Environment::from([
        ("FRONTIER_EDGEBOUND_PORT", "4012"),
        ("FRONTIER_SERVICEBOUND_PORT", "4011"),
        ("FRONTIER_EDGEBOUND_ADVERTISED_ADDR", "192.0.2.1:31012"),
        ("NODE_NAME", "n1"),
        ("FRONTLAS_ADDR", "atlas:40012"),
        ("FRONTIER_DRAIN_SECONDS", "12"),
    ]);
    let text = "edgebound: {listen: {addr: '10.0.0.1:1'}}\ndaemon: {frontier_id: mine}\ndrain: {seconds: 3, accept_for: 1s}\n\
                frontlas: {dial: {addrs: [a:1, b:2]}}\n";
    let config = with_env(text, env).unwrap().config;
    assert_eq!(config.edgebound.listen.port.addr.as_str(), "10.0.0.1:4012");
    assert_eq!(config.edgebound.listen.port.advertised_addr, "192.0.2.1:31012");
    assert_eq!(config.servicebound.listen.port.addr.as_str(), "0.0.0.0:4011");
    assert_eq!(config.daemon.frontier_id, "frontier-n1");
    assert!(config.frontlas.enable);
    assert_eq!(config.frontlas.dial.addrs, ["atlas:40012"]);
    assert_eq!(config.drain.seconds, 12);
}

#[test]
fn the_name_of_a_pod_wins_over_that_of_its_node() {
    let env = Environment::from([("NODE_NAME", "n1"), ("FRONTIER_ID", "frontier-0")]);
    assert_eq!(with_env("", env).unwrap().config.daemon.frontier_id, "frontier-0");
}

#[test]
fn empty_variables_count_as_not_set() {
    let env =
        Environment::from([("NODE_NAME", ""), ("FRONTIER_ID", ""), ("LOG_LEVEL", ""), ("FRONTLAS_ADDR", "")]);
    assert_eq!(with_env("", env).unwrap().config, Config::of_empty_file());
}

#[test]
fn bad_variables_are_errors_except_the_drain_time() {
    let env = Environment::from([("FRONTIER_EDGEBOUND_PORT", "http"), ("LOG_FORMAT", "xml")]);
    let error = with_env("", env).unwrap_err().to_string();
    assert_eq!(
        error,
        "FRONTIER_EDGEBOUND_PORT: \"http\" is not a port (0 to 65535)\n\
         LOG_FORMAT: unsupported log format \"xml\", options: text, json"
    );
    for bad in ["-1", "soon", "99999999999"] {
        let loaded =
            with_env("drain: {seconds: 40}\n", Environment::from([("FRONTIER_DRAIN_SECONDS", bad)])).unwrap();
        assert_eq!(loaded.config.drain.seconds, 30, "{bad}");
        assert_eq!(loaded.problems.warnings().count(), 1, "{bad}");
    }
}

#[test]
fn log_settings_come_from_flag_then_environment_then_file() {
    let text = "log: {level: error, output: stderr, format: json, file: {path: /from/file}}\n";
    let env = || {
        Environment::from([
            ("LOG_LEVEL", "warn"),
            ("LOG_OUTPUT", "both"),
            ("LOG_FORMAT", "text"),
            ("LOG_FILE", "/from/env"),
        ])
    };
    let flags = Overrides {
        log: LogFlags {
            level: Some("debug".into()),
            output: Some("file".into()),
            format: Some("json".into()),
            file: Some("/from/flag".into()),
        },
        ..Overrides::default()
    };
    let log = |config: Config| (config.log.level, config.log.output, config.log.format, config.log.file.path);
    let file_only = load_text(text).unwrap().config;
    assert_eq!(log(file_only), (LogLevel::Error, LogOutput::Stderr, LogFormat::Json, "/from/file".into()));
    let with_env = load_with(text, env(), Overrides::default(), UnknownKeys::Error).unwrap().config;
    assert_eq!(log(with_env), (LogLevel::Warn, LogOutput::Both, LogFormat::Text, "/from/env".into()));
    let with_flags = load_with(text, env(), flags, UnknownKeys::Error).unwrap().config;
    assert_eq!(log(with_flags), (LogLevel::Debug, LogOutput::File, LogFormat::Json, "/from/flag".into()));
}

#[test]
fn log_names_are_checked_with_the_known_texts() {
    assert_eq!(
        only_error("log: {level: x}\n").2,
        "unsupported log level \"x\", options: debug, info, warn, error"
    );
    assert_eq!(
        only_error("log: {output: x}\n").2,
        "unsupported log output \"x\", options: stdout, stderr, file, both"
    );
    assert_eq!(only_error("log: {format: x}\n").2, "unsupported log format \"x\", options: text, json");
    let flags = Overrides {
        log: LogFlags { level: Some("x".into()), ..LogFlags::default() },
        ..Overrides::default()
    };
    let error = load(&Sources { flags, ..Sources::default() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--loglevel: unsupported log level \"x\", options: debug, info, warn, error"
    );
}

#[test]
fn log_files_have_defaults_for_zero_and_less() {
    let text =
        "log: {level: '', file: {path: '', max_size: 0, max_backups: -3, max_age: 0, compress: true}}\n";
    let log = load_text(text).unwrap().config.log;
    assert_eq!(log, Log { file: LogFile { compress: true, ..LogFile::default() }, ..Log::default() });
    assert_eq!(log.file.path, Path::new("/var/log/frontier/frontier.log"));
    assert_eq!((log.file.max_size, log.file.max_backups, log.file.max_age), (100, 5, 30));
}

#[test]
fn the_file_limit_flag_overwrites_the_key() {
    let text = "daemon: {rlimit: {enable: true, nofile: 102400}}\n";
    let rlimit = |nofile| {
        let flags = Overrides { nofile, ..Overrides::default() };
        load_with(text, Environment::default(), flags, UnknownKeys::Error).unwrap().config.daemon.rlimit
    };
    assert_eq!(rlimit(None), RLimit { enable: true, nofile: Some(102_400) });
    assert_eq!(rlimit(Some(5000)), RLimit { enable: true, nofile: Some(5000) });
    assert_eq!(rlimit(Some(-1)), RLimit { enable: true, nofile: None });
    let flags = Overrides { nofile: Some(5000), shards: Some(2), ..Overrides::default() };
    let config = load(&Sources { flags, ..Sources::default() }).unwrap().config;
    assert_eq!((config.daemon.rlimit, config.shards), (RLimit { enable: true, nofile: Some(5000) }, 2));
}

// --- files of the Go system ---

fn sample(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/config").join(name)).unwrap()
}

#[test]
fn the_shipped_samples_start() {
    for name in [
        "frontier.yaml",
        "frontier_all.yaml",
        "frontier_1.0.yaml",
        "frontier_helm.yaml",
        "frontier_early.yaml",
    ] {
        let loaded = load_text(&sample(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(loaded.config.edgebound.edgeid_alloc_when_no_idservice_on, "{name}");
    }
    let config = load_text(&sample("frontier.yaml")).unwrap();
    assert_eq!(config.problems.list(), []);
    let mut expected = Config::default();
    expected.controlplane.enable = false;
    assert_eq!(config.config, expected);
}

#[test]
fn the_shipped_udp_sample_is_refused_in_clear_words() {
    let found = errors(&sample("frontier_udp.yaml"));
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|(_, key, message)| key.ends_with(".network") && message.contains("use tcp")));
}

// --- documentation ---

#[test]
fn known_keys_cover_the_struct() {
    let known: BTreeSet<&str> = known_keys().iter().map(|known| known.path.as_str()).collect();
    let mut paths = Vec::new();
    leaves("", &serde_json::to_value(Config::default()).unwrap(), &mut paths);
    for (path, _) in &paths {
        assert!(known.contains(path.as_str()), "{path} is never read");
    }
    assert!(known.contains("edgebound.listen.tls.certs[].key") && known.contains("mqm.amqp.queueBindings"));
}

/// Paths and values of everything that is not a block.
fn leaves(path: &str, value: &serde_json::Value, out: &mut Vec<(String, serde_json::Value)>) {
    match value.as_object() {
        Some(block) => {
            for (key, value) in block {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(&path, value, out);
            }
        }
        None => out.push((path.to_owned(), value.clone())),
    }
}

/// The first cells of all tables of the documentation, with the rows.
fn documented() -> std::collections::BTreeMap<String, Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split(" |").map(|cell| cell.trim_start_matches('|').trim().to_owned()));
    cells
        .map(|cells| {
            let cells: Vec<String> = cells.collect();
            (cells[0].trim_matches('`').to_owned(), cells)
        })
        .collect()
}

/// Blocks that several keys share are documented once.
fn documented_path(path: &str) -> String {
    let shared = [
        ("edgebound.listen.", "listen."),
        ("servicebound.listen.", "listen."),
        ("controlplane.listen.", "listen."),
        ("edgebound.bypass.", "dial."),
        ("frontlas.dial.", "dial."),
    ];
    // The old switch of the bypass stands in its block without being an address.
    let shared = shared.iter().filter(|_| path != "edgebound.bypass.enable");
    let found =
        shared.clone().find_map(|(block, short)| Some(format!("{short}{}", path.strip_prefix(block)?)));
    found.unwrap_or_else(|| path.to_owned())
}

#[test]
fn every_key_is_documented() {
    let documented = documented();
    for known in known_keys() {
        let path = documented_path(&known.path);
        let row = documented.get(&path).unwrap_or_else(|| panic!("{path} is not in docs/configuration.md"));
        if let State::AliasOf(key) = known.state {
            let target = row[1].trim_matches('`');
            assert!(target == key || target.ends_with(&format!(".{key}")), "{path}: {row:?}");
        }
    }
}

#[test]
fn every_documented_key_exists() {
    let known: BTreeSet<String> = known_keys().iter().map(|known| documented_path(&known.path)).collect();
    let blocks = [
        "edgebound.",
        "servicebound.",
        "controlplane.",
        "listen.",
        "dial.",
        "limits.",
        "drain.",
        "log.",
        "mqm.",
    ];
    for key in documented().keys().filter(|key| blocks.iter().any(|block| key.starts_with(block))) {
        assert!(known.contains(key), "{key} is documented but not known");
    }
}

#[test]
fn documented_defaults_are_the_defaults() {
    let documented = documented();
    let mut defaults = Vec::new();
    leaves("", &serde_json::to_value(Config::of_empty_file()).unwrap(), &mut defaults);
    let mut checked = 0;
    for (path, value) in defaults {
        let row = &documented[&documented_path(&path)];
        let Some(text) = row.get(2).filter(|cell| cell.starts_with('`')) else { continue };
        // `listen` is one block with three defaults, given where it is used.
        let text = text.trim_matches('`');
        let expected = match &value {
            serde_json::Value::String(text) if text.is_empty() => "\"\"".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        assert_eq!(text, expected, "{path}");
        checked += 1;
    }
    assert!(checked > 100, "only {checked} defaults were compared");
}
