//! The audit can fail: each violation that is planted here, past the constraints that stand against
//! it, is reported under exactly its own name, and what only looks like one is not.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use async_nats::HeaderMap;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use onsale::audit::{self, Options, Report};
use onsale::seed::{self, Layout, NewConcert, NewSchedule, Policy};
use onsale_platform::config::Streams;
use onsale_platform::{clock, db, nats};
use onsale_schema::invariant::Invariant;
use onsale_schema::message::encode;
use onsale_schema::seats::Kind;
use onsale_schema::status::SaleState;
use onsale_schema::subjects::Subjects;
use onsale_schema::{CommandId, ConcertId, NoticeId, ReservationId, ScheduleId, SeatNo, Timestamp};
use onsale_testkit::{TestDb, TestNats};
use onsale_workers::outbox::system::command;
use uuid::Uuid;

const SCHEDULE: ScheduleId = ScheduleId(Uuid::from_u128(0x10));

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
            id(0), at(0), NULL) ON CONFLICT DO NOTHING;
        UPDATE ticket SET access_code_id = id(951) WHERE arrival_no = n;
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

/// What to plant, what should be reported, by a name for the panic.
type Case = (&'static str, &'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    ("nothing", "", &[]),
    (
        "two claims of one seat",
        "ALTER TABLE seat_claim DROP CONSTRAINT seat_claim_pkey;
         INSERT INTO seat_claim SELECT * FROM seat_claim WHERE seat_no = 0",
        &["S1"],
    ),
    (
        "a seat that two had in the past",
        "SELECT reserve(1010, 1, '{5}', 'EXPIRED', 10, 20, 30);
         SELECT reserve(1011, 2, '{5,6}', 'EXPIRED', 29, 40, 41)",
        &["S2"],
    ),
    (
        "a long ownership around two short ones",
        "SELECT reserve(1010, 1, '{5}', 'EXPIRED', 10, 20, 90);
         SELECT reserve(1011, 2, '{5}', 'RELEASED', 95, 200, 100);
         SELECT reserve(1012, 2, '{6,5}', 'RELEASED', 80, 200, 85)",
        &["S2"],
    ),
    (
        "seats that change hands within one moment",
        "SELECT reserve(1010, 1, '{5}', 'RELEASED', 10, 20, 15);
         SELECT reserve(1012, 2, '{5}', 'RELEASED', 15, 40, 15);
         SELECT reserve(1011, 2, '{5}', 'RELEASED', 15, 40, 30)",
        &[],
    ),
    (
        "a hold without its claim",
        "DELETE FROM seat_claim WHERE seat_no = 2",
        &["S3"],
    ),
    (
        "a claim without a reservation",
        "INSERT INTO seat_claim VALUES (id(16), 5, id(9999), 'H')",
        &["S3"],
    ),
    (
        "a claim of an ended hold",
        "INSERT INTO seat_claim VALUES (id(16), 5, id(1010), 'H');
         SELECT reserve(1010, 1, '{5}', 'EXPIRED', 10, 20, 30)",
        &["S3"],
    ),
    (
        "a claim on a seat that the hold does not have",
        "INSERT INTO seat_claim VALUES (id(16), 5, id(1002), 'H')",
        &["S3"],
    ),
    (
        "a held seat that looks sold",
        "UPDATE seat_claim SET state = 'S' WHERE seat_no = 2",
        &["S3"],
    ),
    (
        "a paid seat that looks held, and nobody is told",
        "UPDATE seat_claim SET state = 'H' WHERE seat_no = 0",
        &["S3"],
    ),
    (
        "a claim on a seat that is not there",
        "SET session_replication_role = replica; INSERT INTO seat_claim VALUES (id(16), 99, NULL, 'B')",
        &["S3"],
    ),
    (
        "a block with a reservation",
        "ALTER TABLE seat_claim DROP CONSTRAINT seat_claim_check;
         UPDATE seat_claim SET reservation_id = NULL WHERE seat_no = 9;
         INSERT INTO seat_claim VALUES (id(16), 8, NULL, 'H')",
        &["S3"],
    ),
    (
        "a blocked seat that no block holds",
        "INSERT INTO seat_claim VALUES (id(16), 8, NULL, 'B')",
        &["S3"],
    ),
    (
        "a blocked seat whose block was lifted",
        "INSERT INTO seat_claim VALUES (id(16), 4, NULL, 'B')",
        &["S3"],
    ),
    (
        "a block whose seat is free",
        "DELETE FROM seat_claim WHERE seat_no = 9",
        &["S3"],
    ),
    (
        "a lift of a seat that the block never had",
        "INSERT INTO seat_block VALUES (id(805), id(16), id(811), true, '{8}', id(9), NULL, id(0), at(9))",
        &["S3"],
    ),
    (
        "a block of a seat that somebody held",
        "UPDATE seat_block SET at = at(11) WHERE command_id = id(802)",
        &["S2"],
    ),
    (
        "a seat of two blocks",
        "INSERT INTO seat_block VALUES (id(805), id(16), id(813), false, '{9}', id(9), 'b', id(0), at(9))",
        &["S2"],
    ),
    (
        "a hold that lapsed early",
        "UPDATE reservation SET ended_at = at(300) WHERE status = 'EXPIRED'",
        &["S4"],
    ),
    (
        "a hold that was given back too late",
        "UPDATE reservation SET expires_at = at(399) WHERE status = 'RELEASED'",
        &["S4"],
    ),
    (
        "a hold with an end",
        "ALTER TABLE reservation DROP CONSTRAINT reservation_check;
         SELECT reserve(1010, 1, '{5}', 'HELD', 10, 20, 30)",
        &["S4"],
    ),
    (
        "a status that is none",
        "ALTER TABLE reservation DROP CONSTRAINT reservation_status_check;
         ALTER TABLE reservation DROP CONSTRAINT reservation_check;
         SELECT reserve(1010, 1, '{5}', 'LOST', 10, 20, 30)",
        &["S4"],
    ),
    (
        "a free ticket that is sold without a payment",
        "SELECT reserve(1010, 1, '{5}', 'PAID', 10, 20, NULL);
         UPDATE reservation SET total = 0 WHERE reservation_id = id(1010)",
        &["S4"],
    ),
    (
        "a paid one that lapsed",
        "UPDATE reservation SET status = 'EXPIRED', ended_at = at(310) WHERE status = 'PAID';
         DELETE FROM seat_claim WHERE state = 'S'",
        &["S4"],
    ),
    (
        "a hold that was paid after its end",
        "UPDATE payment SET at = at(310) WHERE status = 'PAID'",
        &["S4"],
    ),
    (
        "more seats than the limit, in two holds",
        "SELECT reserve(1010, 1, '{5,6,7}', 'HELD', 50, 90, NULL)",
        &["S5"],
    ),
    (
        "more seats than the limit, long ago",
        "SELECT reserve(1010, 3, '{5,6,7}', 'EXPIRED', 20, 30, 40);
         SELECT reserve(1011, 3, '{4,8}', 'EXPIRED', 39, 40, 50)",
        &["S5"],
    ),
    (
        "more seats than the limit, for no time at all",
        "SELECT reserve(1010, 3, '{4,5,6,7,8}', 'RELEASED', 20, 30, 20)",
        &["S5"],
    ),
    (
        "the limit used twice in one moment",
        "SELECT reserve(1010, 3, '{4,5,6,7}', 'RELEASED', 20, 30, 20);
         SELECT reserve(1011, 3, '{4,5,6,7}', 'RELEASED', 20, 30, 25);
         SELECT reserve(1012, 3, '{4,5,6,7}', 'RELEASED', 25, 30, 26)",
        &[],
    ),
    (
        "a lapsed hold that was sold to who had paid for it",
        "SELECT late()",
        &[],
    ),
    (
        "a late capture beyond the limit, and holds beside it",
        "SELECT late(); UPDATE reservation SET seat_limit = 0 WHERE reservation_id = id(1007);
         SELECT reserve(1010, 3, '{4,5,7,8}', 'HELD', 60, 360, NULL)",
        &[],
    ),
    (
        "a late capture of no order",
        "SELECT late(); SELECT pay_nothing(404, 1007, 3, 61);
         ALTER TABLE payment_order DISABLE TRIGGER payment_order_keep; DELETE FROM payment_order",
        &["S4"],
    ),
    (
        "a late capture of an order that asked for another",
        "SELECT late(); UPDATE payment_order SET rehold_id = id(1999)",
        &["S4"],
    ),
    (
        "a late capture that is never paid",
        "SELECT late(); UPDATE payment_order SET status = 'CAPTURED'",
        &["S4"],
    ),
    (
        "a late capture of a seat that was not free",
        "SELECT late(); UPDATE reservation SET ended_at = at(61) WHERE reservation_id = id(1006)",
        &["S2"],
    ),
    (
        "seats that are cancelled one by one, and sold again",
        "SELECT partly();
         SELECT reserve(1010, 1, '{5}', 'CANCELLED', 10, 310, 30);
         SELECT pay_nothing(405, 1010, 1, 15); SELECT cancel(922, 1010, '{5}', 30);
         SELECT reserve(1011, 2, '{5}', 'HELD', 30, 330, NULL)",
        &[],
    ),
    (
        "a cancelled seat that was held before",
        "SELECT partly(); UPDATE reservation SET held_at = at(29) WHERE reservation_id = id(1009)",
        &["S2"],
    ),
    (
        "a cancelled seat that is still claimed, and nobody is told",
        "SELECT partly();
         UPDATE reservation SET status = 'EXPIRED', ended_at = at(330) WHERE reservation_id = id(1009);
         UPDATE seat_claim SET reservation_id = id(1008), state = 'S' WHERE seat_no = 7",
        &["S3"],
    ),
    (
        "a seat that went although another was cancelled",
        "SELECT partly(); DELETE FROM seat_claim WHERE seat_no = 8",
        &["S3"],
    ),
    (
        "a seat that was cancelled twice",
        "SELECT partly(); SELECT cancel(922, 1008, '{7}', 31)",
        &["S4"],
    ),
    (
        "a cancelled seat that the reservation still has",
        "SELECT partly(); SELECT cancel(922, 1008, '{8}', 31)",
        &["S4"],
    ),
    (
        "a cancelled reservation of which nobody cancelled all",
        "SELECT partly(); DELETE FROM seat_claim WHERE seat_no = 8;
         UPDATE reservation SET status = 'CANCELLED', ended_at = at(40)
         WHERE reservation_id = id(1008)",
        &["S4"],
    ),
    (
        "a seat that was cancelled before it was held",
        "SELECT partly(); UPDATE cancellation SET at = at(9)",
        &["S4"],
    ),
    (
        "cancelled seats that still counted",
        "SELECT partly(); SELECT reserve(1010, 4, '{4,5,6}', 'HELD', 29, 329, NULL)",
        &["S5"],
    ),
    (
        "cancelled seats that counted no more",
        "SELECT partly(); SELECT reserve(1010, 4, '{4,5,6}', 'HELD', 30, 330, NULL)",
        &[],
    ),
    (
        "two live tickets of one user",
        "DROP INDEX ticket_live; UPDATE ticket SET user_id = id(1) WHERE arrival_no = 4",
        &["Q1"],
    ),
    (
        "another ticket after the first has ended",
        "UPDATE ticket SET user_id = id(2) WHERE arrival_no = 4",
        &[],
    ),
    (
        "a ticket that is lost",
        "DELETE FROM ticket WHERE arrival_no = 4",
        &["Q1"],
    ),
    (
        "a number that was given twice",
        "DROP INDEX ticket_arrival_no; UPDATE ticket SET arrival_no = 2 WHERE arrival_no = 4",
        &["Q1"],
    ),
    (
        "a number that was left out",
        "UPDATE ticket SET arrival_no = 5 WHERE arrival_no = 4",
        &["Q1"],
    ),
    (
        "a ticket without a room",
        "DELETE FROM ticket WHERE arrival_no < 4;
         DELETE FROM waiting_room",
        &["Q1"],
    ),
    (
        "an admission to a full room",
        "ALTER TABLE ticket DROP CONSTRAINT ticket_room;
         UPDATE ticket SET capacity = 1 WHERE arrival_no = 3",
        &["Q2"],
    ),
    (
        "an admission that says that the room was emptier than it was",
        "UPDATE ticket SET active_before = 0 WHERE arrival_no = 3",
        &["Q2"],
    ),
    (
        "what ended in the moment of an admission, counted before it or after it",
        "UPDATE ticket SET ended_at = at(31), active_before = 1 WHERE arrival_no = 1;
         SELECT finish(0, 'EXPIRED', 31)",
        &[],
    ),
    (
        "an admission out of order",
        "UPDATE ticket SET was_passed = false WHERE arrival_no = 0",
        &["Q2"],
    ),
    (
        "an admission before the opening",
        "UPDATE waiting_room SET closed_at = at(7)",
        &["Q2"],
    ),
    (
        "an admission that is left out",
        "UPDATE ticket SET admission_no = 5 WHERE arrival_no = 3",
        &["Q2"],
    ),
    (
        "an admission that the room knows nothing of",
        "UPDATE waiting_room SET admissions = 3",
        &["Q2"],
    ),
    (
        "admissions that went back in time",
        "UPDATE ticket SET admitted_at = at(8), joined_at = at(1) WHERE arrival_no = 3;
         UPDATE ticket SET ended_at = at(8) WHERE arrival_no IN (1, 2)",
        &["Q2"],
    ),
    (
        "a latecomer in the lobby's places",
        "UPDATE ticket SET place = 4 WHERE arrival_no = 0;
         UPDATE waiting_room SET front = 5",
        &["Q2"],
    ),
    (
        "a place of two",
        "UPDATE ticket SET place = 2 WHERE arrival_no = 0",
        &["Q2"],
    ),
    (
        "a place that the line has not come to",
        "UPDATE waiting_room SET admissions = 3, front = 3;
         UPDATE ticket SET admission_no = 3 WHERE arrival_no = 3",
        &["Q2"],
    ),
    ("two guests", "SELECT guests()", &[]),
    (
        "a guest after a later one",
        "SELECT guests(); DROP INDEX ticket_arrival_no;
         UPDATE ticket SET arrival_no = 9 - arrival_no WHERE arrival_no > 3",
        &["Q2"],
    ),
    (
        "a guest to whom their line has not come",
        "SELECT guests(); UPDATE waiting_room SET guest_front = 5",
        &["Q2"],
    ),
    (
        "more guests than a code is good for",
        "SELECT guests(); UPDATE access_code SET uses = 1",
        &["Q2"],
    ),
    (
        "a guest with a code that is not there",
        "SELECT guest(); DELETE FROM access_code",
        &["Q2"],
    ),
    (
        "an admission from no place",
        "ALTER TABLE ticket DROP CONSTRAINT ticket_admitted;
         UPDATE ticket SET place = NULL WHERE arrival_no = 3",
        &["Q2"],
    ),
    ("a presale", "SELECT early('PRESALE', 34)", &[]),
    (
        "a presale that was over",
        "SELECT early('PRESALE', 33)",
        &["Q2"],
    ),
    (
        "a guest before the opening, without a presale",
        "SELECT early('VIP', 34)",
        &["Q2"],
    ),
    ("a hold with a pass", "SELECT enter(1010, 1, 0, 599)", &[]),
    (
        "a hold with a pass that lasted as long as another hold",
        "UPDATE ticket SET holds = '[[\"\", 1767226300000000, true]]' WHERE arrival_no = 0;
         SELECT enter(1010, 1, 0, 699)",
        &[],
    ),
    (
        "a hold with a pass that is over",
        "SELECT enter(1010, 1, 0, 600)",
        &["Q3"],
    ),
    (
        "a hold without a pass",
        "SELECT reserve(1010, 1, '{5}', 'EXPIRED', 501, 502, 503)",
        &["Q3"],
    ),
    (
        "a hold without a pass when there was no room",
        "SELECT reserve(1010, 1, '{5}', 'EXPIRED', 500, 502, 503)",
        &[],
    ),
    (
        "a hold without a pass where the room is off",
        "UPDATE sale SET pass_required_since = NULL; UPDATE waiting_room SET mode = 'OFF';
         SELECT reserve(1010, 1, '{5}', 'EXPIRED', 501, 502, 503)",
        &[],
    ),
    (
        "a late capture, which takes no pass",
        "SELECT late();
         UPDATE reservation SET held_at = at(501), expires_at = at(501)
         WHERE reservation_id = id(1007)",
        &[],
    ),
    (
        "a late capture that somebody says took a pass",
        "SELECT late();
         UPDATE reservation SET held_at = at(501), expires_at = at(501), user_id = id(1),
             ticket_id = id(2000) WHERE reservation_id = id(1007)",
        &["Q3"],
    ),
    (
        "a hold with somebody else's pass",
        "SELECT enter(1010, 3, 0, 501)",
        &["Q3"],
    ),
    (
        "a hold by a ticket that waits",
        "SELECT enter(1010, 5, 4, 501)",
        &["Q3"],
    ),
    (
        "a hold before its ticket was admitted",
        "SELECT enter(1010, 4, 3, 25)",
        &["Q3"],
    ),
    (
        "a hold by a clock that was behind another",
        "SELECT enter(1010, 4, 3, 27)",
        &[],
    ),
    (
        "more holds than any pass is good for",
        "SELECT reserve(3000 + n, 1, '{5}', 'EXPIRED', 501, 501, 501)
         FROM generate_series(1, 5) AS n;
         UPDATE reservation SET ticket_id = id(2000) WHERE reservation_id > id(3000)",
        &["Q3"],
    ),
    (
        "as many holds as a pass was good for before",
        "SELECT reserve(3000 + n, 1, '{5}', 'EXPIRED', 501, 501, 501)
         FROM generate_series(1, 5) AS n;
         UPDATE reservation SET ticket_id = id(2000) WHERE reservation_id > id(3000);
         UPDATE waiting_room SET holds_per_pass_before = 5",
        &[],
    ),
    (
        "a hold with a pass that was given back",
        "UPDATE ticket SET pass_until = at(200) WHERE arrival_no = 1;
         SELECT enter(1010, 2, 1, 91)",
        &["Q3"],
    ),
    (
        "a hold with a pass that was given back a moment ago",
        "UPDATE ticket SET pass_until = at(200) WHERE arrival_no = 1;
         SELECT enter(1010, 2, 1, 89)",
        &[],
    ),
    (
        "a hold with a pass that was given back while nobody could be told",
        "UPDATE ticket SET pass_until = at(200) WHERE arrival_no = 1;
         SELECT enter(1010, 2, 1, 91);
         INSERT INTO notice VALUES (id(702), 'seats', id(16), 'PassesOver', at(30), at(92))",
        &[],
    ),
    (
        "a hold with a pass after it was told that it was given back",
        "UPDATE ticket SET pass_until = at(200) WHERE arrival_no = 1;
         SELECT enter(1010, 2, 1, 95);
         INSERT INTO notice VALUES (id(702), 'seats', id(16), 'PassesOver', at(30), at(92)),
             (id(703), 'seats', id(16), 'PassesOver', at(90), at(99)),
             (id(704), 'seats', id(16), 'Paid', at(30), at(99))",
        &["Q3"],
    ),
    (
        "a room that the owner of the seats knows nothing of",
        "UPDATE sale SET pass_required_since = NULL",
        &["Q3"],
    ),
    (
        "a room that the owner of the seats is about to know of",
        "UPDATE sale SET pass_required_since = NULL;
         INSERT INTO notice VALUES (id(702), 'seats', id(16), 'Room', now())",
        &[],
    ),
    (
        "a room that the owner of the seats knows nothing of while it is told of other things",
        "UPDATE sale SET pass_required_since = NULL;
         INSERT INTO notice VALUES (id(702), 'seats', id(16), 'PaidAll', now())",
        &["Q3"],
    ),
    (
        "a ticket whose key made a reservation, too",
        "UPDATE ticket SET ticket_id = id(1102) WHERE arrival_no = 4",
        &["I1"],
    ),
    (
        "a balance out of nothing",
        "UPDATE account SET balance = 1 WHERE account_id = id(2)",
        &["L1"],
    ),
    (
        "a negative balance",
        "ALTER TABLE account DROP CONSTRAINT account_balance_check;
         UPDATE account SET balance = -1 WHERE account_id = id(2)",
        &["L1"],
    ),
    (
        "a system account with a balance",
        "UPDATE account SET balance = 2000
         WHERE account_id = '00000000-0000-0000-0000-000000005a1e'",
        &["L1"],
    ),
    (
        "a user's account without one",
        "INSERT INTO account VALUES (id(3), NULL)",
        &["L1"],
    ),
    (
        "points that go nowhere",
        "SET session_replication_role = replica;
         INSERT INTO transfer VALUES (id(303), id(203), id(0), 'CHARGE',
             '00000000-0000-0000-0000-00000000ca54', id(99), 1, 1, at(1))",
        &["L1"],
    ),
    (
        "a cause that moved points twice",
        "DROP INDEX transfer_cause;
         INSERT INTO transfer SELECT id(303), cause, fingerprint, kind, debit, credit, amount,
             10000, at FROM transfer WHERE kind = 'CHARGE';
         UPDATE account SET balance = 8000 WHERE account_id = id(1)",
        &["L2"],
    ),
    (
        "transfers that may change",
        "ALTER TABLE transfer DISABLE TRIGGER transfer_append_only",
        &["L2"],
    ),
    (
        "two live payments of one reservation",
        "DROP INDEX payment_live;
         INSERT INTO payment SELECT id(403), reservation_id, user_id, id(503), fingerprint, method,
             amount, status, fail_code, transfer_id, at FROM payment WHERE status = 'PAID'",
        &["P1"],
    ),
    (
        "a payment of another price",
        "UPDATE payment SET amount = 1999 WHERE status = 'PAID'",
        &["P1"],
    ),
    (
        "a payment by another user",
        "UPDATE payment SET user_id = id(2) WHERE status = 'PAID'",
        &["P1"],
    ),
    (
        "a payment that moved something else",
        "UPDATE payment SET transfer_id = id(301) WHERE status = 'PAID'",
        &["P1"],
    ),
    (
        "points paid for nothing",
        "INSERT INTO transfer VALUES (id(303), id(203), id(0), 'PAYMENT', id(1),
             '00000000-0000-0000-0000-000000005a1e', 1, 2999, at(1));
         UPDATE account SET balance = 2999 WHERE account_id = id(1)",
        &["P1"],
    ),
    (
        "a reservation that was paid through the gateway",
        "SELECT captured()",
        &[],
    ),
    (
        "a payment of an order that captured nothing",
        "SELECT captured();
         UPDATE payment_order SET status = 'UNKNOWN', captured = 0, updated_at = now()",
        &["P1"],
    ),
    (
        "a paid order whose payment is gone",
        "SELECT captured(); DELETE FROM payment WHERE order_id IS NOT NULL",
        &["S4", "P1"],
    ),
    (
        "an order that failed with money captured",
        "SELECT too_late(); UPDATE payment_order SET status = 'FAILED'",
        &["P1"],
    ),
    ("money on its way back", "SELECT too_late()", &[]),
    (
        "money that is on its way back for too long",
        "SELECT too_late(); UPDATE refund SET created_at = now() - interval '11 min'",
        &["P2"],
    ),
    (
        "money that somebody has to see to",
        "SELECT too_late();
         UPDATE refund SET status = 'STUCK', stuck_at = now(), created_at = now() - interval '11 min'",
        &["P2"],
    ),
    (
        "money that nobody says to have paid back by other means",
        "SELECT too_late(); UPDATE refund SET status = 'RESOLVED', done_at = now(), next_at = NULL;
         UPDATE payment_order SET status = 'REFUNDED', refunded = captured",
        &["P2"],
    ),
    (
        "money that nobody gives back",
        "SELECT too_late(); DELETE FROM refund",
        &["P2"],
    ),
    (
        "a capture that nobody sells",
        "SELECT too_late(); DELETE FROM refund;
         UPDATE payment_order SET status = 'CAPTURED', updated_at = now() - interval '11 min'",
        &["P2"],
    ),
    (
        "an order of which nobody knows for too long",
        "SELECT too_late(); DELETE FROM refund;
         UPDATE payment_order
         SET status = 'UNKNOWN', captured = 0, updated_at = now() - interval '11 min'",
        &["P2"],
    ),
    (
        "money that goes back to somebody else",
        "SELECT too_late(); UPDATE refund SET user_id = id(99)",
        &["P3"],
    ),
    (
        "points by card",
        "SELECT charge_card('PAID', 1000); SELECT credit_card(1000)",
        &[],
    ),
    (
        "a card that paid for no points",
        "SELECT charge_card('PAID', 1000)",
        &["P1"],
    ),
    (
        "a card that paid for other points",
        "SELECT charge_card('PAID', 1000); SELECT credit_card(999)",
        &["P1"],
    ),
    (
        "points by card before the money",
        "SELECT charge_card('CAPTURING', 0); SELECT credit_card(1000)",
        &["P1"],
    ),
    (
        "points that a card gets back",
        "SELECT charge_card('REFUNDING', 1000); SELECT refund_card()",
        &[],
    ),
    (
        "points that a card gets back, and that are there",
        "SELECT charge_card('REFUNDING', 1000); SELECT refund_card(); SELECT credit_card(1000)",
        &["P1"],
    ),
    (
        "points that a card should get back",
        "SELECT charge_card('REFUNDING', 1000)",
        &["P2"],
    ),
    (
        "a payment that gave back more than it says",
        "UPDATE payment SET refunded = 1 WHERE status = 'PAID'",
        &["P3"],
    ),
    (
        "points that come back for nothing",
        "INSERT INTO transfer VALUES (id(303), id(203), id(0), 'REFUND',
             '00000000-0000-0000-0000-000000005a1e', id(1), 1, 3001, at(30));
         UPDATE account SET balance = 3001 WHERE account_id = id(1)",
        &["P3"],
    ),
    (
        "half a reservation that was cancelled for a fee",
        "SELECT cancel_one(1000, 100)",
        &[],
    ),
    (
        "a cancellation at another price",
        "SELECT cancel_one(999, 99)",
        &["P3"],
    ),
    (
        "a refund that moved something else",
        "SELECT cancel_one(1000, 100); UPDATE refund SET transfer_id = id(302)",
        &["P3"],
    ),
    (
        "a show that was cancelled, but for one buyer",
        "INSERT INTO show_cancellation VALUES (id(16), id(951), id(0), id(9), 'ill', at(40), at(50),
             NULL)",
        &["P3"],
    ),
    (
        "a show that is cancelled, and a buyer who is set aside",
        "INSERT INTO show_cancellation VALUES (id(16), id(951), id(0), id(9), 'ill',
             now() - interval '11 minutes', NULL, now());
         INSERT INTO show_aside VALUES (id(1001), id(16), 4, 'it is refused', now(), now())",
        &["P2"],
    ),
    (
        "a show that is being cancelled",
        "INSERT INTO show_cancellation VALUES (id(16), id(951), id(0), id(9), 'ill',
             now() - interval '9 minutes', NULL, now())",
        &[],
    ),
    (
        "a show that was cancelled when the last buyer had just paid",
        "INSERT INTO show_cancellation VALUES (id(16), id(951), id(0), id(9), 'ill',
             now() - interval '11 minutes', NULL, now());
         UPDATE reservation SET expires_at = now() + interval '5 minutes'
             WHERE reservation_id = id(1001);
         UPDATE payment SET at = now() WHERE status = 'PAID'",
        &[],
    ),
    (
        "a command that cancels and charges",
        "SELECT cancel_one(1000, 100);
         UPDATE cancellation SET command_id = id(201)",
        &["I1"],
    ),
    (
        "a command that bought two things",
        "UPDATE payment SET command_id = id(1101) WHERE status = 'PAID'",
        &["I1"],
    ),
    (
        "a command that holds and charges",
        "SET session_replication_role = replica;
         UPDATE reservation SET command_id = id(201) WHERE reservation_id = id(1002)",
        &["I1"],
    ),
    (
        "a command that holds and blocks",
        "UPDATE seat_block SET command_id = id(1102) WHERE command_id = id(801)",
        &["I1"],
    ),
    (
        "a command that holds and cancels",
        "SELECT partly(); UPDATE cancellation SET command_id = id(1101)",
        &["I1"],
    ),
    (
        "an order that was confirmed by the command that made it",
        "SELECT late(); UPDATE payment_order SET confirm_command_id = command_id",
        &["I1"],
    ),
    (
        "a deposed owner that went on",
        "UPDATE outcome SET epoch = 3 WHERE lane = 'seats' AND seq = 2;
         UPDATE partition SET epoch = 3",
        &["F1"],
    ),
    (
        "a commit number that went back",
        "UPDATE outcome SET commit_no = 10 WHERE lane = 'seats' AND seq = 1;
         UPDATE partition SET commit_no = 10",
        &["F1"],
    ),
    (
        "a partition behind its outcomes",
        "UPDATE partition SET epoch = 1",
        &["F1"],
    ),
    (
        "a partition that is not there",
        "DELETE FROM partition",
        &["F1"],
    ),
    (
        "a decision beyond the cursor",
        "UPDATE partition SET applied_seq = 2",
        &["F2"],
    ),
    (
        "a dead letter beyond the cursor",
        "INSERT INTO dead_letter VALUES ('seats', 0, 1, 1, -1, '', '')",
        &["F2"],
    ),
    (
        "a notice that nobody takes",
        "INSERT INTO notice VALUES (id(702), 'seats', id(16), '', now() - interval '11 s')",
        &["O1"],
    ),
    (
        "a fact that nobody publishes",
        "INSERT INTO outbox VALUES ('seats', id(16), 2, '', now() - interval '11 s')",
        &["O1"],
    ),
    (
        "what is open for a moment",
        "INSERT INTO outbox VALUES ('seats', id(16), 2, '', now() - interval '9 s');
         INSERT INTO notice VALUES (id(702), 'seats', id(16), '', now() - interval '9 s')",
        &[],
    ),
];

