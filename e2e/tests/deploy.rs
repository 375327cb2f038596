//! What is in `deploy/` and `charts/`, as far as it can be tried without containers and systemd: Dockerfiles against the images made from them, the commands and
//! files of the compose file and of the units as a running cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use frontier::{Edge, Request, Service};
use frontier_e2e::{
    gateway::{binary as gateway_binary, frontlas_binary},
    redis::Redis,
    wait::{SOON, until},
};
use serde_json::Value;

/// Image, the files in it besides libraries, user, ports, entry point, arguments.
type Image = (&'static str, &'static [&'static str], &'static str, &'static [&'static str]);

const IMAGES: [Image; 4] = [
    (
        "frontier",
        &["/usr/bin/frontier", "/usr/conf/frontier.yaml", "/usr/share/doc/frontier/LICENSE"],
        r#"["/usr/bin/frontier"] ["--config", "/usr/conf/frontier.yaml"]"#,
        &["30010", "30011", "30012", "9091"],
    ),
    (
        "frontlas",
        &["/usr/bin/frontlas", "/usr/conf/frontlas.yaml", "/usr/share/doc/frontlas/LICENSE"],
        r#"["/usr/bin/frontlas"] ["--config", "/usr/conf/frontlas.yaml"]"#,
        &["40011", "40012", "9092"],
    ),
    (
        "frontier-operator",
        &["/manager", "/usr/share/doc/frontier-operator/LICENSE"],
        r#"["/manager"] "#,
        &["8080", "8081"],
    ),
    (
        "frontier-echo",
        &["/usr/bin/frontier-echo", "/usr/share/doc/frontier-echo/LICENSE"],
        r#"["/usr/bin/frontier-echo"] ["service", "--frontlas", "http://frontiercluster-frontlas-svc:40011"]"#,
        &[],
    ),
];

fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(repo().join(path)).with_context(|| path.to_owned())
}

/// Instructions of the last stage of a Dockerfile.
fn last_stage(name: &str) -> anyhow::Result<Vec<(String, String)>> {
    let text = read(&format!("deploy/docker/{name}.Dockerfile"))?;
    let (_, stage) = text.rsplit_once("\nFROM ").context("FROM")?;
    let pairs = stage.lines().skip(1).filter_map(|line| line.split_once(' '));
    Ok(pairs.filter(|(word, _)| *word != "#").map(|(a, b)| (a.to_owned(), b.to_owned())).collect())
}

fn instruction(stage: &[(String, String)], wanted: &str) -> String {
    stage.iter().find(|(name, _)| name == wanted).map_or_else(String::new, |(_, arguments)| arguments.clone())
}

#[test]
fn dockerfiles_keep_paths_ports_user_and_entry_points() -> anyhow::Result<()> {
    for (name, files, command, ports) in IMAGES {
        let stage = last_stage(name)?;
        let copied: Vec<&str> = stage
            .iter()
            .filter(|(word, _)| word == "COPY")
            .filter_map(|(_, a)| a.split(' ').next_back())
            .collect();
        assert_eq!(copied, files, "{name}");
        assert_eq!(
            format!("{} {}", instruction(&stage, "ENTRYPOINT"), instruction(&stage, "CMD")),
            command,
            "{name}"
        );
        assert_eq!(instruction(&stage, "USER"), "65532:65532", "{name}");
        assert_eq!(instruction(&stage, "EXPOSE").split_whitespace().collect::<Vec<_>>(), ports, "{name}");
        let text = read(&format!("deploy/docker/{name}.Dockerfile"))?;
        ensure!(text.contains("--platform=$BUILDPLATFORM"), "{name} would be emulated");
        let copies = text.lines().filter_map(|line| line.strip_prefix("COPY "));
        for source in
            copies.filter(|line| !line.starts_with("--from")).filter_map(|line| line.split(' ').next())
        {
            ensure!(repo().join(source).exists(), "{name} copies {source}, which is not there");
        }
    }
    Ok(())
}

