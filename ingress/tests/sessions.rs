//! Sessions over several ingresses: whoever is signed out is so everywhere, keys are replaced without
//! signing anybody out, a stolen refresh token ends its session.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and its tasks end with it"
)]

mod common;

use common::{Bench, SECRET, start, until};
use onsale_schema::SessionId;
use onsale_schema::message::{Revocation, encode};
use onsale_schema::subjects::Subjects;
use onsale_testkit::{Answer, Api, Buyer};
use reqwest::Method;
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery";

/// A session as its user knows it.
struct Session {
    user: Buyer,
    refresh_token: Value,
}

impl Session {
    fn of(user: &Buyer, answer: &Answer) -> Self {
        let token = answer.body["accessToken"].as_str().unwrap().to_owned();
        Self {
            user: Buyer {
                user_id: user.user_id,
                token,
            },
            refresh_token: answer.body["refreshToken"].clone(),
        }
    }
}

async fn post(api: &Api, path: &str, body: &Value) -> Answer {
    api.send(api.request(Method::POST, path).json(body)).await
}

async fn sign_in(bench: &Bench, user: &Buyer) -> Session {
    let me = bench.api.get(Some(user), "/users/me").await.expect(200);
    let body = json!({ "email": me.body["email"], "password": PASSWORD });
    let answer = post(&bench.api, "/sessions", &body).await.expect(201);
    assert!(answer.body["serverTime"].is_string(), "{answer:?}");
    Session::of(user, &answer)
}

async fn refresh(api: &Api, session: &Session) -> Answer {
    let body = json!({ "refreshToken": session.refresh_token });
    post(api, "/sessions/refresh", &body).await
}

async fn is_in(api: &Api, session: &Session) -> bool {
    let answer = api.get(Some(&session.user), "/users/me").await;
    match answer.code() {
        "" => true,
        "token-invalid" => false,
        other => panic!("{other}"),
    }
}

