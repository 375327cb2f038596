//! Taking over what the Go operator made: the fields that its manager holds become ours, or what we leave out would stay for ever.

use serde_json::{Map, Value};

use super::MANAGER;

/// The Go operator's binary, by which the API server calls it.
const GO: &str = "manager";

/// The list of managers with the Go operator's fields as ours; `None` = there is nothing to take over.
pub(super) fn managers(live: &Value) -> Option<Value> {
    let before = live.pointer("/metadata/managedFields")?.as_array()?;
    let (theirs, mut rest): (Vec<&Value>, Vec<&Value>) =
        before.iter().partition(|entry| is(entry, GO, "Update"));
    if theirs.is_empty() {
        return None;
    }
    let mine = rest.iter().position(|entry| is(entry, MANAGER, "Apply"));
    let mut entry = match mine {
        Some(index) => rest.remove(index).clone(),
        None => theirs[0].clone(),
    };
    let mut fields = Value::Object(Map::new());
    for one in theirs.iter().copied().chain([&entry]) {
        unite(&mut fields, one.get("fieldsV1").unwrap_or(&Value::Null));
    }
    entry["manager"] = MANAGER.into();
    entry["operation"] = "Apply".into();
    entry["fieldsV1"] = fields;
    let mut after: Vec<Value> = rest.into_iter().cloned().collect();
    after.push(entry);
    Some(Value::Array(after))
}

/// Whether we hold a field, as its path in the list of fields says: `f:spec`, `f:replicas`.
pub(super) fn hold(live: &Value, path: &[&str]) -> bool {
    let entries = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    let mine = entries.into_iter().flatten().find(|entry| is(entry, MANAGER, "Apply"));
    let fields = mine.and_then(|entry| entry.get("fieldsV1"));
    fields.is_some_and(|fields| path.iter().try_fold(fields, |fields, part| fields.get(part)).is_some())
}

fn is(entry: &Value, manager: &str, operation: &str) -> bool {
    let field = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    field("manager") == manager && field("operation") == operation && field("subresource").is_empty()
}

fn unite(into: &mut Value, from: &Value) {
    let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) else { return };
    for (key, value) in from {
        unite(into.entry(key.clone()).or_insert_with(|| Value::Object(Map::new())), value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": "v1", "fieldsV1": fields})
    }

    fn object(entries: &[Value]) -> Value {
        json!({"metadata": {"managedFields": entries}})
    }

    #[test]
    fn fields_of_the_go_operator_become_ours() {
        let status = json!({"manager": GO, "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}});
        let kubectl = entry("kubectl-rollout", "Update", json!({"f:spec": {"f:x": {}}}));
        let live = object(&[
            entry(GO, "Update", json!({"f:spec": {"f:a": {}, "f:b": {"f:c": {}}}})),
            status.clone(),
            kubectl.clone(),
        ]);
        let after = managers(&live).unwrap();
        let ours = entry(MANAGER, "Apply", json!({"f:spec": {"f:a": {}, "f:b": {"f:c": {}}}}));
        assert_eq!(after, json!([status, kubectl, ours]));
        assert_eq!(managers(&object(&[ours])), None, "once is enough");
        assert_eq!(managers(&json!({})), None);
    }

    #[test]
    fn both_are_united_where_both_hold_some() {
        let live = object(&[
            entry(MANAGER, "Apply", json!({"f:spec": {"f:a": {}}})),
            entry(GO, "Update", json!({"f:spec": {"f:b": {}}})),
        ]);
        let after = managers(&live).unwrap();
        assert_eq!(after, json!([entry(MANAGER, "Apply", json!({"f:spec": {"f:a": {}, "f:b": {}}}))]));
    }

    #[test]
    fn it_is_known_which_fields_are_held() {
        let live = object(&[entry(MANAGER, "Apply", json!({"f:spec": {"f:replicas": {}}}))]);
        assert!(hold(&live, &["f:spec", "f:replicas"]));
        assert!(!hold(&live, &["f:spec", "f:paused"]));
        assert!(!hold(&json!({}), &["f:spec"]));
    }
}
