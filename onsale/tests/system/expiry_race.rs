//! Thousands of holds are paid in the moment in which they end.
//!
//! A wave of holds ends at one time, as all of one message do. They are paid by messages of a few each,
//! as an ingress gathers them, and those are sent so that they should be decided between 50 ms before that time and 50 ms after
//! it. When each was decided is written with its outcome, by the database's clock: a pair counts only
//! if that was so near. By how much the others missed it is how the next wave is aimed better, and
//! waves go on until there are enough pairs that count. Whatever the machine does meanwhile, of each
//! pair exactly one wins, counted or not.

use crate::bus::{Bus, command};
use crate::hall::{Hall, PARTITIONS, open_policy};
use diesel::sql_types::{Array, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale::seed::Policy;
use onsale_platform::Clock;
use onsale_schema::settlement::{self, Refusal};
use onsale_schema::status::PaymentMethod;
use onsale_schema::{
    Lane, MessageId, PaymentId, ReservationId, ScheduleId, SeatNo, Timestamp, UserId, partition,
    seats,
};
use onsale_testkit::SystemOptions;
use std::collections::HashMap;
use std::time::Duration;
use tokio::task::JoinSet;
use uuid::Uuid;

/// So many pairs count at least, and as many more as it takes until both have won often; pairs are
/// tried up to the most.
const PAIRS: usize = 10_000;
const PAIRS_MAX: usize = 80_000;
/// The least share of each.
const SHARE_MIN: f64 = 0.2;
/// Dates that are played side by side, and holds of one wave.
const DATES: usize = 12;
const WAVE: usize = 120;
/// Payments of one message.
const TOGETHER: usize = 5;
const HOLD_MS: i64 = 2000;
/// Each date begins a wave in a time of its own, so that waves don't end together: what is decided with
/// a thousand others is decided late.
const SLOT_US: i64 = 200_000;
/// Payments are decided from so long before the end of the hold until so long after it, if they count.
const AROUND_US: i64 = 50_000;
/// They are sent so that they should be decided within this.
const AIMED_US: i64 = 20_000;
const PAYERS: usize = 20;
const FUNDS_WON: i64 = 100_000_000;
const PRICE_WON: i64 = 10_000;

/// The furthest that the aim is moved in favour of who has won less often.
const FAVOUR_US: f64 = 25_000.0;

/// One date, and who plays it.
struct Player {
    number: i64,
    bus: Bus,
    conn: AsyncPgConnection,
    schedule: ScheduleId,
    payers: Vec<UserId>,
    next_seat: usize,
    /// How long it took, in the latest waves, until a payment was decided that had been sent: the first
    /// is the latest.
    leads_us: [i64; 3],
    paid: Vec<ReservationId>,
    lapsed: Vec<ReservationId>,
    near: Near,
}

/// Pairs that were decided near the end of their hold.
#[derive(Clone, Copy, Default)]
struct Near {
    paid: usize,
    lapsed: usize,
}

impl Near {
    fn all(self) -> usize {
        self.paid + self.lapsed
    }

    fn least_share(self) -> f64 {
        self.paid.min(self.lapsed) as f64 / self.all().max(1) as f64
    }
}

/// Payments that were sent together.
struct Shot {
    message_id: MessageId,
    reservations: Vec<ReservationId>,
    /// When they should be decided.
    aimed_us: i64,
}

#[derive(QueryableByName)]
struct DecidedRow {
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
    #[diesel(sql_type = Timestamptz)]
    at: Timestamp,
}

impl Player {
    /// Holds a wave of seats by one message, so that all end at one time.
    async fn hold(&mut self) -> (Vec<(UserId, ReservationId)>, Timestamp) {
        let clock = Clock::default();
        let period_us = SLOT_US * DATES as i64;
        let early_us = (self.number * SLOT_US - clock.now().micros()).rem_euclid(period_us);
        tokio::time::sleep(Duration::from_micros(early_us.unsigned_abs())).await;
        let now = clock.now();
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
                pass: None,
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
        let mut leads_us = self.leads_us;
        leads_us.sort_unstable();
        // How long before it should be decided a payment is sent.
        let lead_us = leads_us[1];
        let clock = Clock::default();
        let subject = self.bus.subjects.queue(Lane::Settlement);
        let first_us = end.micros() - AIMED_US + self.favour_us();
        let (mut sent, mut shots) = (Vec::new(), Vec::new());
        for (n, together) in holds.chunks(TOGETHER).enumerate() {
            let shot = i64::try_from(n * TOGETHER).expect("few");
            let aimed_us = first_us + shot * 2 * AIMED_US / WAVE as i64;
            let early_us = aimed_us - lead_us - clock.now().micros();
            let early_us = u64::try_from(early_us).unwrap_or(0);
            tokio::time::sleep(Duration::from_micros(early_us)).await;
            let pay = |&(user, reservation_id): &(UserId, ReservationId)| {
                let kind = settlement::Kind::Pay {
                    payment_id: PaymentId(Uuid::now_v7()),
                    reservation_id,
                    method: PaymentMethod::Points,
                };
                command(user, clock.now(), kind)
            };
            let message = self
                .bus
                .send(&subject, together.iter().map(pay).collect())
                .await;
            shots.push(Shot {
                message_id: message.0,
                reservations: together.iter().map(|(_, id)| *id).collect(),
                aimed_us,
            });
            sent.push(message);
        }
        let outcomes = self.bus.outcomes::<settlement::Outcome>(sent).await;
        let decided = self.decided(&shots).await;
        let mut missed = Vec::with_capacity(WAVE);
        for shot in shots {
            let outcomes = &outcomes[&shot.message_id];
            assert_eq!(outcomes.len(), shot.reservations.len());
            for (reservation_id, outcome) in shot.reservations.into_iter().zip(outcomes) {
                let at = decided[&reservation_id];
                missed.push(at.micros() - shot.aimed_us);
                self.count(reservation_id, outcome, at, end);
            }
        }
        // The one in the middle says how much too early or too late this wave was.
        missed.sort_unstable();
        let took_us = (lead_us + missed[WAVE / 2]).clamp(0, HOLD_MS * 500);
        self.leads_us = [took_us, self.leads_us[0], self.leads_us[1]];
    }

    /// Who has won, and whether that counts.
    fn count(
        &mut self,
        id: ReservationId,
        outcome: &settlement::Outcome,
        at: Timestamp,
        end: Timestamp,
    ) {
        let is_near = (at.micros() - end.micros()).abs() <= AROUND_US;
        match outcome {
            settlement::Outcome::Paid(payment) => {
                assert_eq!(payment.reservation_id, id);
                assert!(at < end, "paid at {at:?}, held until {end:?}");
                self.paid.push(id);
                self.near.paid += usize::from(is_near);
            }
            settlement::Outcome::Refused(Refusal::HoldExpired) => {
                self.lapsed.push(id);
                self.near.lapsed += usize::from(is_near);
            }
            other => panic!("{other:?}"),
        }
    }

    /// When each was decided, by the database's clock: a payment has the time that was compared with
    /// the end of its hold; what was refused was compared before its outcome was written.
    async fn decided(&mut self, shots: &[Shot]) -> HashMap<ReservationId, Timestamp> {
        let all = shots.iter().flat_map(|shot| {
            let of_shot = shot.reservations.iter();
            of_shot.map(|id| (shot.message_id, *id))
        });
        let (messages, ids): (Vec<MessageId>, Vec<ReservationId>) = all.unzip();
        let rows: Vec<DecidedRow> = sql_query(
            "SELECT x.reservation_id, coalesce(p.at, o.decided_at) AS at \
             FROM unnest($1::uuid[], $2::uuid[]) AS x(message_id, reservation_id) \
             JOIN outcome AS o ON o.message_id = x.message_id \
             LEFT JOIN payment AS p ON p.reservation_id = x.reservation_id",
        )
        .bind::<Array<SqlUuid>, _>(&messages)
        .bind::<Array<SqlUuid>, _>(&ids)
        .load(&mut self.conn)
        .await
        .expect("outcomes");
        assert_eq!(rows.len(), ids.len(), "each was decided once");
        let times = rows.into_iter().map(|row| (row.reservation_id, row.at));
        times.collect()
    }

    /// How much later a wave is aimed, so that those win more often who have won less often.
    fn favour_us(&self) -> i64 {
        let share = self.near.paid as f64 / self.near.all().max(1) as f64;
        let wanted = (share - 0.5) * 4.0 * FAVOUR_US;
        if self.near.all() < WAVE {
            return 0;
        }
        wanted.clamp(-FAVOUR_US, FAVOUR_US) as i64
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
    let seats = u32::try_from((PAIRS_MAX + PAIRS).div_ceil(DATES) + WAVE).expect("few");
    let mut players = Vec::new();
    for number in 0..DATES {
        let schedule = hall.date_with(seats, policy).await;
        let buyers = hall.buyers(PAYERS);
        for buyer in &buyers {
            hall.api.charge(buyer, FUNDS_WON).await.expect(201);
        }
        players.push(Player {
            number: i64::try_from(number).expect("few"),
            bus: Bus::connect(hall).await,
            schedule: ScheduleId(schedule),
            payers: buyers.iter().map(|buyer| UserId(buyer.user_id)).collect(),
            next_seat: 0,
            conn: hall.connect().await,
            leads_us: [30_000; 3],
            paid: Vec::new(),
            lapsed: Vec::new(),
            near: Near::default(),
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
    let mut waves = PAIRS / DATES / WAVE + 1;
    let near = loop {
        let mut playing = JoinSet::new();
        for player in all.drain(..) {
            playing.spawn(player.waves(waves));
        }
        all = playing.join_all().await;
        let near = all.iter().fold(Near::default(), |sum, player| Near {
            paid: sum.paid + player.near.paid,
            lapsed: sum.lapsed + player.near.lapsed,
        });
        let tried: usize = all
            .iter()
            .map(|player| player.paid.len() + player.lapsed.len())
            .sum();
        println!(
            "{} of {tried} pairs were decided within 50 ms: {} were paid, {} lapsed",
            near.all(),
            near.paid,
            near.lapsed
        );
        if near.all() >= PAIRS && near.least_share() >= SHARE_MIN {
            break near;
        }
        assert!(tried < PAIRS_MAX, "the aim is not found\n{}", hall.logs());
        waves = 1 + PAIRS.saturating_sub(near.all()) / DATES / WAVE;
    };
    let ids = |of: fn(&Player) -> &Vec<ReservationId>| -> Vec<ReservationId> {
        all.iter().flat_map(|player| of(player).clone()).collect()
    };
    let (paid, lapsed) = (ids(|player| &player.paid), ids(|player| &player.lapsed));
    agree(&mut hall, &paid, &lapsed).await;
    let sql = "SELECT count(*) AS n FROM payment JOIN reservation USING (reservation_id) \
               WHERE at >= expires_at - interval '50 milliseconds' AND at < expires_at";
    let near_paid = hall.number(sql).await;
    assert_eq!(near_paid, i64::try_from(near.paid).expect("few"));
    hall.assert_sound().await;
}
