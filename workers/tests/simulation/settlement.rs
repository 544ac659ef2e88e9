//! Settlement, played: it makes holds PAID while their owner may be ending them, with points or
//! through a gateway that takes its time, asks for the seats again when it took too long, and
//! cancels what was paid.

use crate::database::{Key, Work};
use crate::people::short;
use crate::rows::{NoticeRow, ReservationRow};
use crate::sim::{Sim, lock};
use onsale_domain::seats::Reservation;
use onsale_schema::message::encode;
use onsale_schema::seats::{Hold, Kind};
use onsale_schema::status::ReservationStatus;
use onsale_schema::{
    CommandId, NoticeId, PaymentOrderId, ReservationId, SeatNo, Timestamp, UserId,
};
use onsale_workers::outbox::system;
use std::sync::{Arc, Mutex};

/// What beginning a transaction came to.
enum Step {
    Begun(u64),
    /// The row is not as it would have to be.
    Refused,
    Blocked,
    Away,
}

/// The notice of a command of settlement.
pub fn notice_of(kind: &Kind) -> Option<NoticeId> {
    match kind {
        Kind::Paid { notice_id, .. }
        | Kind::PaidAll { notice_id, .. }
        | Kind::Secure { notice_id, .. }
        | Kind::Unsecure { notice_id, .. }
        | Kind::Rehold { notice_id, .. }
        | Kind::Cancelled { notice_id, .. }
        | Kind::Room { notice_id, .. }
        | Kind::PassesOver { notice_id, .. } => Some(*notice_id),
        Kind::Hold { .. }
        | Kind::HoldBest { .. }
        | Kind::Release { .. }
        | Kind::Extend { .. }
        | Kind::Expire { .. }
        | Kind::Policy { .. }
        | Kind::Block { .. }
        | Kind::Unblock { .. } => None,
    }
}

/// Pays a hold with points, some time before or around its end.
pub async fn settle(sim: Arc<Sim>, hold: Hold) {
    sleep_until_about(&sim, hold.expires_at).await;
    let is_paid = sell(&sim, &hold, 20, |r| r.term.paying_order.is_none()).await;
    if is_paid && sim.percent(40) {
        cancel(&sim, hold.reservation_id).await;
    }
}

/// Pays a hold through the gateway.
pub async fn pay_by_order(sim: Arc<Sim>, user: UserId, hold: Hold) {
    lock(&sim.people).orders += 1;
    sleep_until_about(&sim, hold.expires_at).await;
    if let Some(sold) = go_through_with(&sim, user, &hold).await
        && sim.percent(40)
    {
        cancel(&sim, sold).await;
    }
    lock(&sim.people).orders -= 1;
}

async fn sleep_until_about(sim: &Sim, expires_at: Timestamp) {
    let left_ms = expires_at.ms_since(sim.now()).max(0);
    if sim.percent(40) {
        sim.sleep((left_ms - 60).max(0), left_ms + 60).await;
    } else {
        sim.sleep(0, left_ms).await;
    }
}

/// Secures a hold, captures, and sells; what was sold, if anything.
async fn go_through_with(sim: &Arc<Sim>, user: UserId, hold: &Hold) -> Option<ReservationId> {
    let order_id = PaymentOrderId(sim.uuid());
    let (id, schedule_id) = (hold.reservation_id, hold.schedule_id);
    let until = sim.now().plus_ms(sim.range(100, 2500));
    tell(sim, id, |notice_id| Kind::Secure {
        notice_id,
        order_id,
        reservation_id: id,
        schedule_id,
        until,
    })
    .await;
    let is_secured = {
        let database = lock(&sim.database);
        let row = database.rows.reservations.get(&id);
        row.is_some_and(|row| row.reservation.term.paying_order == Some(order_id))
    };
    if is_secured {
        sim.note("secured", || short(id.0));
    }
    // The gateway refuses; or it is not asked. Rarely it captures although nobody knew that.
    if sim.percent(if is_secured { 20 } else { 70 }) {
        tell(sim, id, |notice_id| Kind::Unsecure {
            notice_id,
            order_id,
            reservation_id: id,
            schedule_id,
        })
        .await;
        sim.note("let go", || short(id.0));
        return None;
    }
    sim.sleep(0, if sim.percent(30) { 4000 } else { 800 }).await;
    let is_its = move |r: &Reservation| r.term.paying_order == Some(order_id);
    if sell(sim, hold, 1000, is_its).await {
        sim.note("captured", || short(id.0));
        return Some(id);
    }
    sim.note("captured late", || short(id.0));
    let reservation_id = ReservationId(sim.uuid());
    tell(sim, id, |notice_id| Kind::Rehold {
        notice_id,
        order_id,
        reservation_id,
        lapsed_id: id,
        schedule_id,
        user_id: user,
        seats: hold.seats.clone(),
        total: hold.total,
    })
    .await;
    let mut database = lock(&sim.database);
    if database.rows.reservations.contains_key(&reservation_id) {
        sim.note("held anew", || short(reservation_id.0));
        database.ghost.paid.insert(reservation_id);
        return Some(reservation_id);
    }
    database.ghost.refunded.insert(order_id);
    sim.note("refunded", || short(order_id.0));
    None
}

