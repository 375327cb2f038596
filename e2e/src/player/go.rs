//! A Go peer as a process: `e2e/go/geminio`, built once per run and generation with the race detector.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command as Spawn, Stdio},
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use anyhow::{Context, bail, ensure};
use parking_lot::Mutex;

use super::{Command, Events, Kind, Told};

/// Lines of its error output that are shown when something fails.
const TAIL: usize = 60;
/// What the race detector begins and ends a report with.
const WARNING: &str = "WARNING: DATA RACE";
const RULE: &str = "==================";
/// What the library logs when it drops a packet.
const DROPPED: &str = "buffer full and discard";
/// What the peer writes before it tells where all its goroutines are.
const LOST: &str = "an operation was lost";

/// The Go modules cannot be downloaded, so there are no peers.
#[derive(Debug, thiserror::Error)]
#[error("the modules of generation {generation} cannot be downloaded: {reason}")]
pub struct Unavailable {
    generation: Kind,
    reason: String,
}

/// What went wrong in a Go peer: reports of the race detector, crashes, losses.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// In the library: generations A to C as they are.
    pub library: usize,
    /// In the peer itself: a fault of the test, in full.
    pub own: Vec<String>,
    /// A panic or runtime error that ended the process, its first lines.
    pub crash: Option<String>,
    /// Whether that was within the library.
    pub crash_within: bool,
    /// Packets of streams that the library dropped because 32 were waiting, as A and B do when the machine is busy.
    pub dropped: usize,
}

#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    events: Events,
    errors: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    /// `None` when the process is gone.
    commands: Option<HashMap<u64, SyncSender<Told>>>,
}

/// Downloads the modules of all generations and builds the peers.
///
/// # Errors
/// [`Unavailable`] when the download fails, anything else when the build does.
pub fn build() -> anyhow::Result<()> {
    for kind in Kind::GO {
        download(kind)?;
    }
    for kind in Kind::GO {
        binary(kind)?;
    }
    Ok(())
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("go/geminio")
}

fn modfile(kind: Kind) -> &'static str {
    match kind {
        Kind::A => "a.mod",
        Kind::B => "b.mod",
        Kind::C | Kind::Rust => "go.mod",
    }
}

fn go(kind: Kind, verb: &[&str]) -> Spawn {
    let mut command = Spawn::new("go");
    command.args(verb).arg(format!("-modfile={}", modfile(kind))).current_dir(source());
    // Neither a workspace nor flags of the person who runs the tests.
    command.envs([("GOWORK", "off"), ("GOFLAGS", "-mod=readonly")]);
    command
}

fn download(kind: Kind) -> anyhow::Result<()> {
    // `go list` of the dependencies fetches what the build needs and no more.
    let output = go(kind, &["list"]).args(["-deps", "-race", "."]).output().context("Go is needed")?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // Anything but the network is a fault of this tree.
    let network =
        ["dial tcp", "lookup ", "i/o timeout", "connection re", "TLS handshake", "bad gateway", "503", "502"];
    if network.iter().any(|sign| reason.contains(sign)) {
        return Err(Unavailable { generation: kind, reason }.into());
    }
    bail!("generation {kind}: {reason}");
}

/// The program of a generation, built once per run.
///
/// # Errors
/// [`Unavailable`] when its modules cannot be downloaded, anything else when it cannot be built.
pub fn program(kind: Kind) -> anyhow::Result<&'static Path> {
    download(kind)?;
    binary(kind)
}

