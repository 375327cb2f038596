use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use frontier_ops::{
    config::{ConfigError, Environment, Loaded, LogFlags, SecretSource, State, UnknownKeys},
    tls::testing::{Ca, Dir},
};

use super::*;

fn load_text(text: &str) -> Result<Loaded<Config>, ConfigError> {
    load_with(text, Environment::default())
}

fn load_with(text: &str, env: Environment) -> Result<Loaded<Config>, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("frontlas.yaml");
    fs::write(&path, text).unwrap();
    load(&Sources { file: Some(&path), env, ..Sources::default() })
}

/// What a good text means.
fn config(text: &str) -> Config {
    load_text(text).unwrap_or_else(|error| panic!("{error}")).config
}

/// `(line, key, message)` of every error.
fn errors(text: &str) -> Vec<(Option<u32>, String, String)> {
    let error = load_text(text).expect_err("must be refused");
    error.problems.errors().map(|p| (p.line, p.key.clone(), p.message.clone())).collect()
}

fn only_error(text: &str) -> (Option<u32>, String, String) {
    let mut errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

/// The keys of the warnings; errors are not expected.
fn warned(loaded: &Loaded<Config>) -> Vec<&str> {
    loaded.problems.warnings().map(|problem| problem.key.as_str()).collect()
}

fn password(config: &Config) -> Option<String> {
    let source = config.redis.password.as_ref()?;
    Some(source.load().unwrap().expose().to_owned())
}

// --- files ---

#[test]
fn without_a_file_the_ports_of_the_go_system_and_a_redis_beside_are_used() {
    let config = load(&Sources::default()).unwrap().config;
    assert_eq!(config, Config::default());
    assert_eq!(config.control_plane.listen.addr.as_str(), "0.0.0.0:40011");
    assert_eq!(config.frontier_plane.listen.addr.as_str(), "0.0.0.0:40012");
    assert_eq!(config.observability.addr.as_str(), "0.0.0.0:9092");
    assert_eq!(
        (config.redis.mode, config.redis.standalone.addr.as_str()),
        (Mode::Standalone, "127.0.0.1:6379")
    );
    assert_eq!(config.log.file.path, Path::new("/var/log/frontier/frontlas.log"));
    assert_eq!(load_text("").unwrap().config, config, "an empty file says nothing else");
}

#[test]
fn keys_of_a_file_are_read() {
    let config = config(
        "control_plane: {listen: {addr: '[::1]:1'}}\n\
         frontier_plane: {listen: {addr: 10.0.0.1:2}, any_name: true}\n\
         redis:\n  mode: cluster\n  username: u\n  password: p\n  clientname: c\n  dial_timeout: 3\n  read_timeout: 500ms\n  \
         min_retry_backoff: 1\n  cluster: {addrs: ['a:1', 'b:2']}\n  tls: {enable: true, server_name: redis.example}\n\
         limits: {links: 3, watchers: 4, connections: 50}\n\
         drain: {accept_for: 1s, seconds: 7}\n",
    );
    assert_eq!(
        (config.control_plane.listen.addr.as_str(), config.frontier_plane.any_name),
        ("[::1]:1", true)
    );
    let redis = &config.redis;
    assert_eq!((redis.mode, redis.username.as_str(), redis.clientname.as_str()), (Mode::Cluster, "u", "c"));
    assert_eq!(password(&config).as_deref(), Some("p"));
    assert_eq!(
        (redis.dial_timeout, redis.read_timeout),
        (Duration::from_secs(3), Duration::from_millis(500))
    );
    assert_eq!(
        (redis.write_timeout, redis.min_retry_backoff),
        (Duration::from_secs(2), Duration::from_secs(1))
    );
    assert_eq!(redis.cluster.addrs, ["a:1", "b:2"]);
    assert_eq!((redis.tls.enable, redis.tls.server_name.as_str()), (true, "redis.example"));
    assert_eq!((config.limits.links, config.limits.watchers, config.limits.connections), (3, 4, 50));
    assert_eq!(
        (config.drain.accept_for, config.drain.total()),
        (Duration::from_secs(1), Duration::from_secs(7))
    );
}

#[test]
fn the_effective_configuration_reads_back_the_same() {
    let with = config("redis: {mode: sentinel, sentinel: {addrs: ['a:1'], master_name: m}}\n");
    assert_eq!(config(&with.effective()), with);
}

#[test]
fn all_problems_are_reported_at_once_with_their_lines() {
    let text = "control_plane:\n  listen: {network: udp}\nredis:\n  mode: magic\n  standalone:\n    addr: nowhere\n\
                frontier_plan: {}\nlimits: {links: 0}\n";
    let found = errors(text);
    let found: Vec<(Option<u32>, &str)> = found.iter().map(|(line, key, _)| (*line, key.as_str())).collect();
    let expected = [
        (Some(4), "redis.mode"),
        (Some(7), "frontier_plan"),
        (Some(2), "control_plane.listen.network"),
        (Some(6), "redis.standalone.addr"),
        (Some(8), "limits.links"),
    ];
    assert_eq!(found, expected);
    let (_, _, message) = only_error("frontier_plan: {}\n");
    assert_eq!(message, "unknown key; did you mean `frontier_plane`?");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.yaml");
    fs::write(&path, "frontier_plan: {}\n").unwrap();
    let sources = Sources { file: Some(&path), unknown_keys: UnknownKeys::Warn, ..Sources::default() };
    assert_eq!(warned(&load(&sources).unwrap()), ["frontier_plan"]);
}

#[test]
fn ports_must_differ() {
    let (_, key, message) = only_error("control_plane: {listen: {addr: '127.0.0.1:40012'}}\n");
    assert_eq!(key, "frontier_plane.listen.addr");
    assert!(message.contains("control_plane.listen.addr"), "{message}");
}

// --- redis ---

#[test]
fn each_mode_needs_its_addresses() {
    for (text, key) in [
        ("redis: {standalone: {addr: ':6379'}}", "redis.standalone.addr"),
        ("redis: {standalone: {addr: 'redis:0'}}", "redis.standalone.addr"),
        ("redis: {standalone: {network: unix, addr: 'a:1'}}", "redis.standalone.network"),
        ("redis: {mode: cluster}", "redis.cluster.addrs"),
        ("redis: {mode: cluster, cluster: {addrs: [a]}}", "redis.cluster.addrs"),
        ("redis: {mode: sentinel, sentinel: {addrs: ['a:1']}}", "redis.sentinel.master_name"),
        ("redis: {mode: sentinel, sentinel: {master_name: m}}", "redis.sentinel.addrs"),
        ("redis: {standalone: {db: 256}}", "redis.standalone.db"),
        ("redis: {standalone: {db: -1}}", "redis.standalone.db"),
        ("redis: {clientname: two words}", "redis.clientname"),
        ("redis: {dial_timeout: soon}", "redis.dial_timeout"),
        ("redis: {read_timeout: 2h}", "redis.read_timeout"),
        ("redis: {min_retry_backoff: 3}", "redis.min_retry_backoff"),
        ("redis: {password: 'file:/nowhere'}", "redis.password"),
    ] {
        assert_eq!(only_error(text).1, key, "{text}");
    }
    // What another mode needs is not looked at.
    config("redis: {mode: memory, standalone: {addr: nowhere}, clientname: two words}");
    let (_, _, message) = only_error("redis: {mode: magic}");
    assert_eq!(message, "unsupported redis mode \"magic\", options: standalone, sentinel, cluster, memory");
}

#[test]
fn passwords_are_text_or_in_files_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    fs::write(&file, "hunter2\n").unwrap();
    let from_file = config(&format!("redis: {{password: 'file:{}'}}\n", file.display()));
    assert_eq!(password(&from_file).as_deref(), Some("hunter2"));
    let slash = config("redis: {password: /hunter2}\n");
    assert_eq!(password(&slash).as_deref(), Some("/hunter2"), "old files may have such passwords");
    assert!(!slash.effective().contains("hunter2"));
    assert_eq!(config("redis: {password: ''}\n").redis.password, None);
    assert_eq!(password(&config("redis: {password: 0123}\n")).as_deref(), Some("0123"));
    let sentinel =
        "redis: {mode: sentinel, sentinel: {addrs: ['a:1'], master_name: m, sentinel_password: hunter2}}";
    assert!(!config(sentinel).effective().contains("hunter2"));
}

