//! Who may do what: every operation of the document, by everybody, against a table that is written
//! by hand. An operation that nobody has thought about is in the document and not in the table.

use crate::forged::{forged, signed_again};
use crate::hall::{Hall, reservation};
use crate::shop::with_gateway;
use onsale::openapi::sample::sample;
use onsale_schema::admission::PolicyChange;
use onsale_schema::status::QueueMode;
use onsale_testkit::api::{id, text};
use onsale_testkit::spawn::Signal;
use onsale_testkit::{Answer, Api, Buyer};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;

/// Who may call an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Anyone,
    User,
    /// A user, about what is theirs; for others it is not there.
    Owner,
    Admin,
    /// Who has signed what is said, whoever else it is.
    Gateway,
}

/// Every operation.
const TABLE: &[(&str, &str, For)] = &[
    ("GET", "/healthz", For::Anyone),
    ("GET", "/readyz", For::Anyone),
    ("GET", "/openapi.json", For::Anyone),
    ("GET", "/docs", For::Anyone),
    ("GET", "/docs/{file}", For::Anyone),
    ("POST", "/api/v1/users", For::Anyone),
    ("POST", "/api/v1/sessions", For::Anyone),
    ("POST", "/api/v1/sessions/refresh", For::Anyone),
    ("POST", "/api/v1/sessions/revoke", For::Anyone),
    ("GET", "/api/v1/concerts", For::Anyone),
    ("GET", "/api/v1/concerts/{concertId}", For::Anyone),
    ("GET", "/api/v1/concerts/{concertId}/schedules", For::Anyone),
    ("GET", "/api/v1/schedules/{scheduleId}", For::Anyone),
    ("GET", "/api/v1/schedules/{scheduleId}/layout", For::Anyone),
    ("GET", "/api/v1/schedules/{scheduleId}/seats", For::Anyone),
    ("GET", "/api/v1/schedules/{scheduleId}/events", For::Anyone),
    (
        "GET",
        "/api/v1/schedules/{scheduleId}/queue/draw",
        For::Anyone,
    ),
    (
        "GET",
        "/api/v1/schedules/{scheduleId}/queue/draw/tickets",
        For::Anyone,
    ),
    // Where others have no ticket, there is nothing of theirs.
    ("DELETE", "/api/v1/schedules/{scheduleId}/queue", For::Owner),
    ("GET", "/api/v1/schedules/{scheduleId}/queue", For::Owner),
    ("POST", "/api/v1/schedules/{scheduleId}/queue", For::User),
    ("DELETE", "/api/v1/sessions", For::User),
    ("POST", "/api/v1/stream-tokens", For::User),
    ("GET", "/api/v1/users/me", For::User),
    ("GET", "/api/v1/users/me/points", For::User),
    ("POST", "/api/v1/users/me/points/charges", For::User),
    ("GET", "/api/v1/users/me/points/history", For::User),
    ("GET", "/api/v1/reservations", For::User),
    ("POST", "/api/v1/reservations", For::User),
    ("GET", "/api/v1/reservations/{reservationId}", For::Owner),
    ("DELETE", "/api/v1/reservations/{reservationId}", For::Owner),
    (
        "POST",
        "/api/v1/reservations/{reservationId}/extension",
        For::Owner,
    ),
    (
        "POST",
        "/api/v1/reservations/{reservationId}/cancellation",
        For::Owner,
    ),
    ("GET", "/api/v1/payments", For::User),
    ("POST", "/api/v1/payments", For::User),
    ("GET", "/api/v1/payments/{paymentId}", For::Owner),
    ("POST", "/api/v1/payment-orders", For::User),
    ("GET", "/api/v1/payment-orders/{orderId}", For::Owner),
    // What it is asked comes before whose it is.
    (
        "POST",
        "/api/v1/payment-orders/{orderId}/confirm",
        For::User,
    ),
    ("POST", "/api/v1/webhooks/payments", For::Gateway),
    ("GET", "/api/v1/commands/{token}", For::Owner),
    ("POST", "/api/v1/admin/concerts", For::Admin),
    ("PATCH", "/api/v1/admin/concerts/{concertId}", For::Admin),
    (
        "POST",
        "/api/v1/admin/concerts/{concertId}/schedules",
        For::Admin,
    ),
    ("PATCH", "/api/v1/admin/schedules/{scheduleId}", For::Admin),
    (
        "POST",
        "/api/v1/admin/schedules/{scheduleId}/cancellation",
        For::Admin,
    ),
    (
        "GET",
        "/api/v1/admin/schedules/{scheduleId}/cancellation",
        For::Admin,
    ),
    (
        "PUT",
        "/api/v1/admin/schedules/{scheduleId}/layout",
        For::Admin,
    ),
    (
        "PUT",
        "/api/v1/admin/schedules/{scheduleId}/queue/beacon",
        For::Admin,
    ),
    (
        "PUT",
        "/api/v1/admin/schedules/{scheduleId}/queue/beacon/value",
        For::Admin,
    ),
    (
        "GET",
        "/api/v1/admin/schedules/{scheduleId}/access-codes",
        For::Admin,
    ),
    (
        "POST",
        "/api/v1/admin/schedules/{scheduleId}/access-codes",
        For::Admin,
    ),
    (
        "DELETE",
        "/api/v1/admin/schedules/{scheduleId}/access-codes/{accessCodeId}",
        For::Admin,
    ),
    (
        "GET",
        "/api/v1/admin/schedules/{scheduleId}/blocks",
        For::Admin,
    ),
    (
        "POST",
        "/api/v1/admin/schedules/{scheduleId}/blocks",
        For::Admin,
    ),
    (
        "DELETE",
        "/api/v1/admin/schedules/{scheduleId}/blocks/{blockId}",
        For::Admin,
    ),
    (
        "GET",
        "/api/v1/admin/schedules/{scheduleId}/seats/{label}/history",
        For::Admin,
    ),
    ("GET", "/api/v1/admin/dead-letters", For::Admin),
    (
        "POST",
        "/api/v1/admin/dead-letters/{deadLetterId}/retry",
        For::Admin,
    ),
    ("GET", "/api/v1/admin/tasks", For::Admin),
    ("POST", "/api/v1/admin/tasks/{refundId}/retry", For::Admin),
    (
        "POST",
        "/api/v1/admin/tasks/{refundId}/resolution",
        For::Admin,
    ),
    ("GET", "/api/v1/admin/webhooks", For::Admin),
    ("POST", "/api/v1/admin/webhooks", For::Admin),
    ("GET", "/api/v1/admin/webhooks/{webhookId}", For::Admin),
    ("PATCH", "/api/v1/admin/webhooks/{webhookId}", For::Admin),
    ("DELETE", "/api/v1/admin/webhooks/{webhookId}", For::Admin),
    (
        "POST",
        "/api/v1/admin/webhooks/{webhookId}/secret",
        For::Admin,
    ),
    ("GET", "/api/v1/admin/audit", For::Admin),
];

