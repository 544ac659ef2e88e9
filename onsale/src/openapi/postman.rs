//! The API as a collection of requests (Postman Collection v2.1), which Postman, Insomnia, Bruno and
//! others import. It is made from the document, and remembers what one answer gives and the next
//! request needs: sign in, list, hold, pay, one after the other, need no typing.

use onsale_ingress::routes;
use serde_json::{Map, Value, json};

use super::sample::sample;

const SCHEMA: &str = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json";

/// What is remembered of whose answers: operation, variable, and where its value is in the body.
const REMEMBERED: &[(&str, &str, &str)] = &[
    ("createSession", "accessToken", "accessToken"),
    ("createSession", "refreshToken", "refreshToken"),
    ("refreshSession", "accessToken", "accessToken"),
    ("refreshSession", "refreshToken", "refreshToken"),
    ("listConcerts", "concertId", "items[0].concertId"),
    ("listSchedules", "scheduleId", "[0].scheduleId"),
    ("createReservation", "reservationId", "reservationId"),
    ("createPayment", "paymentId", "paymentId"),
];

/// The collection as a text for people and files.
///
/// # Panics
/// Never: a collection has a JSON form.
#[must_use]
pub fn collection_text() -> String {
    let document = serde_json::to_value(routes::document()).expect("a document has a JSON form");
    let text = serde_json::to_string_pretty(&collection(&document));
    text.expect("a collection has a JSON form") + "\n"
}

/// The collection of a document.
fn collection(document: &Value) -> Value {
    let operations: Vec<_> = members(&document["paths"])
        .flat_map(|(path, item)| {
            members(item).map(move |(method, operation)| (path, method, operation))
        })
        .collect();
    let tags = document["tags"].as_array().into_iter().flatten();
    let folders: Vec<Value> = tags
        .map(|tag| {
            let own = operations
                .iter()
                .filter(|(_, _, operation)| operation["tags"][0] == tag["name"]);
            let requests: Vec<Value> = own
                .map(|(path, method, operation)| request(path, method, operation, document))
                .collect();
            json!({ "name": tag["name"], "description": tag["description"], "item": requests })
        })
        .collect();
    json!({
        "info": {
            "name": document["info"]["title"],
            "description": document["info"]["description"],
            "schema": SCHEMA,
        },
        "auth": { "type": "bearer", "bearer": [variable("token", "{{accessToken}}")] },
        "variable": variables(&operations),
        "item": folders,
    })
}

fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

fn variable(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": value, "type": "string" })
}

/// Where the API is, what is remembered, and what paths name.
fn variables(operations: &[(&String, &String, &Value)]) -> Vec<Value> {
    let mut names: Vec<&str> = REMEMBERED.iter().map(|(_, name, _)| *name).collect();
    for (_, _, operation) in operations {
        names.extend(parameters(operation, "path").filter_map(|one| one["name"].as_str()));
    }
    names.sort_unstable();
    names.dedup();
    let mut all = vec![variable("baseUrl", "http://127.0.0.1:8080")];
    all.extend(names.into_iter().map(|name| variable(name, "")));
    all
}

fn parameters<'a>(operation: &'a Value, place: &str) -> impl Iterator<Item = &'a Value> {
    let all = operation["parameters"].as_array().into_iter().flatten();
    all.filter(move |parameter| parameter["in"] == place)
}

fn request(path: &str, method: &str, operation: &Value, document: &Value) -> Value {
    let mut request = json!({
        "method": method.to_uppercase(),
        "description": operation.get("description").unwrap_or(&operation["summary"]),
        "header": headers(operation),
        "url": url(path, operation, document),
    });
    let is_open = operation["security"].as_array().is_none_or(Vec::is_empty);
    if is_open {
        request["auth"] = json!({ "type": "noauth" });
    }
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    if !schema.is_null() {
        let mut body = sample(schema, &document["components"]["schemas"]);
        use_remembered(&mut body);
        let raw = serde_json::to_string_pretty(&body).expect("a sample has a JSON form");
        let options = json!({ "raw": { "language": "json" } });
        request["body"] = json!({ "mode": "raw", "raw": raw, "options": options });
    }
    let mut item = json!({ "name": operation["summary"], "request": request, "response": [] });
    let script: Vec<String> = REMEMBERED
        .iter()
        .filter(|(id, _, _)| operation["operationId"] == *id)
        .map(|(_, name, place)| {
            let dot = if place.starts_with('[') { "" } else { "." };
            format!(
                "if (pm.response.code < 300) pm.collectionVariables.set('{name}', \
                 pm.response.json(){dot}{place});"
            )
        })
        .collect();
    if !script.is_empty() {
        let script = json!({ "type": "text/javascript", "exec": script });
        item["event"] = json!([{ "listen": "test", "script": script }]);
    }
    item
}

