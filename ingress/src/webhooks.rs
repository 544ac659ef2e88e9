//! Webhook subscribers: who gets facts over HTTP. Here they are made, shown and changed; the outbox
//! worker delivers.
//!
//! A secret is shown to who asked for it, and never again.

mod store;

use crate::answer::{self, Answer};
use crate::app::App;
use crate::auth::User;
use crate::extract::{Id, JsonBody, OptionalJsonBody, Query, not_null};
use crate::idempotency::{IdempotencyKey, fingerprint};
use crate::page::{Cursor, Page, PageQuery};
use crate::problem::{Code, FieldError, Problem};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use onsale_platform::outward::Target;
use onsale_platform::webhook::Secret;
use onsale_schema::facts::{Attempt, TOPICS};
use onsale_schema::status::WebhookState;
use onsale_schema::{Timestamp, UserId, WebhookId};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use store::Row;
use utoipa::ToSchema;

const ROUTE: &str = "/api/v1/admin/webhooks";
const ROUTE_SECRET: &str = "/api/v1/admin/webhooks/{webhookId}/secret";
/// Bytes of a new secret.
const SECRET_BYTES: usize = 32;
/// The longest that two secrets sign, in seconds: 30 days.
const OVERLAP_S_MAX: u32 = 30 * 24 * 3600;

/// What webhooks are by.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether addresses may be private.
    pub private_targets: bool,
    /// How long a secret signs after another one was made, in seconds.
    pub secret_overlap_s: i64,
}

impl Settings {
    /// What is wrong with an address, if something is.
    fn check_url(self, url: &str) -> Result<(), FieldError> {
        match url.parse::<Target>() {
            Err(_) => Err(FieldError::at("/url", "invalid-value")),
            Ok(target) if target.is_private() && !self.private_targets => {
                Err(FieldError::at("/url", "private-address"))
            }
            Ok(_) => Ok(()),
        }
    }
}

/// Somebody who wants facts.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewWebhook {
    /// Where they are posted to: `http` or `https`, without user and password, and a public address
    /// unless a setting allows others. Redirects are not followed.
    #[schema(
        min_length = 8,
        max_length = 2000,
        example = "https://shop.example/hooks/onsale"
    )]
    url: String,
    /// Only of these topics; of all, also of those to come, without it.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, min_items = 1, example = json!(["seats"]))]
    topics: Option<Vec<String>>,
}

impl NewWebhook {
    fn validate(&self, settings: Settings) -> Result<(), Problem> {
        let mut errors: Vec<FieldError> = settings.check_url(&self.url).err().into_iter().collect();
        if let Some(topics) = &self.topics {
            if topics.is_empty() {
                errors.push(FieldError::at("/topics", "too-few"));
            }
            for (at, topic) in topics.iter().enumerate().take(TOPICS.len() + 1) {
                let code = match () {
                    () if !TOPICS.contains(&topic.as_str()) => "unknown-topic",
                    () if topics[..at].contains(topic) => "duplicate",
                    () => continue,
                };
                errors.push(FieldError {
                    pointer: Cow::Owned(format!("/topics/{at}")),
                    code,
                });
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(Problem::validation(errors)),
        }
    }
}

/// Somebody who gets facts.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
#[serde(rename_all = "camelCase")]
struct WebhookView {
    webhook_id: WebhookId,
    url: String,
    /// Of all topics, if it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    topics: Option<Vec<String>>,
    state: WebhookState,
    created_at: Timestamp,
    created_by: UserId,
    /// The last sequence number that was delivered.
    #[schema(minimum = 0)]
    sequence: i64,
    /// When something was delivered, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    delivered_at: Option<Timestamp>,
    /// When the oldest fact was written that is not delivered yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    oldest_pending_at: Option<Timestamp>,
    /// When facts were found purged before they were delivered, the last time: their sequence number
    /// is one that is never sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    missed_at: Option<Timestamp>,
    /// That the next fact could not be delivered so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    failure: Option<FailureView>,
    /// Until when the secret before the present one signs, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    previous_secret_until: Option<Timestamp>,
    server_time: Timestamp,
}

/// That something can't be delivered.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookFailure)]
#[serde(rename_all = "camelCase")]
struct FailureView {
    /// Attempts that failed.
    #[schema(minimum = 1)]
    attempts: i32,
    /// The first of them.
    since: Timestamp,
    /// Before this there is no further one; none at all for who is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_at: Option<Timestamp>,
}

fn view(row: Row, now: Timestamp) -> WebhookView {
    let next_at = Some(row.next_at).filter(|_| row.state == WebhookState::Active);
    WebhookView {
        webhook_id: row.webhook_id,
        url: row.url,
        topics: row.topics,
        state: row.state,
        created_at: row.created_at,
        created_by: row.created_by,
        sequence: row.sequence,
        delivered_at: row.delivered_at,
        oldest_pending_at: row.oldest_pending_at,
        missed_at: row.missed_at,
        failure: row.failing_since.map(|since| FailureView {
            attempts: row.attempts,
            since,
            next_at,
        }),
        previous_secret_until: row.previous_secret_until,
        server_time: now,
    }
}

/// A subscriber with its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookWithSecret)]
#[serde(rename_all = "camelCase")]
struct WithSecret {
    #[serde(flatten)]
    webhook: WebhookView,
    /// What each delivery is signed with, as Standard Webhooks has it. It is shown this once; only a
    /// repetition of this request shows it again, and no more after another secret was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: Option<String>,
}

/// A subscriber with the last attempts to deliver something to it.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookWithAttempts)]
#[serde(rename_all = "camelCase")]
struct WithAttempts {
    #[serde(flatten)]
    webhook: WebhookView,
    /// The newest first.
    #[schema(max_items = 20)]
    attempts: Vec<Attempt>,
}

fn new_secret() -> Secret {
    let mut bytes = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    Secret::of_bytes(&bytes).expect("so many bytes make a secret")
}

fn shown(secret: &[u8]) -> Result<String, Problem> {
    let secret = Secret::of_bytes(secret).map_err(|error| {
        tracing::error!(%error, "a stored webhook secret is none");
        Problem::internal()
    });
    Ok(secret?.expose())
}

async fn find(app: &App, id: WebhookId) -> Result<Row, Problem> {
    let row = store::find(&app.pool, id).await?;
    row.ok_or_else(|| Problem::new(Code::NotFound))
}

/// Subscribe to facts
///
/// From now on, what becomes true is posted to the address, signed as
/// [Standard Webhooks](https://www.standardwebhooks.com) has it, in order, one at a time, until it is
/// answered with a status of success. The body is
/// `{id, type, aggregateId, aggregateSeq, sequence, occurredAt, data}`; `sequence` numbers what this
/// subscriber gets. The same may come again, with the same `id` and `sequence`. What fails is tried
/// again, less and less often; who fails for too long, or answers 410, is dead and gets nothing more
/// until it is activated again.
#[utoipa::path(post, path = "/admin/webhooks", operation_id = "createWebhook",
    tag = "Administration", params(IdempotencyKey), request_body = NewWebhook,
    responses((status = 201, description = "Made", body = WithSecret,
        headers(("Location" = String, description = "The subscriber")))))]
