//! The file of `auth.tokens`: who is admitted, by token or by client certificate.
//!
//! ```yaml
//! tokens:
//! - name: sensors                 # for logs
//!   sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//!   role: edge                    # edge or service
//!   ids: [7, 100-199]             # IDs it may have; "*" = any; absent = the ID service or the gateway chooses
//! - name: orders
//!   sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
//!   role: service
//!   methods: [get_edge_id]        # reserved methods; absent = what the role may by default, [] = none
//! subjects:                       # client certificates, in order: the first that fits counts
//! - subject: CN=plant-*           # CN=, DNS:, URI:, EMAIL:, IP: or any kind of name; * at the end only
//!   role: edge
//! ```
//! `sha256` is what `printf %s "$TOKEN" | sha256sum` prints. Tokens must be long and random: a hash does not protect a
//! word that can be guessed. A file that is changed holds for new sessions within seconds, or at once after SIGHUP;
//! while it is wrong, the last good one stays in force.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use frontier_ops::{
    config::{
        ConfigError, Problems, Severity, UnknownKeys,
        read::{FromNode, Reader, Section, scalar},
        yaml::{self, Node},
    },
    readiness::{Degraded, Readiness},
};
use frontier_wire::native::hello::{RESERVED_METHODS, Role};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::identity::grants::{Entry, Grants, IdSet, SubjectPattern, TokenHash};

/// About 300,000 identities.
const MAX_FILE: u64 = 64 << 20;
const MAX_NODES: usize = 4_000_000;

/// Reads a file of identities.
///
/// # Errors
/// Everything wrong with it, with lines.
pub fn read(path: &Path) -> Result<Grants, ConfigError> {
    let mut problems = Problems::new(Some(path));
    match read_text(path).map_err(|error| format!("cannot read {}: {error}", path.display())) {
        Ok(text) => parse(&text, problems),
        Err(message) => {
            problems.error("", message);
            Err(ConfigError { problems })
        }
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other("longer than 64 MiB"));
    }
    fs::read_to_string(path)
}

fn parse(text: &str, mut problems: Problems) -> Result<Grants, ConfigError> {
    let document = match yaml::parse_up_to(text, MAX_NODES) {
        Ok(document) => document,
        Err(error) => {
            problems.push(Severity::Error, String::new(), Some(error.line), error.message);
            return Err(ConfigError { problems });
        }
    };
    let reader = Reader::new(problems, UnknownKeys::Error, || &[]);
    let (tokens, subjects) = reader
        .document(document, |file| (file.list("tokens", read_token), file.list("subjects", read_subject)));
    let mut problems = reader.into_parts().0;
    let mut grants = Grants::default();
    for (index, (hash, entry)) in tokens.into_iter().enumerate() {
        let Some(hash) = hash else {
            missing(&mut problems, format!("tokens[{index}].sha256"), "a token needs its hash");
            continue;
        };
        if let Err(error) = grants.add_token(hash, Arc::new(entry)) {
            problems.error(format!("tokens[{index}].sha256"), error.to_string());
        }
    }
    for (index, (pattern, entry)) in subjects.into_iter().enumerate() {
        match pattern {
            Some(pattern) => grants.add_subject(pattern, Arc::new(entry)),
            None => {
                missing(&mut problems, format!("subjects[{index}].subject"), "an entry needs its subject")
            }
        }
    }
    if problems.is_fatal() { Err(ConfigError { problems }) } else { Ok(grants) }
}

/// A key that must be there; a wrong value was reported as such already.
fn missing(problems: &mut Problems, key: String, message: &str) {
    if !problems.errors().any(|problem| problem.key == key) {
        problems.error(key, message);
    }
}

fn read_token(section: &mut Section<'_>) -> (Option<TokenHash>, Entry) {
    let hash = section.optional_by("sha256", |node| {
        let text = scalar(node, "64 hex digits").map_err(|_| "expected 64 hex digits".to_owned())?;
        TokenHash::parse(text).map_err(|error| error.to_string())
    });
    (hash, read_entry(section))
}

fn read_subject(section: &mut Section<'_>) -> (Option<SubjectPattern>, Entry) {
    let pattern = section.optional_by("subject", |node| {
        SubjectPattern::parse(scalar(node, "a name in a certificate")?).map_err(|error| error.to_string())
    });
    (pattern, read_entry(section))
}

fn read_entry(section: &mut Section<'_>) -> Entry {
    let role = section.required_by("role", |node| match scalar(node, "edge or service")? {
        "edge" => Ok(Role::Edge),
        "service" => Ok(Role::Service),
        other => Err(format!("expected edge or service, found {other:?}")),
    });
    let ids = section.optional_by("ids", |node| {
        let items = texts(node)?;
        IdSet::parse(items.iter().map(String::as_str)).map_err(|error| error.to_string())
    });
    Entry {
        name: section.value("name", String::new()),
        // A wrong or missing role stops the reading; until then any will do.
        role: role.unwrap_or(Role::Edge),
        ids: ids.unwrap_or_default(),
        reserved: section.optional_by("methods", reserved),
    }
}

