//! Writes what batches of seat decisions changed: a fixed number of set-based statements, all sent
//! before the first is answered, however large the batches are.

use super::blocks;
use crate::outbox::notices::{self, NewNotice};
use crate::runtime::fence;
use crate::runtime::lane::{Stored, expect};
use diesel::QueryableByName;
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Integer, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::seats::{
    BlockRow, Changes, ClaimDelete, ClaimInsert, ClaimUpdate, Ended, GateUpdate, Net,
    NewReservation, PolicyUpdate, Term, TermUpdate,
};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::admission::{self, HOLDS_MAX, HoldChange};
use onsale_schema::message::encode;
use onsale_schema::seats::{Facts, MapChange};
use onsale_schema::status::ReservationStatus;
use onsale_schema::{NoticeId, ReservationId, ScheduleId, SeatNo, Timestamp};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use uuid::Uuid;

/// Stores the changes of several partitions, inside the open transaction.
///
/// # Errors
/// When Postgres fails, or rows are not as the owner knows them.
pub(super) async fn changes(
    conn: &AsyncPgConnection,
    changes: &[&Changes],
) -> Result<Stored, db::Error> {
    let made: Vec<&NewReservation> = changes.iter().flat_map(|c| &c.reservations).collect();
    let terms: Vec<&TermUpdate> = changes.iter().flat_map(|c| &c.terms).collect();
    let ended: Vec<&Ended> = changes.iter().flat_map(|c| &c.ended).collect();
    let nets: Vec<Net> = changes.iter().map(|c| c.claims.net()).collect();
    let deletes: Vec<&ClaimDelete> = nets.iter().flat_map(|n| &n.deletes).collect();
    let updates: Vec<&ClaimUpdate> = nets.iter().flat_map(|n| &n.updates).collect();
    let inserts: Vec<&ClaimInsert> = nets.iter().flat_map(|n| &n.inserts).collect();
    let maps: Vec<&MapChange> = changes.iter().flat_map(|c| &c.maps).collect();
    let policies: Vec<&PolicyUpdate> = changes.iter().flat_map(|c| &c.policies).collect();
    let blocks: Vec<&BlockRow> = changes.iter().flat_map(|c| &c.blocks).collect();
    let facts: Vec<&Facts> = changes.iter().flat_map(|c| &c.facts).collect();
    let gates: Vec<&GateUpdate> = changes.iter().flat_map(|c| &c.gates).collect();
    let done: Vec<NoticeId> = changes
        .iter()
        .flat_map(|c| c.notices_done.iter().copied())
        .collect();
    let holds = changes.iter().flat_map(|c| &c.pass_holds);
    let sales = changes.iter().flat_map(|c| &c.sales_of_rooms);
    let told = holds.flat_map(|(id, holds)| to_room(*id, holds));
    let told: Vec<NewNotice> = told.chain(sales.map(|id| sale_to_room(*id))).collect();

    // Polled in this order, so they are sent in this order: reservations before claims, and sales
    // before both. A layout that is being replaced is waited for there, and after it claims on seats
    // that are no more may fail in any way.
    let (
        versioned,
        lasting,
        stayed,
        made_ids,
        deleted,
        updated,
        inserted,
        amended,
        blocked,
        published,
        noted,
        turned,
        telling,
    ) = tokio::join!(
        biased;
        maps_version(conn, &maps),
        reservations_last(conn, &terms, &ended),
        reservations_end(conn, &ended),
        reservations_insert(conn, &made),
        claims_delete(conn, &deletes),
        claims_update(conn, &updates),
        claims_insert(conn, &inserts),
        policies_update(conn, &policies),
        blocks::insert(conn, &blocks),
        facts_insert(conn, &facts),
        fence::notices_done(conn, &done),
        gates_update(conn, &gates),
        notices::insert(conn, &told),
    );
    let layouts = versioned?;
    let mut stored = replaced(changes, &layouts);
    if !stored.missed.is_empty() {
        return Ok(stored);
    }
    let found = Found {
        lasting: lasting?,
        ended: stayed?,
        made: made_ids?,
        told: noted?,
    };
    stored.missed = found.missed(changes);
    // After a miss everything is rolled back, and the other counts mean nothing.
    if stored.missed.is_empty() {
        expect("map versions", maps.len(), layouts.len())?;
        expect("claims to delete", deletes.len(), deleted?)?;
        expect("claims to update", updates.len(), updated?)?;
        expect("claims to insert", inserts.len(), inserted?)?;
        expect("policies", policies.len(), amended?)?;
        expect("blocks", blocks.len(), blocked?)?;
        expect("gates", gates.len(), turned?)?;
        published?;
        telling?;
    }
    Ok(stored)
}

