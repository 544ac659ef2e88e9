//! The document of the API (OpenAPI 3.1): what is said once for all operations. What an operation
//! takes and gives stands at its handler; what follows from its group and its parameters is added
//! here, so that it can't be forgotten there.

use crate::access::Access;
use crate::idempotency;
use crate::prefer::PREFER;
use crate::problem::{self, Code};
use crate::submit;
use onsale_schema::status::Role;
use std::collections::BTreeMap;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::info::{InfoBuilder, LicenseBuilder};
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, Content, OpenApi, OpenApiBuilder, Ref, RefOr, Schema, ServerBuilder,
};
use utoipa::{IntoResponses, ToSchema};

/// The member of an operation that lists its own problems; not in the document.
const PROBLEMS: &str = "x-problems";
/// What the security scheme is called.
const ACCESS_TOKEN: &str = "accessToken";

/// Headers that some answers of a kind don't have.
const SOMETIMES: &[&str] = &["Preference-Applied"];

/// How much is left of what a client may ask.
const LIMITS: &[(&str, &str)] = &[
    (
        "RateLimit",
        "What is left, if there are limits: `r` requests at once, and all of them again, or the \
         next one if none is left, after `t` seconds (draft-ietf-httpapi-ratelimit-headers).",
    ),
    (
        "RateLimit-Policy",
        "The limits, if there are any, per `user` and per `address`: `q` requests at once, and as \
         many again in `w` seconds.",
    ),
];

/// The groups in which operations are shown, in order.
const TAGS: &[(&str, &str)] = &[
    (
        "Catalogue",
        "Concerts, their dates, seats and prices; open to all and answered from memory.",
    ),
    ("Users", "Sign up, and who am I."),
    ("Sessions", "Sign in, renew, sign out."),
    (
        "Waiting room",
        "Get in line where a date has a waiting room, and check its draw.",
    ),
    (
        "Reservations",
        "Hold seats, give them back, and look at one's own.",
    ),
    ("Points", "What reservations are paid with."),
    ("Payments", "Pay, and look at one's own."),
    ("Commands", "The outcome of what was answered 202."),
    (
        "Administration",
        "Concerts, their dates and seats, and how they sell; for those who administer.",
    ),
    ("Reference", "This document."),
    ("Process", "For whoever runs it."),
];

/// What comes before the paths.
#[must_use]
pub fn head() -> OpenApi {
    let license = LicenseBuilder::new()
        .name("Apache-2.0")
        .identifier(Some("Apache-2.0"));
    let info = InfoBuilder::new()
        .title("onsale")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(include_str!("openapi.md").trim_end()))
        .license(Some(license.build()));
    let here = ServerBuilder::new()
        .url("/")
        .description(Some("This server"));
    let tags = TAGS.iter().map(|(name, description)| {
        TagBuilder::new()
            .name(*name)
            .description(Some(*description))
            .build()
    });
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([here.build()]))
        .tags(Some(tags))
        .components(Some(components()))
        .build()
}

fn components() -> Components {
    let mut components = Components::new();
    let mut schemas = Vec::new();
    add_schema::<problem::Document<'_>>(&mut schemas);
    add_schema::<submit::Pending>(&mut schemas);
    components.schemas.extend(schemas);
    let limits = LIMITS.iter().map(|(name, description)| {
        let header = text_header(description);
        ((*name).to_owned(), header.into())
    });
    components.headers.extend(limits);
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("The `accessToken` of a session."));
    let scheme = SecurityScheme::Http(scheme.build());
    components
        .security_schemes
        .insert(ACCESS_TOKEN.to_owned(), scheme.into());
    components
}

/// What no handler names but all may answer.
fn add_schema<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    T::schemas(schemas);
    schemas.push((T::name().into_owned(), T::schema()));
}