fn reserved(node: &Node) -> Result<Arc<[String]>, String> {
    let names = texts(node)?;
    match names.iter().find(|name| !RESERVED_METHODS.contains(&name.as_str())) {
        Some(name) => {
            Err(format!("{name:?} is no reserved method, options: {}", RESERVED_METHODS.join(", ")))
        }
        None => Ok(names.into()),
    }
}

/// A list of texts; a single one is as good.
fn texts(node: &Node) -> Result<Vec<String>, String> {
    String::from_node(node).map(|text| vec![text]).or_else(|_| Vec::from_node(node))
}

/// A file that is read again when it changes.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    /// Of the file as last read, good or not.
    seen: Option<(SystemTime, u64)>,
    /// Why what was read last is not in force.
    problem: Option<String>,
}

// === impl TokenFile ===

impl TokenFile {
    /// Reads the file.
    ///
    /// # Errors
    /// As [`read`].
    pub fn open(path: &Path) -> Result<(Self, Grants), ConfigError> {
        // Looked at before it is read: a change in between is then found by the next look.
        let seen = stamp(path);
        let grants = read(path)?;
        Ok((Self { path: path.to_path_buf(), seen, problem: None }, grants))
    }

    /// Reads the file again if it changed, or in any case if `force`d; `None` = it did not change, or it is wrong,
    /// which is logged once.
    pub fn check(&mut self, force: bool) -> Option<Grants> {
        let now = stamp(&self.path);
        if now == self.seen && !force {
            return None;
        }
        self.problem = None;
        self.seen = now;
        match read(&self.path) {
            Ok(grants) => {
                info!(file = %self.path.display(), entries = grants.len(), "identities reloaded");
                Some(grants)
            }
            Err(error) => {
                warn!(file = %self.path.display(), %error, "identities cannot be reloaded, the old ones stay in force");
                self.problem = Some(error.to_string());
                None
            }
        }
    }
}