/// What the owner of a schedule's waiting room has to be told of holds, in as many notices as it takes.
fn to_room(schedule_id: ScheduleId, holds: &[HoldChange]) -> impl Iterator<Item = NewNotice> {
    holds.chunks(HOLDS_MAX).map(move |changes| {
        let notice_id = NoticeId(Uuid::now_v7());
        let kind = admission::Kind::Holds {
            notice_id,
            schedule_id,
            changes: changes.to_vec(),
        };
        NewNotice::to_room(notice_id, kind)
    })
}

/// Has the owner of a schedule's waiting room look how the schedule sells.
fn sale_to_room(schedule_id: ScheduleId) -> NewNotice {
    let notice_id = NoticeId(Uuid::now_v7());
    let kind = admission::Kind::Sale {
        notice_id,
        schedule_id,
    };
    NewNotice::to_room(notice_id, kind)
}

/// The partitions that decided by a layout that was replaced meanwhile.
fn replaced(changes: &[&Changes], layouts: &HashMap<ScheduleId, i64>) -> Stored {
    let is_replaced = |map: &MapChange| {
        let now = layouts.get(&map.schedule_id);
        now.is_some_and(|now| Some(*now) != map.layout_no)
    };
    let missed = changes.iter().enumerate();
    Stored {
        missed: missed
            .filter(|(_, c)| c.maps.iter().any(is_replaced))
            .map(|(index, _)| index)
            .collect(),
    }
}

/// The rows that the conditional statements have found.
struct Found {
    lasting: HashSet<ReservationId>,
    ended: HashSet<ReservationId>,
    made: HashSet<ReservationId>,
    /// Notices that were open.
    told: HashSet<NoticeId>,
}

impl Found {
    /// The partitions of which a row was not as expected: a payment was quicker than an expiry, a key
    /// was accepted elsewhere, or what a notice says was decided before.
    fn missed(&self, changes: &[&Changes]) -> HashSet<usize> {
        let has_missed = |c: &Changes| {
            let mut lasting = c.terms.iter().map(|term| term.reservation_id);
            let mut ended = c.ended.iter().map(|ended| ended.reservation_id);
            let made = c.reservations.iter();
            let mut made = made.map(|new| new.reservation.reservation_id);
            lasting.any(|id| !self.lasting.contains(&id))
                || ended.any(|id| !self.ended.contains(&id))
                || made.any(|id| !self.made.contains(&id))
                || c.notices_open.iter().any(|id| !self.told.contains(id))
        };
        let all = changes.iter().enumerate();
        all.filter(|(_, c)| has_missed(c))
            .map(|(index, _)| index)
            .collect()
    }
}

/// A column of rows.
pub(super) fn column<T, R, U>(rows: &[&R], f: impl Fn(&R) -> U) -> T
where
    T: FromIterator<U>,
{
    rows.iter().map(|row| f(row)).collect()
}

#[derive(QueryableByName)]
struct ReservationOnly {
    #[diesel(sql_type = SqlUuid)]
    reservation_id: ReservationId,
}

fn ids(rows: Vec<ReservationOnly>) -> HashSet<ReservationId> {
    rows.into_iter().map(|row| row.reservation_id).collect()
}

/// Postgres' text form of an array, because `unnest` takes no arrays of different lengths.
pub(crate) fn array_text(seats: &[SeatNo]) -> String {
    let mut text = String::with_capacity(2 + seats.len() * 6);
    text.push('{');
    for (index, seat) in seats.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(text, "{comma}{}", seat.0).expect("writing to a string can't fail");
    }
    text.push('}');
    text
}

