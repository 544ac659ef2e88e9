//! What is measured of money: the cases, and for each run a field of its own.

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use onsale_ingress::{payments, points};
use onsale_schema::{Lane, ReservationId, ScheduleId, UserId};
use uuid::Uuid;

use super::rows;
use crate::bench::case::{
    self, ECHO_THEN, Member, PRICE_WON, REQUESTS_PER_USER, Size, YARDSTICK_THEN, post,
};
use crate::bench::contest::{Contested, Field};
use crate::bench::direct::Rival;
use crate::bench::load::{Generator, Script};
use crate::bench::rig;
use crate::bench::run::{Design, Track, play};

/// What a measured charge buys: so little that one account has room for all of them.
const CHARGE_WON: i64 = 1;
/// What a payer charges beforehand: the price of all that one has held.
const FUNDS_WON: i64 = PRICE_WON * REQUESTS_PER_USER as i64;
/// Connections that prepare.
const PREPARERS: usize = 256;
/// It has accounts and holds of its own.
const YARDSTICK: Design = Design::Direct(Rival::LeanCte);
/// What the row lock did with holds, when the echo and the yardstick were measured before.
const ROW_LOCK_THEN: f64 = 4_600.0;
/// "Far below": less than this part of a share that was measured of holds. Both baselines write the same
/// rows, as with holds: two of a charge (the row lock opens the account with the first, too), five of a
/// payment; one by a bare statement, the other by a transaction of four round trips. But neither was
/// measured for itself, so this is less than what holds are held to; beside the echo five rows are held
/// to what two did, which is the stricter for it.
const SHARE_MIN: f64 = 0.5;

/// What everybody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Case {
    /// Charges on many accounts, five on each.
    Charges,
    /// Charges on one account.
    HotAccount,
    /// Payments, by points, of held reservations of many users, five of each.
    Payments,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Charges => "charges",
            Self::HotAccount => "hot-account",
            Self::Payments => "payments",
        })
    }
}

/// What a run leaves to be looked at.
#[derive(Debug)]
pub enum Ground {
    /// Accounts on which nothing was but what the run charged.
    Accounts(Vec<UserId>),
    /// Dates of which all seats were held, and nothing paid.
    Dates(Vec<ScheduleId>),
    /// Accounts of the yardstick, with what was on each of them before the run, and the date on which it
    /// held what was to be paid.
    Lean {
        users: Vec<UserId>,
        won: i64,
        date: Option<ScheduleId>,
    },
}

impl Contested for Case {
    const BENCH: &'static str = "money";
    type Ground = Ground;

    fn lane(self) -> Lane {
        match self {
            Self::Charges | Self::HotAccount => Lane::Ledger,
            Self::Payments => Lane::Settlement,
        }
    }

    fn wins(self, requests: usize) -> u64 {
        requests as u64
    }

    async fn field(
        self,
        track: &mut Track,
        design: Design,
        size: Size,
        seed: u64,
        addr: SocketAddr,
    ) -> anyhow::Result<Field<Ground>> {
        let all = size.requests + size.warm_up;
        let accounts = all.div_ceil(REQUESTS_PER_USER);
        match self {
            Self::Charges => charges(track, design, accounts, size, addr).await,
            Self::HotAccount => charges(track, design, 1, size, addr).await,
            Self::Payments => payments(track, design, size, seed, addr).await,
        }
    }

    async fn complaint(
        track: &mut Track,
        _design: Design,
        ground: &Ground,
        answered: u64,
    ) -> anyhow::Result<Option<String>> {
        let conn = &mut track.conn;
        let answered = i64::try_from(answered).unwrap_or(i64::MAX);
        Ok(match ground {
            Ground::Accounts(users) => rows::Charged::count(conn, users).await?.complaint(answered),
            Ground::Dates(dates) => rows::Paid::count(conn, dates).await?.complaint(answered),
            Ground::Lean { users, won, date } => {
                let moved = rows::Moved::count(conn, users, *won).await?;
                let paid = match date {
                    Some(date) => Some(rows::Paid::count_lean(conn, *date, PRICE_WON).await?),
                    None => None,
                };
                let paid = paid.and_then(|paid| paid.complaint(answered));
                moved.complaint(answered).or(paid)
            }
        })
    }

    /// On one account each waits for the commit of another: how fast that is, no echo tells.
    fn yardstick_least(self, _connections: usize) -> Option<f64> {
        match self {
            Self::Charges | Self::Payments => Some(SHARE_MIN * YARDSTICK_THEN / ECHO_THEN),
            Self::HotAccount => None,
        }
    }

    fn rival_least(self, rival: Rival) -> Option<f64> {
        match rival {
            Rival::RowLock => Some(SHARE_MIN * ROW_LOCK_THEN / YARDSTICK_THEN),
            Rival::Cte | Rival::LeanCte => None,
        }
    }

    fn beside(self) -> Option<Self> {
        match self {
            Self::HotAccount => Some(Self::Charges),
            Self::Charges | Self::Payments => None,
        }
    }
}