#[test]
fn certificates_of_redis_must_be_readable() {
    let (ca, dir) = (Ca::new("ca"), Dir::new());
    let pair = dir.pair("client", &ca.issue("client", &[]));
    let authority = dir.write("ca.crt", &ca.pem);
    let block = |ca: &Path, cert: &Path, key: &Path| {
        let (ca, cert, key) = (ca.display(), cert.display(), key.display());
        format!("redis: {{tls: {{enable: true, ca: '{ca}', cert: '{cert}', key: '{key}'}}}}\n")
    };
    config(&block(&authority, &pair.cert, &pair.key));
    let none = Path::new("");
    config(&block(none, none, none));
    assert_eq!(only_error(&block(Path::new("/nowhere"), none, none)).1, "redis.tls.ca");
    assert_eq!(only_error(&block(&authority, &pair.cert, none)).1, "redis.tls.cert");
    assert_eq!(only_error(&block(&authority, &pair.cert, &authority)).1, "redis.tls.cert");
    assert_eq!(only_error("redis: {tls: {enable: true, server_name: 'a b'}}").1, "redis.tls.server_name");
}

// --- environment and flags ---

#[test]
fn ports_and_redis_come_from_the_environment() {
    let text = "redis: {mode: cluster, username: old, password: old, cluster: {addrs: ['old:1']}}\n";
    let env = [
        ("FRONTLAS_CONTROLPLANE_PORT", "4011"),
        ("FRONTLAS_FRONTIERPLANE_PORT", "4012"),
        ("REDIS_TYPE", "standalone"),
        ("REDIS_ADDRS", "one:1,two:2"),
        ("REDIS_USER", "user"),
        ("REDIS_PASSWORD", "/secret"),
        ("REDIS_DB", "3"),
    ];
    let config = load_with(text, env.into()).unwrap().config;
    assert_eq!(config.control_plane.listen.addr.as_str(), "0.0.0.0:4011");
    assert_eq!(config.frontier_plane.listen.addr.as_str(), "0.0.0.0:4012");
    let redis = &config.redis;
    assert_eq!(
        (redis.mode, redis.standalone.addr.as_str(), redis.standalone.db),
        (Mode::Standalone, "one:1", 3)
    );
    assert_eq!((redis.username.as_str(), password(&config).as_deref()), ("user", Some("/secret")));
}

