//! Real servers of one test: each on ports of its own, all gone when the test ends.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use frontier_atlas::store::Redis;
use frontier_atlas::store::redis::{Address, Mode, Settings};

/// How long anything may take here that should take much less.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// A process of Redis.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    options: Vec<String>,
    dir: tempfile::TempDir,
}

/// What a server is told when it starts, with its own port and directory.
type Options<'a> = &'a dyn Fn(u16) -> Vec<String>;

/// A master with a replica, watched by three sentinels.
pub(crate) struct Watched {
    pub(crate) data: Vec<Server>,
    pub(crate) sentinels: Vec<Server>,
}

/// Three masters with a replica each.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

// === impl Server ===

impl Server {
    /// One that keeps everything in memory, with these options.
    pub(crate) fn start(options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        Self::start_at(None, &|_| options.clone())
    }

    fn start_at(port: Option<u16>, options: Options<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Nobody keeps the port between here and the server's start; 20 attempts make do.
        for _ in 0..20 {
            let port = port.unwrap_or_else(free_port);
            let options = options(port);
            if let Some(child) = launch(port, &options, &dir) {
                return Self { child, port, options, dir };
            }
        }
        panic!("no redis-server came up");
    }

    /// Another process in the place of one that was killed.
    pub(crate) fn restart(&mut self) {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(child) = launch(self.port, &self.options, &self.dir) {
                self.child = child;
                return;
            }
            assert!(Instant::now() < deadline, "the port is not free again");
        }
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `STOP` or `CONT`.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// What it answers to one command; words may hold any bytes.
    pub(crate) fn ask(&self, words: &[&[u8]]) -> String {
        ask(self.port, words)
    }

