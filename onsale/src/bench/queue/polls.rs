//! Polls of a room by those who wait in it: random tickets, at all ingresses in turns.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use diesel::sql_types::{Array, BigInt, Integer, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_ingress::room::Signer;
use onsale_schema::admission::Ticketed;
use onsale_schema::{ArrivalNo, Generation, ScheduleId, TicketId, UserId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::case::Grounds;
use super::super::cpu::Times;
use super::super::load::{Generator, Script, Tally};
use super::super::run::{Track, play};

/// Requests of one script: it is in memory as it goes over the wire.
pub const SCRIPT: usize = 25_000;
/// Polls that do not count, before those that do.
const WARM_UP: usize = 2_000;
/// A session of Postgres that has nothing more to do has counted all of its transactions after this:
/// ten seconds, and one to spare.
const SETTLE: Duration = Duration::from_secs(11);

/// What polls are sent of, and by how many.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// The room.
    pub schedule: ScheduleId,
    /// Tickets in it.
    pub tickets: u32,
    /// Polls.
    pub polls: usize,
    /// Connections of all ingresses together.
    pub connections: usize,
    /// Which tickets.
    pub seed: u64,
}

/// What came of polls.
#[derive(Clone, Debug)]
pub struct Polls {
    /// Answers and latencies.
    pub tally: Tally,
    /// CPU time by role.
    pub cpu: BTreeMap<&'static str, Duration>,
}

/// Transactions of the database while it was polled, and while it was not.
#[derive(Clone, Copy, Debug)]
pub struct Transactions {
    /// Polls that were answered.
    pub polls: u64,
    /// In the time with them.
    pub polling: i64,
    /// In as much time without.
    pub idle: i64,
}

impl Polls {
    /// Polls per second of CPU time of the ingresses.
    #[must_use]
    pub fn per_ingress_core_s(&self) -> f64 {
        let spent = self.cpu.get("ingress").copied().unwrap_or_default();
        self.tally.latency.count() as f64 / spent.as_secs_f64().max(1e-9)
    }

    /// What is wrong with the answers.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        complaint(&self.tally, 200)
    }
}

impl Transactions {
    /// Whether polls cost none: what happens anyway is never quite the same in two stretches of time.
    #[must_use]
    pub fn are_none(&self) -> bool {
        let more = self.polling - self.idle;
        let chance = self.idle / 4 + i64::try_from(self.polls / 1000).unwrap_or(i64::MAX);
        more <= chance
    }

    /// Transactions that a poll costs.
    #[must_use]
    pub fn per_poll(&self) -> f64 {
        (self.polling - self.idle).max(0) as f64 / self.polls.max(1) as f64
    }
}

/// What is wrong with answers that must all have one status.
#[must_use]
pub fn complaint(tally: &Tally, status: u16) -> Option<String> {
    let is_right = tally.failed == 0 && tally.statuses.keys().all(|other| *other == status);
    (!is_right).then(|| {
        let odd = tally.samples.iter().find(|(other, _)| **other != status);
        format!(
            "expected only {status}, got {:?} and {} without an answer; for instance {:?}",
            tally.statuses, tally.failed, odd
        )
    })
}

/// Plays these polls against all ingresses, after some that do not count.
///
/// # Errors
/// When Postgres fails or a server does not accept.
pub async fn poll(track: &mut Track, course: Course) -> anyhow::Result<Polls> {
    let signer = track.rig.signer()?;
    let addrs = track.rig.pipelines();
    let warm_up = course.polls.min(WARM_UP);
    let asked = course.polls + warm_up;
    let tickets = sample(&mut track.conn, course, asked).await?;
    let grounds = &track.grounds;
    let mut scripts = Vec::with_capacity(asked.div_ceil(SCRIPT) + 1);
    let (first, rest) = tickets.split_at(warm_up);
    for part in std::iter::once(first).chain(rest.chunks(SCRIPT)) {
        scripts.push(script(grounds, &signer, addrs[0], part));
    }
    let generator = Generator::connect_to(&addrs, course.connections).context("connecting")?;
    let mut scripts = scripts.into_iter();
    let warm_up = scripts.next().unwrap_or_default();
    let (mut generator, _) = play(generator, warm_up).await?;
    let watched = track.rig.watched();
    let before = Times::read(&watched);
    let mut tally = Tally::default();
    for script in scripts {
        let (back, came) = play(generator, script).await?;
        generator = back;
        tally.add(came);
    }
    let cpu = Times::read(&watched).since(&before);
    Ok(Polls { tally, cpu })
}

