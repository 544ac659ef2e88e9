//! Thousands of holds are paid in the moment in which they end.
//!
//! A wave of holds ends at one time, as all of one message do. Each is paid by a message of its own,
//! and those are sent so that they should be decided between 50 ms before that time and 50 ms after
//! it. How long it takes from the one to the other is learned from wave to wave: by how many were too
//! early and how many too late. Whatever the machine does meanwhile, of each pair exactly one wins.

use crate::bus::{Bus, command};
use crate::hall::{Hall, PARTITIONS, open_policy};
use onsale::seed::Policy;
use onsale_platform::Clock;
use onsale_schema::settlement::{self, Refusal};
use onsale_schema::status::PaymentMethod;
use onsale_schema::{
    Lane, PaymentId, ReservationId, ScheduleId, SeatNo, Timestamp, UserId, partition, seats,
};
use onsale_testkit::SystemOptions;
use std::time::Duration;
use tokio::task::JoinSet;
use uuid::Uuid;

/// So many pairs at least, and as many more as it takes until both have won often, up to the most.
const PAIRS: usize = 10_000;
const PAIRS_MAX: usize = 16_000;
/// The least share of each.
const SHARE_MIN: f64 = 0.2;
/// Dates that are played side by side, each on its own, and holds of one wave.
const DATES: usize = 4;
const WAVE: usize = 250;
const HOLD_MS: i64 = 2000;
/// Payments are to be decided from so long before the end of the hold until so long after it.
const AROUND_US: i64 = 50_000;
/// How far the aim moves, at first, after a wave of which all were too early, or all too late.
const STEP_US: f64 = 75_000.0;
const PAYERS: usize = 50;
const FUNDS_WON: i64 = 100_000_000;
const PRICE_WON: i64 = 10_000;

/// One date, and who plays it.
struct Player {
    bus: Bus,
    schedule: ScheduleId,
    payers: Vec<UserId>,
    next_seat: usize,
    /// How long before it should be decided a payment is sent.
    lead_us: f64,
    step_us: f64,
    paid: Vec<ReservationId>,
    lapsed: Vec<ReservationId>,
}

impl Player {
    /// Holds a wave of seats by one message, so that all end at one time.
    async fn hold(&mut self) -> (Vec<(UserId, ReservationId)>, Timestamp) {
        let now = Clock::default().now();
        let seats = self.next_seat..self.next_seat + WAVE;
        self.next_seat = seats.end;
        let mut holds = Vec::with_capacity(WAVE);
        let mut commands = Vec::with_capacity(WAVE);
        for seat in seats {
            let user = self.payers[seat % self.payers.len()];
            let reservation_id = ReservationId(Uuid::now_v7());
            holds.push((user, reservation_id));
            let kind = seats::Kind::Hold {
                reservation_id,
                schedule_id: self.schedule,
                seats: vec![SeatNo(i32::try_from(seat).expect("few"))],
                places: Vec::new(),
                layout_no: None,
            };
            commands.push(command(user, now, kind));
        }
        let partition = partition::of_schedule(self.schedule, PARTITIONS);
        let subject = self.bus.subjects.partition(Lane::Seats, partition);
        let sent = self.bus.send(&subject, commands).await;
        let id = sent.0;
        let outcomes = self.bus.outcomes::<seats::Outcome>(vec![sent]).await;
        let ends = outcomes[&id].iter().map(|outcome| match outcome {
            seats::Outcome::Held(hold) => hold.expires_at,
            other => panic!("{other:?}"),
        });
        let ends: Vec<Timestamp> = ends.collect();
        assert_eq!(ends.len(), WAVE);
        assert!(
            ends.iter().all(|end| *end == ends[0]),
            "one message, one time"
        );
        (holds, ends[0])
    }