async fn reservations_insert(
    mut conn: &AsyncPgConnection,
    rows: &[&NewReservation],
) -> Result<HashSet<ReservationId>, db::Error> {
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    let inserted = statement(
        "INSERT INTO reservation (reservation_id, schedule_id, user_id, command_id, fingerprint, \
             seat_nos, total, seat_limit, status, held_at, expires_at, ended_at, release_at, \
             ends_as, extended_by, given_back_by, first_expires_at, rehold_order, ticket_id) \
         SELECT id, schedule, who, command, print, seats::int[], total, lim, status, held, \
                expires, ended, release, ends_as, extended::uuid[], given_back_by, \
                first, rehold, ticket \
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], \
                     $7::numeric[], $8::int[], $9::text[], $10::timestamptz[], \
                     $11::timestamptz[], $12::timestamptz[], $13::timestamptz[], $14::text[], \
                     $15::text[], $16::uuid[], $17::timestamptz[], $18::uuid[], $19::uuid[]) \
              AS x(id, schedule, who, command, print, seats, total, lim, status, held, expires, \
                   ended, release, ends_as, extended, given_back_by, first, rehold, ticket) \
         ON CONFLICT (command_id) DO NOTHING RETURNING reservation_id",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.reservation.reservation_id))
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.schedule_id))
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.reservation.user_id))
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.reservation.command_id))
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.reservation.fingerprint.0))
    .bind::<Array<Text>, Vec<_>>(column(rows, |r| array_text(&r.reservation.seats)))
    .bind::<Array<Numeric>, Vec<_>>(column(rows, |r| r.reservation.total))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| {
        i32::try_from(r.reservation.seat_limit).unwrap_or(i32::MAX)
    }))
    .bind::<Array<Text>, Vec<_>>(column(rows, |r| r.reservation.status))
    .bind::<Array<Timestamptz>, Vec<_>>(column(rows, |r| r.reservation.held_at))
    .bind::<Array<Timestamptz>, Vec<_>>(column(rows, |r| r.reservation.term.expires_at))
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(column(rows, |r| r.reservation.ended_at))
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(column(rows, |r| later(&r.reservation.term)))
    .bind::<Array<Nullable<Text>>, Vec<_>>(column(rows, |r| r.reservation.term.ends_as))
    .bind::<Array<Nullable<Text>>, Vec<_>>(column(rows, |r| commands(&r.reservation.term)))
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(column(rows, |r| r.reservation.term.given_back_by))
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(column(rows, |r| first(&r.reservation.term)))
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(column(rows, |r| r.reservation.rehold_order))
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(column(rows, |r| {
        r.reservation.entry.map(|entry| entry.ticket_id)
    }))
    .load(&mut conn)
    .await?;
    Ok(ids(inserted))
}

/// When seats are released, unless it is as soon as the hold lapses.
fn later(term: &Term) -> Option<Timestamp> {
    (term.release_at > term.expires_at).then_some(term.release_at)
}

/// When a hold was to lapse at first, unless that is still so.
fn first(term: &Term) -> Option<Timestamp> {
    (term.first_expires_at != term.expires_at).then_some(term.first_expires_at)
}

/// Postgres' text form of the commands that made a hold last longer, if any did.
fn commands(term: &Term) -> Option<String> {
    let ids: Vec<String> = term.extended_by.iter().map(|id| id.0.to_string()).collect();
    (!ids.is_empty()).then(|| format!("{{{}}}", ids.join(",")))
}

