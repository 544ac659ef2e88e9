//! What the API promises, held against every answer that a test receives. The promise is the
//! document in the repository, which a test of the ingress compares with the code.
//!
//! A client must take members that it does not know; a test must not: here every object has the
//! members of its schema and no others.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use jsonschema::{Draft, Validator};
use reqwest::header::{self, HeaderMap};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

/// The promise of this version of the API.
pub static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    let document = include_str!("../../ingress/openapi.json");
    Contract::new(serde_json::from_str(document).expect("ingress/openapi.json is JSON"))
});

/// The methods that a path of a document may have.
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];
/// Statuses of requests that no operation was looked up for.
const BEFORE_ROUTING: [u16; 4] = [406, 429, 431, 500];

/// An answer, and what was asked.
#[derive(Debug, Clone, Copy)]
pub struct Exchange<'a> {
    /// How it was asked.
    pub method: &'a Method,
    /// The path that was asked for, without its query.
    pub path: &'a str,
    /// The answer's status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body; none when it is a stream, which is read elsewhere.
    pub body: Option<&'a [u8]>,
}

/// A document of an API.
pub struct Contract {
    operations: Vec<Operation>,
    /// The schemas that others refer to, each closed.
    schemas: Value,
    /// What every problem looks like.
    problem: Answer,
}

struct Operation {
    method: &'static str,
    path: String,
    answers: HashMap<u16, Answer>,
}

/// What an answer of one status may be.
#[derive(Default)]
struct Answer {
    /// By content type.
    contents: HashMap<String, Content>,
    /// Headers that it must have.
    headers: Vec<String>,
}

struct Content {
    schema: Value,
    /// Compiled when first needed: most answers of most operations never come.
    validator: OnceLock<Validator>,
}

impl Content {
    fn new(schema: Value) -> Self {
        Self {
            schema,
            validator: OnceLock::new(),
        }
    }
}

impl Contract {
    /// Reads a document.
    ///
    /// # Panics
    /// When it is none, or has no schema `Problem`.
    #[must_use]
    pub fn new(document: Value) -> Self {
        let open = &document["components"]["schemas"];
        let mut schemas = open.clone();
        let named = schemas.as_object_mut().expect("a document has schemas");
        named.values_mut().for_each(|schema| close(schema, open));
        let mut operations = Vec::new();
        for (path, item) in document["paths"].as_object().expect("a document has paths") {
            let known = METHODS
                .into_iter()
                .filter_map(|method| Some((method, item.get(method)?)));
            operations.extend(known.map(|(method, operation)| Operation {
                method,
                path: path.clone(),
                answers: answers(&operation["responses"], open),
            }));
        }
        let mut problem = Answer::default();
        let schema = json!({ "$ref": "#/components/schemas/Problem" });
        let kind = "application/problem+json".to_owned();
        problem.contents.insert(kind, Content::new(schema));
        Self {
            operations,
            schemas,
            problem,
        }
    }

    /// Whether an answer keeps the promise.
    ///
    /// # Errors
    /// What it breaks.
    pub fn check(&self, exchange: &Exchange<'_>) -> Result<(), String> {
        let method = match *exchange.method {
            // A browser's question before its request; not of the API.
            Method::OPTIONS => return Ok(()),
            Method::HEAD => "get",
            _ => &*exchange.method.as_str().to_ascii_lowercase(),
        };
        if !exchange.headers.contains_key("trace-id") {
            return Err("there is no trace-id".to_owned());
        }
        let mut here = self
            .operations
            .iter()
            .filter(|operation| matches(&operation.path, exchange.path))
            .peekable();
        let is_known_path = here.peek().is_some();
        let status = exchange.status.as_u16();
        let answer = match here.find(|operation| operation.method == method) {
            Some(operation) => operation
                .answers
                .get(&status)
                .ok_or_else(|| format!("the status {status} is not listed"))?,
            None if BEFORE_ROUTING.contains(&status) => &self.problem,
            None if is_known_path && status == 405 => &self.problem,
            None if !is_known_path && status == 404 => &self.problem,
            None => return Err("the document has no such operation".to_owned()),
        };
        for name in &answer.headers {
            if !exchange.headers.contains_key(name) {
                return Err(format!("the header {name} is missing"));
            }
        }
        let has_body = exchange.body.is_none_or(|body| !body.is_empty());
        if has_body {
            self.check_body(answer, exchange)
        } else if answer.contents.is_empty() || exchange.method == Method::HEAD {
            Ok(())
        } else {
            Err("there is no body".to_owned())
        }
    }