    /// Pays a wave around the time at which its holds end.
    async fn wave(&mut self) {
        let (holds, end) = self.hold().await;
        let clock = Clock::default();
        let lead_us = self.lead_us as i64;
        let subject = self.bus.subjects.queue(Lane::Settlement);
        let mut sent = Vec::with_capacity(WAVE);
        for (n, (user, reservation_id)) in holds.iter().enumerate() {
            let part = i64::try_from(n).expect("few") * 2 * AROUND_US / WAVE as i64;
            let due_us = end.micros() - AROUND_US + part - lead_us;
            let early_us = u64::try_from(due_us - clock.now().micros()).unwrap_or(0);
            tokio::time::sleep(Duration::from_micros(early_us)).await;
            let kind = settlement::Kind::Pay {
                payment_id: PaymentId(Uuid::now_v7()),
                reservation_id: *reservation_id,
                method: PaymentMethod::Points,
            };
            let pay = command(*user, clock.now(), kind);
            sent.push(self.bus.send(&subject, vec![pay]).await);
        }
        let ids: Vec<_> = sent.iter().map(|(id, _)| *id).collect();
        let outcomes = self.bus.outcomes::<settlement::Outcome>(sent).await;
        let before = self.paid.len();
        for (id, (_, reservation_id)) in ids.iter().zip(holds) {
            match outcomes[id].as_slice() {
                [settlement::Outcome::Paid(payment)] => {
                    assert_eq!(payment.reservation_id, reservation_id);
                    self.paid.push(reservation_id);
                }
                [settlement::Outcome::Refused(Refusal::HoldExpired)] => {
                    self.lapsed.push(reservation_id);
                }
                other => panic!("{other:?}"),
            }
        }
        self.aim((self.paid.len() - before) as f64 / WAVE as f64);
    }

    /// Learns from a wave of which this share was paid. Who has won less often so far is favoured.
    fn aim(&mut self, share: f64) {
        let all = (self.paid.len() + self.lapsed.len()) as f64;
        let wanted = 1.0 - self.paid.len() as f64 / all;
        if share > 0.0 && share < 1.0 {
            self.step_us = STEP_US;
            self.lead_us += (wanted - share) * 2.0 * STEP_US;
        } else {
            // All were too late, or all too early: nobody knows by how much.
            self.lead_us += if share > 0.0 {
                -self.step_us
            } else {
                self.step_us
            };
            self.step_us *= 1.5;
        }
        let most_us = HOLD_MS as f64 * 500.0;
        self.lead_us = self.lead_us.clamp(-most_us, most_us);
    }

    async fn waves(mut self, count: usize) -> Self {
        for _ in 0..count {
            self.wave().await;
        }
        self
    }
}

async fn players(hall: &mut Hall) -> Vec<Player> {
    let policy = Policy {
        hold_ms: HOLD_MS,
        seats_per_user: 100_000,
        ..open_policy()
    };
    let seats = u32::try_from(PAIRS_MAX.div_ceil(DATES) + WAVE).expect("few");
    let mut players = Vec::new();
    for _ in 0..DATES {
        let schedule = hall.date_with(seats, policy).await;
        let buyers = hall.buyers(PAYERS);
        for buyer in &buyers {
            hall.api.charge(buyer, FUNDS_WON).await.expect(201);
        }
        players.push(Player {
            bus: Bus::connect(hall).await,
            schedule: ScheduleId(schedule),
            payers: buyers.iter().map(|buyer| UserId(buyer.user_id)).collect(),
            next_seat: 0,
            lead_us: 50_000.0,
            step_us: STEP_US,
            paid: Vec::new(),
            lapsed: Vec::new(),
        });
    }
    players
}