/// Refused at every ingress, which may take a moment.
async fn out_everywhere(what: &str, apis: &[&Api], session: &Session) {
    for api in apis {
        until(what, || async { !is_in(api, session).await }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_signed_out_is_so_at_every_ingress() {
    let bench = start(&[]).await;
    let other = bench.another(&[]).await;
    let apis = [&bench.api, &other.api];
    let user = bench.api.buyer().await;
    let (leaves, stays) = (sign_in(&bench, &user).await, sign_in(&bench, &user).await);
    for session in [&leaves, &stays] {
        assert!(is_in(&bench.api, session).await && is_in(&other.api, session).await);
    }
    let _ = other
        .api
        .delete(&leaves.user, "/sessions")
        .await
        .expect(204);
    assert!(
        !is_in(&other.api, &leaves).await,
        "at once where it was asked"
    );
    out_everywhere("a sign-out is heard", &apis, &leaves).await;
    refresh(&bench.api, &leaves)
        .await
        .expect_problem(401, "token-invalid");
    assert!(is_in(&bench.api, &stays).await && is_in(&other.api, &stays).await);
    // One that starts later knows before its first request.
    let third = bench.another(&[]).await;
    assert!(!is_in(&third.api, &leaves).await);
    assert!(is_in(&third.api, &stays).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_only_a_refresh_token_signs_out_with_it() {
    let bench = start(&[]).await;
    let other = bench.another(&[]).await;
    let apis = [&bench.api, &other.api];
    let user = bench.api.buyer().await;
    let revoke = async |session: &Session| {
        let body = json!({ "refreshToken": session.refresh_token });
        let path = "/sessions/revoke";
        let _ = post(&other.api, path, &body).await.expect(204);
    };
    let (leaves, stays) = (sign_in(&bench, &user).await, sign_in(&bench, &user).await);
    revoke(&leaves).await;
    assert!(
        !is_in(&other.api, &leaves).await,
        "at once where it was asked"
    );
    out_everywhere("a sign-out is heard", &apis, &leaves).await;
    let after = refresh(&bench.api, &leaves).await;
    after.expect_problem(401, "token-invalid");
    // Once more, and by what is no token.
    revoke(&leaves).await;
    for text in ["", "x", &"x".repeat(64)] {
        let body = json!({ "refreshToken": text });
        let _ = post(&bench.api, "/sessions/revoke", &body)
            .await
            .expect(204);
    }
    assert!(is_in(&bench.api, &stays).await && is_in(&other.api, &stays).await);
    // By one that was exchanged, and by one from before there were families.
    let renewed = refresh(&bench.api, &stays).await.expect(201);
    let renewed = Session::of(&user, &renewed);
    revoke(&stays).await;
    out_everywhere("the session is ended", &apis, &renewed).await;
    let old = sign_in(&bench, &user).await;
    bench
        .sql(&format!(
            "UPDATE session SET family_digest = NULL, refresh_digest = sha256('{}') \
             WHERE session_id = '{}'",
            "x".repeat(43),
            session_id(&old)
        ))
        .await;
    revoke(&Session {
        refresh_token: "x".repeat(43).into(),
        user: old.user.clone(),
    })
    .await;
    out_everywhere("the old session is ended", &apis, &old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_is_enough_and_a_lost_one_is_made_up_for() {
    let bench = start(&[]).await;
    let user = bench.api.buyer().await;
    // Told, but not in the table.
    let told = sign_in(&bench, &user).await;
    let revocation = Revocation {
        session: session_id(&told),
        at: bench.app.clock.now(),
    };
    let subject = Subjects::new("").unwrap().revocations();
    bench.broadcast(subject.clone(), b"nonsense".to_vec()).await;
    bench.broadcast(subject, encode(&revocation)).await;
    out_everywhere("a word is heard", &[&bench.api], &told).await;

    // In the table, but not told.
    let untold = sign_in(&bench, &user).await;
    assert!(is_in(&bench.api, &untold).await);
    let id = session_id(&untold);
    bench
        .sql(&format!(
            "UPDATE session SET revoked_at = clock_timestamp() WHERE session_id = '{id}'"
        ))
        .await;
    out_everywhere("the table is read", &[&bench.api], &untold).await;
}

/// From the token's claims, which are no secret.
fn session_id(session: &Session) -> SessionId {
    use base64::Engine as _;
    let claims = session.user.token.split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(claims)
        .unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    claims["sid"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_counts_also_while_nats_is_away() {
    let mut bench = start(&[]).await;
    let other = bench.another(&[]).await;
    let user = bench.api.buyer().await;
    let session = sign_in(&bench, &user).await;
    bench.nats.server.kill9().await;
    let asked = std::time::Instant::now();
    let _ = bench
        .api
        .delete(&session.user, "/sessions")
        .await
        .expect(204);
    let waited = asked.elapsed();
    assert!(
        waited >= std::time::Duration::from_millis(250),
        "it is answered when its word is on the way, and that can't be: {waited:?}"
    );
    out_everywhere("the table is read", &[&bench.api, &other.api], &session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_role_changes_must_sign_in_again_to_have_it() {
    let bench = start(&[]).await;
    let other = bench.another(&[]).await;
    let user = bench.api.buyer().await;
    let (before, untouched) = (sign_in(&bench, &user).await, bench.api.buyer().await);
    let set = |role: &str| {
        let sql = format!(
            "UPDATE app_user SET role = '{role}' WHERE user_id = '{}'",
            user.user_id
        );
        let bench = &bench;
        async move { bench.sql(&sql).await }
    };
    set("buyer").await;
    set("admin").await;
    out_everywhere("a new role counts", &[&bench.api, &other.api], &before).await;
    refresh(&bench.api, &before)
        .await
        .expect_problem(401, "token-invalid");
    let me = bench.api.get(Some(&untouched), "/users/me").await;
    assert_eq!(me.expect(200).body["role"], "buyer");

    let email = format!(
        "SELECT email FROM app_user WHERE user_id = '{}'",
        user.user_id
    );
    let email = bench.text(&email).await;
    let body = json!({ "email": email, "password": PASSWORD });
    let answer = post(&other.api, "/sessions", &body).await.expect(201);
    let after = Session::of(&user, &answer);
    let me = bench
        .api
        .get(Some(&after.user), "/users/me")
        .await
        .expect(200);
    assert_eq!(me.body["role"], "admin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_comes_again_ends_its_session() {
    let bench = start(&[]).await;
    let other = bench.another(&[]).await;
    let apis = [&bench.api, &other.api];
    let user = bench.api.buyer().await;
    let bystander = sign_in(&bench, &user).await;
    // How often it is renewed before the first token comes again.
    for renewals in [1, 3] {
        let first = sign_in(&bench, &user).await;
        let mut last = refresh(&other.api, &first).await.expect(201);
        // A client that lost the answer asks again, and nobody is a thief.
        let again = refresh(&bench.api, &first).await.expect(201);
        assert_eq!(again.body["refreshToken"], last.body["refreshToken"]);
        for _ in 1..renewals {
            let session = Session::of(&user, &last);
            last = refresh(&bench.api, &session).await.expect(201);
        }
        let last = Session::of(&user, &last);
        assert!(is_in(&bench.api, &last).await && is_in(&other.api, &last).await);
        // The grace is over.
        bench
            .sql("UPDATE session SET renewed_at = renewed_at - interval '11 seconds'")
            .await;
        let thief = refresh(&bench.api, &first).await;
        thief.expect_problem(401, "token-invalid");
        out_everywhere("the session is ended", &apis, &last).await;
        out_everywhere("all its tokens", &apis, &first).await;
        let after = refresh(&other.api, &last).await;
        after.expect_problem(401, "token-invalid");
    }
    // Nonsense ends nobody's session.
    for text in ["", "x", &"x".repeat(64)] {
        let body = json!({ "refreshToken": text });
        let answer = post(&bench.api, "/sessions/refresh", &body).await;
        answer.expect_problem(401, "token-invalid");
    }
    assert!(is_in(&bench.api, &bystander).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_from_before_there_were_families_go_on() {
    let bench = start(&[]).await;
    let user = bench.api.buyer().await;
    let session = sign_in(&bench, &user).await;
    let (id, old) = (session_id(&session), "x".repeat(43));
    bench
        .sql(&format!(
            "UPDATE session SET family_digest = NULL, refresh_digest = sha256('{old}') \
             WHERE session_id = '{id}'"
        ))
        .await;
    let body = json!({ "refreshToken": old });
    let renewed = post(&bench.api, "/sessions/refresh", &body).await;
    let renewed = Session::of(&user, &renewed.expect(201));
    let again = post(&bench.api, "/sessions/refresh", &body).await;
    assert_eq!(again.body["refreshToken"], renewed.refresh_token);
    let _ = refresh(&bench.api, &renewed).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_whose_answer_was_lost_is_answered_again() {
    let bench = start(&[]).await;
    let other = bench.another(&[]).await;
    let user = bench.api.buyer().await;
    let first = sign_in(&bench, &user).await;
    // Two tabs at once, at two ingresses.
    let tries = (0..8).map(|n| refresh([&bench.api, &other.api][n % 2], &first));
    let answers = futures_util::future::join_all(tries).await;
    let sessions: Vec<Session> = answers
        .into_iter()
        .map(|answer| Session::of(&user, &answer.expect(201)))
        .collect();
    for session in &sessions {
        assert_eq!(session.refresh_token, sessions[0].refresh_token);
        assert!(is_in(&bench.api, session).await);
    }
    assert_ne!(sessions[0].refresh_token, first.refresh_token);
    let _ = refresh(&other.api, &sessions[0]).await.expect(201);
    // Now the first one was exchanged, and exchanged again.
    let late = refresh(&bench.api, &first).await;
    late.expect_problem(401, "token-invalid");
    let after = refresh(&bench.api, &sessions[0]).await;
    after.expect_problem(401, "token-invalid");
    // Who is signed out gets no tokens again.
    let session = sign_in(&bench, &user).await;
    let renewed = refresh(&bench.api, &session).await.expect(201);
    let renewed = Session::of(&user, &renewed);
    let _ = bench
        .api
        .delete(&renewed.user, "/sessions")
        .await
        .expect(204);
    let again = refresh(&bench.api, &session).await;
    again.expect_problem(401, "token-invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_without_signing_anybody_out() {
    let other = "ee".repeat(32);
    let (both, new) = (format!("{other},{SECRET}"), other.as_str());
    let bench = start(&[]).await;
    let rotated = bench.another(&["--token-secret", &both]).await;
    let user = bench.api.buyer().await;
    let old = sign_in(&bench, &user).await;
    let session = &old;
    assert!(is_in(&rotated.api, session).await);
    // Renewed under the old key, and the answer lost; then renewed under the new one.
    let lost = refresh(&bench.api, session).await.expect(201);
    let session = Session::of(&user, &refresh(&rotated.api, session).await.expect(201));
    assert_eq!(session.refresh_token, lost.body["refreshToken"]);
    let renewed = refresh(&rotated.api, &session).await.expect(201);
    let renewed = Session::of(&user, &renewed);
    assert!(is_in(&rotated.api, &renewed).await);

    let finished = bench.another(&["--token-secret", new]).await;
    assert!(is_in(&finished.api, &renewed).await);
    assert!(!is_in(&finished.api, &old).await);
    // A refresh token is under no key.
    let _ = refresh(&finished.api, &renewed).await.expect(201);
}
