//! Connecting to a NATS server, and asking it something before messages flow.

use bytes::{BufMut, BytesMut};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Op, nkey, op};
use crate::{
    ConnectError,
    config::{self, Address},
    socket::{self, Socket},
};

/// A connection on which nothing is published yet.
pub(super) struct Session {
    pub(super) socket: Socket,
    pub(super) input: BytesMut,
    pub(super) max_payload: usize,
}

// === impl Session ===

impl Session {
    pub(super) async fn connect(config: &config::Nats, address: &Address) -> Result<Self, ConnectError> {
        let mut stream: TcpStream = socket::dial(address).await?;
        let mut input = BytesMut::with_capacity(4096);
        let Op::Info(info) = next(&mut stream, &mut input).await? else {
            return Err(ConnectError::unreachable("no NATS: the server does not say who it is"));
        };
        let info: Value = serde_json::from_slice(&info)
            .map_err(|_| ConnectError::unreachable("no NATS: the server does not say who it is"))?;
        let says = |key: &str| info.get(key).and_then(Value::as_bool).unwrap_or_default();
        if !says("headers") {
            return Err(ConnectError::refused("the server knows no headers; it is older than 2.2"));
        }
        let tls = config.tls.client(address.secure()).map_err(ConnectError::refused)?;
        let socket: Socket = match tls {
            Some(_) if !says("tls_required") && !says("tls_available") => {
                return Err(ConnectError::refused("the server does not speak TLS"));
            }
            Some(_) if !input.is_empty() => {
                return Err(ConnectError::refused("the server said something before TLS stood"));
            }
            Some(tls) => socket::secure(stream, tls, config.tls.name(address.host())).await?,
            None if says("tls_required") => {
                return Err(ConnectError::refused("the server wants TLS; see mqm.nats.tls"));
            }
            None => Box::new(stream),
        };
        let max_payload = info.get("max_payload").and_then(Value::as_u64).unwrap_or(1 << 20);
        let max_payload = usize::try_from(max_payload).unwrap_or(usize::MAX);
        let mut session = Self { socket, input, max_payload };
        let nonce = info.get("nonce").and_then(Value::as_str).unwrap_or_default();
        let hello = hello(config, address, nonce).map_err(ConnectError::refused)?;
        session.send(format!("CONNECT {hello}\r\nPING\r\n").as_bytes()).await?;
        loop {
            match session.next().await? {
                Op::Pong => return Ok(session),
                Op::Error(text) => return Err(ConnectError::refused(text)),
                _ => {}
            }
        }
    }

    /// Makes what is published below this prefix come here.
    pub(super) async fn subscribe(&mut self, prefix: &str) -> Result<(), ConnectError> {
        self.send(format!("SUB {prefix}* 1\r\n").as_bytes()).await
    }

    /// Asks and waits for the answer; `None` where nobody is there to answer.
    pub(super) async fn ask(
        &mut self,
        subject: &str,
        prefix: &str,
        body: &Value,
    ) -> Result<Option<Value>, ConnectError> {
        let body = body.to_string();
        let mut out = BytesMut::new();
        out.put_slice(format!("PUB {subject} {prefix}api {}\r\n{body}\r\n", body.len()).as_bytes());
        self.send(&out).await?;
        loop {
            match self.next().await? {
                Op::Message { status: Some(503), .. } => return Ok(None),
                Op::Message { payload, .. } => {
                    return serde_json::from_slice(&payload)
                        .map(Some)
                        .map_err(|_| ConnectError::unreachable("the server's answer is not understood"));
                }
                Op::Ping => self.send(b"PONG\r\n").await?,
                Op::Error(text) => return Err(ConnectError::refused(text)),
                _ => {}
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        self.socket.write_all(bytes).await.map_err(ConnectError::unreachable)?;
        self.socket.flush().await.map_err(ConnectError::unreachable)
    }

    async fn next(&mut self) -> Result<Op, ConnectError> {
        next(&mut self.socket, &mut self.input).await
    }
}

async fn next<S: AsyncRead + Unpin>(socket: &mut S, input: &mut BytesMut) -> Result<Op, ConnectError> {
    loop {
        if let Some(op) = op(input).map_err(ConnectError::unreachable)? {
            return Ok(op);
        }
        if socket.read_buf(input).await.map_err(ConnectError::unreachable)? == 0 {
            return Err(ConnectError::unreachable("the server closed the connection"));
        }
    }
}

/// What `CONNECT` says.
fn hello(config: &config::Nats, address: &Address, nonce: &str) -> Result<String, String> {
    let mut hello = Map::new();
    let mut say = |key: &str, value: Value| drop(hello.insert(key.to_owned(), value));
    for key in ["headers", "no_responders"] {
        say(key, json!(true));
    }
    for key in ["verbose", "pedantic", "echo"] {
        // Acknowledgements come from the server's own account, so they are no echo.
        say(key, json!(false));
    }
    say("name", json!("frontier"));
    say("lang", json!("rust"));
    say("version", json!(env!("CARGO_PKG_VERSION")));
    say("protocol", json!(1));
    let (user, password) = config.login.load()?;
    let token = config.token.secret()?;
    if let Some((token, _)) = address.login().filter(|(_, password)| password.expose().is_empty()) {
        // A name alone is a token, as all clients of NATS have it.
        say("auth_token", json!(token));
    } else if let Some((user, password)) = address.login() {
        say("user", json!(user));
        say("pass", json!(password.expose()));
    } else if !user.is_empty() {
        say("user", json!(user));
        say("pass", json!(password.expose()));
    } else if !token.expose().is_empty() {
        say("auth_token", json!(token.expose()));
    }
    if !config.nkey_seed_file.as_os_str().is_empty() {
        let path = &config.nkey_seed_file;
        let seed = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let key = nkey::Key::of_seed(seed.trim()).map_err(|error| format!("{}: {error}", path.display()))?;
        say("nkey", json!(key.public()));
        say("sig", json!(key.sign(nonce.as_bytes())));
    }
    Ok(Value::Object(hello).to_string())
}