/// A healthy system in a schema of its own: as good as a database, and made much faster.
async fn healthy(db: &TestDb, schema: &str) -> (String, AsyncPgConnection) {
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

async fn report(url: &str) -> Report {
    audit::audit(&Options::new(url)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_planted_violation_is_reported_under_its_name() {
    let db = TestDb::create().await.unwrap();
    for (number, (name, plant, expected)) in CASES.iter().enumerate() {
        let (url, mut conn) = healthy(&db, &format!("case_{number}")).await;
        conn.batch_execute(plant)
            .await
            .unwrap_or_else(|error| panic!("planting {name}: {error}"));
        let report = report(&url).await;
        assert_eq!(report.violated(), *expected, "{name}\n{report}");
        assert_eq!(report.ok(), expected.is_empty());
        for check in &report.checks {
            let shown = check.examples.len() as u64;
            assert_eq!(shown, check.violations.min(5), "{name}: examples are shown");
        }
    }
    let planted: std::collections::HashSet<&str> = CASES
        .iter()
        .flat_map(|(_, _, expected)| *expected)
        .copied()
        .collect();
    for invariant in onsale_schema::invariant::Invariant::ALL {
        assert!(
            planted.contains(invariant.id()),
            "{invariant} was never made to fail"
        );
    }
}

/// Notices are found by the names of their kinds.
#[test]
fn a_notice_says_its_kind_by_its_name() {
    let (notice_id, schedule_id) = (NoticeId(Uuid::nil()), SCHEDULE);
    let room = Kind::Room {
        notice_id,
        schedule_id,
        pass_required: true,
        version: 1,
    };
    let passes_over = Kind::PassesOver {
        notice_id,
        schedule_id,
        tickets: Vec::new(),
    };
    for (kind, expected) in [
        (room, ["Room"].as_slice()),
        (passes_over, ["PassesOver"].as_slice()),
    ] {
        let payload = encode(&command(CommandId(notice_id.0), kind));
        let has = |name: &&str| payload.windows(name.len()).any(|it| it == name.as_bytes());
        let found: Vec<&str> = ["Room", "PassesOver"].into_iter().filter(has).collect();
        assert_eq!(found, expected);
    }
}

/// Between a payment and its owner's taking note of it, the map may still say H.
#[tokio::test(flavor = "multi_thread")]
async fn a_paid_seat_may_look_held_while_its_owner_is_being_told() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    let notice = encode(&Kind::Paid {
        notice_id: NoticeId(Uuid::from_u128(9)),
        reservation_id: ReservationId(Uuid::from_u128(1001)),
        schedule_id: SCHEDULE,
    });
    let payload: String = notice.iter().map(|byte| format!("{byte:02x}")).collect();
    conn.batch_execute(&format!(
        "INSERT INTO notice (notice_id, lane, schedule_id, payload)
         VALUES (id(9), 'seats', id(16), decode('{payload}', 'hex'));
         UPDATE seat_claim SET state = 'H' WHERE state = 'S';
         INSERT INTO seat_claim VALUES (id(16), 5, id(1010), 'S');
         SELECT reserve(1010, 1, '{{5}}', 'CANCELLED', 10, 20, 30);
         SELECT cancel(922, 1010, '{{5}}', 30);
         INSERT INTO payment VALUES (id(403), id(1010), id(1), id(503), id(0), 'POINTS', 0, 'PAID',
             NULL, NULL, at(15));
         UPDATE reservation SET total = 0 WHERE reservation_id = id(1010)"
    ))
    .await
    .unwrap();
    let cancelled_without_notice = report(&url).await;
    assert_eq!(cancelled_without_notice.violated(), ["S3"]);
    assert_eq!(
        cancelled_without_notice.checks[2].violations, 1,
        "{cancelled_without_notice}"
    );
    conn.batch_execute("DELETE FROM seat_claim WHERE seat_no = 5")
        .await
        .unwrap();
    assert!(report(&url).await.ok());
    conn.batch_execute("UPDATE notice SET done_at = now()")
        .await
        .unwrap();
    assert_eq!(report(&url).await.violated(), ["S3"]);
}

/// Between a cancellation and its owner's taking note of it, the seats may still be claimed.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_seat_may_be_claimed_while_its_owner_is_being_told() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    let notice = encode(&Kind::Cancelled {
        notice_id: NoticeId(Uuid::from_u128(9)),
        reservation_id: ReservationId(Uuid::from_u128(0x1010)),
        schedule_id: SCHEDULE,
        seats: vec![SeatNo(5)],
        at: Timestamp::from_micros(1_767_225_630_000_000),
    });
    let payload: String = notice.iter().map(|byte| format!("{byte:02x}")).collect();
    conn.batch_execute(&format!(
        "SELECT reserve(4112, 1, '{{5,6}}', 'PAID', 10, 310, NULL);
         SELECT pay_nothing(404, 4112, 1, 20);
         SELECT cancel(921, 4112, '{{5}}', 30);
         UPDATE reservation SET cancelled_seat_nos = '{{5}}' WHERE reservation_id = id(4112);
         INSERT INTO notice (notice_id, lane, schedule_id, payload)
         VALUES (id(9), 'seats', id(16), decode('{payload}', 'hex'));"
    ))
    .await
    .unwrap();
    let told = report(&url).await;
    assert!(told.ok(), "{told}");
    // Then the other one, too.
    conn.batch_execute(
        "SELECT cancel(922, 4112, '{6}', 31);
         UPDATE reservation SET status = 'CANCELLED', ended_at = at(31)
         WHERE reservation_id = id(4112)",
    )
    .await
    .unwrap();
    let told = report(&url).await;
    assert!(told.ok(), "{told}");
    conn.batch_execute("UPDATE notice SET done_at = now()")
        .await
        .unwrap();
    let heard = report(&url).await;
    assert_eq!(heard.violated(), ["S3"], "{heard}");
}