/// Adds what follows from a group's access to its operations.
pub fn imply_access(access: Access, group: &mut OpenApi) {
    let (roles, problems): (&[&str], &[Code]) = match access {
        Access::Anyone => (&[], &[]),
        Access::User => (
            &[],
            &[Code::TokenMissing, Code::TokenInvalid, Code::TokenExpired],
        ),
        Access::Admin => (
            &[Role::Admin.as_str()],
            &[
                Code::TokenMissing,
                Code::TokenInvalid,
                Code::TokenExpired,
                Code::ForbiddenRole,
            ],
        ),
    };
    for operation in operations(group) {
        if access == Access::Anyone {
            // An empty list: none is needed, also where a client would send one by default.
            operation.security = Some(Vec::new());
        } else {
            let required = SecurityRequirement::new(ACCESS_TOKEN, roles.iter().copied());
            operation.security = Some(vec![required]);
        }
        add_problems(operation, problems);
        let codes = [
            Code::DependencyUnavailable,
            Code::RateLimited,
            Code::NotAcceptable,
        ];
        add_problems(operation, &codes);
    }
}

/// Adds what follows from the parameters of the operations, and writes their problems out.
pub fn finish(document: &mut OpenApi) {
    for operation in operations(document) {
        imply_parameters(operation);
        write_problems(operation);
        require_headers(operation);
        say_limits(operation);
    }
}

/// Says of the headers of answers that they are always there, but for those that are not.
fn require_headers(operation: &mut Operation) {
    for response in operation.responses.responses.values_mut() {
        let RefOr::T(response) = response else {
            continue;
        };
        for (name, header) in &mut response.headers {
            if let RefOr::T(header) = header {
                let always = !SOMETIMES.contains(&name.as_str());
                let more = header.extensions.get_or_insert_default();
                more.insert("required".to_owned(), always.into());
            }
        }
    }
}

/// Says of what is limited how much is left. A limit may be switched off, so no header is promised.
fn say_limits(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    if !responses.contains_key(Code::RateLimited.status().as_str()) {
        return;
    }
    for response in responses.values_mut() {
        let RefOr::T(response) = response else {
            continue;
        };
        for (name, _) in LIMITS {
            let header = Ref::new(format!("#/components/headers/{name}"));
            response
                .headers
                .insert((*name).to_owned(), RefOr::Ref(header));
        }
    }
}

/// All operations.
fn operations(document: &mut OpenApi) -> impl Iterator<Item = &mut Operation> {
    document.paths.paths.values_mut().flat_map(|item| {
        let PathItem {
            get,
            put,
            post,
            delete,
            patch,
            ..
        } = item;
        [get, put, post, delete, patch].into_iter().flatten()
    })
}

fn imply_parameters(operation: &mut Operation) {
    add_problems(operation, &[Code::HeadersTooLarge, Code::InternalError]);
    if operation.request_body.is_some() {
        let codes = [
            Code::MalformedJson,
            Code::RequestTimeout,
            Code::BodyTooLarge,
            Code::UnsupportedMediaType,
            Code::ValidationFailed,
        ];
        add_problems(operation, &codes);
    }
    let has = |operation: &Operation, place: ParameterIn, name: &str| {
        operation
            .parameters
            .iter()
            .flatten()
            .any(|parameter| match parameter {
                RefOr::T(known) => {
                    known.parameter_in == place
                        && (name.is_empty() || known.name.eq_ignore_ascii_case(name))
                }
                RefOr::Ref(_) => false,
            })
    };
    if has(operation, ParameterIn::Path, "") {
        add_problems(operation, &[Code::NotFound]);
    }
    if has(operation, ParameterIn::Query, "") {
        add_problems(operation, &[Code::ValidationFailed]);
    }
    if has(operation, ParameterIn::Header, idempotency::HEADER.as_str()) {
        let codes = [
            Code::IdempotencyKeyMissing,
            Code::IdempotencyKeyInvalid,
            Code::IdempotencyKeyReused,
        ];
        add_problems(operation, &codes);
    }
    // Who may prefer how a command is answered has one decided.
    if has(operation, ParameterIn::Header, PREFER.as_str()) {
        add_problems(operation, &[Code::CommandExpired, Code::Overloaded]);
        operation
            .responses
            .responses
            .extend(submit::Open::responses());
    }
    if has(operation, ParameterIn::Header, "if-none-match") {
        let tagged = |response: &mut Response| {
            let tag = text_header("Names this version; for `If-None-Match`.");
            response.headers.insert("ETag".to_owned(), tag.into());
        };
        let responses = &mut operation.responses.responses;
        if let Some(RefOr::T(found)) = responses.get_mut("200") {
            tagged(found);
        }
        let mut unchanged = Response::new("The client has this version");
        tagged(&mut unchanged);
        responses.insert("304".to_owned(), unchanged.into());
    }
}