/// Polls while the transactions of the database are counted, and then counts those of as much time
/// in which nobody polls.
///
/// # Errors
/// As when it is only polled.
pub async fn count_transactions(track: &mut Track, course: Course) -> anyhow::Result<Transactions> {
    let begun = Instant::now();
    let before = transactions(&mut track.conn).await?;
    let polls = poll(track, course).await?;
    tokio::time::sleep(SETTLE).await;
    let polled = transactions(&mut track.conn).await?;
    tokio::time::sleep(begun.elapsed()).await;
    let after = transactions(&mut track.conn).await?;
    Ok(Transactions {
        polls: polls.tally.latency.count(),
        polling: polled - before,
        idle: after - polled,
    })
}

/// Asks each ingress once how a ticket of the room is, so that it has the room in memory; how long the
/// slowest took.
///
/// # Errors
/// When one does not answer as it should.
pub async fn attend(track: &mut Track, course: Course) -> anyhow::Result<Duration> {
    let signer = track.rig.signer()?;
    let tickets = sample(&mut track.conn, course, 1).await?;
    let mut slowest = Duration::ZERO;
    for addr in track.rig.pipelines() {
        let script = script(&track.grounds, &signer, addr, &tickets);
        let generator = Generator::connect(addr, 1).context("connecting")?;
        let (_, tally) = play(generator, script).await?;
        ensure!(tally.status(200) == 1, "a poll: {:?}", tally.samples);
        slowest = slowest.max(tally.elapsed);
    }
    Ok(slowest)
}

/// Polls, each with a token of its own, so that none is known from before, however many tickets there
/// are.
fn script(grounds: &Grounds, signer: &Signer, addr: SocketAddr, tickets: &[Ticketed]) -> Script {
    let mut script = Script::default();
    for ticket in tickets {
        let token = grounds.sign_in(ticket.user_id).token;
        let head = format!(
            "GET /api/v1/schedules/{}/queue HTTP/1.1\r\nHost: {addr}\r\n\
             Authorization: Bearer {token}\r\nQueue-Ticket: {}\r\n\r\n",
            ticket.schedule_id,
            signer.sign_ticket(ticket)
        );
        script.push(|out| out.extend_from_slice(head.as_bytes()));
    }
    script
}

/// So many tickets of a room, each drawn from all.
async fn sample(
    conn: &mut AsyncPgConnection,
    course: Course,
    count: usize,
) -> anyhow::Result<Vec<Ticketed>> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        ticket_id: TicketId,
        #[diesel(sql_type = SqlUuid)]
        user_id: UserId,
        #[diesel(sql_type = Integer)]
        arrival_no: i32,
    }
    let mut random = StdRng::seed_from_u64(course.seed);
    let last = i32::try_from(course.tickets).context("a number of tickets")? - 1;
    let drawn: Vec<i32> = (0..count).map(|_| random.random_range(0..=last)).collect();
    let rows: Vec<Row> = sql_query(
        "SELECT ticket_id, user_id, arrival_no
         FROM unnest($2::integer[]) WITH ORDINALITY AS drawn (arrival_no, nth)
         JOIN ticket USING (arrival_no) WHERE schedule_id = $1 ORDER BY nth",
    )
    .bind::<SqlUuid, _>(course.schedule)
    .bind::<Array<Integer>, _>(&drawn)
    .load(conn)
    .await?;
    ensure!(rows.len() == count, "{} of {count} tickets", rows.len());
    let ticketed = |row: Row| {
        Ok(Ticketed {
            user_id: row.user_id,
            schedule_id: course.schedule,
            ticket_id: row.ticket_id,
            arrival_no: ArrivalNo(u32::try_from(row.arrival_no)?),
            is_guest: false,
            guest_no: None,
            generation: Generation::default(),
        })
    };
    rows.into_iter().map(ticketed).collect()
}

/// Transactions in this database so far, as far as they are counted.
async fn transactions(conn: &mut AsyncPgConnection) -> anyhow::Result<i64> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let query = "SELECT xact_commit + xact_rollback AS count FROM pg_stat_database
                 WHERE datname = current_database()";
    let row: Row = sql_query(query).get_result(conn).await?;
    Ok(row.count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_anyway_is_no_cost_of_a_poll() {
        let counted = |polling| Transactions {
            polls: 1000,
            polling,
            idle: 50,
        };
        assert_eq!(counted(50).per_poll(), 0.0);
        assert_eq!(counted(40).per_poll(), 0.0);
        assert_eq!(counted(1050).per_poll(), 1.0);
        assert!(counted(63).are_none() && !counted(64).are_none());
    }
}