pub async fn create(
    State(app): State<App>,
    user: User,
    key: IdempotencyKey,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: NewWebhook = body.parse()?;
    wanted.validate(app.webhooks)?;
    let print = fingerprint(ROUTE, &wanted);
    let id = WebhookId(key.command(user.id, ROUTE).0);
    let secret = new_secret();
    let new = store::New {
        id,
        url: &wanted.url,
        topics: wanted.topics.as_deref(),
        fingerprint: print,
        by: user.id,
        secret: secret.bytes(),
    };
    let made = store::insert(&app.pool, &new).await?;
    let row = match store::find(&app.pool, id).await? {
        Some(row) if row.fingerprint == print.0 => row,
        Some(_) => return Err(Problem::new(Code::IdempotencyKeyReused)),
        None if made => return Err(Problem::new(Code::NotFound)),
        None => {
            let too_many = FieldError::at("", "too-many-webhooks");
            return Err(Problem::validation(vec![too_many]));
        }
    };
    // Once there is another one, it is that of who asked for it.
    let secret = match row.rotation_id {
        None => Some(shown(&row.secret)?),
        Some(_) => None,
    };
    let location = format!("{ROUTE}/{id}");
    let webhook = view(row, app.clock.now());
    let made = WithSecret { webhook, secret };
    Ok(Answer::created(Some(location), &made)?.into_response())
}

/// Who gets facts
///
/// The newest first.
#[utoipa::path(get, path = "/admin/webhooks", operation_id = "listWebhooks",
    tag = "Administration", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<WebhookView>)))]
pub async fn list(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let start = query.read()?;
    let rows = store::list(&app.pool, &start).await?;
    let cursor = |row: &Row| Cursor {
        key: row.created_at.micros(),
        id: row.webhook_id.0,
    };
    let now = app.clock.now();
    answer::ok(&start.page(rows, cursor, |row| view(row, now)))
}

/// A subscriber and what became of its last deliveries
#[utoipa::path(get, path = "/admin/webhooks/{webhookId}", operation_id = "getWebhook",
    tag = "Administration",
    params(("webhookId" = WebhookId, Path, description = "The subscriber")),
    responses((status = 200, description = "The subscriber", body = WithAttempts)))]
pub async fn get(State(app): State<App>, Id(id): Id<WebhookId>) -> Result<Response, Problem> {
    let row = find(&app, id).await?;
    let mut attempts: Vec<Attempt> = serde_json::from_str(&row.recent).unwrap_or_default();
    attempts.reverse();
    answer::ok(&WithAttempts {
        webhook: view(row, app.clock.now()),
        attempts,
    })
}

