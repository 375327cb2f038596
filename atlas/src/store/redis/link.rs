//! One connection to one server, by fred. It is never made again: [`Node`](super::node::Node) opens another one. So what fred does on its
//! own after a loss, in clusters and with sentinels is not used: there it forgets the sentinels it was told of, takes answers for those of
//! other commands when a slot moves, and holds up all servers when one is away.

use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fred::interfaces::TrackingInterface as _;
use fred::prelude::{
    Builder, Client, ClientLike as _, Config, ConnectionConfig, Error, ErrorKind, PerformanceConfig, Server,
    ServerConfig, TcpConfig, Value,
};
use fred::types::client::Invalidation;
use fred::types::config::{TlsConfig, UnresponsiveConfig};
use fred::types::{ClusterHash, CustomCommand, RespVersion};
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::call::{Call, Script, What};
use super::echoes::Echoes;
use super::errors::{is_unknown_script, store_error};
use super::keys::{PREFIX, probe_key};
use super::settings::{Address, Mode, Settings};
use crate::store::StoreError;

/// Before a script that runs also when Redis has no memory left. Redis 7 and later understand it; others do without.
const WHEN_FULL: &str = "#!lua flags=allow-oom\n";

/// More than there are threads that call at once.
const ENDS: usize = 16;

/// See the module documentation.
pub(super) struct Link {
    client: Client,
    /// In the order of [`Script::ALL`].
    hashes: OnceLock<Vec<String>>,
    /// What scripts write is heard on this connection as well.
    echoes: Option<Echoes>,
    over: CancellationToken,
    /// Ended by `over`: a call waits for one of them, because waiting for one alone would have all calls meet at its lock.
    ends: [CancellationToken; ENDS],
    turn: AtomicUsize,
    /// Ends the connection with this value.
    _connection: AbortOnDropHandle<()>,
}

/// What is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Data,
    Sentinel,
}

/// What is heard of changes on a connection.
pub(super) type Heard = broadcast::Receiver<Invalidation>;

// === impl Link ===

impl Link {
    /// Connects and authenticates. A connection to data has all scripts.
    pub(super) async fn open(
        settings: &Settings,
        address: &Address,
        role: Role,
    ) -> Result<(Self, Heard), StoreError> {
        // Two stages, each with the time allowed.
        let within = settings.connect_timeout.saturating_mul(2);
        let opened = timeout(within, Self::open_in_time(settings, address, role)).await;
        opened.map_err(|_| StoreError::Unreachable(format!("{address} does not answer")))?
    }

    async fn open_in_time(
        settings: &Settings,
        address: &Address,
        role: Role,
    ) -> Result<(Self, Heard), StoreError> {
        let client = client(settings, address, role)?;
        let heard = client.invalidation_rx();
        let mut connected = Box::pin(client.wait_for_connect());
        // It must listen before there is anything to hear.
        let _ = futures::poll!(&mut connected);
        let connection = AbortOnDropHandle::new(client.connect());
        let over = CancellationToken::new();
        let ends = std::array::from_fn(|_| over.child_token());
        let guard = over.clone().drop_guard();
        let connection = Handle::current().spawn(async move {
            let _guard = guard;
            let _ = connection.await;
        });
        let _connection = AbortOnDropHandle::new(connection);
        connected.await.map_err(|error| store_error(&error))?;
        let (hashes, turn) = (OnceLock::new(), AtomicUsize::new(0));
        let link = Self { client, hashes, echoes: None, over, ends, turn, _connection };
        if role == Role::Data {
            let name = vec!["SETNAME".into(), settings.client_name.as_str().into()];
            // A name is for people only.
            let _ = link.plain("CLIENT", name).await;
            link.load_scripts().await.map_err(|error| store_error(&error))?;
        }
        Ok((link, heard))
    }