/// Notes problems that an operation may be answered with.
fn add_problems(operation: &mut Operation, codes: &[Code]) {
    let noted = operation.extensions.get_or_insert_default();
    let noted = noted
        .entry(PROBLEMS.to_owned())
        .or_insert_with(|| Vec::<&str>::new().into());
    let list = noted.as_array_mut().expect("handlers list their problems");
    list.extend(codes.iter().map(|code| code.as_str().into()));
}

/// Makes responses of the noted problems, one per status.
fn write_problems(operation: &mut Operation) {
    let noted = operation.extensions.take().unwrap_or_default();
    let noted = noted.get(PROBLEMS).and_then(|list| list.as_array());
    let mut by_status: BTreeMap<String, Vec<Code>> = BTreeMap::new();
    // In the order of the list of codes, each once.
    for code in Code::ALL {
        if noted.is_some_and(|noted| noted.contains(&code.as_str().into())) {
            let status = code.status().as_str().to_owned();
            by_status.entry(status).or_default().push(*code);
        }
    }
    let problems = by_status
        .into_iter()
        .map(|(status, codes)| (status, problem_response(&codes).into()));
    operation.responses.responses.extend(problems);
}

/// Problems of one status.
fn problem_response(codes: &[Code]) -> Response {
    let lines: Vec<String> = codes
        .iter()
        .map(|code| format!("- `{}`: {}", code.as_str(), code.title()))
        .collect();
    let code = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(codes.iter().map(|code| code.as_str())));
    let narrowed = ObjectBuilder::new().property("code", code).required("code");
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name(problem::Document::name()))
        .item(narrowed);
    let mut response = ResponseBuilder::new()
        .description(lines.join("\n"))
        .content("application/problem+json", Content::new(Some(schema)));
    match codes.first().map(|code| code.status().as_u16()) {
        Some(401) => {
            response = response.header("WWW-Authenticate", text_header("`Bearer`"));
        }
        Some(429 | 503) => {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer);
            let header = HeaderBuilder::new()
                .schema(Some(seconds))
                .description(Some("After how many seconds to try again"));
            response = response.header("Retry-After", header.build());
        }
        _ => {}
    }
    response.build()
}

fn text_header(description: &str) -> Header {
    HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .description(Some(description))
        .build()
}

#[cfg(test)]
mod tests {
    use crate::routes;
    use serde_json::Value;
    use std::collections::BTreeSet;

    /// Every value under a key, wherever it stands.
    fn under<'a>(key: &str, value: &'a Value, found: &mut Vec<&'a Value>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    if name == key {
                        found.push(member);
                    }
                    under(key, member, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| under(key, item, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_in_the_repository_is_this_one() {
        assert!(
            include_str!("../openapi.json") == routes::document_text(),
            "ingress/openapi.json is another; `make openapi` writes it"
        );
    }

    #[test]
    fn the_document_is_whole() {
        let document = serde_json::to_value(routes::document()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut refs = Vec::new();
        under("$ref", &document, &mut refs);
        for reference in refs {
            let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
            assert!(
                document.pointer(pointer).is_some(),
                "{pointer} leads nowhere"
            );
        }
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for (name, schema) in schemas {
            let described = schema["description"].is_string() || name.starts_with("Page_");
            assert!(described, "{name} has no description");
        }
        let tags: Vec<_> = super::TAGS.iter().map(|(name, _)| *name).collect();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let at = format!("{method} {path}");
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id), "{at}: {id} is another's");
                assert!(operation["summary"].is_string(), "{at} has no summary");
                let operation_tags = operation["tags"].as_array().unwrap();
                assert_eq!(operation_tags.len(), 1, "{at}");
                let tag = operation_tags[0].as_str().unwrap();
                assert!(tags.contains(&tag), "{at}: {tag} is no tag of ours");
                assert!(operation.get("x-problems").is_none(), "{at}");
                let success = |status: &String| status.starts_with('2');
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.keys().any(success), "{at} never succeeds");
            }
        }
    }
}