    /// The same for a command in plain words.
    pub(crate) fn tell(&self, command: &str) -> String {
        self.ask(&command.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    pub(crate) fn address(&self) -> Address {
        Address::new("127.0.0.1", self.port)
    }

    pub(crate) fn settings(&self) -> Settings {
        settings(Mode::Standalone { address: self.address() })
    }

    pub(crate) async fn connect(&self) -> Redis {
        connect(self.settings()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

// === impl Watched ===

impl Watched {
    pub(crate) fn start() -> Self {
        let master = Server::start(&[]);
        let port = master.port.to_string();
        let replica = Server::start(&["--replicaof", "127.0.0.1", &port]);
        until("the replica has connected", || {
            replica.tell("INFO replication").contains("master_link_status:up")
        });
        let watch = |_| {
            let lines = [
                format!("monitor m 127.0.0.1 {port} 2"),
                "down-after-milliseconds m 500".to_owned(),
                "failover-timeout m 3000".to_owned(),
            ];
            let options = lines.iter().flat_map(|line| {
                let mut words = vec!["--sentinel".to_owned()];
                words.extend(line.split(' ').map(str::to_owned));
                words
            });
            options.collect::<Vec<_>>()
        };
        let sentinels: Vec<Server> = (0..3).map(|_| start_sentinel(&watch(0))).collect();
        for sentinel in &sentinels {
            until("the sentinels know each other and the replica", || {
                let master = sentinel.tell("SENTINEL MASTER m");
                let field = |name: &str| {
                    master
                        .lines()
                        .skip_while(|line| *line != name)
                        .nth(1)
                        .map(str::to_owned)
                        .unwrap_or_default()
                };
                field("num-other-sentinels") == "2"
                    && field("num-slaves") == "1"
                    && field("flags") == "master"
            });
        }
        Self { data: vec![master, replica], sentinels }
    }

    pub(crate) fn settings(&self) -> Settings {
        let sentinels = self.sentinels.iter().map(Server::address).collect();
        settings(Mode::Sentinel { sentinels, master: "m".to_owned(), credentials: Default::default() })
    }
}

/// A sentinel rewrites its configuration, so it has a file.
fn start_sentinel(options: &[String]) -> Server {
    let mut text = String::new();
    for words in options.split(|word| word == "--sentinel").skip(1) {
        writeln!(text, "sentinel {}", words.join(" ")).unwrap();
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.into_temp_path().keep().unwrap();
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let server = Server::start_at(None, &|_| vec![format!("file={path}"), "--sentinel".to_owned()]);
    let _ = std::fs::remove_file(path);
    server
}

// === impl Cluster ===

impl Cluster {
    pub(crate) fn start() -> Self {
        let options = |port: u16| {
            let bus = loop {
                let bus = free_port();
                if bus != port {
                    break bus;
                }
            };
            ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
                .map(str::to_owned)
                .into_iter()
                .chain(["--cluster-port".to_owned(), bus.to_string()])
                .collect()
        };
        let nodes: Vec<Server> = (0..6).map(|_| Server::start_at(None, &options)).collect();
        for (node, range) in nodes.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
            assert_eq!(node.tell(&format!("CLUSTER ADDSLOTSRANGE {range}")), "OK");
        }
        let bus = |node: &Server| node.options.last().unwrap().clone();
        for node in &nodes[1..] {
            let meet = format!("CLUSTER MEET 127.0.0.1 {} {}", node.port, bus(node));
            assert_eq!(nodes[0].tell(&meet), "OK");
        }
        let all = |what: &str| nodes.iter().all(|node| node.tell("CLUSTER INFO").contains(what));
        until("the nodes know each other", || all("cluster_known_nodes:6"));
        for (master, replica) in nodes[..3].iter().zip(&nodes[3..]) {
            let id = master.tell("CLUSTER MYID");
            until("the replica knows its master", || {
                replica.tell(&format!("CLUSTER REPLICATE {id}")) == "OK"
            });
        }
        until("the cluster is whole", || {
            all("cluster_state:ok")
                && nodes[3..]
                    .iter()
                    .all(|node| node.tell("INFO replication").contains("master_link_status:up"))
                && nodes.iter().all(|node| node.tell("CLUSTER SLOTS").matches("127.0.0.1").count() == 6)
        });
        Self { nodes }
    }

    pub(crate) fn settings(&self) -> Settings {
        // One seed: it tells of the others.
        settings(Mode::Cluster { seeds: vec![self.nodes[1].address()] })
    }

    pub(crate) fn flush(&self) {
        self.nodes.iter().filter(|node| node.tell("ROLE").starts_with("master")).for_each(|node| {
            assert_eq!(node.tell("FLUSHALL"), "OK");
        });
    }
}

/// Limits that tests can wait for.
fn settings(mode: Mode) -> Settings {
    Settings {
        connect_timeout: Duration::from_secs(1),
        command_timeout: Duration::from_secs(1),
        backoff: (Duration::from_millis(10), Duration::from_millis(200)),
        ..Settings::new(mode)
    }
}

pub(crate) async fn connect(settings: Settings) -> Redis {
    let redis = Redis::connect(settings).unwrap();
    redis.connected(SOON).await.unwrap();
    redis
}

/// Waits for what a server says of itself.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        // Each look starts a process.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Waits for what a store says.
pub(crate) async fn eventually(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn free_port() -> u16 {
    frontier_ops::testing::free_port().unwrap().port()
}

/// `None` if it ended at once, or if another process has the port.
fn launch(port: u16, options: &[String], dir: &tempfile::TempDir) -> Option<Child> {
    let mut command = Command::new("redis-server");
    let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
    if let Some(file) = options.first().and_then(|option| option.strip_prefix("file=")) {
        let path = dir.path().join("conf");
        std::fs::copy(file, &path).unwrap();
        command.arg(path);
        options.remove(0);
    }
    let port_text = port.to_string();
    command.args(["--port", &port_text, "--bind", "127.0.0.1", "--dir"]).arg(dir.path());
    if !options.contains(&"--sentinel") {
        command.args(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
    }
    let mut child =
        command.args(options).stdout(Stdio::null()).spawn().expect("redis-server is not installed");
    let tls = command.get_args().any(|arg| arg == "--tls-port");
    loop {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if tls && tls_ready(&command) {
            return Some(child);
        }
        if !tls && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            let info = ask(port, &[b"INFO", b"server"]);
            // One with a password does not say which process it is.
            if info.contains("NOAUTH") || info.contains(&format!("process_id:{}\r\n", child.id())) {
                return Some(child);
            }
            if info.contains("process_id") {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

fn tls_ready(command: &Command) -> bool {
    let port = command.get_args().skip_while(|arg| *arg != "--tls-port").nth(1).unwrap().to_str().unwrap();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().unwrap())).is_ok()
}

/// Asks by redis-cli.
fn ask(port: u16, words: &[&[u8]]) -> String {
    let mut line = String::new();
    for word in words {
        let quoted: String = word.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        write!(line, "\"{quoted}\" ").unwrap();
    }
    let mut cli = Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-cli is not installed");
    cli.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    let output = cli.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
}
