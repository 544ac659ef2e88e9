//! A healthy system of one schedule, and functions in SQL that change it.

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use onsale::audit::{self, Options, Report};
use onsale::seed::{self, Layout, NewConcert, NewSchedule, Policy};
use onsale_platform::{clock, db};
use onsale_schema::status::SaleState;
use onsale_schema::{ConcertId, ScheduleId};
use onsale_testkit::TestDb;
use uuid::Uuid;

pub const SCHEDULE: ScheduleId = ScheduleId(Uuid::from_u128(0x10));

/// A small system with a bit of everything, all of it in order.
const HEALTHY: &str = "
    CREATE FUNCTION id(n integer) RETURNS uuid LANGUAGE sql IMMUTABLE
        AS $$ SELECT lpad(to_hex(n), 32, '0')::uuid $$;
    CREATE FUNCTION at(s integer) RETURNS timestamptz LANGUAGE sql IMMUTABLE
        AS $$ SELECT '2026-01-01T00:00:00Z'::timestamptz + s * interval '1 second' $$;
    CREATE FUNCTION reserve(n integer, buyer integer, seats integer[], state text, held integer,
                            due integer, ended integer) RETURNS void LANGUAGE sql AS $$
        INSERT INTO reservation (reservation_id, schedule_id, user_id, command_id, fingerprint,
                                 seat_nos, total, seat_limit, status, held_at, expires_at, ended_at)
        VALUES (id(n), id(16), id(buyer), id(n + 100), id(0), seats, 1000 * cardinality(seats), 4,
                state, at(held), at(due), at(ended));
        INSERT INTO seat_claim (schedule_id, seat_no, reservation_id, state)
        SELECT id(16), seat_no, id(n), CASE state WHEN 'HELD' THEN 'H' ELSE 'S' END
        FROM unnest(seats) AS seats (seat_no) WHERE state IN ('HELD', 'PAID') $$;
    CREATE FUNCTION cancel(n integer, of integer, seats integer[], at_s integer) RETURNS void
        LANGUAGE sql AS $$
        INSERT INTO cancellation VALUES (id(n), id(of), id(16), id(n + 100), id(0), id(1), seats,
            1000 * cardinality(seats), 1000 * cardinality(seats), 0, at(at_s)) $$;
    CREATE FUNCTION pay_nothing(n integer, of integer, buyer integer, at_s integer) RETURNS void
        LANGUAGE sql AS $$
        UPDATE reservation SET total = 0 WHERE reservation_id = id(of);
        INSERT INTO payment VALUES (id(n), id(of), id(buyer), id(n + 100), id(0), 'POINTS', 0,
                                    'PAID', NULL, NULL, at(at_s)) $$;
    -- One hold lapsed before the money came; its seat was still free.
    CREATE FUNCTION late() RETURNS void LANGUAGE sql AS $$
        SELECT reserve(1006, 3, '{6}', 'EXPIRED', 10, 40, 41);
        SELECT reserve(1007, 3, '{6}', 'PAID', 60, 60, NULL);
        UPDATE reservation SET rehold_order = id(901) WHERE reservation_id = id(1007);
        INSERT INTO payment_order (order_id, reservation_id, schedule_id, user_id, command_id,
                                   fingerprint, amount, status, payment_key, confirm_command_id,
                                   confirm_fingerprint, rehold_id, captured, created_at, updated_at)
        VALUES (id(901), id(1006), id(16), id(3), id(902), id(0), 1000, 'REHOLDING', 'key', id(903),
                id(0), id(1007), 1000, at(30), now()) $$;
    -- A reservation that was paid through the gateway.
    CREATE FUNCTION captured() RETURNS void LANGUAGE sql AS $$
        SELECT reserve(1012, 3, '{4}', 'PAID', 10, 310, NULL);
        INSERT INTO payment_order (order_id, reservation_id, schedule_id, user_id, command_id,
                                   fingerprint, amount, status, payment_key, confirm_command_id,
                                   confirm_fingerprint, captured, created_at, updated_at)
        VALUES (id(931), id(1012), id(16), id(3), id(932), id(0), 1000, 'PAID', 'k1', id(933), id(0),
                1000, at(12), at(20));
        INSERT INTO payment (payment_id, reservation_id, user_id, command_id, fingerprint, method,
                             amount, status, at, order_id)
        VALUES (id(406), id(1012), id(3), id(933), id(0), 'GATEWAY', 1000, 'PAID', at(20),
                id(931)) $$;
    -- One whose money came too late, and is on its way back.
    CREATE FUNCTION too_late() RETURNS void LANGUAGE sql AS $$
        SELECT reserve(1013, 3, '{5}', 'EXPIRED', 10, 40, 41);
        INSERT INTO payment_order (order_id, reservation_id, schedule_id, user_id, command_id,
                                   fingerprint, amount, status, payment_key, confirm_command_id,
                                   confirm_fingerprint, captured, created_at, updated_at)
        VALUES (id(941), id(1013), id(16), id(3), id(942), id(0), 1000, 'REFUNDING', 'k2', id(943),
                id(0), 1000, at(12), now());
        INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, created_at)
        VALUES (id(944), id(941), id(3), id(941), 'GATEWAY', 1000, 'PENDING', now()) $$;
    -- A charge by card, and the points that it became.
    CREATE FUNCTION charge_card(state text, captured integer) RETURNS void LANGUAGE sql AS $$
        INSERT INTO payment_order (order_id, user_id, command_id, fingerprint, amount, status,
                                   payment_key, confirm_command_id, confirm_fingerprint, captured,
                                   created_at, updated_at)
        VALUES (id(961), id(1), id(962), id(0), 1000, state, 'k3', id(963), id(0), captured, at(35),
                now()) $$;
    CREATE FUNCTION credit_card(points integer) RETURNS void LANGUAGE sql AS $$
        INSERT INTO transfer VALUES (id(961), id(961), id(0), 'CHARGE',
            '00000000-0000-0000-0000-00000000ca4d', id(1), points, 3000 + points, at(40));
        UPDATE account SET balance = 3000 + points WHERE account_id = id(1) $$;
    CREATE FUNCTION refund_card() RETURNS void LANGUAGE sql AS $$
        INSERT INTO refund (refund_id, key, user_id, order_id, method, amount, status, created_at)
        VALUES (id(964), id(961), id(1), id(961), 'GATEWAY', 1000, 'PENDING', now()) $$;
    -- One of two seats was cancelled, and went to somebody else.
    CREATE FUNCTION partly() RETURNS void LANGUAGE sql AS $$
        SELECT reserve(1008, 4, '{7,8}', 'PAID', 10, 310, NULL);
        SELECT pay_nothing(404, 1008, 4, 20);
        SELECT cancel(921, 1008, '{7}', 30);
        UPDATE reservation SET cancelled_seat_nos = '{7}' WHERE reservation_id = id(1008);
        DELETE FROM seat_claim WHERE seat_no = 7;
        SELECT reserve(1009, 5, '{7}', 'HELD', 30, 330, NULL) $$;
    INSERT INTO account VALUES (id(1), 3000), (id(2), 0);
    INSERT INTO transfer VALUES
        (id(301), id(201), id(0), 'CHARGE', '00000000-0000-0000-0000-00000000ca54', id(1), 5000,
         5000, at(1)),
        (id(302), id(1001), id(0), 'PAYMENT', id(1), '00000000-0000-0000-0000-000000005a1e', 2000,
         3000, at(20));
    SELECT reserve(1001, 1, '{0,1}', 'PAID', 10, 310, NULL);
    SELECT reserve(1002, 2, '{2}', 'HELD', 10, 310, NULL);
    SELECT reserve(1003, 2, '{3}', 'EXPIRED', 10, 310, 311);
    SELECT reserve(1004, 1, '{3}', 'RELEASED', 311, 611, 400);
    SELECT reserve(1005, 2, '{3}', 'HELD', 400, 700, NULL);
    INSERT INTO payment VALUES
        (id(401), id(1001), id(1), id(501), id(0), 'POINTS', 2000, 'FAILED', 'insufficient-points',
         NULL, at(15)),
        (id(402), id(1001), id(1), id(502), id(0), 'POINTS', 2000, 'PAID', NULL, id(302), at(20));
    INSERT INTO seat_block VALUES
        (id(801), id(16), id(811), false, '{3,9}', id(9), 'a camera', id(0), at(1)),
        (id(802), id(16), id(811), true, '{3}', id(9), NULL, id(0), at(10)),
        (id(803), id(16), id(812), false, '{4}', id(9), 'by mistake', id(0), at(1)),
        (id(804), id(16), id(812), true, '{4}', id(9), 'so it was', id(0), at(1));
    INSERT INTO seat_claim VALUES (id(16), 9, NULL, 'B');
    INSERT INTO partition VALUES ('seats', 0, NULL, 2, 9, 0, 3, at(30));
    INSERT INTO outcome VALUES
        ('seats', 0, 0, 1, 1, 7, id(601), '', at(10)), ('seats', 0, 0, 2, 1, 7, id(602), '', at(10)),
        ('seats', 0, 0, 3, 2, 9, id(603), '', at(30)),
        ('ledger', -1, 0, 5, 0, 0, id(604), '', at(30)), ('ledger', -1, 0, 6, 0, 0, id(605), '', at(20));
    -- One seat of the paid reservation is given up.
    CREATE FUNCTION cancel_one(price integer, fee integer) RETURNS void LANGUAGE sql AS $$
        DELETE FROM seat_claim WHERE seat_no = 1;
        UPDATE reservation SET cancelled_seat_nos = '{1}' WHERE reservation_id = id(1001);
        INSERT INTO cancellation VALUES (id(901), id(1001), id(16), id(911), id(0), id(1), '{1}',
            price, fee, price - fee, at(30));
        INSERT INTO transfer VALUES (id(303), id(901), id(0), 'REFUND',
            '00000000-0000-0000-0000-000000005a1e', id(1), price - fee, 3000 + price - fee, at(30));
        UPDATE account SET balance = 3000 + price - fee WHERE account_id = id(1);
        UPDATE payment SET refunded = price - fee WHERE status = 'PAID';
        INSERT INTO refund (refund_id, key, user_id, payment_id, method, amount, status, transfer_id,
                            created_at, done_at)
        VALUES (id(921), id(901), id(1), id(402), 'POINTS', price - fee, 'DONE', id(303), at(30),
                at(30)) $$;
    -- A drawn room of three; the second of its line came back after it was passed over.
    INSERT INTO waiting_room (schedule_id, secret, mode, paused, opens_at, capacity,
            rate_per_second, pass_ms, presence_ms, holds_per_pass, version, arrivals, digest,
            closed_at, lobby_size, lobby_digest, lobby_order, seed, front, admissions, rate_used,
            latest)
        VALUES (id(16), sha256('s'), 'DRAW', false, at(5), 2, 10, 60000, 60000, 4, 9, 5, sha256('t'),
            at(5), 3, sha256('u'), 'DRAWN', sha256('v'), 4, 4, at(9), at(40));
    CREATE FUNCTION stand(n integer, buyer integer) RETURNS void LANGUAGE sql AS $$
        INSERT INTO ticket (ticket_id, schedule_id, arrival_no, user_id, fingerprint, status,
                            joined_at)
        VALUES (id(2000 + n), id(16), n, id(buyer), id(0), 'WAITING', at(n)) $$;
    CREATE FUNCTION admit(n integer, no integer, from_place integer, at_s integer, active integer,
                          passed boolean) RETURNS void LANGUAGE sql AS $$
        UPDATE ticket SET status = 'ADMITTED', admission_no = no, admitted_at = at(at_s),
            place = from_place, active_before = active, capacity = 2, was_passed = passed,
            pass_until = at(at_s + 60) WHERE arrival_no = n $$;
    CREATE FUNCTION finish(n integer, state text, at_s integer) RETURNS void LANGUAGE sql AS $$
        UPDATE ticket SET status = state, ended_at = at(at_s) WHERE arrival_no = n $$;
    SELECT stand(0, 1), stand(1, 2), stand(2, 3), stand(3, 4), stand(4, 5);
    SELECT admit(2, 0, 0, 6, 0, false), admit(1, 1, 2, 7, 1, false);
    SELECT finish(2, 'DONE', 20);
    SELECT admit(0, 2, 1, 20, 1, true);
    SELECT finish(1, 'LEFT', 30);
    SELECT admit(3, 3, 3, 31, 1, false);
    -- The fifth is a guest, and is let in.
    CREATE FUNCTION invite(n integer, no integer, at_s integer) RETURNS void LANGUAGE sql AS $$
        INSERT INTO access_code VALUES (id(951), id(16), id(0), 'guests', 'VIP', 2, at(0), at(40),
            id(0), at(0), NULL, 0) ON CONFLICT DO NOTHING;
        UPDATE access_code SET used = used + 1;
        UPDATE ticket SET access_code_id = id(951), joined_at = at(at_s - 1) WHERE arrival_no = n;
        SELECT admit(n, no, NULL, at_s, 1, false);
        UPDATE waiting_room SET admissions = no + 1, guest_front = n + 1 $$;
    CREATE FUNCTION guest() RETURNS void LANGUAGE sql AS $$
        SELECT finish(0, 'EXPIRED', 32);
        SELECT invite(4, 4, 33) $$;
    -- And the next one, who is the sixth.
    CREATE FUNCTION guests() RETURNS void LANGUAGE sql AS $$
        SELECT guest();
        SELECT finish(4, 'DONE', 34);
        SELECT stand(5, 6);
        UPDATE waiting_room SET arrivals = 6;
        SELECT invite(5, 5, 35) $$;
    -- The later of them first.
    CREATE FUNCTION guests_turned() RETURNS void LANGUAGE sql AS $$
        SELECT guests();
        ALTER TABLE ticket ALTER arrival_no DROP NOT NULL;
        UPDATE ticket SET arrival_no = NULL WHERE arrival_no = 4;
        UPDATE ticket SET arrival_no = 4 WHERE arrival_no = 5;
        UPDATE ticket SET arrival_no = 5 WHERE arrival_no IS NULL $$;
    -- One of them with a code of its own.
    CREATE FUNCTION presale(n integer, good_until integer) RETURNS void LANGUAGE sql AS $$
        INSERT INTO access_code VALUES (id(952), id(16), id(0), 'fans', 'PRESALE', 1, at(0),
            at(good_until), id(0), at(0), NULL, 1);
        UPDATE access_code SET used = used - 1 WHERE access_code_id = id(951);
        UPDATE ticket SET access_code_id = id(952) WHERE arrival_no = n $$;
    -- Nobody has come but that guest, and the lobby is open.
    CREATE FUNCTION early(grants text, good_until integer) RETURNS void LANGUAGE sql AS $$
        SELECT guest();
        DELETE FROM ticket WHERE arrival_no < 4;
        UPDATE ticket SET arrival_no = 0, admission_no = 0, active_before = 0;
        UPDATE waiting_room SET arrivals = 1, admissions = 1, guest_front = 1, front = 0,
            closed_at = NULL, lobby_size = NULL, lobby_digest = NULL, lobby_order = NULL, seed = NULL;
        UPDATE access_code SET granted = grants, valid_until = at(good_until) $$;
    -- Since a while holds take a pass.
    UPDATE sale SET pass_required_since = at(500), room_version = 9 WHERE schedule_id = id(16);
    UPDATE ticket SET pass_until = at(600) WHERE arrival_no = 0;
    CREATE FUNCTION enter(n integer, buyer integer, no integer, held integer) RETURNS void
        LANGUAGE sql AS $$
        SELECT reserve(n, buyer, '{5}', 'EXPIRED', held, held + 1, held + 2);
        UPDATE reservation SET ticket_id = id(2000 + no) WHERE reservation_id = id(n) $$;
    INSERT INTO notice VALUES (id(701), 'seats', id(16), '', at(20), at(21));
    INSERT INTO outbox VALUES ('seats', id(16), 1, '', at(20), at(21));";