    fn check_body(&self, answer: &Answer, exchange: &Exchange<'_>) -> Result<(), String> {
        let kind = exchange.headers.get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        let content = answer
            .contents
            .get(essence)
            .ok_or_else(|| format!("the content type {kind:?} is not listed"))?;
        let Some(body) = exchange.body.filter(|_| essence.ends_with("json")) else {
            return Ok(());
        };
        let body: Value =
            serde_json::from_slice(body).map_err(|error| format!("no JSON: {error}"))?;
        let validator = content
            .validator
            .get_or_init(|| self.compile(&content.schema));
        let broken: Vec<String> = validator
            .iter_errors(&body)
            .map(|error| format!("{:?}: {error}", error.instance_path().to_string()))
            .collect();
        if !broken.is_empty() {
            return Err(format!("the body is another: {}", broken.join("; ")));
        }
        let told = body["status"].as_u64();
        if essence == "application/problem+json" && told != Some(exchange.status.as_u16().into()) {
            return Err("the problem names another status".to_owned());
        }
        Ok(())
    }

    fn compile(&self, schema: &Value) -> Validator {
        let whole = json!({ "allOf": [schema], "components": { "schemas": self.schemas } });
        jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .build(&whole)
            .unwrap_or_else(|error| panic!("{schema} is no schema: {error}"))
    }
}

fn answers(responses: &Value, schemas: &Value) -> HashMap<u16, Answer> {
    let listed = responses.as_object().expect("an operation has responses");
    let each = listed.iter().map(|(status, response)| {
        let empty = Map::new();
        let headers = response["headers"].as_object().unwrap_or(&empty);
        let contents = response["content"].as_object().unwrap_or(&empty);
        let contents = contents.iter().map(|(kind, content)| {
            let mut schema = content["schema"].clone();
            close(&mut schema, schemas);
            (kind.clone(), Content::new(schema))
        });
        let required = headers
            .iter()
            .filter(|(_, header)| header["required"] == true);
        let answer = Answer {
            contents: contents.collect(),
            headers: required.map(|(name, _)| name.clone()).collect(),
        };
        (status.parse().expect("statuses are numbers"), answer)
    });
    each.collect()
}

/// Whether a path is one of a template.
fn matches(template: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(wanted), Some(given)) if wanted.starts_with('{') && !given.is_empty() => {}
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return false,
        }
    }
}

/// Allows no members but those that are listed.
fn close(schema: &mut Value, schemas: &Value) {
    let Some(members) = schema.as_object_mut() else {
        return;
    };
    let lists = members.contains_key("allOf") || members.contains_key("properties");
    if lists && !members.contains_key("additionalProperties") {
        // Unlike `additionalProperties`, it sees what the parts of an `allOf` list.
        members.insert("unevaluatedProperties".to_owned(), Value::Bool(false));
    }
    close_members(members, schemas);
    for part in members
        .get_mut("allOf")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        open_part(part, schemas);
    }
}

/// What is inside of a schema.
fn close_members(members: &mut Map<String, Value>, schemas: &Value) {
    let properties = members.get_mut("properties").and_then(Value::as_object_mut);
    for schema in properties.into_iter().flat_map(Map::values_mut) {
        close(schema, schemas);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(schema) = members.get_mut(name) {
            close(schema, schemas);
        }
    }
    for name in ["anyOf", "oneOf", "prefixItems"] {
        let several = members.get_mut(name).and_then(Value::as_array_mut);
        for schema in several.into_iter().flatten() {
            close(schema, schemas);
        }
    }
}

