//! Whether an object already is what it shall be: everything wished for is there. The rest is the API server's defaults, and others'.

use serde_json::Value;

/// Whether `live` has all of `wanted`.
pub(super) fn has(live: Option<&Value>, wanted: &Value) -> bool {
    match (live, wanted) {
        (None, wanted) => is_nothing(wanted),
        (Some(Value::Object(live)), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| has(live.get(key), value))
        }
        (Some(Value::Array(live)), Value::Array(wanted)) => has_items(live, wanted),
        (Some(live), wanted) => live == wanted || same_quantity(live, wanted),
    }
}

/// What the API server leaves out.
fn is_nothing(wanted: &Value) -> bool {
    match wanted {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_nothing),
    }
}

/// Items that have a name are found by it, wherever they stand; others are compared one by one.
fn has_items(live: &[Value], wanted: &[Value]) -> bool {
    let key = ["mountPath", "uid", "name"].into_iter().find(|key| {
        !wanted.is_empty() && wanted.iter().all(|item| item.get(key).is_some_and(Value::is_string))
    });
    match key {
        Some(key) => {
            wanted.iter().all(|item| has(live.iter().find(|other| other.get(key) == item.get(key)), item))
        }
        None => {
            live.len() == wanted.len()
                && live.iter().zip(wanted).all(|(live, wanted)| has(Some(live), wanted))
        }
    }
}

/// `0.5` and `500m` are the same; the API server writes one of them.
fn same_quantity(live: &Value, wanted: &Value) -> bool {
    let read = |value: &Value| value.as_str().and_then(quantity);
    read(live).zip(read(wanted)).is_some_and(|(live, wanted)| live == wanted)
}

/// In billionths.
fn quantity(text: &str) -> Option<i128> {
    const SUFFIXES: &[(&str, i128)] = &[
        ("Ki", 1_000_000_000 << 10),
        ("Mi", 1_000_000_000 << 20),
        ("Gi", 1_000_000_000 << 30),
        ("Ti", 1_000_000_000 << 40),
        ("Pi", 1_000_000_000 << 50),
        ("Ei", 1_000_000_000 << 60),
        ("n", 1),
        ("u", 1_000),
        ("m", 1_000_000),
        ("k", 1_000_000_000_000),
        ("M", 1_000_000_000_000_000),
        ("G", 1_000_000_000_000_000_000),
        ("T", 1_000_000_000_000_000_000_000),
        ("", 1_000_000_000),
    ];
    let (digits, unit) =
        SUFFIXES.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))?;
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() && part.is_empty() || !plain(whole) || !plain(part) {
        return None;
    }
    let number = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let scale = 10_i128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let whole = number(whole)?.checked_mul(unit)?;
    whole.checked_add(number(part)?.checked_mul(unit)? / scale)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_what_others_add_do_not_matter() {
        let live = json!({
            "metadata": {"labels": {"app": "a", "theirs": "b"}, "uid": "1"},
            "spec": {"replicas": 2, "ports": [{"name": "b", "port": 2}, {"name": "a", "port": 1, "protocol": "TCP"}]},
        });
        let fine = |wanted: Value| has(Some(&live), &wanted);
        assert!(fine(json!({"metadata": {"labels": {"app": "a"}}, "spec": {"replicas": 2}})));
        assert!(fine(
            json!({"spec": {"ports": [{"name": "a", "port": 1}], "publish": false, "list": [], "text": ""}})
        ));
        assert!(!fine(json!({"spec": {"replicas": 3}})));
        assert!(!fine(json!({"spec": {"ports": [{"name": "a", "port": 2}]}})));
        assert!(!fine(json!({"spec": {"ports": [{"name": "c", "port": 2}]}})));
        assert!(!fine(json!({"metadata": {"labels": {"mine": "x"}}})));
        assert!(!fine(json!({"spec": {"publish": true}})));
    }

    #[test]
    fn lists_without_names_are_the_same_in_order_and_length() {
        let fine = |live: Value, wanted: Value| has(Some(&live), &wanted);
        assert!(fine(json!(["a", "b"]), json!(["a", "b"])));
        assert!(!fine(json!(["a", "b"]), json!(["a"])));
        assert!(!fine(json!(["b", "a"]), json!(["a", "b"])));
        assert!(fine(json!([{"key": "a", "operator": "In"}]), json!([{"key": "a"}])));
    }

    #[test]
    fn one_volume_may_be_mounted_twice() {
        let live =
            json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b", "readOnly": true}]);
        assert!(has(Some(&live), &json!([{"name": "v", "mountPath": "/b", "readOnly": true}])));
        assert!(!has(Some(&live), &json!([{"name": "v", "mountPath": "/a", "readOnly": true}])));
    }

    #[test]
    fn quantities_are_compared_by_what_they_mean() {
        let same = |live: &str, wanted: &str| has(Some(&json!(live)), &json!(wanted));
        assert!(same("500m", "0.5") && same("1536Mi", "1.5Gi") && same("1k", "1000") && same("1", "1.0"));
        assert!(!same("500m", "0.6") && !same("1Gi", "1G") && !same("a", "b") && !same("", "0"));
        assert_eq!(quantity("99999999999999999999"), None);
        assert_eq!(quantity("."), None);
    }
}
