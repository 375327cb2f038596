//! Kafka 4 in KRaft mode, one process that is broker and controller, and its own console consumer to read it.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use frontier_ops::testing::free_port;
use parking_lot::Mutex;

use super::process::{Server, output};

/// A Kafka.
pub struct Kafka(pub Server);

// === impl Kafka ===

impl Kafka {
    /// Starts one with these lines in its configuration, which may replace those of the listener; `@ADDR@` and
    /// `@CONTROL@` in them are its address and the controller's. The first call on a machine downloads it.
    pub fn start(lines: &str) -> anyhow::Result<Self> {
        Self::formatted(lines, "")
    }

    /// The same with further arguments of `kafka-storage format`, as `--add-scram`.
    pub fn formatted(lines: &str, format: &str) -> anyhow::Result<Self> {
        let jars = jars()?;
        let (lines, format, controller) = (lines.to_owned(), format.to_owned(), free_port()?);
        Ok(Self(Server::start(move |dir, addr| command(&jars, dir, addr, controller, &lines, &format))?))
    }

    /// The records of a topic, as lines of `key, headers, body` with tabs between.
    pub fn read(&self, topic: &str, count: usize) -> anyhow::Result<Vec<String>> {
        let (addr, count) = (self.0.addr().to_string(), count.to_string());
        let mut command = java(&jars()?, "128m");
        command.args(["org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", &addr]);
        command.args([
            "--topic",
            topic,
            "--from-beginning",
            "--max-messages",
            &count,
            "--timeout-ms",
            "20000",
        ]);
        for property in ["print.key=true", "print.headers=true"] {
            command.args(["--property", property]);
        }
        Ok(output(&mut command, 90)?.lines().map(str::to_owned).collect())
    }

    /// Runs one of its own tools, with these lines as its settings.
    pub fn tool(&self, class: &str, settings: &str, args: &[&str]) -> anyhow::Result<String> {
        let file = self.0.dir().join("tool.properties");
        std::fs::write(&file, settings)?;
        let mut command = java(&jars()?, "128m");
        command.args([class, "--bootstrap-server", &self.0.addr().to_string(), "--command-config"]);
        output(command.arg(file).args(args), 90)
    }

    /// Makes a topic.
    pub fn create(&self, topic: &str, partitions: u32) -> anyhow::Result<()> {
        let (addr, partitions) = (self.0.addr().to_string(), partitions.to_string());
        let mut command = java(&jars()?, "128m");
        command.args(["org.apache.kafka.tools.TopicCommand", "--bootstrap-server", &addr, "--create"]);
        command.args(["--topic", topic, "--partitions", &partitions]);
        output(&mut command, 90).map(drop)
    }
}

fn java(jars: &Path, heap: &str) -> Command {
    let mut command = Command::new("java");
    command.args([&format!("-Xmx{heap}"), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
    command.arg(jars.join("*"));
    command
}

fn command(
    jars: &Path,
    dir: &Path,
    addr: SocketAddr,
    controller: SocketAddr,
    lines: &str,
    format: &str,
) -> Command {
    let config = dir.join("server.properties");
    let text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.listener.names=CONTROLLER\n\
         controller.quorum.bootstrap.servers={controller}\n\
         listeners=PLAINTEXT://{addr},CONTROLLER://{controller}\nadvertised.listeners=PLAINTEXT://{addr}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         offsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\ngroup.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n\
         log.dirs={}\n{}\n",
        dir.join("data").display(),
        lines.replace("@ADDR@", &addr.to_string()).replace("@CONTROL@", &controller.to_string()),
    );
    // A file that cannot be written makes the start fail, with the reason.
    drop(std::fs::write(&config, text));
    let (jars, data) = (jars.display(), dir.join("data"));
    let java = format!("java -Xmx400m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '{jars}/*'");
    let format = format!(
        "{java} kafka.tools.StorageTool format --standalone -t AAAAAAAAAAAAAAAAAAAAAA -c {} {format}",
        config.display()
    );
    let mut command = Command::new("sh");
    // Formatted once; what is there is used as it is.
    command.arg("-c").arg(format!(
        "[ -e {}/meta.properties ] || {format} || exit 1; exec {java} kafka.Kafka {}",
        data.display(),
        config.display()
    ));
    command
}

/// Where the jars are; fetched once.
fn jars() -> anyhow::Result<PathBuf> {
    static FETCHING: Mutex<bool> = Mutex::new(false);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let to = root.join("target/kafka");
    let mut fetched = FETCHING.lock();
    if !*fetched {
        output(Command::new(root.join("e2e/kafka/fetch")).arg(&to), 600)?;
        *fetched = true;
    }
    Ok(to)
}
