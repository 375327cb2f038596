//! The description of the REST interface, for people and generators: `/openapi.json`.

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};

const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub(super) async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// The fields of a request message, from the descriptors that the code is generated from.
    fn fields(message: &str) -> BTreeSet<String> {
        use prost::Message as _;
        let set = prost_types::FileDescriptorSet::decode(frontier_api::descriptors::CONTROLPLANE).unwrap();
        let found = set.file.iter().flat_map(|file| &file.message_type).find(|known| known.name() == message);
        let message = found.unwrap_or_else(|| panic!("no message {message}"));
        message.field.iter().map(|field| field.name().to_owned()).collect()
    }

    fn rpcs() -> BTreeSet<String> {
        use prost::Message as _;
        let set = prost_types::FileDescriptorSet::decode(frontier_api::descriptors::CONTROLPLANE).unwrap();
        let methods = set.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
        methods.map(|method| method.name().to_owned()).collect()
    }

    fn operations() -> Vec<(String, String, Value)> {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let mut operations = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                operations.push((path.clone(), method.clone(), operation.clone()));
            }
        }
        operations
    }

    #[test]
    fn every_call_is_described_with_its_fields() {
        let mut described = BTreeSet::new();
        for (path, _, operation) in operations() {
            let Some(name) = operation["operationId"].as_str().filter(|_| path.starts_with("/v1/")) else {
                continue;
            };
            described.insert(name.to_owned());
            let parameters = operation["parameters"].as_array().unwrap();
            let names = parameters.iter().map(|parameter| parameter["name"].as_str().unwrap().to_owned());
            assert_eq!(names.collect::<BTreeSet<_>>(), fields(&format!("{name}Request")), "{name}");
            for parameter in parameters {
                let place = if path.contains('{') { "path" } else { "query" };
                assert_eq!(parameter["in"], place, "{name}");
            }
        }
        assert_eq!(described, rpcs());
    }

    #[test]
    fn every_route_is_described_and_no_other() {
        let source = include_str!("rest.rs");
        let routes = source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let routes: BTreeSet<&str> = routes.collect();
        let operations = operations();
        let described: BTreeSet<&str> = operations.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(described, routes);
        let deletes = operations.iter().filter(|(_, method, _)| method == "delete").count();
        assert_eq!(deletes, source.matches(").delete(").count());
    }

    #[test]
    fn references_lead_somewhere() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let references = DOCUMENT.split("\"$ref\": \"#").skip(1).filter_map(|rest| rest.split('"').next());
        let mut count = 0;
        for reference in references {
            assert!(document.pointer(reference).is_some(), "{reference}");
            count += 1;
        }
        assert!(count > 10);
    }
}