    /// Hears from now on what others change. Whether it does: Redis before 6 and some proxies cannot.
    pub(super) async fn track(&mut self, shared: &Shared, heard: &mut Heard, bucket: u16) -> bool {
        let args = ["TRACKING", "ON", "BCAST", "PREFIX", PREFIX, "NOLOOP"].map(Value::from).into();
        if self.plain("CLIENT", args).await.is_err() {
            return false;
        }
        // Whether what a script writes is heard in spite of `NOLOOP` depends on the version. What is heard of a command has been said
        // before the next answer.
        let key = probe_key(bucket, getrandom::u64().unwrap_or_default());
        let probe = Call::script(Script::Probe, vec![key.clone()], Vec::new());
        let probed = self.call(&probe).await.is_ok() && self.plain("PING", Vec::new()).await.is_ok();
        let mut echo = false;
        while let Ok(invalidation) = heard.try_recv() {
            echo |= invalidation.keys.iter().any(|heard| heard.as_str() == Some(&key));
        }
        let echo =
            if probed { *shared.echoes.get_or_init(|| echo) } else { shared.echoes.get() == Some(&true) };
        self.echoes = echo.then(Echoes::default);
        true
    }

    /// Which of the changes heard are our own.
    pub(super) const fn echoes(&self) -> Option<&Echoes> {
        self.echoes.as_ref()
    }

    /// Returns when the connection is over.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Sends one command.
    pub(super) async fn call(&self, call: &Call) -> Result<Value, Error> {
        self.announce(call);
        let (command, args) = self.command(call);
        let sent = pin!(self.client.custom(command, args));
        let answer = self.while_open(sent).await.unwrap_or_else(|| Err(gone()));
        self.heed(call, &answer);
        answer
    }

    /// Sends commands in one go; `asking` says to a server that it is about to get their slots.
    pub(super) async fn calls(&self, calls: &[&Call], asking: bool) -> Vec<Result<Value, Error>> {
        if let ([call], false) = (calls, asking) {
            return vec![self.call(call).await];
        }
        let pipeline = self.client.pipeline();
        for call in calls {
            self.announce(call);
            let (command, args) = self.command(call);
            // Queues only, which cannot fail.
            if asking {
                let _: Result<(), Error> = pipeline.custom(name("ASKING"), Vec::<Value>::new()).await;
            }
            let _: Result<(), Error> = pipeline.custom(command, args).await;
        }
        let mut answers = self.while_open(pipeline.try_all::<Value>()).await.unwrap_or_default();
        if asking && answers.len() == calls.len() * 2 {
            answers = answers.into_iter().skip(1).step_by(2).collect();
        }
        // What ends a connection is said once, instead of all answers.
        if answers.len() != calls.len() {
            let error = answers.into_iter().find_map(Result::err).unwrap_or_else(gone);
            answers = calls.iter().map(|_| Err(error.clone())).collect();
        }
        for (call, answer) in calls.iter().zip(&answers) {
            self.heed(call, answer);
        }
        answers
    }

    /// As [`calls`](Self::calls), and scripts that the server has forgotten are told again.
    pub(super) async fn calls_with_scripts(
        &self,
        calls: &[&Call],
        asking: bool,
    ) -> Vec<Result<Value, Error>> {
        let mut answers = self.calls(calls, asking).await;
        let forgotten = |answer: &Result<Value, Error>| answer.as_ref().is_err_and(is_unknown_script);
        if answers.iter().any(forgotten) && self.load_scripts().await.is_ok() {
            let again: Vec<usize> = (0..calls.len()).filter(|at| forgotten(&answers[*at])).collect();
            let calls: Vec<&Call> = again.iter().map(|at| calls[*at]).collect();
            for (at, answer) in again.into_iter().zip(self.calls(&calls, asking).await) {
                answers[at] = answer;
            }
        }
        answers
    }

    /// Sends what has no key.
    pub(super) async fn plain(&self, command: &'static str, args: Vec<Value>) -> Result<Value, Error> {
        let sent = pin!(self.client.custom(name(command), args));
        self.while_open(sent).await.unwrap_or_else(|| Err(gone()))
    }

    async fn load_scripts(&self) -> Result<(), Error> {
        let mut hashes = Vec::with_capacity(Script::ALL.len());
        for script in Script::ALL {
            let load = |source: String| self.plain("SCRIPT", vec!["LOAD".into(), source.into()]);
            let plain = script.source().to_owned();
            let hash = if script.runs_when_full() {
                match load(format!("{WHEN_FULL}{plain}")).await {
                    Err(error) if error.details().contains("compiling script") => load(plain).await?,
                    loaded => loaded?,
                }
            } else {
                load(plain).await?
            };
            // fred takes the end of a connection for an answer while it sets it up.
            let hash = hash.as_string().filter(|hash| hash.len() == 40);
            hashes.push(hash.ok_or_else(|| Error::new(ErrorKind::Protocol, "no hash for a script"))?);
        }
        // They are the same each time.
        let _ = self.hashes.set(hashes);
        Ok(())
    }

