//! The demo's waiting room: a date of its own at each start, whose room opens a little later.
//!
//! A lobby is drawn once, so that whoever wants to see one needs a new date. How the room lets people in
//! is told its owner over HTTP, as by anybody who administers; nothing of a room is ever written here.

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Days, Utc};
use onsale_platform::{clock, db};
use onsale_schema::status::SaleState;
use onsale_schema::{ConcertId, ScheduleId, Timestamp};
use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::demo::client::Client;
use crate::seed::accounts::accounts;
use crate::seed::catalogue::{HOLD_MS, SEATS_PER_USER};
use crate::seed::{self, Layout, NewConcert, NewSchedule, Policy};

/// How long after everything is ready the room opens.
pub(super) const OPENS_AFTER: Duration = Duration::from_secs(30);
/// The concert: the same one in every installation.
const CONCERT: ConcertId = ConcertId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0005));
/// So often an ingress is asked about a date that it has not seen yet.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(100);
const DAY_MS: i64 = 24 * 3600 * 1000;
/// So many have a pass at most, and so many get one in a second.
const CAPACITY: u32 = 150;
const RATE_PER_SECOND: u32 = 40;
/// How long a pass lasts, and after how long who is not heard is passed over, in seconds: short, so that
/// both can be seen.
const PASS_S: u32 = 60;
const PRESENCE_S: u32 = 20;

/// Creates the date, without a room yet.
pub(super) async fn create(database_url: &str) -> anyhow::Result<ScheduleId> {
    let mut conn = db::connect(database_url).await?;
    let now = clock::host_now();
    let today = DateTime::<Utc>::from(now).date_naive();
    let concert = NewConcert {
        concert_id: CONCERT,
        title: "매일 밤, 다시 (Every Night Again)",
        artist: "Paper Lanterns (종이등불)",
        venue: "온세일 극장 (Onsale Theatre)",
        description: "오백 석, 대기실에서 추첨으로. Five hundred seats, behind a waiting room whose \
                      order is drawn.",
        starts_on: today,
        ends_on: today + Days::new(5 * 365),
    };
    seed::concert_create(&mut conn, &concert)
        .await
        .context("creating the room's concert")?;
    let layout = Layout::theatre();
    let schedule_id = ScheduleId(Uuid::now_v7());
    let date = NewSchedule {
        schedule_id,
        concert_id: CONCERT,
        starts_at: now.plus_ms(45 * DAY_MS),
        layout: &layout,
        policy: Policy {
            state: SaleState::Open,
            // By when it has a room.
            booking_opens_at: now.plus_ms(ms(OPENS_AFTER)),
            booking_closes_at: now.plus_ms(40 * DAY_MS),
            hold_ms: HOLD_MS,
            seats_per_user: SEATS_PER_USER,
        },
    };
    seed::schedule_create(&mut conn, &date)
        .await
        .context("creating the room's date")?;
    Ok(schedule_id)
}

/// Gives the date its room.
pub(super) async fn open(api: &str, schedule: ScheduleId) -> anyhow::Result<()> {
    let admin = accounts().admin;
    let admin = Client::new(api)?
        .sign_in(&admin.email, &admin.password)
        .await?;
    let path = format!("/admin/schedules/{schedule}");
    let policy = policy(clock::host_now().plus_ms(ms(OPENS_AFTER)));
    for _ in 0..TRIES {
        let answer = admin.patch(&path, &policy).await?;
        if answer.status != StatusCode::NOT_FOUND {
            answer.read::<Value>(StatusCode::OK)?;
            return admin.sign_out().await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("the ingress does not see the room's date")
}

fn policy(opens_at: Timestamp) -> Value {
    json!({ "queue": {
        "mode": "DRAW",
        "opensAt": opens_at,
        "capacity": CAPACITY,
        "ratePerSecond": RATE_PER_SECOND,
        "passSeconds": PASS_S,
        "presenceSeconds": PRESENCE_S,
    }})
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
