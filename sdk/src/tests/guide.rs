//! The code of `docs/sdk.md`, run. What stands between `// [` and `// ]` is shown there, in this order.
//!
//! There, the builders come from [`Edge::builder`] and [`Service::builder`] with the addresses of a gateway on its defaults.

use std::{
    error::Error as StdError,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use frontier::testing::Gateway;

use crate as frontier;
use crate::{Edge, Service};

type Outcome = Result<(), Box<dyn StdError>>;

#[tokio::test(start_paused = true)]
async fn a_service() -> Outcome {
    let gateway = Gateway::start();
    // [
    use frontier::{Error, Request};

    let service = gateway.service().name("calculator").topics(["telemetry"]).connect().await?;

    service
        .register("sum", |request: Request| async move {
            let text = std::str::from_utf8(request.body()).map_err(Error::application)?;
            let numbers: Vec<i64> =
                text.split(' ').map(str::parse).collect::<Result<_, _>>().map_err(Error::application)?;
            Ok(numbers.iter().sum::<i64>().to_string())
        })
        .await?;
    // ]
    edge(&gateway, service).await
}

async fn receive(service: Service) -> frontier::Result<()> {
    // [
    while let Some(message) = service.receive().await {
        match std::str::from_utf8(message.body()) {
            Ok(text) => {
                println!("{} says {text}", message.from());
                message.done().await?;
            }
            Err(_) => message.error("not a text").await?,
        }
    }
    // ]
    Ok(())
}

async fn edge(gateway: &Gateway, service: Service) -> Outcome {
    let collector = tokio::spawn(receive(service.clone()));
    // [
    use std::time::Duration;

    let edge = gateway.edge().meta("sn-42").connect().await?;

    let reply = edge.call("sum", "1 2 3").timeout(Duration::from_secs(2)).await?;
    assert_eq!(reply.body(), "6");

    edge.publish("telemetry", "21.5").header("unit", "°C").await?;
    // ]
    service.close().await;
    collector.await??;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_service_reaches_edges() -> Outcome {
    let gateway = Gateway::start();
    let (service, edge) = (gateway.service().connect().await?, gateway.edge().connect().await?);
    let id = edge.id();
    edge.register("restart", |_: frontier::Request| async { Ok("soon") }).await?;
    let receiver = edge.clone();
    let listener = tokio::spawn(async move { receiver.receive().await.unwrap().done().await });
    // [
    let reply = service.call(id, "restart", "").await?;
    service.publish(id, "config has changed").topic("notices").await?;
    // ]
    listener.await??;
    assert_eq!(reply.body(), "soon");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn streams() -> Outcome {
    let gateway = Gateway::start();
    let service = gateway.service().name("files").connect().await?;
    let edge = gateway.edge().connect().await?;
    let server = tokio::spawn(serve_files(service.clone()));
    // [
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stream = edge.open_stream("files").meta("upload/report.txt").await?;
    stream.write_all(b"all of it").await?;
    stream.shutdown().await?; // no more from here; the other direction stays open
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    // ]
    assert_eq!(answer, "9 bytes");
    let refused = edge.open_stream("files").meta("download/secret").await.unwrap_err();
    assert_eq!(refused.text(), "uploads only");
    service.close().await;
    server.await??;
    Ok(())
}

async fn serve_files(service: Service) -> std::io::Result<()> {
    use tokio::io::AsyncWriteExt;
    // [
    while let Some(incoming) = service.next_stream().await {
        if !incoming.meta().starts_with(b"upload/") {
            incoming.refuse("uploads only");
            continue;
        }
        let mut stream = incoming.accept();
        let mut count = 0;
        while let Some(bytes) = stream.read_bytes().await? {
            count += bytes.len();
        }
        stream.write_all(format!("{count} bytes").as_bytes()).await?;
        stream.shutdown().await?;
    }
    // ]
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn presence() -> Outcome {
    let gateway = Gateway::start();
    let service = gateway.service().connect().await?;
    // [
    use frontier::{EdgeId, Error, ErrorCode};

    // Who may have which ID; without this the gateway gives them.
    service
        .on_edge_id(|edge| async move {
            let serial = std::str::from_utf8(edge.meta()).ok().and_then(|meta| meta.strip_prefix("sn-"));
            Ok(serial.and_then(|number| number.parse().ok()).map(|number: u64| EdgeId::from(number)))
        })
        .await?;
    // Who may come in; the edge's `connect` fails with this error.
    service
        .on_edge_online(|edge| async move {
            match edge.meta().is_empty() {
                true => Err(Error::new(ErrorCode::PermissionDenied, "who are you?")),
                false => Ok(()),
            }
        })
        .await?;
    service.on_edge_offline(|edge| async move { println!("{} is gone", edge.id()) }).await?;
    // Who is here already. Asked after registering, so that nobody is missed.
    for edge in service.presence().await? {
        println!("{} from {}", edge.id(), edge.addr());
    }
    // ]
    assert_eq!(gateway.edge().meta("sn-42").connect().await?.id(), EdgeId::from(42));
    let refused = gateway.edge().connect().await.unwrap_err();
    assert_eq!(refused.to_string(), "refused: permission_denied: who are you?");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn connection_state() -> Outcome {
    let gateway = Gateway::start();
    // [
    use frontier::{Reconnect, State};

    let edge = gateway.edge().reconnect(Reconnect::default().cap(Duration::from_secs(30))).connect().await?;

    let mut watch = edge.watch();
    tokio::spawn(async move {
        while let Some(state) = watch.changed().await {
            println!("{state}"); // such as: connection lost (…), connecting again
        }
    });
    edge.watch().until(State::is_connected).await;
    // ]
    gateway.cut(edge.id()).await;
    edge.watch().until(|state| !state.is_connected()).await;
    edge.watch().until(State::is_connected).await;
    edge.close().await;
    assert!(edge.state().is_closed());
    Ok(())
}

#[cfg(feature = "cluster")]
#[tokio::test(start_paused = true)]
async fn many_gateways() -> Outcome {
    let cluster = frontier::testing::Cluster::start(2);
    let edge = cluster.edge_at(1).connect().await?;
    edge.register("restart", |_: frontier::Request| async { Ok("soon") }).await?;
    let id = edge.id();
    // [
    let service = cluster.service().name("files").topics(["telemetry"]).connect().await?;

    let reply = service.call(id, "restart", "").await?; // wherever this edge is
    for gateway in service.gateways() {
        println!("{} at {}: {}", gateway.name(), gateway.addr(), gateway.state());
    }
    // ]
    assert_eq!(reply.body(), "soon");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn errors() -> Outcome {
    let gateway = Gateway::start();
    let service = gateway.service().connect().await?;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    service
        .register("price", move |_: frontier::Request| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                let busy = frontier::Error::new(frontier::ErrorCode::Overloaded, "busy");
                if first { Err(busy.retry_in(Duration::from_secs(3))) } else { Ok("9.95") }
            }
        })
        .await?;
    let edge = gateway.edge().connect().await?;
    let reply = ask(&edge).await?;
    assert_eq!(reply.body(), "9.95");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    Ok(())
}

async fn ask(edge: &Edge) -> frontier::Result<frontier::Reply> {
    // [
    for _ in 0..5 {
        match edge.call("price", "apples").await {
            Err(error) if error.is_retryable() => {
                let pause = error.retry_after().unwrap_or(Duration::from_secs(1));
                tokio::time::sleep(pause).await;
            }
            outcome => return outcome,
        }
    }
    // ]
    Err("nobody answers".into())
}

#[tokio::test]
async fn security() -> Outcome {
    let saved = b"ticket".to_vec();
    // [
    use frontier::{Edge, TlsOptions};

    let tls = TlsOptions::new()
        .roots_file("/etc/frontier/ca.pem") // default: the roots of the system
        .identity_files("/etc/frontier/edge.pem", "/etc/frontier/edge.key"); // only for mTLS
    let builder = Edge::builder("tls://gateway.example:30012").tls(tls).token("s3cret").resume(saved);
    // ]
    let error = builder.connect().await.unwrap_err();
    assert!(["tls", "dial"].contains(&error.kind()), "{error}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn limits() -> Outcome {
    let gateway = Gateway::start();
    // [
    let service = gateway
        .service()
        .name("thumbnails")
        .max_concurrent_handlers(8)
        .max_in_flight(64)
        .max_body(32 << 20)
        .pool(4)
        .connect()
        .await?;
    // ]
    service.close().await;
    Ok(())
}

// [
#[tokio::test]
async fn the_calculator_adds() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = frontier::testing::Gateway::start();
    let service = gateway.service().name("calculator").connect().await?;
    service.register("sum", |_: frontier::Request| async { Ok("6") }).await?;

    let edge = gateway.edge().connect().await?;
    assert_eq!(edge.call("sum", "1 2 3").await?.body(), "6");

    gateway.cut(edge.id()).await; // breaks the connection; also: cut_all, send_away, edges
    assert_eq!(edge.call("sum", "1 2 3").await?.body(), "6");
    Ok(())
}
// ]

#[tokio::test(start_paused = true)]
async fn readme() -> Outcome {
    fn sum(numbers: &[u8]) -> String {
        let numbers = std::str::from_utf8(numbers).unwrap_or_default().split(' ');
        numbers.filter_map(|number| number.parse::<i64>().ok()).sum::<i64>().to_string()
    }
    let gateway = Gateway::start();
    // {
    let service = gateway.service().name("calc").connect().await?;
    service.register("sum", |request: frontier::Request| async move { Ok(sum(request.body())) }).await?;

    let edge = gateway.edge().meta("sn-42").connect().await?;
    let reply = edge.call("sum", "1 2 3").await?;
    // }
    assert_eq!(reply.body(), "6");
    Ok(())
}

#[test]
fn the_readme_shows_the_code_that_is_run_here() {
    let ours = include_str!("guide.rs").split_once("// {\n").and_then(|(_, rest)| rest.split_once("// }\n"));
    let readme = include_str!("../../../README.md");
    let shown = readme.split_once("```rust\n").and_then(|(_, rest)| rest.split_once("```"));
    let ours = as_shown(&dedent(ours.unwrap().0));
    assert_eq!(
        ours.replace("= Service::", "= frontier::Service::").replace("= Edge::", "= frontier::Edge::"),
        shown.unwrap().0
    );
}

#[test]
fn the_guide_shows_the_code_that_is_run_here() {
    let ours: Vec<String> = include_str!("guide.rs")
        .split("// [\n")
        .skip(1)
        .filter_map(|rest| Some(dedent(rest.split_once("// ]\n")?.0)))
        .collect();
    let guide: Vec<&str> = include_str!("../../../docs/sdk.md")
        .split("```rust\n")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("```")?.0))
        .collect();
    assert!(ours.len() > 5);
    for (ours, shown) in ours.iter().zip(&guide) {
        assert_eq!(as_shown(ours), **shown);
    }
    assert_eq!(ours.len(), guide.len());
}

/// The guide makes builders as users do, except where it speaks of tests.
fn as_shown(code: &str) -> String {
    if code.contains("Gateway::start") {
        return code.to_owned();
    }
    let code = code.replace("cluster.service()", "Service::cluster(\"http://127.0.0.1:40011\")");
    let services = "Service::builder(\"tcp://127.0.0.1:30011\")";
    let edges = "Edge::builder(\"tcp://127.0.0.1:30012\")";
    let code = code.replace("gateway\n    .service()", services).replace("gateway.service()", services);
    code.replace("gateway.edge()", edges)
}

/// Without the margin that the first line has.
fn dedent(code: &str) -> String {
    let code = code.trim_end_matches(' ');
    let margin = code.len() - code.trim_start_matches(' ').len();
    let lines = code.lines().map(|line| line.get(margin..).unwrap_or_else(|| line.trim_start()));
    lines.fold(String::new(), |text, line| text + line + "\n")
}