/// Charges on so many accounts, in turns.
async fn charges(
    track: &mut Track,
    design: Design,
    accounts: usize,
    size: Size,
    addr: SocketAddr,
) -> anyhow::Result<Field<Ground>> {
    let users = track.grounds.users(accounts).await?;
    let run = track.grounds.next_run();
    let script = |name: &str, requests: usize| {
        charge_script(addr, &users, requests, CHARGE_WON, &format!("{name}-{run}"))
    };
    let ground = if design == YARDSTICK {
        let users = ids(&users);
        rows::lean_open(&mut track.conn, &users, 0).await?;
        Ground::Lean {
            users,
            won: 0,
            date: None,
        }
    } else {
        Ground::Accounts(ids(&users))
    };
    Ok(Field {
        warm_up: script("warm", size.warm_up),
        counted: script("charge", size.requests),
        ground,
    })
}

fn ids(users: &[Member]) -> Vec<UserId> {
    users.iter().map(|user| user.user_id).collect()
}

/// So many charges by these users, in turns.
fn charge_script(
    addr: SocketAddr,
    users: &[Member],
    requests: usize,
    won: i64,
    key: &str,
) -> Script {
    let body = format!(r#"{{"amount":{{"amount":{won},"currency":"KRW"}},"method":"CARD"}}"#);
    let mut script = Script::default();
    for number in 0..requests {
        let user = &users[number % users.len()];
        let key = format!("{key}-{number:08}");
        let asker = (user.token.as_str(), key.as_str());
        script.push(|out| post(out, addr, points::ROUTE_CHARGES, asker, &body));
    }
    script
}

/// Payments by users who can pay them.
async fn payments(
    track: &mut Track,
    design: Design,
    size: Size,
    seed: u64,
    addr: SocketAddr,
) -> anyhow::Result<Field<Ground>> {
    let all = size.requests + size.warm_up;
    let (users, payable, ground) = if design == YARDSTICK {
        lean_held(track, all).await?
    } else {
        held(track, all, seed).await?
    };
    let run = track.grounds.next_run();
    let (first, rest) = payable
        .split_at_checked(size.warm_up)
        .context("every hold has its row")?;
    let script = |name: &str, rows: &[rows::Held]| {
        payment_script(addr, &users, rows, &format!("{name}-{run}"))
    };
    Ok(Field {
        warm_up: script("warm", first),
        counted: script("pay", rest),
        ground,
    })
}

/// Who pays, what, and what that leaves to be looked at.
type Payable = (Vec<Member>, Vec<rows::Held>, Ground);

/// So many reservations that were held, by users who have charged, as it is done in earnest.
async fn held(track: &mut Track, all: usize, seed: u64) -> anyhow::Result<Payable> {
    let pipeline = track.rig.pipeline();
    let size = Size {
        requests: all,
        warm_up: 0,
    };
    let grounds = &mut track.grounds;
    let (holds, users) = grounds
        .field(case::Case::AllWin, size, seed, pipeline)
        .await?;
    let run = track.grounds.next_run();
    let funds = charge_script(
        pipeline,
        &users,
        users.len(),
        FUNDS_WON,
        &format!("fund-{run}"),
    );
    for script in [holds.counted, funds] {
        let requests = script.len() as u64;
        let generator = Generator::connect(pipeline, PREPARERS).context("connecting")?;
        let (_, tally) = play(generator, script).await?;
        ensure!(
            tally.status(201) == requests,
            "preparing: {:?} {:?}",
            tally.statuses,
            tally.samples
        );
    }
    let settled = rig::drained(&mut track.conn).await?;
    ensure!(
        settled.is_some(),
        "the facts of the holds are not published"
    );
    let rows = rows::held(&mut track.conn, &holds.ground).await?;
    Ok((users, rows, Ground::Dates(holds.ground)))
}

/// So many reservations of the yardstick, of users with points enough.
async fn lean_held(track: &mut Track, all: usize) -> anyhow::Result<Payable> {
    let users = track.grounds.users(all.div_ceil(REQUESTS_PER_USER)).await?;
    let held = (0..all).map(|number| rows::Held {
        reservation_id: ReservationId(Uuid::now_v7()),
        user_id: users[number % users.len()].user_id,
    });
    let held: Vec<rows::Held> = held.collect();
    let (payers, date) = (ids(&users), ScheduleId(Uuid::now_v7()));
    rows::lean_open(&mut track.conn, &payers, FUNDS_WON).await?;
    rows::lean_hold(&mut track.conn, date, &held).await?;
    let ground = Ground::Lean {
        users: payers,
        won: FUNDS_WON,
        date: Some(date),
    };
    Ok((users, held, ground))
}

fn payment_script(addr: SocketAddr, users: &[Member], rows: &[rows::Held], key: &str) -> Script {
    let tokens: std::collections::HashMap<UserId, &str> = users
        .iter()
        .map(|user| (user.user_id, user.token.as_str()))
        .collect();
    let mut script = Script::default();
    for (number, held) in rows.iter().enumerate() {
        let Some(token) = tokens.get(&held.user_id) else {
            continue;
        };
        let key = format!("{key}-{number:08}");
        let body = pay_body(held.reservation_id);
        script.push(|out| post(out, addr, payments::ROUTE, (token, &key), &body));
    }
    script
}

fn pay_body(reservation_id: ReservationId) -> String {
    format!(r#"{{"reservationId":"{reservation_id}","method":"POINTS"}}"#)
}
