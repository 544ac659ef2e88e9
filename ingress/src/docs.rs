//! The document of the API and a page that shows it, from memory. The page needs nothing from
//! elsewhere, so that it works without a network.

use crate::answer;
use crate::etag::{self, IfNoneMatch};
use crate::gzip;
use crate::problem::{Code, Problem};
use crate::routes;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::sync::{Arc, LazyLock};
use utoipa_swagger_ui::Config;

/// What the page may load and do: what comes from here, and the styles that it sets itself.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     frame-ancestors 'none'",
);

/// The document as it is sent.
struct Document {
    etag: HeaderValue,
    json: Bytes,
}

static DOCUMENT: LazyLock<Document> = LazyLock::new(|| {
    let json = serde_json::to_vec(&routes::document()).expect("a document has a JSON form");
    let digest = Sha256::digest(&json);
    let tag: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Document {
        etag: HeaderValue::try_from(format!("\"{tag}\"")).expect("digits and quotes are ASCII"),
        json: json.into(),
    }
});

/// This document
#[utoipa::path(get, path = "/openapi.json", operation_id = "getOpenapi", tag = "Reference",
    params(IfNoneMatch), extensions(("x-problems" = json!([Code::RateLimited]))),
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
pub async fn openapi(headers: HeaderMap) -> Response {
    let caching = [
        (header::ETAG, DOCUMENT.etag.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    if etag::matches(&headers, &DOCUMENT.etag) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    let content = [(header::CONTENT_TYPE, answer::JSON)];
    (caching, content, DOCUMENT.json.clone()).into_response()
}

/// A page that shows this document
///
/// Any operation can be tried on it.
#[utoipa::path(get, path = "/docs", operation_id = "getDocs", tag = "Reference",
    extensions(("x-problems" = json!([Code::RateLimited]))),
    responses((status = 200, description = "The page", body = String, content_type = "text/html")))]
pub async fn page() -> Response {
    let html = Bytes::from_static(include_bytes!("docs.html"));
    file("text/html; charset=utf-8", html)
}

/// What that page is made of
#[utoipa::path(get, path = "/docs/{file}", operation_id = "getDocsFile", tag = "Reference",
    params(("file" = String, Path, description = "The name of a file")),
    extensions(("x-problems" = json!([Code::RateLimited]))),
    responses((status = 200, description = "The file",
        content((String = "text/javascript"), (String = "text/css")))))]
pub async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    let (kind, vendored) = match name.as_str() {
        "start.js" => {
            let script = Bytes::from_static(include_bytes!("docs.js"));
            return Ok(file(SCRIPT, script));
        }
        "swagger-ui-bundle.js" => (SCRIPT, &*SWAGGER_SCRIPT),
        "swagger-ui.css" => ("text/css; charset=utf-8", &*SWAGGER_STYLE),
        _ => return Err(Problem::new(Code::NotFound)),
    };
    let vendored = vendored.as_ref().ok_or_else(|| {
        tracing::error!(name, "Swagger UI lacks a file");
        Problem::internal()
    })?;
    let (encoding, bytes) = vendored.form(gzip::is_accepted(&headers));
    Ok(([gzip::VARY], encoding, file(kind, bytes)).into_response())
}

static SWAGGER_SCRIPT: LazyLock<Option<gzip::Body>> =
    LazyLock::new(|| vendored("swagger-ui-bundle.js"));
static SWAGGER_STYLE: LazyLock<Option<gzip::Body>> = LazyLock::new(|| vendored("swagger-ui.css"));

/// A file of Swagger UI, packed or not, as it was when we were built.
fn vendored(name: &str) -> Option<gzip::Body> {
    let found = utoipa_swagger_ui::serve(name, Arc::new(Config::from("")));
    let found = found.ok().flatten()?;
    if found.gzpipped {
        gzip::Body::unpack(found.bytes.into_owned().into()).ok()
    } else {
        Some(gzip::Body::pack(found.bytes.into_owned()))
    }
}

fn file(kind: &'static str, bytes: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("max-age=3600"),
        ),
    ];
    (headers, bytes).into_response()
}
