//! TLS with authorities of our own, and how Kafka and NSQ learn who we are.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::Path,
};

use frontier_ops::tls::testing::{Ca, Dir};
#[cfg(feature = "kafka")]
use frontier_queues::testing::Kafka;
use frontier_queues::{
    Kind,
    config::QueueKind,
    testing::{Nats, Nsq, Rabbit, Redis, free_port},
};

use crate::harness::{down, is_refused, message, publish, queue, up};

/// A certificate for this machine, its authority, and an authority that has nothing to do with it.
struct Files {
    dir: Dir,
}

// === impl Files ===

impl Files {
    fn new() -> Self {
        let (dir, ca, other) = (Dir::new(), Ca::new("ours"), Ca::new("other"));
        let leaf = ca.issue("broker", &["127.0.0.1", "localhost"]);
        dir.write("ca", &ca.pem);
        dir.write("other", &other.pem);
        dir.pair("broker", &leaf);
        dir.write("both", &format!("{}{}", leaf.key_pem, leaf.cert_pem));
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

/// The broker is believed by its authority and by no other; `yaml` is made with the file of one.
async fn is_believed(kind: QueueKind, files: &Files, destination: &str, yaml: impl Fn(&str) -> String) {
    let good = queue(kind, &yaml(&files.path("ca")));
    let wrong = queue(kind, &yaml(&files.path("other")));
    up(&good).await;
    publish(&good, message(1, destination, "x")).await.unwrap();
    let reason = down(&wrong).await;
    assert!(reason.to_lowercase().contains("certificate"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_nsq_and_nats_are_believed_by_their_authority() {
    let files = Files::new();
    let (ca, cert, key) = (files.path("ca"), files.path("broker.crt"), files.path("broker.key"));
    let port = free_port().unwrap();
    let tls = ["--tls-port", &port.port().to_string(), "--tls-auth-clients", "no"];
    let tls = [&tls[..], &["--tls-ca-cert-file", &ca, "--tls-cert-file", &cert, "--tls-key-file", &key]];
    let _redis = Redis::start(&tls.concat()).unwrap();
    let nsq = Nsq::start(&["--tls-cert", &cert, "--tls-key", &key, "--tls-required", "true"]).unwrap();
    let nats = Nats::start(&format!("tls {{ cert_file: '{cert}', key_file: '{key}' }}")).unwrap();
    let yaml = |block: &str, addr: std::net::SocketAddr, producer: &str| {
        let (block, producer) = (block.to_owned(), producer.to_owned());
        move |ca: &str| {
            format!(
                "{block}: {{enable: true, addrs: ['{addr}'], tls: {{enable: true, ca: '{ca}'}}, producer: {{{producer}: [t]}}}}\n"
            )
        }
    };
    tokio::join!(
        is_believed(QueueKind::Redis, &files, "t", yaml("redis", port, "channels")),
        is_believed(QueueKind::Nsq, &files, "t", yaml("nsq", nsq.server.addr(), "topics")),
        is_believed(QueueKind::Nats, &files, "t", yaml("nats", nats.0.addr(), "subjects")),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rabbitmq_is_believed_by_its_authority() {
    let files = Files::new();
    let (ca, cert, key) = (files.path("ca"), files.path("broker.crt"), files.path("broker.key"));
    let port = free_port().unwrap();
    let lines = format!(
        "listeners.ssl.1 = {port}\nssl_options.cacertfile = {ca}\nssl_options.certfile = {cert}\n\
         ssl_options.keyfile = {key}\nssl_options.verify = verify_none\n"
    );
    let _rabbit = Rabbit::start(&lines).unwrap();
    is_believed(QueueKind::Amqp, &files, "q", |ca| {
        format!(
            "amqp: {{enable: true, addrs: ['{port}'], tls: {{enable: true, ca: '{ca}'}}, queues: [{{name: q}}], producer: {{routing_keys: [q]}}}}\n"
        )
    })
    .await;
}

/// One Kafka for all of it, as it takes seconds to start.
#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_believes_and_is_believed_and_is_used_again_after_a_fatal_error() {
    let files = Files::new();
    let secure = free_port().unwrap();
    let lines = format!(
        "listeners=SASL_PLAINTEXT://@ADDR@,SSL://{secure},CONTROLLER://@CONTROL@\n\
         advertised.listeners=SASL_PLAINTEXT://@ADDR@,SSL://{secure}\n\
         listener.security.protocol.map=SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,CONTROLLER:PLAINTEXT\n\
         inter.broker.listener.name=SASL_PLAINTEXT\nsasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         sasl.mechanism.inter.broker.protocol=PLAIN\nauto.create.topics.enable=true\n\
         listener.name.sasl_plaintext.plain.sasl.jaas.config={} user_admin=\"a\" user_gw=\"hunter2\";\n\
         listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
         listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
         ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.client.auth=none\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS;User:admin;User:s256;User:s512\n",
        ADMIN.trim_end_matches(';'),
        files.path("both"),
    );
    let scram = "--add-scram 'SCRAM-SHA-256=[name=s256,password=hunter3]' --add-scram 'SCRAM-SHA-512=[name=s512,password=hunter4]'";
    let kafka = Kafka::formatted(&lines, scram).unwrap();
    let yaml = |addr: std::net::SocketAddr, more: &str| {
        format!("kafka: {{enable: true, addrs: ['{addr}'], producer: {{topics: [t]}}, {more}}}\n")
    };
    let sasl = |mechanism: &str, user: &str, password: &str| {
        let more =
            format!("timeout: 5s, sasl: {{mechanism: {mechanism}, user: {user}, password: {password}}}");
        queue(QueueKind::Kafka, &yaml(kafka.0.addr(), &more))
    };
    for (mechanism, user, password) in
        [("PLAIN", "admin", "a"), ("SCRAM-SHA-256", "s256", "hunter3"), ("SCRAM-SHA-512", "s512", "hunter4")]
    {
        let good = sasl(mechanism, user, password);
        up(&good).await;
        publish(&good, message(1, "t", "x")).await.unwrap();
        let reason = is_refused(&sasl(mechanism, user, "wr0ng"), "wr0ng").await;
        assert!(reason.contains("Authentication"), "{mechanism}: {reason}");
    }
    is_believed(QueueKind::Kafka, &files, "t", |ca| {
        yaml(secure, &format!("tls: {{enable: true, ca: '{ca}'}}"))
    })
    .await;

    // Without the right to write anything the library gives up for good; with it a new one goes on.
    let queue = sasl("PLAIN", "gw", "hunter2");
    let refused = publish(&queue, message(1, "t", "x")).await.unwrap_err();
    assert!(matches!(refused.kind(), Kind::Denied | Kind::Unavailable | Kind::Deadline), "{refused}");
    let settings =
        format!("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config={ADMIN}\n");
    let grant = [
        "--add",
        "--allow-principal",
        "User:gw",
        "--operation",
        "Write",
        "--operation",
        "Describe",
        "--topic",
        "t",
    ];
    kafka.tool("org.apache.kafka.tools.AclCommand", &settings, &grant).unwrap();
    let deadline = std::time::Instant::now() + crate::harness::SOON;
    while let Err(error) = publish(&queue, message(1, "t", "x")).await {
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Who Kafka's own tools and the broker itself are.
#[cfg(feature = "kafka")]
const ADMIN: &str =
    "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" password=\"a\";";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nsqd_asks_who_may_publish_what() {
    // nsqd asks a server by HTTP, which is this.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or_default();
            let known = String::from_utf8_lossy(&request[..read]).contains("secret=hunter2");
            let body = r#"{"ttl":60,"identity":"gw","authorizations":[{"topic":"^t$","channels":[".*"],"permissions":["publish"]}]}"#;
            let (status, body) = if known { ("200 OK", body) } else { ("403 Forbidden", "") };
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            drop(stream.write_all(format!("{head}{body}").as_bytes()));
        }
    });
    let nsq = Nsq::start(&["--auth-http-address", &addr]).unwrap();
    let yaml = |more: &str| {
        format!(
            "nsq: {{enable: true, addrs: ['{}'], producer: {{topics: [t]}}, {more}}}\n",
            nsq.server.addr()
        )
    };
    let secret = crate::harness::write(Path::new(nsq.server.dir()), "secret", "hunter2\n");
    let good = queue(QueueKind::Nsq, &yaml(&format!("auth_secret_file: '{secret}'")));
    publish(&good, message(1, "t", "x")).await.unwrap();
    let other = publish(&good, message(1, "u", "x")).await.unwrap_err();
    assert_eq!(other.kind(), Kind::Denied, "{other}");
    publish(&good, message(1, "t", "x")).await.unwrap();
    let reason = is_refused(&queue(QueueKind::Nsq, &yaml("auth_secret: wr0ng")), "wr0ng").await;
    assert!(reason.contains("E_AUTH_FAILED"), "{reason}");
}