/// A sweep that finds thousands counts them all and shows a few.
#[tokio::test(flavor = "multi_thread")]
async fn violations_are_counted_beyond_what_is_shown() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    conn.batch_execute(
        "INSERT INTO notice SELECT id(10000 + n), 'seats', id(16), '', at(0)
         FROM generate_series(1, 1234) AS n",
    )
    .await
    .unwrap();
    let report = report(&url).await;
    let o1 = report.checks.last().unwrap();
    assert_eq!((o1.violations, o1.examples.len()), (1234, 5));
    assert!(report.to_string().contains("and 1229 more"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_up_to_the_cursor_has_its_outcome() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    let server = TestNats::start().await.unwrap();
    let subjects = Subjects::new("x").unwrap();
    let client = nats::connect(&server.url(), "test").await.unwrap();
    let jetstream = nats::jetstream(client);
    nats::update_streams(&jetstream, &subjects, &Streams::default())
        .await
        .unwrap();
    let options = Options::new(&url).with_nats(server.url(), "x");
    let audit = async || audit::audit(&options).await.unwrap();
    let f2 = |report: &Report| {
        let mut checks = report.checks.iter();
        let f2 = checks.find(|check| check.invariant == Invariant::F2);
        f2.and_then(|check| check.note.clone()).unwrap()
    };

    // A stream that was emptied can't contradict anything.
    let report = audit().await;
    assert!(report.ok(), "{report}");
    assert!(f2(&report).contains(" 0 messages"), "{report}");

    // Messages 1 to 4; the first three are up to the cursor and decided.
    for (n, partition) in [(1, 0), (2, 0), (3, 0), (4, 1)] {
        let mut headers = HeaderMap::new();
        let id = Uuid::from_u128(0x600 + n).to_string();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, id.as_str());
        let subject = format!("x.cmd.seats.{partition}");
        let ack = jetstream
            .publish_with_headers(subject, headers, "m".into())
            .await
            .unwrap();
        assert_eq!(u128::from(ack.await.unwrap().sequence), n);
    }
    let report = audit().await;
    assert!(report.ok(), "{report}");
    assert!(f2(&report).contains(" 3 messages"), "{report}");

    // One loses its outcome; a dead letter is as good; an outcome of a former incarnation is not,
    // unless it is of this very message.
    let steps: [(&str, &[&str]); 6] = [
        (
            "DELETE FROM outcome WHERE lane = 'seats' AND seq = 2",
            &["F2"],
        ),
        (
            "INSERT INTO dead_letter VALUES ('seats', 0, 0, 2, -1, '', '')",
            &[],
        ),
        (
            "INSERT INTO partition VALUES ('seats', 1, NULL, 1, 1, 1, 4, at(30))",
            &["F2"],
        ),
        (
            "INSERT INTO outcome VALUES ('seats', 1, 0, 4, 1, 1, id(9), '', at(1))",
            &["F2"],
        ),
        (
            "UPDATE outcome SET message_id = '00000000-0000-0000-0000-000000000604'
          WHERE partition_no = 1",
            &[],
        ),
        (
            "UPDATE partition SET incarnation = 0; UPDATE outcome SET message_id = id(9)",
            &[],
        ),
    ];
    for (change, expected) in steps {
        conn.batch_execute(change).await.unwrap();
        let report = audit().await;
        assert_eq!(report.violated(), expected, "{change}\n{report}");
    }
}

/// What the audit needs is there, or it says so; it never calls an empty database sound.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_tables_is_no_success() {
    let db = TestDb::create().await.unwrap();
    let error = audit::audit(&Options::new(db.url())).await.unwrap_err();
    assert!(format!("{error:#}").contains("onsale migrate"), "{error:#}");
}