/// What changes on a subscriber.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WebhookPatch {
    /// Another address, as for a new one.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false, min_length = 8, max_length = 2000)]
    url: Option<String>,
    /// Deliver again, from where it stopped.
    #[serde(default, deserialize_with = "not_null")]
    #[schema(nullable = false)]
    state: Option<Activation>,
}

/// The state that a subscriber can be given.
#[derive(Clone, Copy, Deserialize, ToSchema)]
enum Activation {
    #[serde(rename = "ACTIVE")]
    Active,
}

/// Change a subscriber, or raise one that is dead
///
/// Whatever changes, the next attempt is made at once and counts as the first one. Deliveries go on
/// with the fact after the last one that was delivered, if it is still kept; else the sequence has a
/// gap.
#[utoipa::path(patch, path = "/admin/webhooks/{webhookId}", operation_id = "editWebhook",
    tag = "Administration",
    params(("webhookId" = WebhookId, Path, description = "The subscriber")),
    request_body = WebhookPatch,
    responses((status = 200, description = "Changed", body = WebhookView)))]
pub async fn edit(
    State(app): State<App>,
    Id(id): Id<WebhookId>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let wanted: WebhookPatch = body.parse()?;
    if let Some(url) = &wanted.url {
        let checked = app.webhooks.check_url(url);
        checked.map_err(|error| Problem::validation(vec![error]))?;
    }
    let state = wanted.state.map(|Activation::Active| WebhookState::Active);
    store::edit(&app.pool, id, wanted.url.as_deref(), state).await?;
    let row = find(&app, id).await?;
    answer::ok(&view(row, app.clock.now()))
}

/// How a secret is replaced.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WebhookRotation {
    /// For so many seconds the secret before signs, too; as long as is set without it. With 0 it signs
    /// nothing more, as is right for one that others have learned of.
    #[serde(
        default,
        deserialize_with = "not_null",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(nullable = false, minimum = 0, maximum = 2_592_000, example = 0)]
    overlap_seconds: Option<u32>,
}

impl WebhookRotation {
    fn overlap_s(&self, settings: Settings) -> Result<i64, Problem> {
        match self.overlap_seconds {
            None => Ok(settings.secret_overlap_s),
            Some(seconds) if seconds <= OVERLAP_S_MAX => Ok(seconds.into()),
            Some(_) => {
                let invalid = FieldError::at("/overlapSeconds", "invalid-value");
                Err(Problem::validation(vec![invalid]))
            }
        }
    }
}

/// Make another secret
///
/// Each delivery is signed by both, the new one and the one before, until `previousSecretUntil`: so
/// long there is to give the new one to the subscriber. Another rotation in that time ends the oldest.
/// A repetition of the request makes no further secret, and shows the one that it made only as long as
/// that is the last one.
#[utoipa::path(post, path = "/admin/webhooks/{webhookId}/secret",
    operation_id = "rotateWebhookSecret", tag = "Administration",
    params(("webhookId" = WebhookId, Path, description = "The subscriber"), IdempotencyKey),
    request_body = Option<WebhookRotation>,
    responses((status = 200, description = "Made", body = WithSecret)))]
pub async fn rotate(
    State(app): State<App>,
    user: User,
    Id(id): Id<WebhookId>,
    key: IdempotencyKey,
    OptionalJsonBody(body): OptionalJsonBody,
) -> Result<Response, Problem> {
    let wanted: WebhookRotation = body.parse()?;
    let overlap_s = wanted.overlap_s(app.webhooks)?;
    let path = ROUTE_SECRET.replace("{webhookId}", &id.to_string());
    let (rotation, print) = (key.command(user.id, &path).0, fingerprint(&path, &wanted));
    let secret = new_secret();
    let new = store::Rotation {
        id: rotation,
        fingerprint: print,
        secret: secret.bytes(),
        overlap_s,
    };
    store::rotate(&app.pool, id, &new).await?;
    let row = find(&app, id).await?;
    let is_last = row.rotation_id == Some(rotation);
    if is_last && row.rotation_print.is_some_and(|one| one != print.0) {
        return Err(Problem::new(Code::IdempotencyKeyReused));
    }
    let secret = match is_last {
        true => Some(shown(&row.secret)?),
        false => None,
    };
    let webhook = view(row, app.clock.now());
    answer::ok(&WithSecret { webhook, secret })
}

/// Unsubscribe
///
/// Nothing more is sent, but for what is on its way. Who subscribes again begins anew.
#[utoipa::path(delete, path = "/admin/webhooks/{webhookId}", operation_id = "deleteWebhook",
    tag = "Administration",
    params(("webhookId" = WebhookId, Path, description = "The subscriber")),
    responses((status = 204, description = "Removed")))]
pub async fn delete(State(app): State<App>, Id(id): Id<WebhookId>) -> Result<Response, Problem> {
    match store::delete(&app.pool, id).await? {
        true => Ok(Answer::done().into_response()),
        false => Err(Problem::new(Code::NotFound)),
    }
}