/// An operation of the document.
struct Operation {
    method: Method,
    path: String,
    description: Value,
}

async fn operations(api: &Api) -> (Vec<Operation>, Value) {
    let document = api.get(None, "//openapi.json").await.expect(200).body;
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, description) in item.as_object().expect("operations") {
            all.push(Operation {
                method: method.to_ascii_uppercase().parse().expect("a method"),
                path: path.clone(),
                description: description.clone(),
            });
        }
    }
    (all, document["components"]["schemas"].clone())
}

/// What paths may name; all that is somebody's is one buyer's.
struct Things {
    concert: String,
    date: Uuid,
    /// The date with a waiting room.
    room: Uuid,
    reservation: Uuid,
    payment: String,
    order: Uuid,
    token: String,
    dead_letter: Uuid,
    refund: Uuid,
    block: Uuid,
    access_code: Uuid,
    webhook: Uuid,
    /// One that may be deleted.
    doomed_webhook: Uuid,
}

impl Things {
    /// Makes them.
    async fn of(hall: &mut Hall, buyer: &Buyer) -> Self {
        let api = hall.api.clone();
        let date = hall.date(10).await;
        let concert = api.get(None, "/concerts").await.expect(200).body;
        api.charge(buyer, 50_000).await.expect(201);
        let held = api.hold(buyer, date, &["A-1-1"]).await.expect(201);
        let sold = api.hold(buyer, date, &["A-1-2"]).await.expect(201);
        let paid = api.pay(buyer, reservation(&sold.body)).await.expect(201);
        let body = json!({ "reservationId": reservation(&held.body) });
        let order = api.post(buyer, "/payment-orders", "an-order", &body).await;
        let order = order.expect(201).body;
        // With its owner at rest the command is still open when it is answered.
        hall.system.workers[0].signal(Signal::SIGSTOP);
        let body = json!({ "scheduleId": date, "seats": ["A-1-3"] });
        let request = api.post_request(buyer, "/reservations", "left-open", &body);
        let open = api
            .send(request.header("prefer", "respond-async"))
            .await
            .expect(202);
        hall.system.workers[0].signal(Signal::SIGCONT);
        let dead_letter = Uuid::now_v7();
        hall.sql(&format!(
            "INSERT INTO dead_letter (lane, partition_no, incarnation, seq, command_index, \
                                      payload, error, dead_letter_id) \
             VALUES ('ledger', -1, 0, 1, -1, '', '', '{dead_letter}')"
        ))
        .await;
        // One that is never worked off.
        hall.sql(&format!(
            "INSERT INTO show_cancellation (schedule_id, command_id, fingerprint, user_id, reason, \
                                            next_at) \
             VALUES ('{date}', '{dead_letter}', '{dead_letter}', '{dead_letter}', 'x', 'infinity')"
        ))
        .await;
        let refund = Uuid::now_v7();
        hall.sql(&format!(
            "INSERT INTO payment_order (order_id, user_id, command_id, fingerprint, amount, status, \
                                        payment_key, confirm_command_id, confirm_fingerprint, \
                                        captured, created_at, updated_at) \
             SELECT '{refund}', user_id, '{refund}', '{refund}', 1, 'REFUNDING', '{refund}', \
                    gen_random_uuid(), '{refund}', 1, now(), now() \
             FROM payment_order WHERE order_id = '{}'; \
             INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, \
                                 stuck_at, created_at) \
             SELECT order_id, order_id, user_id, order_id, 'GATEWAY', 1, 'STUCK', now(), now() \
             FROM payment_order WHERE order_id = '{refund}'",
            id(&order["orderId"])
        ))
        .await;
        let path = format!("/admin/schedules/{date}/blocks");
        let body = json!({ "seats": ["A-1-9"], "reason": "x" });
        let block = api.post(&hall.admin(), &path, "off-sale", &body).await;
        let block = block.expect(201).body;
        let path = format!("/admin/schedules/{date}/access-codes");
        let body = json!({ "label": "x", "grants": "VIP", "validFrom": "2026-01-01T00:00:00Z",
                           "validUntil": "2040-01-01T00:00:00Z" });
        let codes = api.post(&hall.admin(), &path, "some-codes", &body).await;
        let codes = codes.expect(201).body;
        let subscriber = async |key: &str| {
            let body = json!({ "url": "http://127.0.0.1:9/" });
            let made = api.post(&hall.admin(), "/admin/webhooks", key, &body).await;
            id(&made.expect(201).body["webhookId"])
        };
        let (webhook, doomed_webhook) = (
            subscriber("a-subscriber").await,
            subscriber("another-one").await,
        );
        // A room that is still closed, in which the buyer has a ticket; of a date of its own, since
        // holds would need passes.
        let room = hall.date(1).await;
        let opens = PolicyChange {
            mode: Some(QueueMode::Fifo),
            opens_at: Some(crate::room::line::never()),
            ..PolicyChange::default()
        };
        crate::room::line::amend(hall, room, opens).await;
        let path = format!("/schedules/{room}/queue");
        let joined = api.post(buyer, &path, "in-the-line", &Value::Null).await;
        let _ = joined.expect(201);
        let location = open.headers["location"].to_str().expect("ASCII");
        let (_, token) = location.rsplit_once('/').expect("a path");
        Self {
            concert: text(&concert["items"][0]["concertId"]).to_owned(),
            date,
            room,
            reservation: reservation(&held.body),
            payment: text(&paid.body["paymentId"]).to_owned(),
            order: id(&order["orderId"]),
            token: token.to_owned(),
            dead_letter,
            refund,
            block: id(&block["blockId"]),
            access_code: id(&codes["items"][0]["accessCodeId"]),
            webhook,
            doomed_webhook,
        }
    }

