//! The configuration of one test: free ports, short times, and what the test sets.

use serde_json::{Map, Value, json};

/// See the module documentation.
#[derive(Clone, Debug)]
pub struct Config {
    tree: Value,
    pub(super) args: Vec<String>,
    pub(super) envs: Vec<(String, String)>,
    pub(super) nofile: Option<u32>,
}

// === impl Config ===

impl Config {
    /// A gateway on free ports of this machine that gives IDs to edges and logs for machines.
    #[must_use]
    pub fn new() -> Self {
        let listen = || json!({"listen": {"addr": "127.0.0.1:0"}});
        let tree = json!({
            "edgebound": {"listen": {"addr": "127.0.0.1:0"}, "edgeid_alloc_when_no_idservice_on": true},
            "servicebound": listen(),
            "controlplane": {"enable": true, "listen": {"addr": "127.0.0.1:0"}},
            "observability": {"addr": "127.0.0.1:0"},
            "log": {"format": "json", "level": "info"},
            // No load balancer has to notice anything.
            "drain": {"accept_for": "100ms"},
        });
        Self { tree, args: Vec::new(), envs: Vec::new(), nofile: None }
    }

    /// Sets a key, its sections divided by dots: `limits.stall`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let mut node = &mut self.tree;
        for section in key.split('.') {
            if !node.is_object() {
                *node = Value::Object(Map::new());
            }
            let Value::Object(sections) = node else { return self };
            node = sections.entry(section).or_insert(Value::Null);
        }
        *node = value.into();
        self
    }

    /// Adds arguments of the command line.
    #[must_use]
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// So many threads of the data plane.
    #[must_use]
    pub fn shards(self, count: u16) -> Self {
        self.set("shards", count)
    }

    /// At most so many file descriptors.
    #[must_use]
    pub fn nofile(mut self, limit: u32) -> Self {
        self.nofile = Some(limit);
        self
    }

    /// The file: JSON, which is YAML.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{:#}\n", self.tree)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Config;

    #[test]
    fn keys_are_set_where_they_belong() {
        let config = Config::new()
            .set("limits.stall", "1s")
            .set("limits.body", 65_536)
            .set("edgebound.listen.addr", "a:1");
        assert_eq!(config.tree["limits"], json!({"stall": "1s", "body": 65_536}));
        assert_eq!(config.tree["edgebound"]["listen"]["addr"], "a:1");
        assert_eq!(config.tree["edgebound"]["edgeid_alloc_when_no_idservice_on"], true);
    }
}