/// When the file was last written, and its length; `None` = it is not there.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Looks at the file every `every`, reads it whenever `hangup` is notified (SIGHUP), and hands what is new to `apply`,
/// until `stop`. While the file is wrong, that is a note on `readiness`.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn watch(
    mut file: TokenFile,
    every: Duration,
    hangup: Arc<Notify>,
    readiness: Readiness,
    stop: CancellationToken,
    apply: impl Fn(Grants) + Send,
) {
    let mut note: Option<(String, Degraded)> = None;
    loop {
        let force = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = hangup.notified() => true,
            () = tokio::time::sleep(every) => false,
        };
        // Reading is quick, but the disk may not be.
        let look = tokio::task::spawn_blocking(move || {
            let grants = file.check(force);
            (file, grants)
        });
        let Ok((same, grants)) = look.await else { return };
        file = same;
        if note.as_ref().map(|(why, _)| why) != file.problem.as_ref() {
            note = file.problem.clone().map(|why| (why.clone(), readiness.degraded("identities", why)));
        }
        if let Some(grants) = grants {
            apply(grants);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs::File};

    use parking_lot::Mutex;

    use super::*;
    use crate::core::identity::Subject;

    const FILE: &str = "\
tokens:
- name: sensors
  sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 # test
  role: edge
  ids: [7, 100-199]
- name: orders
  sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae # foo
  role: service
  methods: [get_edge_id]
- sha256: fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9 # bar
  role: edge
  ids: '*'
  methods: []
subjects:
- name: plants
  subject: CN=plant-*
  role: edge
";

    fn parse_text(text: &str) -> Result<Grants, ConfigError> {
        parse(text, Problems::new(None))
    }

    /// `(line, key)` of every error.
    fn errors(text: &str) -> BTreeSet<(Option<u32>, String)> {
        let error = parse_text(text).expect_err("must be refused");
        error.problems.errors().map(|problem| (problem.line, problem.key.clone())).collect()
    }

    #[test]
    fn files_name_tokens_and_subjects() {
        let grants = parse_text(FILE).unwrap();
        assert_eq!(grants.len(), 4);
        let sensors = grants.by_token(b"test").unwrap();
        assert_eq!((sensors.name.as_str(), sensors.role), ("sensors", Role::Edge));
        assert_eq!(sensors.ids, IdSet::Listed(vec![7..=7, 100..=199]));
        assert_eq!(sensors.reserved, None);
        let orders = grants.by_token(b"foo").unwrap();
        assert_eq!((orders.role, &orders.ids), (Role::Service, &IdSet::Unlisted));
        assert_eq!(orders.reserved.as_deref(), Some(&["get_edge_id".to_owned()][..]));
        let any = grants.by_token(b"bar").unwrap();
        assert_eq!((&any.ids, any.reserved.as_deref()), (&IdSet::Any, Some(&[][..])));
        assert!(grants.by_token(b"baz").is_none() && grants.by_token(b"").is_none());
        let subject = |name: &str| Subject { names: vec![name.to_owned()] };
        assert_eq!(grants.by_subject(&subject("CN=plant-7")).unwrap().name, "plants");
        assert!(grants.by_subject(&subject("CN=office")).is_none());
    }

    #[test]
    fn an_empty_file_admits_nobody() {
        for text in ["", "tokens: []\n", "subjects:\n"] {
            assert!(parse_text(text).unwrap().is_empty(), "{text:?}");
        }
    }

    #[test]
    fn all_problems_are_reported_with_their_lines() {
        let text = "\
tokens:
- role: edge
- sha256: abc
  role: robot
- sha256: fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9
  role: edge
  ids: [0]
  methods: [rm]
  colour: red
- sha256: fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9
  role: edge
subjects:
- subject: a*b
  role: service
- name: nobody
people: []
";
        let expected = [
            (2, "tokens[0].sha256"),
            (3, "tokens[1].sha256"),
            (4, "tokens[1].role"),
            (7, "tokens[2].ids"),
            (8, "tokens[2].methods"),
            (9, "tokens[2].colour"),
            (10, "tokens[3].sha256"),
            (13, "subjects[0].subject"),
            (15, "subjects[1].role"),
            (15, "subjects[1].subject"),
            (16, "people"),
        ];
        assert_eq!(errors(text), expected.map(|(line, key)| (Some(line), key.to_owned())).into());
        assert_eq!(errors("tokens: [\n").len(), 1);
    }

    #[test]
    fn tokens_are_not_in_error_texts() {
        let text = "tokens:\n- sha256: [hunter2]\n  role: edge\n";
        assert!(!parse_text(text).unwrap_err().to_string().contains("hunter2"));
    }

    #[test]
    fn files_that_cannot_be_read_are_errors() {
        assert!(read(Path::new("/nowhere")).unwrap_err().to_string().starts_with("cannot read /nowhere: "));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.yaml");
        File::create(&path).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("longer than 64 MiB"));
    }

    #[test]
    fn a_big_file_is_fine() {
        let entry = |n: u32| format!("- {{sha256: {n:064x}, role: edge, ids: [{}]}}\n", n + 1);
        let text: String = std::iter::once("tokens:\n".to_owned()).chain((0..20_000).map(entry)).collect();
        assert_eq!(parse_text(&text).unwrap().len(), 20_000);
    }

    #[test]
    fn changes_are_seen_and_wrong_files_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.yaml");
        fs::write(&path, FILE).unwrap();
        let (mut file, grants) = TokenFile::open(&path).unwrap();
        assert_eq!(grants.len(), 4);
        assert!(file.check(false).is_none(), "nothing changed");
        assert_eq!(file.check(true).unwrap().len(), 4, "asked for");
        fs::write(&path, "tokens: [broken\n").unwrap();
        assert!(file.check(false).is_none());
        fs::write(&path, FILE.replace("subjects:", "x-y:")).unwrap();
        assert!(file.check(false).is_none());
        fs::write(&path, "subjects: []\n").unwrap();
        assert!(file.check(false).unwrap().is_empty());
        fs::remove_file(&path).unwrap();
        assert!(file.check(false).is_none());
        fs::write(&path, FILE).unwrap();
        assert_eq!(file.check(false).unwrap().len(), 4, "back again");
    }

    #[tokio::test]
    async fn the_watch_reads_on_hangup_until_it_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.yaml");
        fs::write(&path, "tokens: []\n").unwrap();
        let (file, _) = TokenFile::open(&path).unwrap();
        fs::write(&path, FILE).unwrap();
        let (hangup, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        hangup.notify_one();
        let seen = Mutex::new(Vec::new());
        let apply = |grants: Grants| {
            seen.lock().push(grants.len());
            stop.cancel();
        };
        // An hour: only the signal makes it look.
        watch(file, Duration::from_secs(3600), hangup, Readiness::default(), stop.clone(), apply).await;
        assert_eq!(*seen.lock(), [4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_file_is_a_note_on_readiness_until_it_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.yaml");
        fs::write(&path, "tokens: []\n").unwrap();
        let (file, _) = TokenFile::open(&path).unwrap();
        fs::write(&path, "tokens: nonsense\n").unwrap();
        let (readiness, stop) = (Readiness::default(), CancellationToken::new());
        let watching =
            watch(file, Duration::from_secs(5), Arc::default(), readiness.clone(), stop.clone(), drop);
        let looking = async {
            for wrong in [true, false] {
                // Time is paused: it jumps to the next look whenever nothing else is left to do.
                while readiness.report().degraded.is_empty() == wrong {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                fs::write(&path, FILE).unwrap();
            }
            stop.cancel();
        };
        tokio::join!(watching, looking);
        assert!(readiness.is_ready());
    }

    #[tokio::test]
    async fn the_watch_looks_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.yaml");
        fs::write(&path, "tokens: []\n").unwrap();
        let (file, _) = TokenFile::open(&path).unwrap();
        fs::write(&path, FILE).unwrap();
        let stop = CancellationToken::new();
        let apply = |grants: Grants| {
            assert_eq!(grants.len(), 4);
            stop.cancel();
        };
        watch(file, Duration::from_millis(1), Arc::default(), Readiness::default(), stop.clone(), apply)
            .await;
    }
}