/// Makes a hold PAID, if it is payable and as it has to be.
async fn sell(
    sim: &Arc<Sim>,
    hold: &Hold,
    attempts: usize,
    is_meant: impl Fn(&Reservation) -> bool,
) -> bool {
    let id = hold.reservation_id;
    let is_paid = transact(sim, id, attempts, |row, notice_id| {
        let r = &row.reservation;
        let is_payable = r.status == ReservationStatus::Held
            && r.term.ends_as.is_none()
            && r.term.expires_at > sim.now();
        let kind = if sim.percent(50) {
            Kind::Paid {
                notice_id,
                reservation_id: id,
                schedule_id: row.schedule,
            }
        } else {
            Kind::PaidAll {
                notice_id,
                reservation_ids: vec![id],
                schedule_id: row.schedule,
            }
        };
        (is_payable && is_meant(r)).then(|| Work::Pay(notice(sim, id, kind)))
    });
    let is_paid = is_paid.await;
    if is_paid {
        sim.note("paid", || short(id.0));
    }
    is_paid
}

/// Cancels some or all of what is left of a paid reservation, once or twice.
async fn cancel(sim: &Arc<Sim>, id: ReservationId) {
    for _ in 0..sim.range(1, 2) {
        sim.sleep(0, 1500).await;
        let is_all = sim.percent(50);
        let is_cancelled = transact(sim, id, 20, |row, notice_id| {
            let r = &row.reservation;
            let left = r.seats.iter().filter(|seat| !r.cancelled.contains(seat));
            let mut seats: Vec<SeatNo> = left.copied().collect();
            seats.truncate(if is_all { seats.len() } else { 1 });
            // Whatever the clock says, it is after what it follows.
            let at = sim.now().max(r.held_at);
            let at = at.max(r.cancelled_at.unwrap_or(at));
            let kind = Kind::Cancelled {
                notice_id,
                reservation_id: id,
                schedule_id: row.schedule,
                seats: seats.clone(),
                at,
            };
            let is_paid = r.status == ReservationStatus::Paid;
            is_paid.then(|| Work::Cancel(seats, at, notice(sim, id, kind)))
        });
        if is_cancelled.await {
            sim.note("cancelled", || short(id.0));
        }
    }
}

/// Tells the owner of the seats, however long the database stays away, and waits until it has heard.
async fn tell(sim: &Arc<Sim>, id: ReservationId, kind: impl Fn(NoticeId) -> Kind) {
    // The last one that was tried; the others were never written.
    let told = Mutex::new(None);
    loop {
        let is_written = transact(sim, id, 20, |_, notice_id| {
            *lock(&told) = Some(notice_id);
            Some(Work::Tell(notice(sim, id, kind(notice_id))))
        });
        if is_written.await {
            break;
        }
        sim.sleep(200, 500).await;
    }
    let notice = lock(&told).expect("it was just written");
    loop {
        sim.sleep(20, 200).await;
        if lock(&sim.database).rows.notices[&notice].is_done {
            return;
        }
    }
}

fn notice(sim: &Sim, reservation: ReservationId, kind: Kind) -> (NoticeId, NoticeRow) {
    let notice = notice_of(&kind).expect("it has one");
    let id = CommandId::of_system(kind.name(), notice.0, 0);
    let cancels = match &kind {
        Kind::Cancelled { seats, .. } => seats.clone(),
        _ => Vec::new(),
    };
    let row = NoticeRow {
        schedule: kind.schedule_id(),
        reservation,
        cancels,
        payload: encode(&system::command(id, kind)),
        created_at: sim.now(),
        is_done: false,
    };
    (notice, row)
}

/// Does some work under the lock of a reservation, if that is there and as it has to be.
async fn transact(
    sim: &Arc<Sim>,
    id: ReservationId,
    attempts: usize,
    work: impl Fn(&ReservationRow, NoticeId) -> Option<Work>,
) -> bool {
    for _ in 0..attempts {
        sim.travel().await;
        let changed = sim.database_changed.notified();
        match begin(sim, id, &work) {
            Step::Begun(transaction) => {
                sim.travel().await;
                lock(&sim.database).is_committing(transaction);
                let latest = sim.latest_business();
                let violations = lock(&sim.database).commit(transaction, latest);
                sim.database_changed.notify_waiters();
                if violations.is_some() {
                    return true;
                }
            }
            Step::Refused => return false,
            Step::Blocked => changed.await,
            Step::Away => sim.sleep(200, 500).await,
        }
    }
    false
}

fn begin(
    sim: &Sim,
    id: ReservationId,
    work: impl Fn(&ReservationRow, NoticeId) -> Option<Work>,
) -> Step {
    let notice = NoticeId(sim.uuid());
    let mut database = lock(&sim.database);
    if !database.is_up {
        return Step::Away;
    }
    if database.is_locked(Key::Reservation(id)) {
        return Step::Blocked;
    }
    let row = database.rows.reservations.get(&id);
    let Some(work) = row.and_then(|row| work(row, notice)) else {
        return Step::Refused;
    };
    match database.begin_settlement(id, work) {
        Some(transaction) => Step::Begun(transaction),
        None => Step::Away,
    }
}
