//! `onsale demo`: the whole journey of a buyer against a running system, told step by step.
//!
//! It is a client like any other: it knows nothing but the API (and, for the audit at the end, the
//! database). It works any number of times on the same system, and fails where something is off.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args as ClapArgs;
use onsale_schema::{ConcertId, Money, ReservationId, ScheduleId, Timestamp};
use rand::seq::IndexedRandom;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) mod client;
mod gateway;
mod hall;
mod story;

use crate::audit;
use crate::running::Account;
use crate::seed::accounts::{BUYER_PASSWORD, accounts};
use crate::seed::catalogue;
use crate::target::Target;
use client::Client;
use hall::Choice;
use story::{Story, grouped};

/// Seats that are bought.
const SEATS: usize = 3;
/// How often other seats are tried when somebody else was quicker.
const RACES: u32 = 10;
/// How many of the demo's buyers are asked whether they may still buy, before a new one is made.
const BUYERS_ASKED: usize = 3;
/// How long a change may take to be on the map.
const MAP_LIMIT: Duration = Duration::from_secs(5);
/// How long after its end a hold may still keep its seats, in milliseconds.
const LAPSE_LIMIT_MS: i64 = 1000;
/// How often the map is looked at.
const POLL: Duration = Duration::from_millis(20);
/// The least that is charged, and what charges are a multiple of, in won.
const CHARGE_STEP_WON: i64 = 10_000;

/// Plays the whole journey against a running system: sign in, look, hold three seats, charge
/// points, pay, see them sold, buy two more through the payment gateway and give them up again, let
/// another hold lapse, sign out, audit.
///
/// Without an address it takes the system that `onsale up` runs on the data directory. It can be
/// played again and again; exit status 1 if anything is not as it should be. Without a payment
/// gateway it leaves out what needs one, and says so.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub target: Target,

    /// Prefix of all subjects and streams of the system.
    #[arg(long, env = "ONSALE_SUBJECT_PREFIX", default_value = "")]
    pub subject_prefix: String,

    /// Address of the simulated payment gateway that the system pays through, as `http://host:port`.
    /// Without it, that of the running `onsale up`, unless an ingress is named.
    #[arg(long = "gateway-url", env = "ONSALE_GATEWAY_URL")]
    pub gateway: Option<String>,
}

/// What to play against.
#[derive(Clone, Debug)]
pub struct Options {
    /// An ingress, as `http://host:port`.
    pub api: String,
    /// The simulated payment gateway, as `http://host:port`; nothing is paid through one without it.
    pub gateway: Option<String>,
    /// What to audit at the end; nothing without it.
    pub audit: Option<audit::Options>,
}

