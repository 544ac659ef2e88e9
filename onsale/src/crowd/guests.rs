//! Guests of a crowd: buyers who join with an access code. It is made as anybody who administers makes
//! one, over HTTP; nothing of a room is written here.

use anyhow::{Context, bail};
use clap::ValueEnum;
use onsale_schema::{ScheduleId, Timestamp};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::accounts::sign_in;
use super::http::{Ask, Http};
use crate::seed::accounts::accounts;

/// The most guests: so many accounts may use one code.
pub(super) const MAX: u32 = 100_000;
/// How long before the ingress' time, and how long after it, the code is good, in milliseconds: longer
/// than clocks differ, and than a crowd lasts.
const GOOD_MS: (i64, i64) = (60_000, 24 * 3600 * 1000);

/// When guests are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GuestKind {
    /// When the room opens, before all others.
    Vip,
    /// Also before, from when the booking opens.
    Presale,
}

/// Who administers, and makes the code.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The address that it signs in with.
    pub email: String,
    /// Its password.
    pub password: String,
}

impl Admin {
    /// That of the demo, where nothing else is said.
    pub(super) fn of(email: Option<String>, password: Option<String>) -> Self {
        let demo = accounts().admin;
        Self {
            email: email.unwrap_or(demo.email),
            password: password.unwrap_or(demo.password),
        }
    }
}

/// One code for so many guests of a kind. No presale begins before the booking does.
///
/// # Errors
/// When the administrator can't sign in, or the ingress makes none.
pub(super) async fn code(
    http: &Http,
    admin: &Admin,
    (schedule, now, booking_opens_at): (ScheduleId, Timestamp, Timestamp),
    (guests, kind, run): (usize, GuestKind, i64),
) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Made {
        items: [Code; 1],
    }
    #[derive(Deserialize)]
    struct Code {
        code: String,
    }
    let signed_in = sign_in(http, &admin.email, &admin.password).await;
    let token = signed_in.context("signing in to make an access code")?;
    let (path, key) = (
        format!("/admin/schedules/{schedule}/access-codes"),
        format!("crowd-{run:x}-guests"),
    );
    let from = now.plus_ms(-GOOD_MS.0);
    let (grants, from) = match kind {
        GuestKind::Vip => ("VIP", from),
        GuestKind::Presale => ("PRESALE", from.max(booking_opens_at)),
    };
    let body = json!({
        "label": "Guests of a simulated crowd",
        "grants": grants,
        "uses": guests,
        "validFrom": from,
        "validUntil": now.plus_ms(GOOD_MS.1),
    });
    let ask = Ask::new(Method::POST, &path).by(&token).body(body);
    let answer = http.send(&ask.with("idempotency-key", &key)).await;
    let answer = answer.map_err(anyhow::Error::msg)?;
    if answer.status != StatusCode::CREATED {
        bail!("making an access code was answered {}", answer.words());
    }
    let made: Made = serde_json::from_value(answer.body).context("an access code")?;
    let [made] = made.items;
    Ok(made.code)
}
