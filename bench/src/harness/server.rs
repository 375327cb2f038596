//! Processes of a run: started on one CPU, killed when nobody needs them any more, and killed by the kernel when the harness dies.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{net, proc};

/// Ports are taken from here upwards: below those that the kernel gives to outgoing connections.
const FIRST_PORT: u16 = 21_000;
/// Until where.
const LAST_PORT: u16 = 32_000;
/// How long a server may take until it listens.
const START: Duration = Duration::from_secs(15);
/// How long between two looks at one that does not listen yet.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of a log that are quoted when a process has failed.
const QUOTE: usize = 2_000;

/// Arguments of `frontier-bench exec`, which becomes another program after binding its life and its CPU.
#[derive(Args, Clone, Debug)]
pub struct ExecArgs {
    /// The CPU to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// What to become.
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<OsString>,
}

/// A running server. Dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub struct Server {
    child: Child,
    name: String,
    log: PathBuf,
    origin: Origin,
}

/// As what a server was started.
#[derive(Clone, Debug)]
struct Origin {
    cpu: Option<usize>,
    program: OsString,
    args: Vec<OsString>,
}

/// Starts processes.
#[derive(Debug)]
pub struct Launcher {
    exe: PathBuf,
    dir: PathBuf,
    next_port: AtomicU16,
}

/// Becomes the program; the process that asked for it takes it along when it dies.
///
/// # Errors
/// Always: on success it does not return.
pub fn exec(args: &ExecArgs) -> Result<()> {
    net::die_with_parent()?;
    net::raise_descriptors()?;
    if let Some(cpu) = args.cpu {
        net::pin(cpu)?;
    }
    let [program, rest @ ..] = args.command.as_slice() else { bail!("nothing to become") };
    Err(Command::new(program).args(rest).exec()).with_context(|| format!("become {}", program.display()))
}

// === impl Launcher ===

impl Launcher {
    /// Starts processes through this very program, with a fresh folder for their files.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new() -> Result<Self> {
        let exe = std::env::current_exe().context("own path")?;
        let dir = std::env::temp_dir().join(format!("frontier-bench-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(Self { exe, dir, next_port: AtomicU16::new(FIRST_PORT) })
    }

    /// This program.
    #[must_use]
    pub fn exe(&self) -> &Path {
        &self.exe
    }

    /// The folder for files of this run.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A loopback port that nobody listens on.
    ///
    /// # Errors
    /// If there is none left.
    pub fn port(&self) -> Result<SocketAddr> {
        for _ in FIRST_PORT..LAST_PORT {
            let port = self.next_port.fetch_add(1, Ordering::Relaxed);
            if port >= LAST_PORT {
                self.next_port.store(FIRST_PORT, Ordering::Relaxed);
            }
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            if TcpListener::bind(addr).is_ok() {
                return Ok(addr);
            }
        }
        bail!("no free port between {FIRST_PORT} and {LAST_PORT}")
    }

    /// A command that runs `program` on `cpu` and ends with this process.
    #[must_use]
    pub fn command(&self, cpu: Option<usize>, program: &OsStr) -> Command {
        let mut command = Command::new(&self.exe);
        // Errors are quoted in the table, where nobody wants a stack.
        command.arg("exec").env("RUST_BACKTRACE", "0");
        if let Some(cpu) = cpu {
            command.arg("--cpu").arg(cpu.to_string());
        }
        command.arg("--").arg(program);
        command
    }

    /// Starts a server and waits until it listens.
    ///
    /// # Errors
    /// If it ends or does not listen in time; its log is quoted.
    pub fn serve(
        &self,
        name: &str,
        cpu: Option<usize>,
        program: &OsStr,
        args: &[OsString],
        listens: &[SocketAddr],
    ) -> Result<Server> {
        let log = self.dir.join(format!("{name}.log"));
        let origin = Origin { cpu, program: program.to_owned(), args: args.to_vec() };
        let child = self.spawn(name, &origin, &log)?;
        let mut server = Server { child, name: name.to_owned(), log, origin };
        for addr in listens {
            server.wait_until_it_listens(*addr)?;
        }
        Ok(server)
    }

    /// Starts a server that was killed once more, as it was started before. Does not wait until it listens.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_again(&self, server: &mut Server) -> Result<()> {
        server.child = self.spawn(&server.name, &server.origin, &server.log)?;
        Ok(())
    }

    fn spawn(&self, name: &str, origin: &Origin, log: &Path) -> Result<Child> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        self.command(origin.cpu, &origin.program)
            .args(&origin.args)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {name}"))
    }

    /// Runs a driver to its end and returns what it printed.
    ///
    /// # Errors
    /// If it fails; what it said is quoted.
    pub fn drive(&self, cpu: Option<usize>, args: &[String]) -> Result<String> {
        let output = self
            .command(cpu, self.exe.as_os_str())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .context("start a driver")?;
        if !output.status.success() {
            bail!("{}: {}", args.join(" "), quote(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // Nothing in it is needed by anybody; what cannot be removed stays in the folder for such things.
        fs::remove_dir_all(&self.dir).unwrap_or_default();
    }
}

// === impl Server ===

impl Server {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it at once, so that it can neither say nor finish anything.
    ///
    /// # Errors
    /// If it is not ours any more.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        quote(&fs::read(&self.log).unwrap_or_default())
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        proc::is_alive(self.pid())
    }

    /// Whether it listens at an address within a time.
    #[must_use]
    pub fn comes_to_listen(&self, addr: SocketAddr, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            match TcpStream::connect(addr) {
                Ok(_) => return true,
                Err(_) if Instant::now() < deadline && self.is_alive() => thread::park_timeout(LOOK),
                Err(_) => return false,
            }
        }
    }

    fn wait_until_it_listens(&mut self, addr: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + START;
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.log());
            }
            ensure!(Instant::now() < deadline, "{} does not listen at {addr}: {}", self.name, self.log());
            // There is no event for another process beginning to listen.
            thread::park_timeout(LOOK);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        self.child.kill().unwrap_or_default();
        if let Err(error) = self.child.wait() {
            crate::out::note(&format!("{}: {error}", self.name));
        }
    }
}

/// The end of a text that may be long.
fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    let start = text.len().saturating_sub(QUOTE);
    let start = (start..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_the_end_of_a_text_at_a_character() {
        assert_eq!(quote(b" short \n"), "short");
        let long = "ä".repeat(QUOTE);
        let quoted = quote(long.as_bytes());
        assert!(quoted.len() <= QUOTE && quoted.ends_with('ä'));
    }

    #[test]
    fn ports_are_free_and_differ() {
        let launcher = Launcher::new().unwrap();
        let (first, second) = (launcher.port().unwrap(), launcher.port().unwrap());
        assert_ne!(first, second);
        assert!(TcpListener::bind(first).is_ok() && TcpListener::bind(second).is_ok());
        let dir = launcher.dir().to_owned();
        assert!(dir.exists());
        drop(launcher);
        assert!(!dir.exists());
    }
}
