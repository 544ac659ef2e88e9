//! Seats, the holds of them, and who may have how many (S1 to S5).

use super::Case;

pub const CASES: &[Case] = &[
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
];