/// Puts the variable where a body has a member of its name.
fn use_remembered(body: &mut Value) {
    for (name, value) in body.as_object_mut().into_iter().flatten() {
        if REMEMBERED.iter().any(|(_, known, _)| known == name) {
            *value = json!(format!("{{{{{name}}}}}"));
        }
    }
}

fn headers(operation: &Value) -> Vec<Value> {
    let listed = parameters(operation, "header").map(|header| {
        let name = header["name"].as_str().unwrap_or_default();
        // A new one each time: sent again by hand, it is meant again.
        let value = match name {
            "Idempotency-Key" => "{{$guid}}",
            _ => header["example"].as_str().unwrap_or_default(),
        };
        json!({
            "key": name,
            "value": value,
            "description": header["description"],
            "disabled": header["required"] != true,
        })
    });
    let mut all: Vec<Value> = listed.collect();
    if operation.get("requestBody").is_some() {
        all.push(json!({ "key": "Content-Type", "value": "application/json" }));
    }
    all
}

fn url(path: &str, operation: &Value, document: &Value) -> Value {
    let segments: Vec<String> = path
        .split('/')
        .skip(1)
        .map(|segment| segment.replace('{', ":").replace('}', ""))
        .collect();
    let named = parameters(operation, "path").map(|parameter| {
        let name = parameter["name"].as_str().unwrap_or_default();
        json!({
            "key": name,
            "value": format!("{{{{{name}}}}}"),
            "description": parameter["description"],
        })
    });
    let asked = parameters(operation, "query").map(|parameter| {
        let value = match sample(&parameter["schema"], &document["components"]["schemas"]) {
            Value::String(_) => Value::String(String::new()),
            other => Value::String(other.to_string()),
        };
        json!({
            "key": parameter["name"],
            "value": value,
            "description": parameter["description"],
            "disabled": true,
        })
    });
    let mut url = Map::new();
    let raw = format!("{{{{baseUrl}}}}/{}", segments.join("/"));
    url.insert("raw".to_owned(), json!(raw));
    url.insert("host".to_owned(), json!(["{{baseUrl}}"]));
    url.insert("path".to_owned(), json!(segments));
    url.insert("variable".to_owned(), named.collect());
    url.insert("query".to_owned(), asked.collect());
    Value::Object(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_collection_in_the_repository_is_this_one() {
        assert!(
            include_str!("../../../deploy/onsale.postman_collection.json") == collection_text(),
            "deploy/onsale.postman_collection.json is another; `make openapi` writes it"
        );
    }

    #[test]
    fn every_operation_is_in_it_once() {
        let document = serde_json::to_value(routes::document()).unwrap();
        let described: Vec<&Value> = members(&document["paths"])
            .flat_map(|(_, item)| members(item).map(|(_, operation)| operation))
            .collect();
        let collection = collection(&document);
        let folders = collection["item"].as_array().unwrap();
        let requests: Vec<&Value> = folders
            .iter()
            .flat_map(|folder| folder["item"].as_array().unwrap())
            .collect();
        assert_eq!(requests.len(), described.len());
        let of = |request: &Value| {
            let path = request["request"]["url"]["raw"].as_str().unwrap();
            format!("{} {path}", request["request"]["method"])
        };
        let distinct: BTreeSet<String> = requests.iter().map(|request| of(request)).collect();
        assert_eq!(distinct.len(), requests.len());
        for (id, _, _) in REMEMBERED {
            let known = described.iter().any(|one| one["operationId"] == *id);
            assert!(known, "{id} is no operation");
        }
    }

    #[test]
    fn a_request_has_all_that_it_needs() {
        let document = serde_json::to_value(routes::document()).unwrap();
        let collection = collection(&document);
        let all = collection["item"].as_array().unwrap().iter();
        let all = all.flat_map(|folder| folder["item"].as_array().unwrap());
        let hold = all
            .clone()
            .find(|item| item["name"] == "Hold seats")
            .unwrap();
        let body = hold["request"]["body"]["raw"].as_str().unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["scheduleId"], "{{scheduleId}}");
        assert!(body["seats"].is_array(), "{body}");
        assert_eq!(hold["request"]["header"][0]["value"], "{{$guid}}");
        assert!(hold["request"].get("auth").is_none(), "the collection's");
        let script = hold["event"][0]["script"]["exec"][0].as_str().unwrap();
        assert!(script.contains("set('reservationId', pm.response.json().reservationId)"));
        let list = all.clone().find(|item| item["name"] == "Concerts").unwrap();
        assert_eq!(list["request"]["auth"]["type"], "noauth");
    }
}
