//! The stream of JetStream: made if it is absent, used as it is if it is there and takes what we publish.

use serde_json::{Value, json};

use super::handshake::Session;
use crate::{ConnectError, config::JetStream};

/// The server's word for a stream that is not there.
const NOT_FOUND: u64 = 10_059;

pub(super) async fn ensure(
    session: &mut Session,
    config: &JetStream,
    prefix: &str,
) -> Result<(), ConnectError> {
    let name = &config.name;
    let subjects = config.subjects();
    let none = || ConnectError::unreachable("the server has no JetStream, or it is not ready");
    let info =
        session.ask(&format!("$JS.API.STREAM.INFO.{name}"), prefix, &json!({})).await?.ok_or_else(none)?;
    match failure(&info) {
        None => covered(&info, name, &subjects),
        Some((NOT_FOUND, _)) => {
            let wanted = json!({
                "name": name,
                "subjects": subjects,
                "retention": "limits",
                "storage": "file",
                "discard": "old",
                "max_consumers": -1,
                "max_msgs": -1,
                "max_bytes": -1,
                "max_age": 0,
                "num_replicas": 1,
            });
            let made = session.ask(&format!("$JS.API.STREAM.CREATE.{name}"), prefix, &wanted).await?;
            match failure(&made.ok_or_else(none)?) {
                None => Ok(()),
                Some((_, text)) => {
                    Err(ConnectError::refused(format!("stream {name} cannot be made: {text}")))
                }
            }
        }
        Some((_, text)) => Err(ConnectError::unreachable(format!("stream {name}: {text}"))),
    }
}

fn failure(answer: &Value) -> Option<(u64, String)> {
    let error = answer.get("error")?;
    let code = error.get("err_code").and_then(Value::as_u64).unwrap_or_default();
    Some((code, error.get("description").and_then(Value::as_str).unwrap_or("no description").to_owned()))
}

fn covered(info: &Value, name: &str, wanted: &[String]) -> Result<(), ConnectError> {
    let have = info.pointer("/config/subjects").and_then(Value::as_array).cloned().unwrap_or_default();
    let have: Vec<&str> = have.iter().filter_map(Value::as_str).collect();
    match wanted.iter().find(|subject| !have.iter().any(|wide| covers(wide, subject))) {
        None => Ok(()),
        Some(subject) => Err(ConnectError::refused(format!(
            "stream {name} is there and does not take {subject:?}, but {have:?}"
        ))),
    }
}

/// Whether every subject that `narrow` stands for is one that `wide` stands for.
fn covers(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (wide.split('.'), narrow.split('.'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(wide), Some(token)) if wide == token => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn wildcards_cover_what_they_stand_for() {
        for (wide, narrow) in
            [("a", "a"), ("a.*", "a.b"), ("a.>", "a.b.c"), (">", "*"), ("*", "*"), ("a.>", "a.>")]
        {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in
            [("a", "b"), ("a.*", "a"), ("a.*", "a.b.c"), ("*", ">"), ("a.>", "a"), ("a", "*")]
        {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }
}
