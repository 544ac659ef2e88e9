//! `onsale seed`: a demo catalogue with everything that a visitor, a test or a load run needs.
//!
//! It has fixed ids and is idempotent: what is there already is left as it is, also when it was
//! changed or sold since. The catalogue's building blocks are public, for tests and benchmarks
//! that want dates of their own.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args as ClapArgs;
use diesel_async::SimpleAsyncConnection;
use onsale_platform::{clock, db};
use onsale_schema::{ConcertId, ScheduleId};

pub mod accounts;
pub mod catalogue;
pub mod crowd;
pub mod layout;
pub mod schedule;

pub use layout::Layout;
pub use schedule::{NewConcert, NewSchedule, Policy, concert_create, schedule_create};

use crate::running::Accounts;
use crate::target::Database;

/// Fills the database with a demo: concerts and dates, a hall of 1,000 seats, a stadium of 50,000,
/// a club whose holds last five seconds, an admin, and 50 buyers with points.
///
/// Running it again changes nothing; what was sold meanwhile stays sold. The passwords are printed:
/// never seed a database that others rely on.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub database: Database,
}

/// What the demo has, whether it was there or is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeded {
    /// The concert in the hall.
    pub concert_id: ConcertId,
    /// Its date in a hall of 1,000 seats.
    pub hall_schedule_id: ScheduleId,
    /// A date in a stadium of 50,000 seats.
    pub stadium_schedule_id: ScheduleId,
    /// A date with 100 seats and holds of five seconds.
    pub club_schedule_id: ScheduleId,
    /// Who can sign in.
    pub accounts: Accounts,
    /// Dates that this run created.
    pub schedules_created: usize,
    /// Users that this run created.
    pub users_created: usize,
}

/// Runs the command.
///
/// # Errors
/// When Postgres can't be reached or is not migrated.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let database_url = args.database.url()?;
    let seeded = seed(&database_url, |what| println!("created  {what}")).await?;
    if seeded.schedules_created == 0 && seeded.users_created == 0 {
        println!("nothing to do: the demo is there");
    }
    let Accounts { admin, buyers } = &seeded.accounts;
    if let (Some(first), Some(last)) = (buyers.first(), buyers.last()) {
        println!(
            "\nbuyers   {} to {}, password {}",
            first.email, last.email, first.password
        );
    }
    println!("admin    {}, password {}", admin.email, admin.password);
    println!("hall     {}", seeded.hall_schedule_id);
    println!("stadium  {}", seeded.stadium_schedule_id);
    println!("club     {}", seeded.club_schedule_id);
    Ok(ExitCode::SUCCESS)
}

/// Fills the database behind `database_url`; `created` is called with what was created, when it
/// was.
///
/// # Errors
/// When Postgres can't be reached or is not migrated.
pub async fn seed(database_url: &str, created: impl Fn(&str)) -> anyhow::Result<Seeded> {
    let mut conn = db::connect(database_url)
        .await
        .context("connecting to Postgres")?;
    // Two seeds at once are one seed and one that finds all done.
    conn.batch_execute(
        "SET lock_timeout = '5min'; SET statement_timeout = '5min'; SELECT pg_advisory_lock(7091, 2)",
    )
    .await
    .context("waiting for another seed")?;
    let now = clock::host_now();
    for concert in catalogue::concerts(now) {
        let is_new = concert_create(&mut conn, &concert)
            .await
            .context("creating a concert (is the database migrated? `onsale migrate`)")?;
        if is_new {
            created(concert.title);
        }
    }
    let layouts = tokio::task::spawn_blocking(catalogue::Layouts::build)
        .await
        .context("building the layouts")?;
    let mut schedules_created = 0;
    for (what, schedule) in catalogue::schedules(now, &layouts) {
        let is_new = schedule_create(&mut conn, &schedule)
            .await
            .with_context(|| format!("creating {what}"))?;
        if is_new {
            schedules_created += 1;
            created(what);
        }
    }
    let users_created = accounts::create(&db::pool(database_url, 2)?)
        .await
        .context("creating the accounts")?;
    if users_created > 0 {
        created(&format!("{users_created} users with points"));
    }
    Ok(Seeded {
        concert_id: catalogue::HALL_CONCERT,
        hall_schedule_id: catalogue::HALL,
        stadium_schedule_id: catalogue::STADIUM,
        club_schedule_id: catalogue::CLUB,
        accounts: accounts::accounts(),
        schedules_created,
        users_created,
    })
}