    /// The same kinds of names for what is not there.
    fn missing(&self) -> Self {
        let mut token = self.token.clone();
        let last = token.pop().expect("a token is not empty");
        token.push(if last == 'A' { 'B' } else { 'A' });
        Self {
            concert: Uuid::now_v7().to_string(),
            date: Uuid::now_v7(),
            room: Uuid::now_v7(),
            reservation: Uuid::now_v7(),
            payment: Uuid::now_v7().to_string(),
            order: Uuid::now_v7(),
            token,
            dead_letter: Uuid::now_v7(),
            refund: Uuid::now_v7(),
            block: Uuid::now_v7(),
            access_code: Uuid::now_v7(),
            webhook: Uuid::now_v7(),
            doomed_webhook: Uuid::now_v7(),
        }
    }

    /// The path of an operation: one that removes something has its own.
    fn path(&self, operation: &Operation) -> String {
        match operation.method {
            Method::DELETE => {
                let doomed = self.doomed_webhook.to_string();
                self.fill(&operation.path.replace("{webhookId}", &doomed))
            }
            _ => self.fill(&operation.path),
        }
    }

    fn fill(&self, template: &str) -> String {
        let path = template
            .replace("{concertId}", &self.concert)
            .replace("{scheduleId}/queue", &format!("{}/queue", self.room))
            .replace("{scheduleId}", &self.date.to_string())
            .replace("{reservationId}", &self.reservation.to_string())
            .replace("{paymentId}", &self.payment)
            .replace("{orderId}", &self.order.to_string())
            .replace("{token}", &self.token)
            .replace("{deadLetterId}", &self.dead_letter.to_string())
            .replace("{refundId}", &self.refund.to_string())
            .replace("{blockId}", &self.block.to_string())
            .replace("{accessCodeId}", &self.access_code.to_string())
            .replace("{webhookId}", &self.webhook.to_string())
            .replace("{label}", "A-1-1")
            .replace("{file}", "start.js");
        assert!(!path.contains('{'), "nothing for {template}");
        path
    }
}

