//! Points, payments, captures and refunds (L1 and L2, P1 to P3).

use super::Case;

pub const CASES: &[Case] = &[
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
        "INSERT INTO transfer VALUES (id(303), id(203), id(0), 'CHARGE',
             '00000000-0000-0000-0000-00000000ca54', id(99), 1, 1, at(1))",
        &["L1"],
    ),
    (
        "points that came and went nowhere",
        "INSERT INTO transfer VALUES (id(303), id(203), id(0), 'REFUND',
             '00000000-0000-0000-0000-000000005a1e', id(99), 1, 1, at(1));
         INSERT INTO transfer VALUES (id(304), id(204), id(0), 'PAYMENT', id(99),
             '00000000-0000-0000-0000-000000005a1e', 1, 0, at(1))",
        &["L1", "P1", "P3"],
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
        "a payment that moved what is not there",
        "UPDATE payment SET transfer_id = id(303) WHERE status = 'PAID'",
        &["P1"],
    ),
    (
        "an attempt that failed and moved points",
        "UPDATE payment SET transfer_id = id(303) WHERE status = 'FAILED'",
        &["P1"],
    ),
    (
        "money from the gateway that moved points",
        "SELECT captured(); UPDATE payment SET transfer_id = id(303) WHERE method = 'GATEWAY'",
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
        "an order that has just become odd",
        "SELECT captured(); UPDATE payment_order SET odd_at = now() - interval '9 min'",
        &[],
    ),
    (
        "a paid order that is odd and that nobody puts right",
        "SELECT captured(); UPDATE payment_order SET odd_at = now() - interval '11 min'",
        &["P2"],
    ),
    (
        "an order that nobody has confirmed, which is odd and that nobody puts right",
        "SELECT captured(); DELETE FROM payment WHERE order_id IS NOT NULL;
         DELETE FROM seat_claim WHERE seat_no = 4;
         UPDATE reservation SET status = 'EXPIRED', ended_at = at(311) WHERE reservation_id = id(1012);
         UPDATE payment_order SET status = 'READY', captured = 0, payment_key = NULL,
             confirm_command_id = NULL, confirm_fingerprint = NULL,
             odd_at = now() - interval '11 min'",
        &["P2"],
    ),
    (
        "money that went back twice just now",
        "SELECT too_late();
         UPDATE refund SET status = 'DONE', done_at = now(), compare = 'TWICE', compare_at = now();
         UPDATE payment_order SET status = 'REFUNDED', refunded = captured;
         INSERT INTO refund_action VALUES (id(946), id(0), id(944), 'RESOLUTION', id(9), 'Bank', now())",
        &["P2"],
    ),
    (
        "money that went back twice, and that somebody has seen to",
        "SELECT too_late();
         UPDATE refund SET status = 'DONE', done_at = now(), compare = 'TWICE', compare_at = now(),
             compared_at = now();
         UPDATE payment_order SET status = 'REFUNDED', refunded = captured;
         INSERT INTO refund_action VALUES (id(946), id(0), id(944), 'RESOLUTION', id(9), 'Bank', now()),
             (id(947), id(0), id(944), 'COMPARISON', id(9), 'It came back', now())",
        &[],
    ),
    (
        "money that went back twice, and that nobody says to have seen to",
        "SELECT too_late();
         UPDATE refund SET status = 'DONE', done_at = now(), compare = 'TWICE', compare_at = now(),
             compared_at = now();
         UPDATE payment_order SET status = 'REFUNDED', refunded = captured",
        &["P2"],
    ),
    (
        "money that has perhaps gone back twice, just now",
        "SELECT too_late();
         UPDATE refund SET status = 'DONE', done_at = now(), compare = 'BY_HAND', compare_at = now();
         UPDATE payment_order SET status = 'REFUNDED', refunded = captured",
        &[],
    ),
    (
        "money that has perhaps gone back twice, and that nobody looks at",
        "SELECT too_late();
         UPDATE refund SET status = 'DONE', done_at = now(), compare = 'BY_HAND',
             compare_at = now() - interval '11 min';
         UPDATE payment_order SET status = 'REFUNDED', refunded = captured",
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
];