async fn reservations_last(
    mut conn: &AsyncPgConnection,
    rows: &[&TermUpdate],
    ended: &[&Ended],
) -> Result<HashSet<ReservationId>, db::Error> {
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    // Locked in the order of the ids, as settlement does, with those that end as well.
    let lasting = statement(
        "WITH x AS MATERIALIZED ( \
             SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], \
                                  $4::timestamptz[], $5::text[], $6::text[], $7::uuid[], \
                                  $8::timestamptz[], $9::uuid[]) \
                  AS x(id, old, expires, release, ends_as, extended, given_back_by, first, \
                       paying)), \
         locked AS MATERIALIZED ( \
             SELECT reservation_id FROM reservation \
             WHERE reservation_id = ANY($1::uuid[] || $10::uuid[]) \
             ORDER BY reservation_id FOR UPDATE) \
         UPDATE reservation r SET expires_at = x.expires, release_at = x.release, \
             ends_as = x.ends_as, extended_by = x.extended::uuid[], \
             given_back_by = x.given_back_by, first_expires_at = x.first, \
             paying_order = x.paying FROM x, locked \
         WHERE r.reservation_id = x.id AND locked.reservation_id = x.id AND r.status = $11 \
           AND r.expires_at = x.old \
         RETURNING r.reservation_id",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.reservation_id))
    .bind::<Array<Timestamptz>, Vec<_>>(column(rows, |r| r.before.expires_at))
    .bind::<Array<Timestamptz>, Vec<_>>(column(rows, |r| r.after.expires_at))
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(column(rows, |r| later(&r.after)))
    .bind::<Array<Nullable<Text>>, Vec<_>>(column(rows, |r| r.after.ends_as))
    .bind::<Array<Nullable<Text>>, Vec<_>>(column(rows, |r| commands(&r.after)))
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(column(rows, |r| r.after.given_back_by))
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(column(rows, |r| first(&r.after)))
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(column(rows, |r| r.after.paying_order))
    .bind::<Array<SqlUuid>, Vec<_>>(column(ended, |r| r.reservation_id))
    .bind::<Text, _>(ReservationStatus::Held)
    .load(&mut conn)
    .await?;
    Ok(ids(lasting))
}

async fn reservations_end(
    mut conn: &AsyncPgConnection,
    rows: &[&Ended],
) -> Result<HashSet<ReservationId>, db::Error> {
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    // Locked in the order of the ids, as settlement does.
    let ended = statement(
        "WITH x AS MATERIALIZED ( \
             SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], \
                                  $5::uuid[]) \
                  AS x(id, old, new, at, by)), \
         locked AS MATERIALIZED ( \
             SELECT reservation_id FROM reservation WHERE reservation_id IN (SELECT id FROM x) \
             ORDER BY reservation_id FOR UPDATE) \
         UPDATE reservation r SET status = x.new, ended_at = x.at, \
             given_back_by = coalesce(x.by, r.given_back_by) FROM x, locked \
         WHERE r.reservation_id = x.id AND locked.reservation_id = x.id AND r.status = x.old \
         RETURNING r.reservation_id",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.reservation_id))
    .bind::<Array<Text>, Vec<_>>(column(rows, |r| r.from))
    .bind::<Array<Text>, Vec<_>>(column(rows, |r| r.to))
    .bind::<Array<Timestamptz>, Vec<_>>(column(rows, |r| r.at))
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(column(rows, |r| r.given_back_by))
    .load(&mut conn)
    .await?;
    Ok(ids(ended))
}

async fn claims_delete(
    mut conn: &AsyncPgConnection,
    rows: &[&ClaimDelete],
) -> Result<usize, db::Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    Ok(statement(
        "DELETE FROM seat_claim c USING unnest($1::uuid[], $2::int[], $3::uuid[]) \
             AS x(schedule, seat, reservation) \
         WHERE c.schedule_id = x.schedule AND c.seat_no = x.seat \
           AND c.reservation_id IS NOT DISTINCT FROM x.reservation",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.schedule_id))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| r.seat_no))
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(column(rows, |r| r.from))
    .execute(&mut conn)
    .await?)
}

async fn claims_update(
    mut conn: &AsyncPgConnection,
    rows: &[&ClaimUpdate],
) -> Result<usize, db::Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    Ok(statement(
        "UPDATE seat_claim c SET reservation_id = x.new, state = x.state \
         FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::uuid[], $5::text[]) \
             AS x(schedule, seat, old, new, state) \
         WHERE c.schedule_id = x.schedule AND c.seat_no = x.seat \
           AND c.reservation_id IS NOT DISTINCT FROM x.old",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.schedule_id))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| r.seat_no))
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(column(rows, |r| r.from))
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(column(rows, |r| r.to))
    .bind::<Array<Text>, Vec<_>>(column(rows, |r| r.state))
    .execute(&mut conn)
    .await?)
}

async fn claims_insert(
    mut conn: &AsyncPgConnection,
    rows: &[&ClaimInsert],
) -> Result<usize, db::Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    Ok(statement(
        "INSERT INTO seat_claim (schedule_id, seat_no, reservation_id, state) \
         SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::text[])",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.schedule_id))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| r.seat_no))
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(column(rows, |r| r.reservation_id))
    .bind::<Array<Text>, Vec<_>>(column(rows, |r| r.state))
    .execute(&mut conn)
    .await?)
}