fn binary(kind: Kind) -> anyhow::Result<&'static Path> {
    static BINARIES: [OnceLock<Result<PathBuf, String>>; 3] = [const { OnceLock::new() }; 3];
    let cell = BINARIES.get(kind as usize).context("not a generation")?;
    let built = cell.get_or_init(|| compile(kind).map_err(|error| format!("{error:#}")));
    built.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn compile(kind: Kind) -> anyhow::Result<PathBuf> {
    // Beside the test's own binary, in the target folder.
    let test = std::env::current_exe()?;
    let folder = test.parent().context("where is this test?")?;
    let path = folder.join(format!("geminiopeer-{}", kind.to_string().to_ascii_lowercase()));
    let output =
        go(kind, &["build"]).args(["-race", "-o"]).arg(&path).arg(".").output().context("Go is needed")?;
    ensure!(output.status.success(), "generation {kind}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(path)
}

// === impl Process ===

impl Process {
    pub(super) fn start(kind: Kind) -> anyhow::Result<Self> {
        let mut command = Spawn::new(binary(kind)?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Races of the library are counted, not mended, so they must not end the process.
        command.env("GORACE", "halt_on_error=0 exitcode=0");
        let mut child = command.spawn().context("the Go peer cannot be started")?;
        let shared = Arc::new(Shared::default());
        shared.waiting.lock().commands = Some(HashMap::new());
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let state = Arc::clone(&shared);
        let lines = std::thread::spawn(move || {
            for line in
                output.into_iter().flat_map(|output| BufReader::new(output).lines().map_while(Result::ok))
            {
                state.line(&line);
            }
            state.waiting.lock().commands = None;
        });
        let state = Arc::clone(&shared);
        let show = std::env::var_os("FRONTIER_E2E_LOG").is_some();
        let words = std::thread::spawn(move || {
            for line in
                errors.into_iter().flat_map(|errors| BufReader::new(errors).lines().map_while(Result::ok))
            {
                if show {
                    eprintln!("{line}");
                }
                state.errors.lock().push(line);
            }
        });
        Ok(Self { input: child.stdin.take(), child, shared, readers: vec![lines, words] })
    }

    pub(super) fn begin(&self, mut command: Command) -> anyhow::Result<(u64, Receiver<Told>)> {
        let (answer, receiver) = sync_channel(1);
        let mut waiting = self.shared.waiting.lock();
        waiting.last += 1;
        command.id = waiting.last;
        let Some(commands) = &mut waiting.commands else {
            bail!("the Go peer is gone; {}", self.last_words())
        };
        commands.insert(command.id, answer);
        // Under the lock, so that lines do not mix.
        let mut line = serde_json::to_vec(&command)?;
        line.push(b'\n');
        let mut input = self.input.as_ref().context("no input")?;
        input.write_all(&line)?;
        Ok((command.id, receiver))
    }

    pub(super) fn events(&self) -> &Events {
        &self.shared.events
    }

    pub(super) fn last_words(&self) -> String {
        let errors = self.shared.errors.lock();
        let last = errors.len().saturating_sub(TAIL);
        let from = errors.iter().position(|line| line.starts_with(LOST)).map_or(last, |at| at.min(last));
        errors.iter().skip(from).fold("its last words:".to_owned(), |text, line| text + "\n" + line)
    }

    pub(super) fn faults(&self) -> Faults {
        let errors = self.shared.errors.lock();
        let dropped = errors.iter().filter(|line| line.contains(DROPPED)).count();
        let mut faults = Faults { dropped, ..Faults::default() };
        for report in reports(&errors) {
            if is_own(report) {
                faults.own.push(report.join("\n"));
            } else {
                faults.library += 1;
            }
        }
        let crash =
            errors.iter().position(|line| line.starts_with("panic: ") || line.starts_with("fatal error: "));
        faults.crash_within = crash.is_some_and(|at| is_within(errors.get(at..).unwrap_or_default()));
        faults.crash = crash
            .map(|at| errors.iter().skip(at).take(TAIL).fold(String::new(), |text, line| text + "\n" + line));
        faults
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.input = None;
        drop(self.child.kill());
        drop(self.child.wait());
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
    }
}

/// The reports of the race detector in an error output, without their frames of rules.
fn reports(lines: &[String]) -> impl Iterator<Item = &[String]> {
    lines.split(|line| line == RULE).filter(|part| part.first().is_some_and(|line| line == WARNING))
}

/// Whether one of the two accesses of a report was made by the peer itself: then the first function below it is in package main.
fn is_own(report: &[String]) -> bool {
    let access = |line: &String| {
        let line = line.trim_start().trim_start_matches("Previous ").to_ascii_lowercase();
        (line.starts_with("read at")
            || line.starts_with("write at")
            || line.starts_with("read by")
            || line.starts_with("write by"))
            && line.contains("goroutine")
    };
    let after = report.iter().zip(report.iter().skip(1)).filter(|(line, _)| access(line));
    after.into_iter().any(|(_, function)| function.trim_start().starts_with("main."))
}

/// Whether a crash has its cause in the library: the first function of the first goroutine that is not Go's own.
fn is_within(crash: &[String]) -> bool {
    let stack = crash.iter().skip_while(|line| !line.starts_with("goroutine ")).skip(1);
    let functions = stack.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with('\t'));
    let own = |line: &&String| {
        ["panic(", "runtime.", "sync.", "main.", "github.com/"].iter().any(|start| line.starts_with(start))
    };
    let mut culprits = functions
        .filter(own)
        .skip_while(|line| !line.starts_with("main.") && !line.starts_with("github.com/"));
    culprits.next().is_some_and(|line| line.starts_with("github.com/"))
}

// === impl Shared ===

impl Shared {
    fn line(&self, line: &str) {
        match serde_json::from_str::<Told>(line) {
            Ok(told) if told.event.is_empty() => {
                let mut waiting = self.waiting.lock();
                let sender = waiting.commands.as_mut().and_then(|commands| commands.remove(&told.id));
                if let Some(sender) = sender {
                    // Who began the command may not wait for its answer.
                    drop(sender.try_send(told));
                }
            }
            Ok(told) => self.events.push(told),
            Err(error) => self.errors.lock().push(format!("no answer: {error}: {line}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{is_own, reports};

    const OUTPUT: &str = "\
noise
==================
WARNING: DATA RACE
Write at 0x00c000 by goroutine 8:
  github.com/singchia/geminio/conn.(*ClientConn).fini()
      conn.go:1 +0x1

Previous read at 0x00c000 by goroutine 9:
  main.(*stage).call()
      stage.go:1 +0x1
==================
==================
WARNING: DATA RACE
Read at 0x00c000 by goroutine 8:
  github.com/singchia/geminio/conn.(*ClientConn).fini()
      conn.go:1 +0x1

Previous write at 0x00c000 by main goroutine:
  github.com/singchia/geminio/conn.(*ClientConn).close()
      conn.go:1 +0x1
  main.main()
      main.go:1
==================";

    #[test]
    fn races_of_the_peer_are_told_from_those_of_the_library() {
        let lines: Vec<String> = OUTPUT.lines().map(str::to_owned).collect();
        let own: Vec<bool> = reports(&lines).map(is_own).collect();
        assert_eq!(own, [true, false]);
    }
}