    fn command(&self, call: &Call) -> (CustomCommand, Vec<Value>) {
        let keys = call.keys.iter().map(|key| Value::from(key.as_str()));
        let args = call.args.iter().cloned();
        match call.what {
            What::Command(command) => (name(command), keys.chain(args).collect()),
            What::Script(script) => {
                let hash = self.hashes.get().and_then(|hashes| hashes.get(script as usize));
                let hash = Value::from(hash.map_or("", String::as_str));
                let count = Value::from(i64::try_from(call.keys.len()).unwrap_or_default());
                (name("EVALSHA"), [hash, count].into_iter().chain(keys).chain(args).collect())
            }
        }
    }

    fn announce(&self, call: &Call) {
        if let Some(echoes) = &self.echoes {
            call.written().for_each(|key| echoes.announce(key));
        }
    }

    fn heed(&self, call: &Call, answer: &Result<Value, Error>) {
        if let (Some(echoes), Some((_, changed))) = (&self.echoes, call.writes)
            && !answer.as_ref().is_ok_and(changed)
        {
            call.written().for_each(|key| echoes.take_back(key));
        }
    }

    /// fred leaves what is sent to a connection that has just ended without an answer.
    async fn while_open<T>(&self, sent: impl Future<Output = T>) -> Option<T> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % ENDS;
        self.ends[turn].run_until_cancelled(sent).await
    }
}

fn name(command: &'static str) -> CustomCommand {
    CustomCommand::new_static(command, ClusterHash::FirstKey, false)
}

fn gone() -> Error {
    Error::new(ErrorKind::IO, "the connection was lost")
}

/// A client of one server, with every limit set.
fn client(settings: &Settings, address: &Address, role: Role) -> Result<Client, StoreError> {
    let Address { host, port } = address;
    let (tls, server_name) = match &settings.tls {
        Some(tls) => {
            let config =
                super::tls::client(tls).map_err(|error| StoreError::Unreachable(error.to_string()))?;
            (Some(TlsConfig::from(config)), Some(tls.server_name.clone().unwrap_or_else(|| host.clone())))
        }
        None => (None, None),
    };
    // It puts name and port together as they are.
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let credentials = match (&settings.mode, role) {
        (Mode::Sentinel { credentials, .. }, Role::Sentinel) => credentials,
        _ => &settings.credentials,
    };
    let config = Config {
        server: ServerConfig::Centralized { server: Server::new_with_tls(bracketed, *port, server_name) },
        username: credentials.username.clone(),
        password: credentials.password.clone(),
        // Changes are heard by version 3 only; sentinels before 6.2 know only version 2.
        version: if role == Role::Data { RespVersion::RESP3 } else { RespVersion::RESP2 },
        database: (role == Role::Data && settings.database != 0).then_some(settings.database),
        fail_fast: true,
        tls,
        ..Config::default()
    };
    Builder::from_config(config)
        .with_connection_config(|connection: &mut ConnectionConfig| {
            connection.connection_timeout = settings.connect_timeout;
            connection.internal_command_timeout = settings.connect_timeout;
            connection.max_command_attempts = 1;
            connection.max_redirections = 1;
            connection.max_command_buffer_len =
                usize::try_from(settings.in_flight).unwrap_or(usize::MAX).max(64);
            connection.reconnect_on_auth_error = false;
            connection.auto_client_setname = false;
            connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
            // Commands have a timeout each, and whoever holds this connection asks it for a sign of life.
            connection.unresponsive =
                UnresponsiveConfig { max_timeout: None, interval: Duration::from_secs(60) };
        })
        .with_performance_config(|performance: &mut PerformanceConfig| {
            performance.default_command_timeout = settings.command_timeout;
            performance.broadcast_channel_capacity = super::CHANGES;
        })
        .build()
        .map_err(|error| store_error(&error))
}
