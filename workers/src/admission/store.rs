//! Writes what batches of admission decisions changed: a fixed number of set-based statements, all
//! sent before the first is answered, however large the batches are.

use super::load::{ARRIVAL, DRAWN, StoredHold};
use crate::outbox::notices::{self, NewNotice};
use crate::runtime::fence;
use crate::runtime::lane::{Stored, expect};
use diesel::QueryableByName;
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_domain::admission::{
    Changes, NewTicket, RoomChanges, RoomRow, RoomUpdate, Slot, TicketUpdate,
};
use onsale_platform::db;
use onsale_platform::sql::statement;
use onsale_schema::admission::{Lobby, Order};
use onsale_schema::seats::TICKETS_MAX;
use onsale_schema::{AccessCodeId, ArrivalNo, NoticeId, ScheduleId, TicketId, Timestamp, seats};
use std::collections::HashSet;
use uuid::Uuid;

/// A ticket to insert, and its room.
type New<'a> = (ScheduleId, &'a NewTicket);
/// A ticket to update, and its room and number.
type Changed<'a> = (ScheduleId, ArrivalNo, &'a TicketUpdate);

/// Stores the changes of several partitions, inside the open transaction.
///
/// # Errors
/// When Postgres fails, or rows are not as the owner knows them.
pub(super) async fn changes(
    conn: &AsyncPgConnection,
    changes: &[&Changes],
) -> Result<Stored, db::Error> {
    let all = || changes.iter().flat_map(|c| &c.rooms);
    let rooms: Vec<&RoomUpdate> = all().filter_map(|(_, room)| room.room.as_ref()).collect();
    let made: Vec<New<'_>> = all()
        .flat_map(|(id, room)| room.joined.iter().map(move |new| (*id, new)))
        .collect();
    let updates: Vec<Changed<'_>> = all()
        .flat_map(|(id, room)| room.updates.iter().map(move |(no, to)| (*id, *no, to)))
        .collect();
    let revoked: Vec<(AccessCodeId, Timestamp)> = all()
        .flat_map(|(_, room)| room.revoked.iter().copied())
        .collect();
    let used: Vec<(AccessCodeId, u32)> = all()
        .flat_map(|(_, room)| room.used.iter().map(|(code, times)| (*code, *times)))
        .collect();
    let done: Vec<NoticeId> = changes
        .iter()
        .flat_map(|c| c.notices_done.iter().copied())
        .collect();
    let ended = all().flat_map(|(id, room)| passes_over(*id, room));
    let told = rooms.iter().filter_map(|room| turned(room));
    let told: Vec<NewNotice> = told.chain(ended).collect();

    // Polled in this order, so they are sent in this order: who has left may be in line again.
    let (written, updated, inserted, using, revoking, noted, telling) = tokio::join!(
        biased;
        rooms_write(conn, &rooms),
        tickets_update(conn, &updates),
        tickets_insert(conn, &made),
        codes_use(conn, &used),
        codes_revoke(conn, &revoked),
        fence::notices_done(conn, &done),
        notices::insert(conn, &told),
    );
    let written = written?;
    let inserted = inserted?;
    let missed = missed(changes, &inserted);
    // After a miss everything is rolled back, and the other counts mean nothing.
    if missed.is_empty() {
        expect("rooms", rooms.len(), written)?;
        expect("tickets to update", updates.len(), updated?)?;
        using?;
        revoking?;
        noted?;
        telling?;
    }
    Ok(Stored { missed })
}

/// What the owner of the seats has to be told of a room that was turned on or off.
fn turned(room: &RoomUpdate) -> Option<NewNotice> {
    let pass_required = room.turned()?;
    let notice_id = NoticeId(Uuid::now_v7());
    let kind = seats::Kind::Room {
        notice_id,
        schedule_id: room.after.schedule_id,
        pass_required,
        version: room.after.version,
    };
    Some(NewNotice::to_seats(notice_id, notice_id.0, kind))
}

/// What it has to be told of tickets that ended before their passes, in as many notices as it takes.
fn passes_over(schedule_id: ScheduleId, room: &RoomChanges) -> Vec<NewNotice> {
    let updates = room.updates.iter();
    let over = updates.filter(|(_, to)| to.leaves_a_pass());
    let over: Vec<ArrivalNo> = over.map(|(no, _)| *no).collect();
    let notices = over.chunks(TICKETS_MAX).map(|tickets| {
        let notice_id = NoticeId(Uuid::now_v7());
        let kind = seats::Kind::PassesOver {
            notice_id,
            schedule_id,
            tickets: tickets.to_vec(),
        };
        NewNotice::to_seats(notice_id, notice_id.0, kind)
    });
    notices.collect()
}