/// Calls an operation with a body that says nothing, so that it is looked at and nothing is done.
/// Of a stream only the head is read.
async fn call(api: &Api, operation: &Operation, path: &str, token: Option<&str>) -> Answer {
    let mut request = api
        .request(operation.method.clone(), &format!("/{path}"))
        .header("idempotency-key", Uuid::now_v7().to_string());
    if operation.path.ends_with("/events") {
        request = request.header("accept", "text/event-stream");
    }
    if operation.description.get("requestBody").is_some() {
        request = request.json(&json!({}));
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    match api.open(request).await {
        Ok(stream) => Answer {
            status: stream.status(),
            headers: stream.headers().clone(),
            body: Value::Null,
        },
        Err(answer) => answer,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_by_everybody() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (owner, other, admin) = (hall.buyer(), hall.buyer(), hall.admin());
    let things = Things::of(&mut hall, &owner).await;
    let api = hall.api.clone();
    let (operations, _) = operations(&api).await;
    let described: BTreeSet<(&str, &str)> = operations
        .iter()
        .map(|operation| (operation.method.as_str(), operation.path.as_str()))
        .collect();
    let listed: BTreeSet<_> = TABLE
        .iter()
        .map(|(method, path, _)| (*method, *path))
        .collect();
    assert_eq!(described, listed, "the document and the table");

    let honest = Buyer {
        token: signed_again(&owner.token),
        ..owner.clone()
    };
    api.get(Some(&honest), "/reservations").await.expect(200);
    let mut refused = vec![("nobody", None, "token-missing")];
    let expired = hall.expired_buyer().token;
    refused.push(("somebody too late", Some(expired), "token-expired"));
    for (kind, token) in forged(&owner.token) {
        refused.push((kind, Some(token), "token-invalid"));
    }
    for operation in &operations {
        let (_, _, who) = TABLE
            .iter()
            .find(|(method, path, _)| operation.method == *method && operation.path == *path)
            .expect("it was listed");
        let path = things.path(operation);
        let open = call(&api, operation, &path, None).await.status;
        for (kind, token, code) in &refused {
            let answer = call(&api, operation, &path, token.as_deref()).await;
            let at = format!("{} {path} by {kind}: {answer:?}", operation.method);
            if *who == For::Anyone {
                // Who it is is not even looked at.
                assert_eq!(answer.status, open, "{at}");
                assert!(![401, 403].contains(&open.as_u16()), "{at}");
            } else {
                let code = match who {
                    For::Gateway => "webhook-signature-invalid",
                    For::Anyone | For::User | For::Owner | For::Admin => code,
                };
                assert_eq!((answer.status.as_u16(), answer.code()), (401, code), "{at}");
            }
        }
        for (name, user) in [
            ("the other", &other),
            ("the admin", &admin),
            ("the owner", &owner),
        ] {
            // Who signs out is signed out.
            let user = match operation.path == "/api/v1/sessions" {
                true if name == "the admin" => &hall.admin(),
                true => &hall.buyer(),
                false => user,
            };
            let answer = call(&api, operation, &path, Some(&user.token)).await;
            let at = format!("{} {path} by {name}: {answer:?}", operation.method);
            let status = answer.status.as_u16();
            match (who, name) {
                (For::Admin, "the admin") | (For::Anyone | For::User, _) => {
                    assert!(
                        ![401, 403, 404].contains(&status) || is_account(operation),
                        "{at}"
                    );
                }
                (For::Admin, _) => assert_eq!((status, answer.code()), (403, "forbidden-role")),
                (For::Gateway, _) => assert_eq!(status, 401, "{at}"),
                (For::Owner, "the owner") => assert!(![401, 403, 404].contains(&status), "{at}"),
                (For::Owner, _) => {
                    let missing = things.missing().fill(&operation.path);
                    let missing = call(&api, operation, &missing, Some(&user.token)).await;
                    assert_eq!(status, 404, "{at}");
                    assert_eq!(told(answer), told(missing), "{at}");
                }
            }
        }
    }
}

/// These buyers have tokens and no accounts, and this operation shows the account.
fn is_account(operation: &Operation) -> bool {
    operation.path == "/api/v1/users/me"
}

/// An answer without what differs each time.
fn told(answer: Answer) -> (u16, Vec<String>, Value) {
    let names: BTreeSet<_> = answer.headers.keys().map(ToString::to_string).collect();
    let mut body = answer.body;
    if let Some(members) = body.as_object_mut() {
        members.remove("traceId");
    }
    (answer.status.as_u16(), names.into_iter().collect(), body)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_somebody_elses_is_not_there() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (owner, other) = (hall.buyer(), hall.buyer());
    let things = Things::of(&mut hall, &owner).await;
    let api = hall.api.clone();
    for list in ["/reservations", "/payments", "/users/me/points/history"] {
        let own = api.get(Some(&owner), list).await.expect(200);
        assert_ne!(own.body["items"], json!([]), "{list}");
        let foreign = api.get(Some(&other), list).await.expect(200);
        assert_eq!(foreign.body["items"], json!([]), "{list}");
    }
    api.charge(&other, 50_000).await.expect(201);
    let foreign = api.pay(&other, things.reservation).await;
    let missing = api.pay(&other, Uuid::now_v7()).await;
    assert_eq!(foreign.status, 404, "{foreign:?}");
    assert_eq!(told(foreign), told(missing));
    // It is as it was, and its owner's.
    let path = format!("/reservations/{}", things.reservation);
    let own = api.get(Some(&owner), &path).await.expect(200);
    assert_eq!(own.body["status"], "HELD");
    hall.assert_sound().await;
}

/// The places of all objects in a value.
fn objects(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.push(at.to_owned());
            for (name, member) in members {
                objects(member, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                objects(item, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sets_what_is_not_theirs_to_set() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let admin = hall.admin();
    let things = Things::of(&mut hall, &admin).await;
    let api = hall.api.clone();
    let (operations, schemas) = operations(&api).await;
    let mut tried = 0;
    for operation in &operations {
        let schema = &operation.description["requestBody"]["content"]["application/json"]["schema"];
        // What is not signed is not read.
        let is_signed = operation.path == "/api/v1/webhooks/payments";
        if schema.is_null() || is_signed {
            continue;
        }
        let path = things.fill(&operation.path);
        let body = sample(schema, &schemas);
        let mut places = Vec::new();
        objects(&body, "", &mut places);
        for place in places {
            for name in ["role", "userId", "price", "status", "admin", "__proto__"] {
                let mut edited = body.clone();
                let object = edited.pointer_mut(&place).and_then(Value::as_object_mut);
                let object: &mut Map<_, _> = object.expect("a place of an object");
                if object.contains_key(name) {
                    continue;
                }
                object.insert(name.to_owned(), json!("admin"));
                let request = api
                    .request(operation.method.clone(), &format!("/{path}"))
                    .header("idempotency-key", Uuid::now_v7().to_string())
                    .bearer_auth(&admin.token);
                let answer = api.send(request.json(&edited)).await;
                let at = format!("{} {path} {edited}: {answer:?}", operation.method);
                assert_eq!(
                    (answer.status.as_u16(), answer.code()),
                    (422, "validation-failed"),
                    "{at}"
                );
                let error = &answer.body["errors"][0];
                assert_eq!(
                    (&error["code"], &error["pointer"]),
                    (&json!("unknown-field"), &json!(place)),
                    "{at}"
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 50, "{tried}");
}

/// The places of all members that are never null, in the first items of lists.
fn never_null(schema: &Value, schemas: &Value, at: &str, found: &mut Vec<String>) {
    let resolved = |schema: &Value| match schema["$ref"].as_str() {
        Some(name) => schemas[name.rsplit('/').next().expect("a name")].clone(),
        None => schema.clone(),
    };
    let is_null = |kind: &Value| *kind == "null";
    let schema = resolved(schema);
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let place = format!("{at}/{name}");
        let kinds = resolved(member)["type"].clone();
        let branches = ["oneOf", "anyOf"].map(|name| member[name].clone());
        let mut branches = branches.iter().filter_map(Value::as_array).flatten();
        let may_be = kinds
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(is_null))
            || branches.any(|branch| is_null(&branch["type"]));
        if !may_be {
            found.push(place.clone());
        }
        never_null(member, schemas, &place, found);
    }
    if schema["items"].is_object() {
        for item in 0..ITEMS {
            never_null(&schema["items"], schemas, &format!("{at}/{item}"), found);
        }
    }
}

/// A sample may have items of so many forms.
const ITEMS: usize = 2;

/// Makes a member null; false when the sample has nothing that it could be a member of.
fn set_null(body: &mut Value, place: &str) -> bool {
    let (parent, name) = place.rsplit_once('/').expect("a place of a member");
    let parent = body.pointer_mut(parent).and_then(Value::as_object_mut);
    parent
        .map(|parent| parent.insert(name.to_owned(), Value::Null))
        .is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_null_is_not_taken_as_null() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let admin = hall.admin();
    let things = Things::of(&mut hall, &admin).await;
    let api = hall.api.clone();
    let (operations, schemas) = operations(&api).await;
    let mut tried = 0;
    for operation in &operations {
        let schema = &operation.description["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        let path = things.fill(&operation.path);
        let body = sample(schema, &schemas);
        let mut places = Vec::new();
        never_null(schema, &schemas, "", &mut places);
        for place in places {
            let mut edited = body.clone();
            if !set_null(&mut edited, &place) {
                continue;
            }
            let request = api
                .request(operation.method.clone(), &format!("/{path}"))
                .header("idempotency-key", Uuid::now_v7().to_string())
                .bearer_auth(&admin.token);
            let answer = api.send(request.json(&edited)).await;
            let at = format!("{} {path} {edited}: {answer:?}", operation.method);
            assert_eq!(answer.status, 422, "{at}");
            let error = &answer.body["errors"][0];
            assert_eq!(error["pointer"], json!(place), "{at}");
            tried += 1;
        }
    }
    assert!(tried > 40, "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_key_is_a_key_of_ones_own() {
    let mut hall = Hall::open_with(with_gateway()).await;
    let (owner, other) = (hall.buyer(), hall.buyer());
    let date = hall.date(10).await;
    let api = hall.api.clone();
    let post = async |by: &Buyer, path: &str, body: &Value| {
        let first = api.post(by, path, "the-very-same-key", body).await;
        // Each finds their own answer again.
        let again = api.post(by, path, "the-very-same-key", body).await;
        assert_eq!(first.status, again.status, "{first:?} {again:?}");
        first
    };
    let charge =
        |won: i64| json!({ "amount": { "amount": won, "currency": "KRW" }, "method": "CARD" });
    let path = "/users/me/points/charges";
    let first = post(&owner, path, &charge(30_000)).await.expect(201);
    let second = post(&other, path, &charge(30_000)).await.expect(201);
    assert_ne!(first.body["transferId"], second.body["transferId"]);
    assert_eq!(second.body["balance"]["amount"], 30_000);

    let seats = |label: &str| json!({ "scheduleId": date, "seats": [label] });
    let held = post(&owner, "/reservations", &seats("A-1-1"))
        .await
        .expect(201);
    let taken = post(&other, "/reservations", &seats("A-1-1")).await;
    taken.expect_problem(409, "seat-unavailable");
    let own = post(&other, "/reservations", &seats("A-1-2"))
        .await
        .expect(201);
    assert_ne!(
        id(&held.body["reservationId"]),
        id(&own.body["reservationId"])
    );

    let payment =
        |held: &Value| json!({ "reservationId": held["reservationId"], "method": "POINTS" });
    let paid = post(&owner, "/payments", &payment(&held.body))
        .await
        .expect(201);
    let foreign = post(&other, "/payments", &payment(&held.body)).await;
    foreign.expect_problem(404, "not-found");
    let second = post(&other, "/payments", &payment(&own.body))
        .await
        .expect(201);
    assert_ne!(paid.body["paymentId"], second.body["paymentId"]);
    hall.assert_sound().await;
}