/// A healthy system in a schema of its own: as good as a database, and made much faster.
pub async fn healthy(db: &TestDb, schema: &str) -> (String, AsyncPgConnection) {
    let mut conn = db::connect(db.url()).await.unwrap();
    conn.batch_execute(&format!("CREATE SCHEMA {schema}"))
        .await
        .unwrap();
    let url = format!("{}?options=-csearch_path%3D{schema}", db.url());
    db::migrate(&url).await.unwrap();
    let mut conn = db::connect(&url).await.unwrap();
    let now = clock::host_now();
    let concert_id = ConcertId(Uuid::from_u128(1));
    let day = chrono::NaiveDate::from_ymd_opt(2026, 2, 1).unwrap();
    let concert = NewConcert {
        concert_id,
        title: "T",
        artist: "A",
        venue: "V",
        description: "",
        starts_on: day,
        ends_on: day,
    };
    assert!(seed::concert_create(&mut conn, &concert).await.unwrap());
    let layout = Layout::plain(10, 1000);
    let schedule = NewSchedule {
        schedule_id: SCHEDULE,
        concert_id,
        starts_at: now,
        layout: &layout,
        policy: Policy {
            state: SaleState::Open,
            booking_opens_at: now,
            booking_closes_at: now.plus_ms(1000),
            hold_ms: 300_000,
            seats_per_user: 4,
        },
    };
    assert!(seed::schedule_create(&mut conn, &schedule).await.unwrap());
    conn.batch_execute(HEALTHY).await.unwrap();
    (url, conn)
}

pub async fn report(url: &str) -> Report {
    audit::audit(&Options::new(url)).await.unwrap()
}