/// The partitions with a ticket that was not inserted: the command has made one before.
fn missed(changes: &[&Changes], inserted: &HashSet<(ScheduleId, TicketId)>) -> HashSet<usize> {
    let has_missed = |c: &Changes| {
        let mut rooms = c.rooms.iter();
        rooms.any(|(id, room)| {
            let mut joined = room.joined.iter();
            joined.any(|new| !inserted.contains(&(*id, new.ticket_id)))
        })
    };
    let all = changes.iter().enumerate();
    all.filter(|(_, c)| has_missed(c))
        .map(|(index, _)| index)
        .collect()
}

/// Writes the rows of rooms: the first version of one makes it, each other must follow on the one
/// before.
async fn rooms_write(
    mut conn: &AsyncPgConnection,
    rows: &[&RoomUpdate],
) -> Result<usize, db::Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    Ok(statement(
        "INSERT INTO waiting_room AS w (schedule_id, secret, mode, paused, opens_at, capacity, \
             rate_per_second, pass_ms, presence_ms, holds_per_pass, beacon_name, version, arrivals, \
             digest, closed_at, lobby_size, lobby_digest, beacon, lobby_order, seed, front, \
             admissions, rate_used, latest, guest_front, cancelled) \
         SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::text[], $4::bool[], $5::timestamptz[], \
                    $6::int[], $7::int[], $8::bigint[], $9::bigint[], $10::int[], $11::text[], \
                    $12::bigint[], $13::int[], $14::bytea[], $15::timestamptz[], $16::int[], \
                    $17::bytea[], $18::bytea[], $19::text[], $20::bytea[], $21::int[], $22::int[], \
                    $23::timestamptz[], $24::timestamptz[], $25::int[], $26::bool[]) \
              AS x(schedule, secret, mode, paused, opens, capacity, rate, pass_ms, presence_ms, \
                   holds, beacon_name, version, arrivals, digest, closed, size, lobby_digest, \
                   beacon, lobby_order, seed, front, admissions, rate_used, latest, guests, cancelled) \
         WHERE version = 1 OR EXISTS (SELECT FROM waiting_room known \
                                      WHERE known.schedule_id = x.schedule) \
         ON CONFLICT (schedule_id) DO UPDATE SET mode = excluded.mode, paused = excluded.paused, \
             opens_at = excluded.opens_at, capacity = excluded.capacity, \
             rate_per_second = excluded.rate_per_second, pass_ms = excluded.pass_ms, \
             presence_ms = excluded.presence_ms, holds_per_pass = excluded.holds_per_pass, \
             holds_per_pass_before = greatest(w.holds_per_pass_before, w.holds_per_pass), \
             beacon_name = excluded.beacon_name, version = excluded.version, \
             arrivals = excluded.arrivals, digest = excluded.digest, \
             closed_at = excluded.closed_at, lobby_size = excluded.lobby_size, \
             lobby_digest = excluded.lobby_digest, beacon = excluded.beacon, \
             lobby_order = excluded.lobby_order, seed = excluded.seed, front = excluded.front, \
             admissions = excluded.admissions, rate_used = excluded.rate_used, \
             latest = excluded.latest, guest_front = excluded.guest_front, \
             cancelled = excluded.cancelled \
         WHERE w.version = excluded.version - 1",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(column(rows, |r| r.schedule_id))
    .bind::<Array<Binary>, Vec<_>>(rows.iter().map(|r| r.secret.0.to_vec()).collect())
    .bind::<Array<Text>, Vec<_>>(column(rows, |r| r.policy.mode))
    .bind::<Array<Bool>, Vec<_>>(column(rows, |r| r.policy.paused))
    .bind::<Array<Timestamptz>, Vec<_>>(column(rows, |r| r.policy.opens_at))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| signed(r.policy.capacity)))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| signed(r.policy.rate_per_second)))
    .bind::<Array<BigInt>, Vec<_>>(column(rows, |r| r.policy.pass_ms))
    .bind::<Array<BigInt>, Vec<_>>(column(rows, |r| r.policy.presence_ms))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| signed(r.policy.holds_per_pass)))
    .bind::<Array<Nullable<Text>>, Vec<_>>(column(rows, |r| r.beacon_name.clone()))
    .bind::<Array<BigInt>, Vec<_>>(column(rows, |r| r.version))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| signed(r.arrivals)))
    .bind::<Array<Binary>, Vec<_>>(column(rows, |r| r.digest.0.to_vec()))
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(lobby(rows, |l| Some(l.closed_at)))
    .bind::<Array<Nullable<Integer>>, Vec<_>>(lobby(rows, |l| Some(signed(l.size))))
    .bind::<Array<Nullable<Binary>>, Vec<_>>(lobby(rows, |l| Some(l.digest.0.to_vec())))
    .bind::<Array<Nullable<Binary>>, Vec<_>>(lobby(rows, |l| l.beacon.clone()))
    .bind::<Array<Nullable<Text>>, Vec<_>>(lobby(rows, |l| l.order.map(order)))
    .bind::<Array<Nullable<Binary>>, Vec<_>>(lobby(rows, |l| l.order.and_then(seed)))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| signed(r.front.0)))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| signed(r.admissions)))
    .bind::<Array<Timestamptz>, Vec<_>>(column(rows, |r| r.rate_used))
    .bind::<Array<Timestamptz>, Vec<_>>(column(rows, |r| r.latest))
    .bind::<Array<Integer>, Vec<_>>(column(rows, |r| signed(r.guest_front.0)))
    .bind::<Array<Bool>, Vec<_>>(column(rows, |r| r.is_cancelled))
    .execute(&mut conn)
    .await?)
}