/// Versions maps; says which layouts the schedules have.
async fn maps_version(
    mut conn: &AsyncPgConnection,
    rows: &[&MapChange],
) -> Result<HashMap<ScheduleId, i64>, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        schedule_id: ScheduleId,
        #[diesel(sql_type = BigInt)]
        layout_no: i64,
    }
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let versioned: Vec<Row> = statement(
        "UPDATE sale s SET map_version = x.new \
         FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS x(schedule, old, new) \
         WHERE s.schedule_id = x.schedule AND s.map_version = x.old \
         RETURNING s.schedule_id, s.layout_no",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.schedule_id))
    .bind::<Array<BigInt>, Vec<_>>(column(rows, |r| r.from_version))
    .bind::<Array<BigInt>, Vec<_>>(column(rows, |r| r.version))
    .load(&mut conn)
    .await?;
    let pairs = versioned
        .into_iter()
        .map(|row| (row.schedule_id, row.layout_no));
    Ok(pairs.collect())
}

async fn policies_update(
    mut conn: &AsyncPgConnection,
    rows: &[&PolicyUpdate],
) -> Result<usize, db::Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    Ok(statement(
        "UPDATE sale s SET state = x.state, booking_opens_at = x.opens, \
             booking_closes_at = x.closes, hold_ms = x.hold_ms, seats_per_user = x.seats, \
             extensions_max = x.extensions, hold_total_ms = x.total_ms, \
             prevents_orphans = x.orphans, release_jitter_ms = x.jitter_ms, \
             cancelled = x.cancelled \
         FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], \
                     $6::int[], $7::int[], $8::bigint[], $9::bool[], $10::bigint[], $11::bool[]) \
              AS x(schedule, state, opens, closes, hold_ms, seats, extensions, total_ms, orphans, \
                   jitter_ms, cancelled) \
         WHERE s.schedule_id = x.schedule",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.schedule_id))
    .bind::<Array<Text>, Vec<_>>(column(rows, |r| r.after.state))
    .bind::<Array<Timestamptz>, Vec<_>>(column(rows, |r| r.after.booking_opens_at))
    .bind::<Array<Timestamptz>, Vec<_>>(column(rows, |r| r.after.booking_closes_at))
    .bind::<Array<BigInt>, Vec<_>>(column(rows, |r| r.after.hold_ms))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| {
        i32::try_from(r.after.seats_per_user).unwrap_or(i32::MAX)
    }))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| {
        i32::try_from(r.after.extensions_max).unwrap_or(i32::MAX)
    }))
    .bind::<Array<BigInt>, Vec<_>>(column(rows, |r| r.after.hold_total_ms))
    .bind::<Array<Bool>, Vec<_>>(column(rows, |r| r.after.prevents_orphans))
    .bind::<Array<BigInt>, Vec<_>>(column(rows, |r| r.after.release_jitter_ms))
    .bind::<Array<Bool>, Vec<_>>(column(rows, |r| r.after.cancelled))
    .execute(&mut conn)
    .await?)
}

async fn gates_update(
    mut conn: &AsyncPgConnection,
    rows: &[&GateUpdate],
) -> Result<usize, db::Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    Ok(statement(
        "UPDATE sale s SET pass_required_since = x.since, room_version = x.new \
         FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::bigint[]) \
              AS x(schedule, since, old, new) \
         WHERE s.schedule_id = x.schedule AND s.room_version = x.old",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.schedule_id))
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(column(rows, |r| r.after.pass_required_since))
    .bind::<Array<BigInt>, Vec<_>>(column(rows, |r| r.before.room_version))
    .bind::<Array<BigInt>, Vec<_>>(column(rows, |r| r.after.room_version))
    .execute(&mut conn)
    .await?)
}

async fn facts_insert(mut conn: &AsyncPgConnection, rows: &[&Facts]) -> Result<usize, db::Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    Ok(statement(
        "INSERT INTO outbox (topic, aggregate_id, seq, payload) \
         SELECT 'seats', * FROM unnest($1::uuid[], $2::bigint[], $3::bytea[])",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.schedule_id))
    .bind::<Array<BigInt>, Vec<_>>(column(rows, |r| r.version))
    .bind::<Array<Binary>, Vec<_>>(column(rows, encode))
    .execute(&mut conn)
    .await?)
}