/// A part of an `allOf` must not refuse what the other parts list, so that it stays open itself; a
/// schema that it refers to is closed where it stands, and so is copied here.
fn open_part(part: &mut Value, schemas: &Value) {
    let name = part["$ref"]
        .as_str()
        .and_then(|text| text.rsplit('/').next());
    if let Some(name) = name {
        *part = schemas[name].clone();
    }
    if let Some(members) = part.as_object_mut() {
        members.remove("additionalProperties");
        close_members(members, schemas);
        for part in members
            .get_mut("allOf")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            open_part(part, schemas);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An API of one operation, whose answer has a part in common with others.
    fn contract() -> Contract {
        Contract::new(json!({
            "paths": { "/things/{id}": { "get": { "responses": {
                "200": {
                    "headers": { "ETag": { "required": true }, "Age": {} },
                    "content": { "application/json": { "schema": {
                        "allOf": [
                            { "$ref": "#/components/schemas/Thing" },
                            { "type": "object", "properties": {
                                "at": { "type": "string", "format": "date-time" },
                                "parts": { "type": "array",
                                    "items": { "$ref": "#/components/schemas/Thing" } },
                            } },
                        ],
                    } } },
                },
                "204": {},
                "404": { "content": { "application/problem+json": {
                    "schema": { "$ref": "#/components/schemas/Problem" } } } },
            } } } },
            "components": { "schemas": {
                "Thing": { "type": "object", "required": ["id"], "properties": {
                    "id": { "type": "string", "format": "uuid" },
                } },
                "Problem": { "type": "object", "required": ["status"], "properties": {
                    "status": { "type": "integer" },
                } },
            } },
        }))
    }

    const ID: &str = "01980f5e-7c1a-7d3b-9f60-2b8a4c1d7e55";

    fn check(asked: &str, status: u16, headers: &str, body: &str) -> Result<(), String> {
        let (method, path) = asked.split_once(' ').unwrap();
        let headers = headers.split(", ").map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.parse().unwrap(), value.parse().unwrap())
        });
        contract().check(&Exchange {
            method: &method.parse().unwrap(),
            path,
            status: StatusCode::from_u16(status).unwrap(),
            headers: &HeaderMap::from_iter(headers),
            body: Some(body.as_bytes()),
        })
    }

    const JSON: &str = "trace-id: x, content-type: application/json; charset=utf-8, etag: \"1\"";
    const PROBLEM: &str = "trace-id: x, content-type: application/problem+json";

    #[track_caller]
    fn broken(result: Result<(), String>, why: &str) {
        let said = result.expect_err("it is broken");
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn what_is_promised_is_taken() {
        let whole = json!({ "id": ID, "at": "2027-05-01T10:00:00.000Z", "parts": [{ "id": ID }] });
        let whole = whole.to_string();
        assert_eq!(check("GET /things/1", 200, JSON, &whole), Ok(()));
        assert_eq!(check("HEAD /things/1", 200, JSON, ""), Ok(()));
        assert_eq!(check("GET /things/1", 204, "trace-id: x", ""), Ok(()));
        let missing = r#"{"status":404}"#;
        assert_eq!(check("GET /things/1", 404, PROBLEM, missing), Ok(()));
        assert_eq!(check("GET /nothing", 404, PROBLEM, missing), Ok(()));
        let refused = r#"{"status":405}"#;
        assert_eq!(check("PUT /things/1", 405, PROBLEM, refused), Ok(()));
        assert_eq!(check("OPTIONS /things/1", 200, "allow: GET", ""), Ok(()));
    }

    #[test]
    fn an_operation_that_is_not_there() {
        let fine = json!({ "id": ID }).to_string();
        let missing = "no such operation";
        broken(check("POST /things/1", 200, JSON, &fine), missing);
        broken(check("GET /things/1/2", 200, JSON, &fine), missing);
        broken(check("GET /things/", 200, JSON, &fine), missing);
        let refused = r#"{"status":405}"#;
        broken(check("GET /nothing", 405, PROBLEM, refused), missing);
    }

    #[test]
    fn a_wrong_status_or_header() {
        let fine = json!({ "id": ID }).to_string();
        broken(check("GET /things/1", 201, JSON, &fine), "the status 201");
        let untraced = "content-type: application/json, etag: \"1\"";
        broken(check("GET /things/1", 200, untraced, &fine), "trace-id");
        let untagged = "trace-id: x, content-type: application/json";
        broken(check("GET /things/1", 200, untagged, &fine), "ETag");
        let text = "trace-id: x, content-type: text/plain, etag: \"1\"";
        broken(check("GET /things/1", 200, text, &fine), "content type");
    }

    #[test]
    fn a_wrong_body() {
        let get = |body: Value| check("GET /things/1", 200, JSON, &body.to_string());
        broken(get(json!({})), "required");
        broken(get(json!({ "id": 1 })), "/id");
        broken(get(json!({ "id": "one" })), "uuid");
        broken(get(json!({ "id": ID, "at": "today" })), "date-time");
        broken(get(json!({ "id": ID, "more": 1 })), "more");
        let inner = json!({ "id": ID, "parts": [{ "id": ID, "at": "2027-05-01T10:00:00Z" }] });
        broken(get(inner), "/parts/0");
        broken(check("GET /things/1", 200, JSON, "{"), "no JSON");
        broken(check("GET /things/1", 200, JSON, ""), "no body");
        broken(check("GET /things/1", 204, JSON, "{}"), "content type");
        let other = r#"{"status":405}"#;
        broken(
            check("GET /things/1", 404, PROBLEM, other),
            "another status",
        );
    }

    #[test]
    fn the_document_is_read() {
        assert!(CONTRACT.operations.len() > 20);
        for operation in &CONTRACT.operations {
            for content in operation
                .answers
                .values()
                .flat_map(|answer| answer.contents.values())
            {
                let _ = CONTRACT.compile(&content.schema);
            }
        }
    }
}
