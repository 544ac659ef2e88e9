//! What it costs to ask how far one is, or how the whole room is: nothing of Postgres, also at an ingress
//! that was just started.

use super::line::{LONG_AGO, Line, outcomes};
use super::signer;
use crate::bus::command;
use crate::hall::{Hall, PATIENCE};
use onsale_platform::clock::host_now;
use onsale_platform::db;
use onsale_schema::admission::{Kind, Outcome, PolicyChange, Ticketed};
use onsale_schema::status::QueueMode;
use onsale_schema::{ScheduleId, UserId};
use onsale_testkit::{Buyer, SystemOptions};
use reqwest::Method;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Tickets, and how many are made in one message.
const TICKETS: usize = 2000;
const MESSAGE: usize = 250;
/// Few enough to be asked before an ingress shows nothing any more of what it can't hear of.
const POLLS: usize = 2000;
const POLLERS: usize = 8;
/// Of so many polls each poller makes, one is followed by a look at the whole room.
const POLLS_PER_LOOK: usize = 5;
/// What an ingress asks for by itself is asked a few times a second, and told generously.
const ASKED_PER_S_MAX: u64 = 8;

/// Tickets of a drawn line that is on its way, each with its owner.
async fn tickets(line: &Line) -> Vec<(Buyer, Ticketed)> {
    let schedule_id = ScheduleId(line.date);
    let mut all = Vec::with_capacity(TICKETS);
    for _ in 0..TICKETS / MESSAGE {
        let buyers = line.hall.buyers(MESSAGE);
        let joins = buyers.iter().map(|buyer| {
            let join = Kind::Join {
                schedule_id,
                code: None,
            };
            command(UserId(buyer.user_id), host_now(), join)
        });
        let outcomes = outcomes(&line.hall, line.date, joins.collect()).await;
        for (buyer, outcome) in buyers.into_iter().zip(outcomes) {
            let Outcome::Joined(ticket) = outcome else {
                panic!("{outcome:?}")
            };
            let ticketed = Ticketed {
                user_id: UserId(buyer.user_id),
                schedule_id,
                ticket_id: ticket.ticket_id,
                arrival_no: ticket.arrival_no,
                is_guest: false,
                guest_no: None,
                generation: ticket.generation,
            };
            all.push((buyer, ticketed));
        }
    }
    all
}

async fn sessions_end(hall: &mut Hall, sql: &str) {
    let ended = async {
        while hall.number(sql).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    ended.expect("sessions end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_and_a_look_at_the_room_cost_no_query_at_any_ingress_however_new() {
    let options = SystemOptions::default().ingresses(2);
    let policy = PolicyChange {
        mode: Some(QueueMode::Draw),
        opens_at: Some(LONG_AGO),
        capacity: Some(100),
        rate_per_second: Some(1000),
        // The longer, the longer it is shown what was known last.
        presence_ms: Some(90_000),
        ..PolicyChange::default()
    };
    let mut line = Line::start(options, policy).await;
    let tickets = tickets(&line).await;
    let admitted = "SELECT count(*) AS n FROM ticket WHERE status = 'ADMITTED'";
    line.hall.becomes(admitted, 100).await;
    // Both know the room; and one is started again, so that it reads it once.
    let apis = line.apis();
    for api in &apis {
        let (buyer, ticket) = &tickets[0];
        let shown = signer().sign_ticket(ticket);
        line.poll(api, buyer, Some(&shown)).await.expect(200);
    }
    let ingress = &mut line.hall.system.ingresses[1];
    ingress.kill9().await;
    ingress.restart().await.expect("an ingress");
    let apis = line.apis();
    assert!(line.hall.system.workers[0].stop().await.success());

    // A session adds to the counters when it ends, at the latest: ours is in another database, and in
    // the end all others are gone.
    let url = line.hall.system.db.url().to_owned();
    let (server, name) = url.rsplit_once('/').expect("an address");
    let postgres = format!("{server}/postgres");
    line.hall.conn = db::connect(&postgres).await.expect("a connection");
    let counted = format!(
        "SELECT xact_commit + xact_rollback AS n FROM pg_stat_database WHERE datname = '{name}'"
    );
    let sessions = |of: &str| {
        format!(
            "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = '{name}' \
                 AND backend_type = 'client backend' {of}"
        )
    };
    let others = sessions("AND usename NOT LIKE '%ingress%'");
    sessions_end(&mut line.hall, &others).await;
    let before = line.hall.number(&counted).await;

    let started = Instant::now();
    let mut pollers = JoinSet::new();
    for poller in 0..POLLERS {
        let (apis, tickets, path) = (apis.clone(), tickets.clone(), line.path());
        let admin = line.hall.admin();
        pollers.spawn(async move {
            let signer = signer();
            let mut statuses = BTreeMap::new();
            for poll in (poller..POLLS).step_by(POLLERS) {
                // All of them, in an order that jumps.
                let (buyer, ticket) = &tickets[poll * 1237 % TICKETS];
                let api = &apis[poll / POLLERS % 2];
                let request = api.request(Method::GET, &path).bearer_auth(&buyer.token);
                let request = request.header("queue-ticket", signer.sign_ticket(ticket));
                let told = api.send(request).await.expect(200).body;
                let status = super::status(&told).to_owned();
                *statuses.entry(status).or_insert(0) += 1;
                if (poll / POLLERS).is_multiple_of(POLLS_PER_LOOK) {
                    let told = api.get(Some(&admin), &format!("/admin{path}")).await;
                    let told = told.expect(200).body;
                    let counts = ["arrivals", "waiting", "active"].map(|name| told[name].as_u64());
                    assert_eq!(counts, [2000, 1900, 100].map(Some), "{told}");
                }
            }
            statuses
        });
    }
    let mut statuses: BTreeMap<String, usize> = BTreeMap::new();
    for (status, n) in pollers.join_all().await.into_iter().flatten() {
        *statuses.entry(status).or_insert(0) += n;
    }
    for ingress in &mut line.hall.system.ingresses {
        assert!(ingress.stop().await.success());
    }
    let took = started.elapsed();
    sessions_end(&mut line.hall, &sessions("")).await;
    let asked = line.hall.number(&counted).await - before;
    println!("{asked} transactions in {took:?} of {POLLS} polls: {statuses:?}");
    assert_eq!(statuses["ADMITTED"], POLLS * 100 / TICKETS);
    assert_eq!(statuses["WAITING"], POLLS * (TICKETS - 100) / TICKETS);
    let most = 100 + 2 * took.as_secs() * ASKED_PER_S_MAX;
    // One query for each look would be more, and one for each poll many times as much.
    let looks = (POLLS / POLLS_PER_LOOK) as u64;
    assert!(most < looks, "{took:?} is too long to tell");
    let asked = u64::try_from(asked).expect("a count");
    assert!(asked < most, "{asked} transactions in {took:?}");
}
