//! `onsale crowd`: simulated buyers who gather before a date, wait, and buy or give up.
//!
//! Each is an account of its own and speaks HTTP, as a browser would; some do not behave. The crowd
//! judges by what it is told alone ([`fair`]), so that its verdict holds for people, too. It must never
//! learn of the line from anywhere but the API; the database is there for accounts, at the beginning.

mod accounts;
mod buyer;
pub mod fair;
mod guests;
mod http;
mod kinds;
pub mod report;
mod show;
mod tally;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args as ClapArgs;
use onsale_platform::clock::host_now;
use onsale_schema::{ScheduleId, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::target::{self, Target};
use buyer::{Buyer, World};
use fair::Witness;
pub use guests::{Admin, GuestKind};
use http::{Ask, Http};
pub use kinds::{Kind, Shares};
use report::Summary;
use show::Show;
use tally::{Hall, Stage, Tally};

/// How long the map may take to show what was paid for, and how often it is looked at meanwhile.
const MAP_LIMIT: Duration = Duration::from_secs(5);
const MAP_PAUSE: Duration = Duration::from_millis(100);

/// Sends simulated buyers to a date with a waiting room, over HTTP, and says what became of them; exit
/// status 1 when the line was not fair or could not be judged, or when something happened that should not.
///
/// The patient wait, hold and pay with points. The impatient leave after a while. The silent stop asking.
/// The greedy ask too often, join from many tabs, show their pass on several connections at once, and
/// try seats without a pass and another's ticket. Whether somebody was overtaken is judged by what the
/// buyers were told.
///
/// Guests are some of these, and join with an access code, which an administrator makes for them.
///
/// Accounts are written to the database where that is known: that of the running `onsale up`, or
/// --database-url. Else each signs up, which takes a core some 40 ms, and may meet the limits for an
/// address.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Address of an ingress, as `http://host:port`. Without it, that of the running `onsale up`.
    #[arg(long, env = "ONSALE_API", value_name = "URL")]
    pub api: Option<String>,

    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub database: target::Database,

    /// The date. Without it, the one whose room opened with the running `onsale up`.
    #[arg(long, value_name = "ID")]
    pub schedule: Option<ScheduleId>,

    /// How many buyers.
    #[arg(long, default_value_t = 5000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub buyers: u32,

    /// Share of those who wait for their turn and buy.
    #[arg(long, default_value_t = 70, value_name = "SHARE")]
    pub patient: u16,

    /// Share of those who leave after a while.
    #[arg(long, default_value_t = 15, value_name = "SHARE")]
    pub impatient: u16,

    /// Share of those who stop asking.
    #[arg(long, default_value_t = 10, value_name = "SHARE")]
    pub silent: u16,

    /// Share of those who try to get more than others.
    #[arg(long, default_value_t = 5, value_name = "SHARE")]
    pub greedy: u16,

    /// So many of the buyers come with an access code: as guests, who are let in before the others.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(guests::MAX)))]
    pub guests: u32,

    /// What their code grants: to be let in first when the room opens, or before that.
    #[arg(long, value_enum, default_value_t = GuestKind::Vip, value_name = "KIND")]
    pub guests_kind: GuestKind,

    /// Address of the account that makes the code. Without it, that of the demo's administrator.
    #[arg(
        long,
        env = "ONSALE_ADMIN_EMAIL",
        value_name = "EMAIL",
        requires = "admin_password"
    )]
    pub admin_email: Option<String>,

    /// Password of that account.
    #[arg(
        long,
        env = "ONSALE_ADMIN_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        requires = "admin_email"
    )]
    pub admin_password: Option<String>,

    /// The most seats that one wants; at least one. The greedy want as many as one may have.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=10))]
    pub seats_per_buyer: u8,

    /// All come within so long, in seconds, but before the room opens as long as there is time.
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    pub arrive_within: u32,

    /// The impatient leave after so long at most, from the opening or from when they came, in seconds;
    /// the silent fall silent.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub patience: u32,

    /// What chance begins with: the same buyers do the same. Without it, another each time.
    #[arg(long)]
    pub seed: Option<u64>,

    /// Whoever is still at it after so long goes, in seconds.
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    pub timeout: u32,

    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// What a crowd does.
#[derive(Clone, Debug)]
pub struct Options {
    /// An ingress, as `http://host:port`.
    pub api: String,
    /// Where accounts are written; they sign up without it.
    pub database: Option<String>,
    /// The date.
    pub schedule: ScheduleId,
    /// How many they are.
    pub buyers: usize,
    /// Of which kinds.
    pub shares: Shares,
    /// So many of them are guests.
    pub guests: usize,
    /// When those are let in.
    pub guests_kind: GuestKind,
    /// Who makes the code that they come with.
    pub admin: Admin,
    /// The most seats that one wants.
    pub seats_per_buyer: usize,
    /// Within how long they come.
    pub arrive_within: Duration,
    /// How long the impatient wait at most.
    pub patience: Duration,
    /// What chance begins with.
    pub seed: u64,
    /// How long it may take, from when the first comes.
    pub timeout: Duration,
}