#[test]
fn images_hold_what_their_dockerfiles_copy_and_the_libraries_of_it() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    // What is in a file matters to nobody here; that it is a program, to `ldd`.
    for (name, ..) in IMAGES {
        std::fs::copy("/bin/true", dir.path().join(name))?;
    }
    let libraries = Command::new("ldd").arg("/bin/true").output()?.stdout;
    let libraries = String::from_utf8(libraries)?;
    let libraries: BTreeSet<&str> =
        libraries.split_whitespace().filter(|word| word.starts_with('/')).collect();
    for (name, files, ..) in IMAGES {
        let archive = dir.path().join(format!("{name}.tar"));
        let output = Command::new(repo().join("e2e/kube/images/image.py"))
            .arg(&archive)
            .args(["--tag", "localhost/image:1", "--dockerfile"])
            .arg(repo().join(format!("deploy/docker/{name}.Dockerfile")))
            .arg("--context")
            .arg(repo())
            .arg("--built")
            .arg(dir.path())
            .output()?;
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let script = r#"tar -xOf "$1" --wildcards '*/layer.tar' | tar -tf - | grep -v '/$'"#;
        let listed = Command::new("sh").args(["-c", script, "sh"]).arg(&archive).output()?.stdout;
        let listed = String::from_utf8(listed)?;
        let listed: BTreeSet<String> = listed.lines().map(|line| format!("/{line}")).collect();
        let base = ["/etc/passwd", "/etc/group"];
        let expected = files.iter().chain(&base).chain(&libraries).map(|&file| file.to_owned());
        // Folders come without a slash in some versions of tar.
        let folders = ["/etc", "/proc", "/sys", "/dev", "/tmp"];
        let listed: BTreeSet<String> =
            listed.into_iter().filter(|file| !folders.contains(&file.as_str())).collect();
        assert_eq!(listed, expected.collect(), "{name}");
    }
    Ok(())
}

#[test]
fn alerts_and_the_dashboard_ask_for_metrics_that_there_are() -> anyhow::Result<()> {
    let docs = read("docs/configuration.md")? + &read("docs/frontlas.md")?;
    let asked = read("charts/frontier/templates/monitoring.yaml")?
        + &read("charts/frontier/dashboards/frontier.json")?;
    let mut count = 0;
    for word in asked.split(|c: char| !(c.is_ascii_lowercase() || c == '_')) {
        let metric = word.strip_suffix("_bucket").unwrap_or(word);
        if (metric.starts_with("frontier_") || metric.starts_with("frontlas_")) && metric.len() > 9 {
            ensure!(docs.contains(&format!("`{metric}`")), "there is no metric {metric}");
            count += 1;
        }
    }
    ensure!(count > 15, "{count} metrics");
    Ok(())
}