/// Each of these ended as its payer was told, in every table.
async fn agree(hall: &mut Hall, paid: &[ReservationId], lapsed: &[ReservationId]) {
    let open = "SELECT (SELECT count(*) FROM reservation WHERE status = 'HELD') \
                + (SELECT count(*) FROM notice WHERE done_at IS NULL) AS n";
    hall.becomes(open, 0).await;
    let list = |ids: &[ReservationId]| {
        let ids: Vec<String> = ids.iter().map(|id| format!("('{id}'::uuid)")).collect();
        ids.join(",")
    };
    let (paid_list, lapsed_list) = (list(paid), list(lapsed));
    let count = |ids: &[ReservationId]| i64::try_from(ids.len()).expect("few");
    let (won, lost) = (count(paid), count(lapsed));
    for (what, sql, expected) in [
        (
            "reservations",
            "SELECT count(*) AS n FROM reservation".to_owned(),
            won + lost,
        ),
        (
            "paid, sold and captured once",
            format!(
                "SELECT count(*) AS n FROM (VALUES {paid_list}) x (id) \
                 JOIN reservation r ON r.reservation_id = x.id AND r.status = 'PAID' \
                 JOIN seat_claim c ON c.schedule_id = r.schedule_id AND c.seat_no = r.seat_nos[1] \
                      AND c.reservation_id = x.id AND c.state = 'S' \
                 JOIN payment p ON p.reservation_id = x.id AND p.status = 'PAID' \
                 JOIN transfer t ON t.transfer_id = p.transfer_id AND t.amount = r.total \
                      AND t.debit = r.user_id AND t.cause = x.id \
                 WHERE p.at < r.expires_at AND r.ended_at IS NULL"
            ),
            won,
        ),
        (
            "expired, and nothing moved",
            format!(
                "SELECT count(*) AS n FROM (VALUES {lapsed_list}) x (id) \
                 JOIN reservation r ON r.reservation_id = x.id AND r.status = 'EXPIRED' \
                 WHERE NOT EXISTS (SELECT FROM payment p WHERE p.reservation_id = x.id) \
                   AND NOT EXISTS (SELECT FROM transfer t WHERE t.cause = x.id) \
                   AND NOT EXISTS (SELECT FROM seat_claim c WHERE c.reservation_id = x.id)"
            ),
            lost,
        ),
        (
            "claims",
            "SELECT count(*) AS n FROM seat_claim".to_owned(),
            won,
        ),
        (
            "payments",
            "SELECT count(*) AS n FROM transfer WHERE kind = 'PAYMENT'".to_owned(),
            won,
        ),
        (
            "points",
            "SELECT sum(balance)::bigint AS n FROM account WHERE balance IS NOT NULL".to_owned(),
            (DATES * PAYERS) as i64 * FUNDS_WON - won * PRICE_WON,
        ),
    ] {
        assert_eq!(hall.number(&sql).await, expected, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_10_000_payments_in_the_moment_their_holds_end_exactly_one_wins_each() {
    let options = SystemOptions::default()
        .workers(2)
        // The owner looks so often that it ends a hold while its payment is under way.
        .setting("ONSALE_TICK_MS", 10)
        .setting("ONSALE_CHARGE_MAX", FUNDS_WON)
        .setting("ONSALE_BALANCE_CAP", FUNDS_WON);
    let mut hall = Hall::open_with(options).await;
    let mut all = players(&mut hall).await;
    let mut waves = PAIRS / DATES / WAVE;
    let (paid, lapsed) = loop {
        let mut playing = JoinSet::new();
        for player in all.drain(..) {
            playing.spawn(player.waves(waves));
        }
        all = playing.join_all().await;
        let ids = |of: fn(&Player) -> &Vec<ReservationId>| -> Vec<ReservationId> {
            all.iter().flat_map(|player| of(player).clone()).collect()
        };
        let (paid, lapsed) = (ids(|player| &player.paid), ids(|player| &player.lapsed));
        let pairs = paid.len() + lapsed.len();
        let least = paid.len().min(lapsed.len()) as f64 / pairs as f64;
        println!("{} were paid, {} lapsed", paid.len(), lapsed.len());
        if least >= SHARE_MIN {
            break (paid, lapsed);
        }
        assert!(pairs < PAIRS_MAX, "the aim is not found\n{}", hall.logs());
        waves = 1;
    };
    assert!(paid.len() + lapsed.len() >= PAIRS);
    agree(&mut hall, &paid, &lapsed).await;
    let near = "SELECT count(*) AS n FROM payment JOIN reservation USING (reservation_id) \
                WHERE at > expires_at - interval '50 milliseconds'";
    println!("{} were paid in the last 50 ms", hall.number(near).await);
    hall.assert_sound().await;
}
