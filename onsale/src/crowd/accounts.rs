//! Access tokens for everybody: of accounts that are written where the database is in reach, else of
//! new ones that sign up.

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use onsale_platform::clock;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::http::{Ask, Http};
use crate::seed;
use crate::seed::accounts::BUYER_PASSWORD;

/// Sessions that are renewed, or accounts that sign up, at once.
const AT_ONCE: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    access_token: String,
}

/// So many tokens, each of an account of its own. `done` is called with how many there are.
///
/// # Errors
/// When the database or the ingress refuses.
pub async fn tokens(
    http: &Http,
    count: usize,
    database: Option<&str>,
    mut done: impl FnMut(usize),
) -> anyhow::Result<Vec<String>> {
    let mut tokens = Vec::with_capacity(count);
    if let Some(url) = database {
        let sessions = seed::crowd::sessions(url, count).await?;
        let renewals = sessions.into_iter().map(|token| renewed(http, token));
        let mut renewals = stream::iter(renewals).buffered(AT_ONCE);
        while let Some(token) = renewals.try_next().await? {
            tokens.push(token);
            done(tokens.len());
        }
    } else {
        // Names that nobody has had before.
        let run = clock::host_now().micros();
        let sign_ups = (0..count).map(|no| signed_up(http, format!("crowd-{run:x}-{no}")));
        let mut sign_ups = stream::iter(sign_ups).buffered(AT_ONCE);
        while let Some(token) = sign_ups.try_next().await? {
            tokens.push(token);
            done(tokens.len());
        }
    }
    Ok(tokens)
}

async fn renewed(http: &Http, refresh_token: String) -> anyhow::Result<String> {
    let body = json!({ "refreshToken": refresh_token });
    let ask = Ask::new(Method::POST, "/sessions/refresh").body(body);
    session(http, &ask).await
}

async fn signed_up(http: &Http, name: String) -> anyhow::Result<String> {
    let email = format!("{name}@example.com");
    let body = json!({ "email": email, "name": "Crowd", "password": BUYER_PASSWORD });
    let ask = Ask::new(Method::POST, "/users").body(body);
    let answer = http.send(&ask.with("idempotency-key", &name)).await;
    let answer = answer.map_err(anyhow::Error::msg)?;
    if answer.status != StatusCode::CREATED {
        bail!("signing up was answered {}", answer.words());
    }
    sign_in(http, &email, BUYER_PASSWORD).await
}

/// A token of an account that is there.
///
/// # Errors
/// When the ingress refuses.
pub async fn sign_in(http: &Http, email: &str, password: &str) -> anyhow::Result<String> {
    let body = json!({ "email": email, "password": password });
    session(http, &Ask::new(Method::POST, "/sessions").body(body)).await
}

async fn session(http: &Http, ask: &Ask<'_>) -> anyhow::Result<String> {
    let answer = http.send(ask).await.map_err(anyhow::Error::msg)?;
    if answer.status != StatusCode::CREATED {
        bail!("a session was answered {}", answer.words());
    }
    let session: Session = serde_json::from_value(answer.body).context("a session")?;
    Ok(session.access_token)
}