/// Runs the command.
///
/// # Errors
/// When there is no such system or date, or nobody can sign in.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let is_json = args.json;
    let options = options(args)?;
    // A connection is a file.
    onsale_testkit::spawn::allow_many_files().context("allowing many connections")?;
    let stop = CancellationToken::new();
    let crowd = Box::pin(play(&options, &stop));
    let stopping = async {
        let interrupted = tokio::signal::ctrl_c().await;
        stop.cancel();
        interrupted
    };
    let mut stopping = std::pin::pin!(stopping);
    let mut crowd = std::pin::pin!(crowd);
    let summary = tokio::select! {
        summary = &mut crowd => summary?,
        interrupted = &mut stopping => {
            interrupted.context("listening for Ctrl-C")?;
            crowd.await?
        }
    };
    if is_json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("{summary}");
    }
    Ok(if summary.ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn options(args: Args) -> anyhow::Result<Options> {
    let target = Target {
        database_url: args.database.database_url,
        database_ca: args.database.database_ca,
        nats_url: None,
        nats_ca: None,
        api: args.api,
        data_dir: args.database.data_dir,
    };
    let api = target.api()?;
    // An address that was named says nothing about where the database behind it is.
    let database = match (&target.api, &target.database_url) {
        (Some(_), None) => None,
        (None, _) | (_, Some(_)) => Some(target.database_url()?),
    };
    let schedule = match (args.schedule, &target.api) {
        (Some(schedule), _) => schedule,
        (None, Some(_)) => bail!("--schedule says which date to go to, where an ingress is named"),
        (None, None) => {
            let room = target.running()?.demo.room_schedule_id;
            let room =
                room.context("the running `onsale up` has no room; --schedule names a date")?;
            room.parse()
                .context("the room of the running `onsale up`")?
        }
    };
    let shares = Shares {
        patient: args.patient,
        impatient: args.impatient,
        silent: args.silent,
        greedy: args.greedy,
    };
    ensure!(shares.sum() > 0, "a crowd of nobody: all shares are 0");
    ensure!(
        args.guests <= args.buyers,
        "there can't be more guests than buyers"
    );
    Ok(Options {
        api,
        database,
        schedule,
        buyers: args.buyers as usize,
        shares,
        guests: args.guests as usize,
        guests_kind: args.guests_kind,
        admin: Admin::of(args.admin_email, args.admin_password),
        seats_per_buyer: args.seats_per_buyer.into(),
        arrive_within: Duration::from_secs(args.arrive_within.into()),
        patience: Duration::from_secs(args.patience.into()),
        seed: args.seed.unwrap_or_else(rand::random),
        timeout: Duration::from_secs(args.timeout.into()),
    })
}

/// A date, as far as a crowd has to know it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Date {
    seats_per_user: usize,
    booking_opens_at: Timestamp,
    queue: Queue,
    server_time: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Queue {
    mode: String,
    opens_at: Timestamp,
}

/// Lets the crowd come, and waits until the last one is done, `stop`, or the time is over.
///
/// # Errors
/// When the date has no waiting room, or nobody can sign in.
pub async fn play(options: &Options, stop: &CancellationToken) -> anyhow::Result<Summary> {
    let mut show = Show::begin();
    let tally = Arc::new(Tally::new(options.buyers));
    let http = Http::new(&options.api, Arc::clone(&tally))?;
    let date: Date = read(&http, &format!("/schedules/{}", options.schedule)).await?;
    ensure!(
        date.queue.mode != "OFF",
        "the date has no waiting room: its mode is OFF"
    );
    ensure!(
        options.guests == 0
            || options.guests_kind != GuestKind::Presale
            || date.booking_opens_at <= date.server_time,
        "no presale before the booking opens, at {}",
        date.booking_opens_at
    );
    show.say(&format!(
        "{} buyers go to {}, seed {}",
        options.buyers, options.schedule, options.seed
    ));
    let signing_in = accounts::tokens(&http, options.buyers, options.database.as_deref(), |done| {
        show.preparing(done, options.buyers);
    });
    let tokens = tokio::select! {
        tokens = signing_in => tokens?,
        () = stop.cancelled() => bail!("stopped before anybody came"),
    };
    let run = host_now().micros();
    let code = match options.guests {
        0 => None,
        guests => {
            let here = (options.schedule, date.server_time, date.booking_opens_at);
            let whose = (guests, options.guests_kind, run);
            Some(guests::code(&http, &options.admin, here, whose).await?)
        }
    };
    let world = Arc::new(World {
        http,
        tally,
        schedule: options.schedule,
        seats_per_user: date.seats_per_user,
        run,
        code,
        anybodys: std::sync::Mutex::new(None),
    });
    let opens_ms = date.queue.opens_at.ms_since(host_now());
    let opens_in = Duration::from_millis(u64::try_from(opens_ms).unwrap_or(0));
    show.say(&match opens_in.is_zero() {
        true => "the room is open".to_owned(),
        false => format!("the room opens in {} s", opens_in.as_secs()),
    });
    let began = world.http.elapsed();
    let mut crowd = JoinSet::new();
    for buyer in gather(options, &world, tokens, opens_in) {
        crowd.spawn(live(buyer, stop.clone()));
    }
    let witnesses = watch(options, &world, crowd, &mut show, stop).await;
    see_the_end(&world).await;
    drop(show);
    let counts = world.tally.lock().clone();
    let elapsed = world.http.elapsed() - began;
    let overtaken = fair::overtaken(&witnesses);
    Ok(Summary::of(
        (options.schedule, options.seed),
        counts,
        (fair::judged(&witnesses), &overtaken),
        elapsed,
    ))
}

/// Who comes, when, and what for.
fn gather(
    options: &Options,
    world: &Arc<World>,
    tokens: Vec<String>,
    opens_in: Duration,
) -> Vec<Buyer> {
    let mut within = options.arrive_within;
    if !opens_in.is_zero() {
        within = within.min(opens_in.mul_f64(0.9));
    }
    let one = |(no, token)| {
        let mut rng = StdRng::seed_from_u64(options.seed ^ ((no as u64) << 32));
        let comes_after = within.mul_f64(rng.random());
        let patience = options.patience.mul_f64(rng.random_range(0.2..=1.0));
        Buyer {
            no,
            kind: options.shares.choose(&mut rng),
            is_guest: no < options.guests,
            token,
            comes_after,
            patience: opens_in.saturating_sub(comes_after) + patience,
            seats: rng.random_range(1..=options.seats_per_buyer.max(1)),
            rng,
            world: Arc::clone(world),
            stage: Stage::Away,
            witness: Witness::new(no < options.guests),
        }
    };
    tokens.into_iter().enumerate().map(one).collect()
}

/// One buyer until its end, or `stop`.
async fn live(mut buyer: Buyer, stop: CancellationToken) -> Witness {
    let lived = tokio::select! {
        lived = buyer.live() => lived,
        () = stop.cancelled() => Ok(()),
    };
    if let Err(why) = lived {
        buyer
            .world
            .tally
            .unexpected(format!("buyer {}: {why}", buyer.no));
        buyer.world.tally.step(buyer.stage, Stage::Failed);
    }
    buyer.witness
}

/// Shows how far they are until all are done, and returns what they have seen.
async fn watch(
    options: &Options,
    world: &World,
    mut crowd: JoinSet<Witness>,
    show: &mut Show,
    stop: &CancellationToken,
) -> Vec<Witness> {
    let mut witnesses = Vec::with_capacity(options.buyers);
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let timeout = tokio::time::sleep(options.timeout);
    let mut timeout = std::pin::pin!(timeout);
    loop {
        tokio::select! {
            done = crowd.join_next() => match done {
                Some(Ok(witness)) => witnesses.push(witness),
                Some(Err(error)) => world.tally.unexpected(error.to_string()),
                None => return witnesses,
            },
            _ = every.tick() => {
                look(world).await;
                show.at(&world.tally.lock());
            }
            () = &mut timeout, if !stop.is_cancelled() => {
                show.say("the time is over");
                stop.cancel();
            }
        }
    }
}

/// Looks at the map until it shows what was paid for, which it may do a moment later.
async fn see_the_end(world: &World) {
    let seen = async {
        loop {
            look(world).await;
            let is_shown = {
                let counts = world.tally.lock();
                counts.hall.sold >= counts.bought
            };
            if is_shown {
                return;
            }
            tokio::time::sleep(MAP_PAUSE).await;
        }
    };
    // What it shows after that is told as it is.
    drop(tokio::time::timeout(MAP_LIMIT, seen).await);
}

/// Looks at the map.
async fn look(world: &World) {
    #[derive(Deserialize)]
    struct Map {
        seats: String,
    }
    let path = format!("/schedules/{}/seats", world.schedule);
    match read::<Map>(&world.http, &path).await {
        Ok(map) => world.tally.lock().hall = Hall::of(&map.seats),
        Err(error) => world.tally.unexpected(format!("{error:#}")),
    }
}

async fn read<T: serde::de::DeserializeOwned>(http: &Http, path: &str) -> anyhow::Result<T> {
    let answer = http.send(&Ask::new(Method::GET, path)).await;
    let answer = answer.map_err(anyhow::Error::msg)?;
    if !answer.status.is_success() {
        bail!("{path} was answered {}", answer.words());
    }
    serde_json::from_value(answer.body).with_context(|| format!("{path} answered something else"))
}