#[test]
fn the_database_and_the_master_of_sentinels_come_from_the_environment() {
    let env = [
        ("REDIS_TYPE", "sentinel"),
        ("REDIS_ADDRS", "one:1, two:2"),
        ("MASTER_NAME", "mymaster"),
        ("REDIS_DB", "3"),
    ];
    let config = load_with("redis: {username: old, password: old}\n", env.into()).unwrap().config;
    let sentinel = &config.redis.sentinel;
    assert_eq!(sentinel.addrs, ["one:1", "two:2"]);
    assert_eq!((sentinel.master_name.as_str(), sentinel.db), ("mymaster", 3));
    assert_eq!((config.redis.username.as_str(), password(&config)), ("", None), "replaced by nothing");
}

#[test]
fn variables_of_redis_that_cannot_be_used_are_told() {
    let refused = |env: Environment| {
        let error = load_with("", env).unwrap_err();
        error.problems.errors().map(|problem| problem.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(refused([("REDIS_TYPE", "magic")].into()), ["REDIS_TYPE"]);
    let env = [("REDIS_TYPE", "standalone"), ("REDIS_ADDRS", "a:1"), ("REDIS_DB", "many")];
    assert_eq!(refused(env.into()), ["REDIS_DB"]);
    assert_eq!(refused([("REDIS_TYPE", "cluster")].into()), ["redis.cluster.addrs"]);
    assert_eq!(refused([("FRONTLAS_CONTROLPLANE_PORT", "http")].into()), ["FRONTLAS_CONTROLPLANE_PORT"]);
    let env = [("REDIS_ADDRS", "a:1"), ("REDIS_PASSWORD", "x")];
    let loaded = load_with("", env.into()).unwrap();
    assert_eq!(warned(&loaded), ["REDIS_ADDRS", "REDIS_PASSWORD"]);
    assert_eq!(loaded.config, Config::default());
    let env = [("REDIS_TYPE", "cluster"), ("REDIS_ADDRS", "a:1"), ("REDIS_DB", "2")];
    assert_eq!(warned(&load_with("", env.into()).unwrap()), ["REDIS_DB"]);
    let memory = load_with("redis: {username: u}\n", [("REDIS_TYPE", "memory")].into()).unwrap();
    assert_eq!((memory.config.redis.mode, warned(&memory).len()), (Mode::Memory, 0));
}

#[test]
fn logs_and_the_file_limit_follow_the_flags() {
    let log = LogFlags { level: Some("debug".into()), ..LogFlags::default() };
    let sources = Sources {
        env: [("LOG_LEVEL", "error"), ("LOG_FORMAT", "json")].into(),
        flags: Overrides { log, nofile: Some(5000) },
        ..Sources::default()
    };
    let config = load(&sources).unwrap().config;
    assert_eq!((config.log.level.name(), config.log.format.name()), ("debug", "json"));
    assert_eq!(config.daemon.rlimit, RLimit { enable: true, nofile: Some(5000) });
}

// --- files of the Go system ---

fn sample(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/config").join(name)).unwrap()
}

#[test]
fn the_shipped_samples_start() {
    let expiration = ["frontier_plane.expiration.service_meta", "frontier_plane.expiration.edge_meta"];
    let pprof = ["daemon.pprof.enable", "daemon.pprof.addr"];
    for (name, warnings) in [
        ("frontlas.yaml", [&pprof[..], &expiration].concat()),
        ("frontlas_helm.yaml", [&pprof[..], &expiration].concat()),
        ("frontlas_all.yaml", pprof.to_vec()),
        ("frontlas_early.yaml", pprof.to_vec()),
    ] {
        let loaded = load_text(&sample(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(warned(&loaded), warnings, "{name}");
        let mut expected = Config::default();
        expected.daemon.rlimit.nofile = loaded.config.daemon.rlimit.nofile;
        if name == "frontlas_early.yaml" {
            expected.control_plane.listen = Listen::on("0.0.0.0:30020");
            expected.frontier_plane.listen = Listen::on("0.0.0.0:30021");
        }
        assert_eq!(loaded.config, expected, "{name}");
        assert!(expected.daemon.rlimit.nofile.is_some(), "{name}: `num_file` acts as `nofile`");
    }
}

#[test]
fn misspelt_and_early_keys_act_as_what_they_meant() {
    let config_ = config(
        "frontier_manager: {listen: {addr: 'a:1'}}\n\
         redis:\n  client_name: c\n  standalone: {username: other, dialtimeout: 9}\n  \
         mode: sentinel\n  sentinel: {addrs: ['a:1'], master_name: m, username: u, password: p, readtimeout: 5}\n",
    );
    assert_eq!(config_.frontier_plane.listen.addr.as_str(), "a:1");
    let redis = &config_.redis;
    assert_eq!((redis.clientname.as_str(), redis.username.as_str()), ("c", "u"), "of the block of the mode");
    assert_eq!(password(&config_).as_deref(), Some("p"));
    assert_eq!(redis.sentinel.sentinel_password, None, "it was never that of the sentinels");
    assert_eq!((redis.read_timeout, redis.dial_timeout), (Duration::from_secs(5), Duration::from_secs(2)));
    let both =
        config("redis: {username: right, password: right, standalone: {username: early, password: early}}\n");
    assert_eq!((both.redis.username.as_str(), password(&both).as_deref()), ("right", Some("right")));
    assert!(matches!(both.redis.password, Some(SecretSource::Inline(_))));
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
    assert!(known.contains("control_plane.listen.tls.certs[].key"));
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

/// The first cells of all tables of a document, with the rows.
fn documented(name: &str) -> BTreeMap<String, Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
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

/// The row about a key: blocks that the gateway has too are described with it, and what early files had in three blocks is described once.
fn row(path: &str) -> Option<Vec<String>> {
    let gateway = || documented("configuration.md");
    let own = documented("frontlas.md");
    if let Some(row) = own.get(path) {
        return Some(row.clone());
    }
    for block in ["control_plane.listen.", "frontier_plane.listen."] {
        if let Some(rest) = path.strip_prefix(block) {
            return gateway().get(&format!("listen.{rest}")).cloned();
        }
    }
    for block in ["redis.sentinel.", "redis.cluster."] {
        if let Some(rest) = path.strip_prefix(block) {
            return own.get(&format!("redis.standalone.{rest}")).cloned();
        }
    }
    path.starts_with("log").then(|| gateway().get(path).cloned()).flatten()
}

#[test]
fn every_key_is_documented() {
    for known in known_keys() {
        let row = row(&known.path).unwrap_or_else(|| panic!("{} is not documented", known.path));
        if let State::AliasOf(key) = known.state {
            let target = row[1].trim_matches('`');
            assert!(target == key || target.ends_with(&format!(".{key}")), "{}: {row:?}", known.path);
        }
    }
}

#[test]
fn every_documented_key_exists() {
    let known: BTreeSet<&str> = known_keys().iter().map(|known| known.path.as_str()).collect();
    let mut seen = 0;
    for key in documented("frontlas.md").keys() {
        let block = key.split('.').next().unwrap();
        if known.contains(block) {
            assert!(known.contains(key.as_str()), "{key} is documented but not known");
            seen += 1;
        }
    }
    assert!(seen > 90, "{seen}");
}

#[test]
fn documented_defaults_are_the_defaults() {
    let mut defaults = Vec::new();
    leaves("", &serde_json::to_value(Config::default()).unwrap(), &mut defaults);
    let own = documented("frontlas.md");
    let mut checked = 0;
    for (path, value) in defaults {
        let Some(text) = own.get(&path).and_then(|row| row.get(2)).filter(|cell| cell.starts_with('`'))
        else {
            continue;
        };
        let expected = match &value {
            serde_json::Value::String(text) if text.is_empty() => "\"\"".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        assert_eq!(text.trim_matches('`'), expected, "{path}");
        checked += 1;
    }
    assert!(checked > 25, "{checked}");
}