/// A column of rooms as they are.
fn column<U>(rows: &[&RoomUpdate], f: impl Fn(&RoomRow) -> U) -> Vec<U> {
    rows.iter().map(|row| f(&row.after)).collect()
}

/// A column of their lobbies, where those are closed.
fn lobby<U>(rows: &[&RoomUpdate], f: impl Fn(&Lobby) -> Option<U>) -> Vec<Option<U>> {
    let lobbies = rows.iter().map(|row| row.after.lobby.as_ref());
    lobbies.map(|lobby| lobby.and_then(&f)).collect()
}

fn order(order: Order) -> &'static str {
    match order {
        Order::Arrival => ARRIVAL,
        Order::Drawn { .. } => DRAWN,
    }
}

fn seed(order: Order) -> Option<Vec<u8>> {
    match order {
        Order::Arrival => None,
        Order::Drawn { seed } => Some(seed.0.to_vec()),
    }
}

/// Counts of a room are far below what an integer takes.
fn signed(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Inserts tickets but for those whose command has made one before; says which were inserted.
async fn tickets_insert(
    mut conn: &AsyncPgConnection,
    rows: &[New<'_>],
) -> Result<HashSet<(ScheduleId, TicketId)>, db::Error> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = SqlUuid)]
        schedule_id: ScheduleId,
        #[diesel(sql_type = SqlUuid)]
        ticket_id: TicketId,
    }
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    let inserted: Vec<Row> = statement(
        "INSERT INTO ticket (schedule_id, arrival_no, ticket_id, user_id, fingerprint, status, \
             joined_at, ended_at, access_code_id) \
         SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::uuid[], $5::uuid[], \
                              $6::text[], $7::timestamptz[], $8::timestamptz[], $9::uuid[]) \
         ON CONFLICT (ticket_id) DO NOTHING RETURNING schedule_id, ticket_id",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|(id, _)| *id).collect())
    .bind::<Array<Integer>, Vec<_>>(of(rows, |new| signed(new.arrival_no.0)))
    .bind::<Array<SqlUuid>, Vec<_>>(of(rows, |new| new.ticket_id))
    .bind::<Array<SqlUuid>, Vec<_>>(of(rows, |new| new.user_id))
    .bind::<Array<SqlUuid>, Vec<_>>(of(rows, |new| new.fingerprint.0))
    .bind::<Array<Text>, Vec<_>>(of(rows, |new| new.status))
    .bind::<Array<Timestamptz>, Vec<_>>(of(rows, |new| new.joined_at))
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(of(rows, |new| new.ended_at))
    .bind::<Array<Nullable<SqlUuid>>, Vec<_>>(of(rows, |new| new.access_code_id))
    .load(&mut conn)
    .await?;
    let pairs = inserted
        .into_iter()
        .map(|row| (row.schedule_id, row.ticket_id));
    Ok(pairs.collect())
}

