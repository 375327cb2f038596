//! The cluster, as people use it: by kubectl and helm.

use std::{
    ffi::OsStr,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use frontier_e2e::wait::pause;
use serde_json::Value;

/// Between two looks at the cluster; each starts a program.
const LOOK: Duration = Duration::from_millis(250);

/// A namespace of the cluster.
pub(crate) struct Kube {
    namespace: String,
}

/// The repository.
pub(crate) fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Looks until `done` returns something; the last error is told if it does not.
pub(crate) fn until<T>(
    what: &str,
    within: Duration,
    mut done: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let begin = Instant::now();
    loop {
        match done() {
            Ok(value) => return Ok(value),
            Err(error) if begin.elapsed() > within => {
                return Err(error.context(format!("{what}: not within {within:?}")));
            }
            Err(_) => pause(LOOK),
        }
    }
}

fn finish(mut command: Command, input: Option<&str>) -> anyhow::Result<String> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = format!("{command:?}").replace('"', "");
    let mut child = command.spawn().with_context(|| shown.clone())?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes())?;
    }
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    ensure!(status.success(), "{shown}: {status}\n{stdout}{stderr}");
    Ok(format!("{stdout}{stderr}"))
}

// === impl Kube ===

impl Kube {
    pub(crate) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    fn command(&self, variable: &str, default: &str) -> Command {
        // Such as `target/kube/node kubectl`.
        let words = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
        let mut words = words.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or(default));
        command.args(words).args(["--namespace", &self.namespace]).current_dir(repo());
        command
    }

    /// Runs kubectl in this namespace.
    pub(crate) fn kubectl<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> anyhow::Result<String> {
        let mut command = self.command("KUBECTL", "kubectl");
        command.args(args);
        finish(command, None)
    }

    /// Runs helm in this namespace.
    pub(crate) fn helm<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> anyhow::Result<String> {
        let mut command = self.command("HELM", "helm");
        command.args(args);
        finish(command, None)
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        let mut command = self.command("KUBECTL", "kubectl");
        command.args(["apply", "-f", "-"]);
        finish(command, Some(manifest))
    }

    /// Applies a file of the repository.
    pub(crate) fn apply_file(&self, file: &str) -> anyhow::Result<String> {
        self.kubectl(["apply", "-f", file])
    }

    /// An object, or a list.
    pub(crate) fn get(&self, what: &str) -> anyhow::Result<Value> {
        let mut command = self.command("KUBECTL", "kubectl");
        command.args(["get", "-o", "json"]).args(what.split_whitespace());
        let text = finish(command, None)?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// What a JSON path of an object says.
    pub(crate) fn ask(&self, what: &str, path: &str) -> anyhow::Result<String> {
        self.kubectl(what.split_whitespace().chain(["-o", &format!("jsonpath={path}")]).fold(
            vec!["get".to_owned()],
            |mut args, arg| {
                args.push(arg.to_owned());
                args
            },
        ))
    }

    /// Names of the objects of this kind; it may be followed by what chooses among them.
    pub(crate) fn names(&self, kind: &str) -> anyhow::Result<Vec<String>> {
        let args = ["get", "-o", "name", "--ignore-not-found"].into_iter().chain(kind.split_whitespace());
        let text = self.kubectl(args)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Waits until a Deployment or a StatefulSet has what it wants, and nothing of before.
    pub(crate) fn rolled_out(&self, workload: &str, within: Duration) -> anyhow::Result<()> {
        let timeout = format!("--timeout={}s", within.as_secs());
        self.kubectl(["rollout", "status", workload, &timeout]).map(drop)
    }

    /// How someone outside reaches a port of a Service of type NodePort: `host:port`.
    pub(crate) fn node_port(&self, service: &str) -> anyhow::Result<String> {
        let host = self.ask("nodes", "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}")?;
        let port = self.ask(&format!("service {service}"), "{.spec.ports[0].nodePort}")?;
        ensure!(!port.is_empty(), "{service} has no node port");
        Ok(format!("{host}:{port}"))
    }

    pub(crate) fn create_namespace(&self) -> anyhow::Result<()> {
        self.delete_namespace()?;
        self.kubectl(["create", "namespace", &self.namespace]).map(drop)
    }

    pub(crate) fn delete_namespace(&self) -> anyhow::Result<()> {
        self.kubectl(["delete", "namespace", &self.namespace, "--ignore-not-found", "--timeout=120s"])
            .map(drop)
    }

    /// What is going on in the namespace, for a failure.
    pub(crate) fn report(&self) -> String {
        let asked: [&[&str]; 5] = [
            &["get", "all,frontierclusters,pvc", "-o", "wide"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["describe", "pods"],
            &["get", "frontierclusters", "-o", "yaml"],
            &[
                "logs",
                "-l",
                "app.kubernetes.io/part-of=frontier",
                "--all-containers",
                "--tail=30",
                "--prefix",
            ],
        ];
        let mut text: String = asked
            .iter()
            .map(|args| {
                format!(
                    "--- kubectl {}\n{}",
                    args.join(" "),
                    self.kubectl(*args).unwrap_or_else(|e| e.to_string())
                )
            })
            .collect();
        for pod in self.names("pods").unwrap_or_default() {
            let log = self.kubectl(["logs", &pod, "--all-containers", "--tail=30"]);
            text.push_str(&format!("--- logs of {pod}\n{}", log.unwrap_or_else(|e| e.to_string())));
        }
        text
    }
}