/// Runs the command.
///
/// # Errors
/// When something is off, with what it is.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args {
        target,
        subject_prefix,
        gateway,
    } = args;
    // An address that was named says nothing about where the database behind it is.
    let audit = if target.api.is_some() && target.database_url.is_none() {
        None
    } else {
        Some(audit::Options::of(&target, &subject_prefix)?)
    };
    let gateway = match (gateway, &target.api) {
        (Some(given), _) => Some(given),
        (None, Some(_)) => None,
        (None, None) => target.running()?.gateway,
    };
    play(&Options {
        api: target.api()?,
        gateway,
        audit,
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

/// Plays it.
///
/// # Errors
/// When something is off, with what it is.
pub async fn play(options: &Options) -> anyhow::Result<()> {
    let story = &mut Story::begin();
    let guest = Client::new(&options.api)?;
    println!("A buyer's journey, against {}\n", options.api);
    let mut buyer = sign_in(&guest, story).await?;
    look_around(&guest, story).await?;
    let (hold, choice) = loop {
        if let Some(held) = hold_three(&buyer, story).await? {
            break held;
        }
        story.tell("somebody plays with the same buyer; taking another");
        buyer = sign_in(&guest, story).await?;
    };
    charge(&buyer, &hold, story).await?;
    pay(&buyer, &hold, story).await?;
    see_sold(&guest, &choice, story).await?;
    gateway::play(&buyer, options.gateway.as_deref(), story).await?;
    let_lapse(&buyer, story).await?;
    sign_out(&buyer, story).await?;
    audit(options.audit.as_ref(), story).await?;
    println!(
        "\nEverything is as it should be ({:.1} s).",
        story.seconds()
    );
    Ok(())
}

/// `GET /reservations` and what POST answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reservation {
    reservation_id: ReservationId,
    schedule_id: ScheduleId,
    seats: Vec<Value>,
    total: Money,
    status: String,
    expires_at: Timestamp,
    server_time: Timestamp,
}

#[derive(Deserialize)]
struct Page<T> {
    items: Vec<T>,
}

/// One of the demo's buyers who may still buy three seats of the hall, or a new one.
async fn sign_in(guest: &Client, story: &mut Story) -> anyhow::Result<Client> {
    let buyers = accounts().buyers;
    let asked: Vec<&Account> = buyers
        .choose_multiple(&mut rand::rng(), BUYERS_ASKED)
        .collect();
    for Account { email, password } in asked {
        let buyer = guest.sign_in(email, password).await?;
        let page: Page<Reservation> = buyer.get("/reservations").await?;
        let live: usize = page
            .items
            .iter()
            .filter(|r| r.schedule_id == catalogue::HALL)
            .filter(|r| matches!(r.status.as_str(), "HELD" | "PAID"))
            .map(|r| r.seats.len())
            .sum();
        if live + SEATS <= usize::try_from(catalogue::SEATS_PER_USER).unwrap_or(0) {
            story.tell(format!("signed in as {email}"));
            return Ok(buyer);
        }
    }
    let email = format!("demo-{}@example.com", Uuid::now_v7().simple());
    let body = json!({ "email": email, "name": "Demo", "password": BUYER_PASSWORD });
    guest
        .post("/users", &key(), &body)
        .await?
        .read::<Value>(StatusCode::CREATED)?;
    let buyer = guest.sign_in(&email, BUYER_PASSWORD).await?;
    story.tell(format!(
        "signed up and in as {email}: the others have their seats already"
    ));
    Ok(buyer)
}

async fn look_around(guest: &Client, story: &mut Story) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Concert {
        concert_id: ConcertId,
        title: String,
        artist: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Date {
        schedule_id: ScheduleId,
        starts_at: Timestamp,
        bookable: bool,
        remaining: usize,
        total: usize,
    }
    let concerts: Page<Concert> = guest.get("/concerts?limit=100").await?;
    let ours = concerts
        .items
        .iter()
        .find(|c| c.concert_id == catalogue::HALL_CONCERT);
    let ours = ours.context("the demo's concert is not on the list; `onsale seed` makes it")?;
    story.tell(format!(
        "{} concerts, among them {} by {}",
        concerts.items.len(),
        ours.title,
        ours.artist
    ));
    let dates: Vec<Date> = guest
        .get(&format!("/concerts/{}/schedules", ours.concert_id))
        .await?;
    let hall = dates
        .iter()
        .find(|date| date.schedule_id == catalogue::HALL);
    let hall = hall.context("the demo's hall is not among the dates")?;
    ensure!(
        hall.bookable,
        "the hall is not on sale; somebody changed the demo"
    );
    story.tell(format!(
        "{} dates; on {} {} of {} seats are left",
        dates.len(),
        &hall.starts_at.to_string()[..10],
        hall.remaining,
        hall.total
    ));
    Ok(())
}

/// Holds three free seats side by side; when somebody else is quicker, others. `None` when this
/// buyer may hold no more.
async fn hold_three(
    buyer: &Client,
    story: &mut Story,
) -> anyhow::Result<Option<(Reservation, Choice)>> {
    let layout = hall::layout(buyer, catalogue::HALL).await?;
    for _ in 0..RACES {
        let map = hall::map(buyer, catalogue::HALL).await?;
        let choice = layout.side_by_side(&map, SEATS);
        let choice = choice.context("the hall is sold out; `make up ARGS=--fresh` starts over")?;
        story.tell(format!(
            "the hall's map: {} available, {} held, {} sold",
            map.remaining,
            map.count('H'),
            map.count('S')
        ));
        story.show(choice.picture(&map));
        let hold = match hold(buyer, catalogue::HALL, &choice.labels()).await? {
            Held::Yes(hold) => hold,
            Held::LimitReached => return Ok(None),
            Held::SeatTaken => {
                story.tell("somebody else was quicker; looking again");
                continue;
            }
        };
        let prices: Money = choice.seats.iter().map(|seat| seat.price).sum();
        ensure!(
            hold.total == prices,
            "the seats cost {prices}, the hold {}",
            hold.total
        );
        let seconds = (hold.expires_at.ms_since(hold.server_time) + 999) / 1000;
        let grade = &choice.seats[0].grade;
        story.tell(format!(
            "held {} ({grade}), {} won in all, for {seconds} s",
            choice.labels().join(", "),
            grouped(hold.total)
        ));
        let map = seen(buyer, catalogue::HALL, &choice, 'H').await?;
        story.tell("the map shows them held");
        story.show(choice.picture(&map));
        return Ok(Some((hold, choice)));
    }
    bail!("somebody else was quicker {RACES} times; try again when it is quieter")
}

/// What became of the wish for seats.
enum Held {
    Yes(Reservation),
    /// Somebody has one of them.
    SeatTaken,
    /// The buyer has as many of this date as one may have.
    LimitReached,
}

async fn hold(buyer: &Client, schedule: ScheduleId, labels: &[&str]) -> anyhow::Result<Held> {
    let body = json!({ "scheduleId": schedule, "seats": labels });
    let answer = buyer.post("/reservations", &key(), &body).await?;
    match answer.code() {
        Some("seat-unavailable") => return Ok(Held::SeatTaken),
        Some("seat-limit-exceeded") => return Ok(Held::LimitReached),
        _ => {}
    }
    let hold: Reservation = answer.read(StatusCode::CREATED)?;
    ensure!(hold.status == "HELD", "a new hold is {}", hold.status);
    Ok(Held::Yes(hold))
}

#[derive(Deserialize)]
struct Balance {
    balance: Money,
}

/// Charges what is missing; a little, if nothing is.
async fn charge(buyer: &Client, hold: &Reservation, story: &mut Story) -> anyhow::Result<()> {
    let before: Balance = buyer.get("/users/me/points").await?;
    let missing = (hold.total.to_won() - before.balance.to_won()).max(1);
    let amount = Money::won((missing + CHARGE_STEP_WON - 1) / CHARGE_STEP_WON * CHARGE_STEP_WON);
    let body = json!({ "amount": amount, "method": "CARD" });
    let answer = buyer
        .post("/users/me/points/charges", &key(), &body)
        .await?;
    if missing == 1 && answer.code() == Some("balance-cap-exceeded") {
        story.tell(format!(
            "{} points are as many as one may have",
            grouped(before.balance)
        ));
        return Ok(());
    }
    let after: Balance = answer.read(StatusCode::CREATED)?;
    ensure!(
        after.balance == before.balance + amount,
        "{} and {amount} are not {}",
        before.balance,
        after.balance
    );
    story.tell(format!(
        "charged {} points: {}, {} before",
        grouped(amount),
        grouped(after.balance),
        grouped(before.balance)
    ));
    Ok(())
}

/// Pays, and once more with the same key: one payment, charged once.
async fn pay(buyer: &Client, hold: &Reservation, story: &mut Story) -> anyhow::Result<()> {
    let before: Balance = buyer.get("/users/me/points").await?;
    let body = json!({ "reservationId": hold.reservation_id, "method": "POINTS" });
    let key = key();
    story.restart();
    let paid: Value = buyer
        .post("/payments", &key, &body)
        .await?
        .read(StatusCode::CREATED)?;
    story.tell(format!("paid {} points", grouped(hold.total)));
    let again: Value = buyer
        .post("/payments", &key, &body)
        .await?
        .read(StatusCode::CREATED)?;
    ensure!(
        paid["paymentId"].is_string() && paid["paymentId"] == again["paymentId"],
        "the same payment, sent again, was another one: {paid} and {again}"
    );
    let after: Balance = buyer.get("/users/me/points").await?;
    ensure!(
        after.balance + hold.total == before.balance,
        "paying {} left {} of {}",
        hold.total,
        after.balance,
        before.balance
    );
    story.tell(format!(
        "sent again, it is the same payment: {} points are left",
        grouped(after.balance)
    ));
    Ok(())
}

async fn see_sold(guest: &Client, choice: &Choice, story: &mut Story) -> anyhow::Result<()> {
    let map = seen(guest, catalogue::HALL, choice, 'S').await?;
    story.tell(format!("the map shows them sold (version {})", map.version));
    story.show(choice.picture(&map));
    Ok(())
}

/// Holds a seat in the club, where holds are short, and does nothing: it is on sale again within a
/// second of the hold's end, and not before.
async fn let_lapse(buyer: &Client, story: &mut Story) -> anyhow::Result<()> {
    let layout = hall::layout(buyer, catalogue::CLUB).await?;
    for _ in 0..RACES {
        let map = hall::map(buyer, catalogue::CLUB).await?;
        let choice = layout
            .side_by_side(&map, 1)
            .context("the club is sold out")?;
        let label = choice.labels().join("");
        let hold = match hold(buyer, catalogue::CLUB, &[&label]).await? {
            Held::Yes(hold) => hold,
            Held::SeatTaken => continue,
            Held::LimitReached => bail!("the buyer has all the seats of the club one may have"),
        };
        let ends = Instant::now() + ms(hold.expires_at.ms_since(hold.server_time));
        story.tell(format!("held {label} in the club, and going for a walk"));
        seen(buyer, catalogue::CLUB, &choice, 'H').await?;
        let limit = ends.saturating_duration_since(Instant::now()) + MAP_LIMIT;
        until(limit, &format!("{label} did not come back"), async || {
            Ok(choice
                .all_are(&hall::map(buyer, catalogue::CLUB).await?, 'A')
                .then_some(()))
        })
        .await?;
        let late_ms = match Instant::now().checked_duration_since(ends) {
            Some(late) => i64::try_from(late.as_millis()).unwrap_or(i64::MAX),
            None => -i64::try_from((ends - Instant::now()).as_millis()).unwrap_or(i64::MAX),
        };
        // The clocks of the two sides of a request agree to within its time.
        ensure!(
            late_ms > -250,
            "the hold of {label} lapsed {} ms early",
            -late_ms
        );
        ensure!(
            late_ms <= LAPSE_LIMIT_MS,
            "{label} came back {late_ms} ms after its hold's end"
        );
        let lapsed: Reservation = buyer
            .get(&format!("/reservations/{}", hold.reservation_id))
            .await?;
        ensure!(
            lapsed.status == "EXPIRED",
            "the lapsed hold is {}",
            lapsed.status
        );
        story.tell(format!(
            "{label} is on sale again, {} ms after the hold's end",
            late_ms.max(0)
        ));
        return Ok(());
    }
    bail!("somebody else was quicker {RACES} times; try again when it is quieter")
}

/// Ends the session: its token is good for nothing from then on.
async fn sign_out(buyer: &Client, story: &mut Story) -> anyhow::Result<()> {
    buyer.sign_out().await?;
    let answer = buyer.look("/users/me").await?;
    ensure!(
        answer.code() == Some("token-invalid"),
        "signed out, and still answered {}",
        answer.status
    );
    story.tell("signed out; the token is refused from now on");
    Ok(())
}

async fn audit(options: Option<&audit::Options>, story: &mut Story) -> anyhow::Result<()> {
    let Some(options) = options else {
        story.show("no audit: name the database (DATABASE_URL) to have one");
        return Ok(());
    };
    let report = audit::audit(options).await?;
    ensure!(report.ok(), "the audit is not content\n\n{report}");
    story.tell(format!(
        "audited: all {} invariants hold",
        report.checks.len()
    ));
    Ok(())
}

/// Waits until the map shows all chosen seats in a state.
async fn seen(
    client: &Client,
    schedule: ScheduleId,
    choice: &Choice,
    state: char,
) -> anyhow::Result<hall::Map> {
    let what = format!(
        "the map does not show {} as {state}",
        choice.labels().join(", ")
    );
    until(MAP_LIMIT, &what, async || {
        let map = hall::map(client, schedule).await?;
        Ok(choice.all_are(&map, state).then_some(map))
    })
    .await
}

/// Looks again and again until there is something.
async fn until<T>(
    limit: Duration,
    complaint: &str,
    look: impl AsyncFn() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(
            Instant::now() < deadline,
            "{complaint} (after {:.1} s)",
            limit.as_secs_f64()
        );
        tokio::time::sleep(POLL).await;
    }
}

/// A new idempotency key.
fn key() -> String {
    format!("demo-{}", Uuid::now_v7())
}

fn ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