fn of<U>(rows: &[New<'_>], f: impl Fn(&NewTicket) -> U) -> Vec<U> {
    rows.iter().map(|(_, new)| f(new)).collect()
}

/// Counts accounts that use codes for the first time. What the rows say is added to, so that none is
/// used more often than it allows, whatever was counted here; a code whose row was lost with a restore is
/// bounded by what it says itself, and the audit tells of it.
async fn codes_use(
    mut conn: &AsyncPgConnection,
    used: &[(AccessCodeId, u32)],
) -> Result<usize, db::Error> {
    if used.is_empty() {
        return Ok(0);
    }
    let (codes, times): (Vec<_>, Vec<_>) = used
        .iter()
        .map(|(code, times)| (*code, signed(*times)))
        .unzip();
    Ok(statement(
        "UPDATE access_code AS c SET used = c.used + x.times \
         FROM unnest($1::uuid[], $2::int[]) AS x(code, times) WHERE c.access_code_id = x.code",
    )
    .bind::<Array<SqlUuid>, _>(codes)
    .bind::<Array<Integer>, _>(times)
    .execute(&mut conn)
    .await?)
}

/// Notes that codes were revoked; one that was before stays so.
async fn codes_revoke(
    mut conn: &AsyncPgConnection,
    revoked: &[(AccessCodeId, Timestamp)],
) -> Result<usize, db::Error> {
    if revoked.is_empty() {
        return Ok(0);
    }
    let (codes, times): (Vec<_>, Vec<_>) = revoked.iter().copied().unzip();
    Ok(statement(
        "UPDATE access_code AS c SET revoked_at = x.at \
         FROM unnest($1::uuid[], $2::timestamptz[]) AS x(code, at) \
         WHERE c.access_code_id = x.code AND c.revoked_at IS NULL",
    )
    .bind::<Array<SqlUuid>, _>(codes)
    .bind::<Array<Timestamptz>, _>(times)
    .execute(&mut conn)
    .await?)
}

/// Updates tickets that are as their owner knows them.
async fn tickets_update(
    mut conn: &AsyncPgConnection,
    rows: &[Changed<'_>],
) -> Result<usize, db::Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    Ok(statement(
        "UPDATE ticket t SET status = x.new, ended_at = x.ended, admission_no = x.admission, \
             admitted_at = x.admitted, place = x.place, active_before = x.active, \
             capacity = x.capacity, was_passed = x.was_passed, pass_until = x.pass_until, \
             holds = x.holds::jsonb \
         FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::timestamptz[], $6::int[], \
                     $7::timestamptz[], $8::int[], $9::int[], $10::int[], $11::bool[], \
                     $12::timestamptz[], $13::text[]) \
              AS x(schedule, no, old, new, ended, admission, admitted, place, active, capacity, \
                   was_passed, pass_until, holds) \
         WHERE t.schedule_id = x.schedule AND t.arrival_no = x.no AND t.status = x.old",
    )
    .bind::<Array<SqlUuid>, Vec<_>>(rows.iter().map(|(id, ..)| *id).collect())
    .bind::<Array<Integer>, Vec<_>>(rows.iter().map(|(_, no, _)| signed(no.0)).collect())
    .bind::<Array<Text>, Vec<_>>(rows.iter().map(|(.., to)| to.from).collect())
    .bind::<Array<Text>, Vec<_>>(rows.iter().map(|(.., to)| to.to).collect())
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(rows.iter().map(|(.., to)| to.ended_at).collect())
    .bind::<Array<Nullable<Integer>>, Vec<_>>(slot(rows, |s| Some(signed(s.admission.no))))
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(slot(rows, |s| Some(s.admission.at)))
    .bind::<Array<Nullable<Integer>>, Vec<_>>(slot(rows, |s| {
        s.admission.place.map(|place| signed(place.0))
    }))
    .bind::<Array<Nullable<Integer>>, Vec<_>>(slot(rows, |s| {
        Some(signed(s.admission.active_before))
    }))
    .bind::<Array<Nullable<Integer>>, Vec<_>>(slot(rows, |s| s.admission.capacity.map(signed)))
    .bind::<Array<Nullable<Bool>>, Vec<_>>(slot(rows, |s| Some(s.admission.was_passed)))
    .bind::<Array<Nullable<Timestamptz>>, Vec<_>>(slot(rows, |s| Some(s.pass_until)))
    .bind::<Array<Nullable<Text>>, Vec<_>>(slot(rows, holds))
    .execute(&mut conn)
    .await?)
}

/// A column of what tickets were admitted to, where they were.
fn slot<U>(rows: &[Changed<'_>], f: impl Fn(&Slot) -> Option<U>) -> Vec<Option<U>> {
    let slots = rows.iter().map(|(.., to)| to.slot.as_ref());
    slots.map(|slot| slot.and_then(&f)).collect()
}

/// The holds that were made with a pass, as they are stored; none for none.
fn holds(slot: &Slot) -> Option<String> {
    let holds: Vec<StoredHold> = slot
        .holds
        .iter()
        .map(|hold| (hold.reservation_id, hold.until.micros(), hold.is_over))
        .collect();
    let text = || serde_json::to_string(&holds).expect("ids and numbers have a JSON form");
    (!holds.is_empty()).then(text)
}