/// Processes of one test, killed at its end.
#[derive(Default)]
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Processes {
    fn start(&mut self, command: &mut Command) -> anyhow::Result<()> {
        self.0.push(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        Ok(())
    }
}

/// A free port for each that a file names.
fn free_ports(known: &[u16]) -> anyhow::Result<BTreeMap<u16, u16>> {
    let held: Vec<(u16, TcpListener)> = known
        .iter()
        .map(|&port| Ok((port, TcpListener::bind("0.0.0.0:0")?)))
        .collect::<std::io::Result<_>>()?;
    held.iter().map(|(port, listener)| Ok((*port, listener.local_addr()?.port()))).collect()
}

/// A text with other ports, and every machine at home.
fn moved(text: &str, ports: &BTreeMap<u16, u16>, hosts: &[&str]) -> String {
    let text =
        hosts.iter().fold(text.to_owned(), |text, host| text.replace(&format!("{host}:"), "127.0.0.1:"));
    ports.iter().fold(text, |text, (old, new)| text.replace(&format!(":{old}"), &format!(":{new}")))
}

/// An edge calls a service that found the gateway by the registry, and is called back.
fn works_as_a_cluster(edges: u16, registry: u16) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    until("the registry listens", SOON, || std::net::TcpStream::connect(("127.0.0.1", registry)).ok())?;
    runtime.block_on(async {
        let work = async {
            let service = Service::cluster(format!("http://127.0.0.1:{registry}"))
                .name("echo")
                .method("echo", |request: Request| async move { Ok(request.into_body()) })
                .connect_in_background()
                .await?;
            let edge = Edge::builder(format!("tcp://127.0.0.1:{edges}"))
                .method("whoami", |_: Request| async move { Ok("an edge") })
                .connect_in_background()
                .await?;
            // The gateway is listed a moment after it has started.
            let echo = loop {
                match edge.call("echo", "hello").await {
                    Ok(echo) => break echo,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            ensure!(echo.body() == "hello", "{echo:?}");
            let back = service.call(edge.id(), "whoami", "").await?;
            ensure!(back.body() == "an edge", "{back:?}");
            Ok(())
        };
        tokio::time::timeout(2 * SOON, work).await.context("no call through the cluster")?
    })
}

const PORTS: [u16; 7] = [30011, 30012, 9091, 40011, 40012, 9092, 6379];

#[test]
fn the_commands_of_the_compose_file_make_a_cluster() -> anyhow::Result<()> {
    let compose: Value = serde_saphyr::from_str(&read("deploy/compose/docker-compose.yml")?)?;
    let services = compose["services"].as_object().context("services")?;
    let hosts: Vec<&str> = services.keys().map(String::as_str).collect();
    let (ports, dir) = (free_ports(&PORTS)?, tempfile::tempdir()?);
    let mut processes = Processes::default();
    // Redis, as the file starts it, on a port of its own.
    let command: Vec<&str> = services["redis"]["command"]
        .as_array()
        .context("command")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let (program, arguments) = command.split_first().context("redis")?;
    assert_eq!(*program, "redis-server");
    let redis = Redis::start(arguments.iter().chain(&["--dir", dir.path().to_str().context("path")?]))?;
    let mut ports = ports;
    ports.insert(6379, redis.addr().port());

    for (name, binary, admin) in
        [("frontlas", frontlas_binary()?, 9092), ("frontier", gateway_binary()?, 9091)]
    {
        let (service, stage) = (&services[name], last_stage(name)?);
        assert_eq!(service["build"]["dockerfile"], format!("deploy/docker/{name}.Dockerfile"));
        assert!(service["command"].is_null(), "the image's arguments are enough");
        for port in service["ports"].as_array().context("ports")? {
            let inner = port.as_str().and_then(|text| text.split_once(':')).context("port")?.1;
            ensure!(instruction(&stage, "EXPOSE").split(' ').any(|exposed| exposed == inner), "{inner}");
        }
        for needed in service["depends_on"].as_array().context("depends_on")? {
            ensure!(needed.as_str().is_some_and(|needed| hosts.contains(&needed)), "{needed}");
        }
        // The file that is baked into the image, on other ports.
        let baked = read(&format!("deploy/docker/{name}.yaml"))?;
        let baked = format!("{baked}observability: {{addr: '127.0.0.1:{admin}'}}\n");
        let file = dir.path().join(format!("{name}.yaml"));
        std::fs::write(&file, moved(&baked, &ports, &[]))?;
        let environment = service["environment"].as_object().context("environment")?;
        let environment = environment
            .iter()
            .map(|(key, value)| (key.clone(), moved(value.as_str().unwrap_or_default(), &ports, &hosts)));
        processes.start(Command::new(binary).arg("--config").arg(&file).env_clear().envs(environment))?;
    }
    works_as_a_cluster(ports[&30012], ports[&40011])
}

#[test]
fn the_units_make_a_cluster_once_they_are_installed() -> anyhow::Result<()> {
    let (mut ports, dir) = (free_ports(&PORTS)?, tempfile::tempdir()?);
    let (root, built) = (dir.path().join("root"), dir.path().join("built"));
    std::fs::create_dir(&built)?;
    std::os::unix::fs::symlink(gateway_binary()?.canonicalize()?, built.join("frontier"))?;
    std::os::unix::fs::symlink(frontlas_binary()?.canonicalize()?, built.join("frontlas"))?;
    let script = |name: &str, argument: &str| {
        let path = repo().join("deploy/systemd").join(name);
        let output = Command::new(path).arg(argument).env("DESTDIR", &root).output()?;
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    script("install.sh", built.to_str().context("path")?)?;
    let redis = Redis::start::<&str>([])?;
    ports.insert(6379, redis.addr().port());
    let mut processes = Processes::default();
    for name in ["frontlas", "frontier"] {
        let unit = std::fs::read_to_string(root.join(format!("etc/systemd/system/{name}.service")))?;
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
        let file = root.join(format!("usr/conf/{name}.yaml"));
        std::fs::write(&file, moved(&std::fs::read_to_string(&file)?, &ports, &[]))?;
        let words: Vec<&str> = value("ExecStart").context("ExecStart")?.split(' ').collect();
        let at_home = words.iter().map(|word| match word.strip_prefix('/') {
            Some(path) => root.join(path).display().to_string(),
            None => (*word).to_owned(),
        });
        let at_home: Vec<String> = at_home.collect();
        let (program, arguments) = at_home.split_first().context("ExecStart")?;
        processes.start(Command::new(program).args(arguments))?;
        // The default drains are 30 s and 10 s: a stop must not end them early.
        let stop: u64 = value("TimeoutStopSec").context("TimeoutStopSec")?.parse()?;
        ensure!(stop > if name == "frontier" { 30 } else { 10 }, "{name} is killed after {stop} s");
    }
    works_as_a_cluster(ports[&30012], ports[&40011])?;
    // What a person has written stays.
    script("install.sh", built.to_str().context("path")?)?;
    let kept = std::fs::read_to_string(root.join("usr/conf/frontier.yaml"))?;
    ensure!(kept.contains(&ports[&30012].to_string()), "the configuration was replaced");
    script("uninstall.sh", "--purge")?;
    let mut left = Command::new("find");
    let left = String::from_utf8(left.arg(&root).args(["-type", "f"]).output()?.stdout)?;
    ensure!(left.is_empty(), "left: {left}");
    Ok(())
}
