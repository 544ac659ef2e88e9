//! Who may do what: every operation of the document, by everybody, against a table that is written
//! by hand. An operation that nobody has thought about is in the document and not in the table.

mod table;
mod things;

use crate::forged::{forged, signed_again};
use crate::hall::Hall;
use crate::shop::with_gateway;
use onsale::openapi::sample::sample;
use onsale_testkit::api::id;
use onsale_testkit::{Answer, Buyer};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use table::{For, TABLE};
use things::{Operation, Things, call, operations};
use uuid::Uuid;

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
