//! A Redis of one test.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fred::prelude::{Config, ServerConfig};
use frontier_atlas::store::Redis;
use frontier_atlas::store::redis::Settings;

pub(crate) struct Server {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

// === impl Server ===

impl Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Nobody keeps the port between here and the server's start; 20 attempts make do.
        for _ in 0..20 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let mut child = Command::new("redis-server")
                .args([
                    "--port",
                    &port.to_string(),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                ])
                .arg("--dir")
                .arg(dir.path())
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server is not installed");
            loop {
                if std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                    return Self { child, port, _dir: dir };
                }
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::yield_now();
            }
        }
        panic!("no redis-server came up");
    }

    pub(crate) async fn connect(&self) -> Redis {
        let config =
            Config { server: ServerConfig::new_centralized("127.0.0.1", self.port), ..Config::default() };
        let settings = Settings {
            config,
            connect_timeout: Duration::from_secs(5),
            command_timeout: Duration::from_secs(10),
            backoff: (Duration::from_millis(50), Duration::from_secs(1)),
        };
        Redis::connect(&settings).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
