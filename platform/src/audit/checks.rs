//! One query per invariant: each row that it finds is a violation, told in a sentence.
//!
//! They look at all history, not only at what is live, and at nothing but committed rows of one
//! snapshot, so that they are as true under load as at rest.

use super::{Limits, orders, queue};
use onsale_schema::invariant::Invariant;

/// The query of an invariant: one column of text, one row per violation.
#[must_use]
pub(super) fn query(invariant: Invariant, limits: Limits) -> String {
    match invariant {
        Invariant::S1 => S1.to_owned(),
        Invariant::S2 => S2.to_owned(),
        Invariant::S3 => S3.to_owned(),
        Invariant::S4 => S4.to_owned(),
        Invariant::S5 => S5.to_owned(),
        Invariant::Q1 => queue::Q1.to_owned(),
        Invariant::Q2 => queue::Q2.to_owned(),
        Invariant::Q3 => queue::q3(),
        Invariant::L1 => L1.to_owned(),
        Invariant::L2 => L2.to_owned(),
        Invariant::P1 => format!("{P1} UNION ALL {}", orders::P1),
        Invariant::P2 => orders::P2.replace("{refund_ms}", &limits.refund_ms.to_string()),
        Invariant::P3 => P3.to_owned(),
        Invariant::I1 => I1.to_owned(),
        Invariant::F1 => F1.to_owned(),
        Invariant::F2 => F2.to_owned(),
        Invariant::O1 => O1.replace("{open_ms}", &limits.open_ms.to_string()),
    }
}

const S1: &str = "
SELECT format('seat %s of schedule %s has %s claims', seat_no, schedule_id, count(*))
FROM seat_claim
GROUP BY schedule_id, seat_no
HAVING count(*) > 1";

/// A reservation owns its seats from `held_at` until just before `ended_at`, or until one is
/// cancelled, and a block each of its seats until that is lifted. One that ended in the moment of its beginning owned nothing, so that
/// it sorts before whoever followed it.
const S2: &str = "
WITH cancelled AS (
    SELECT reservation_id, seat_no, min(at) AS at
    FROM cancellation CROSS JOIN unnest(seat_nos) AS seats (seat_no)
    GROUP BY reservation_id, seat_no
), owned AS (
    SELECT schedule_id, seat_no, 'reservation' AS what, reservation_id AS id, held_at AS since,
           coalesce(cancelled.at, ended_at, 'infinity') AS until
    FROM reservation
         CROSS JOIN unnest(seat_nos) AS seats (seat_no)
         LEFT JOIN cancelled USING (reservation_id, seat_no)
    UNION ALL
    SELECT schedule_id, seat_no, 'block', block_id, min(at) FILTER (WHERE NOT lifts),
           coalesce(min(at) FILTER (WHERE lifts), 'infinity')
    FROM seat_block CROSS JOIN unnest(seat_nos) AS seats (seat_no)
    GROUP BY schedule_id, block_id, seat_no
), in_order AS (
    SELECT *, max(until) OVER before AS taken_until,
           lag(what || ' ' || id) OVER seat AS previous
    FROM owned
    WINDOW seat AS (PARTITION BY schedule_id, seat_no ORDER BY since, until, id),
           before AS (seat ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT format('seat %s of schedule %s went to %s %s at %s, but was taken until %s '
              '(the one before: %s)',
              seat_no, schedule_id, what, id, since, taken_until, previous)
FROM in_order
WHERE since < taken_until";

/// Settlement makes a reservation PAID, or cancels seats of it, and tells the owner by a notice;
/// until that is done the claims may still say H (and those of cancelled seats may still be there).
const S3: &str = "
WITH told AS (
    SELECT DISTINCT reservation_id
    FROM seat_claim JOIN reservation AS r USING (reservation_id)
    WHERE (r.status = 'CANCELLED'
           OR r.status = 'PAID' AND (seat_claim.state = 'H'
                                     OR seat_claim.seat_no = ANY (r.cancelled_seat_nos)))
      AND EXISTS (SELECT FROM notice AS n
                  WHERE n.done_at IS NULL AND n.lane = 'seats' AND n.schedule_id = r.schedule_id
                    AND position(uuid_send(r.reservation_id) IN n.payload) > 0)
), lifted AS (
    SELECT schedule_id, block_id, seat_no
    FROM seat_block CROSS JOIN unnest(seat_nos) AS seats (seat_no)
    WHERE lifts
), once_blocked AS (
    SELECT schedule_id, block_id, seat_no
    FROM seat_block CROSS JOIN unnest(seat_nos) AS seats (seat_no)
    WHERE NOT lifts
), blocked AS (
    SELECT * FROM once_blocked EXCEPT SELECT * FROM lifted
)
SELECT format('%s reservation %s has no claim on its seat %s', r.status, r.reservation_id, seat_no)
FROM reservation AS r
     CROSS JOIN unnest(r.seat_nos) AS seats (seat_no)
     LEFT JOIN seat_claim AS c USING (schedule_id, seat_no, reservation_id)
WHERE r.status IN ('HELD', 'PAID') AND c.state IS NULL
  AND (r.cancelled_seat_nos IS NULL OR seat_no <> ALL (r.cancelled_seat_nos))
UNION ALL
SELECT format('seat %s of schedule %s is claimed (%s) by reservation %s, which %s',
              c.seat_no, c.schedule_id, c.state, c.reservation_id,
              CASE WHEN r.reservation_id IS NULL THEN 'does not exist'
                   WHEN r.schedule_id <> c.schedule_id THEN 'is for another schedule'
                   WHEN c.seat_no <> ALL (r.seat_nos) THEN 'has other seats'
                   WHEN c.seat_no = ANY (r.cancelled_seat_nos) THEN 'has given it up'
                   ELSE 'is ' || r.status END)
FROM seat_claim AS c
     LEFT JOIN reservation AS r USING (reservation_id)
     LEFT JOIN told ON told.reservation_id = c.reservation_id
WHERE c.reservation_id IS NOT NULL
  AND (r.reservation_id IS NULL
       OR r.schedule_id <> c.schedule_id
       OR c.seat_no <> ALL (r.seat_nos)
       OR NOT CASE r.status
              WHEN 'HELD' THEN c.state = 'H'
              WHEN 'PAID' THEN told.reservation_id IS NOT NULL
                               OR c.state = 'S' AND (r.cancelled_seat_nos IS NULL
                                                     OR c.seat_no <> ALL (r.cancelled_seat_nos))
              WHEN 'CANCELLED' THEN told.reservation_id IS NOT NULL
              ELSE false END)
UNION ALL
SELECT format('seat %s of schedule %s is claimed, but is not in its layout', seat_no, schedule_id)
FROM seat_claim LEFT JOIN seat USING (schedule_id, seat_no)
WHERE seat.section IS NULL
UNION ALL
SELECT format('the claim (%s) on seat %s of schedule %s %s a reservation', state, seat_no,
              schedule_id, CASE state WHEN 'B' THEN 'has' ELSE 'has not' END)
FROM seat_claim
WHERE (state = 'B') = (reservation_id IS NOT NULL)
UNION ALL
SELECT format('block %s holds seat %s of schedule %s, which is %s', block_id, seat_no, schedule_id,
              coalesce('claimed (' || c.state || ')', 'free'))
FROM blocked LEFT JOIN seat_claim AS c USING (schedule_id, seat_no)
WHERE c.state IS DISTINCT FROM 'B'
UNION ALL
SELECT format('seat %s of schedule %s is blocked, but no block holds it', seat_no, schedule_id)
FROM (SELECT schedule_id, seat_no FROM seat_claim WHERE state = 'B'
      EXCEPT SELECT schedule_id, seat_no FROM blocked) AS nobodys
UNION ALL
SELECT format('seat %s of schedule %s was lifted from block %s, which never had it', seat_no,
              schedule_id, block_id)
FROM (SELECT * FROM lifted EXCEPT SELECT * FROM once_blocked) AS never";

/// What a row can tell of the way that it went: its end fits its status, a hold was paid before it
/// lapsed, and who was paid stayed paid or was cancelled, a seat at a time. What a late capture was
/// given was never held, and is paid as soon as settlement has seen it. The amount is P1's.
const S4: &str = "
SELECT format('reservation %s is %s, held %s, due %s, ended %s', reservation_id, status, held_at,
              expires_at, coalesce(ended_at::text, 'never'))
FROM reservation
WHERE NOT CASE status
          WHEN 'HELD' THEN ended_at IS NULL
          WHEN 'PAID' THEN ended_at IS NULL AND ends_as IS NULL
          WHEN 'EXPIRED' THEN coalesce(ended_at >= coalesce(release_at, expires_at), false)
                              AND ends_as IS DISTINCT FROM 'RELEASED'
          WHEN 'RELEASED' THEN CASE WHEN ends_as IS NULL
                               THEN coalesce(ended_at >= held_at AND ended_at < expires_at, false)
                               ELSE coalesce(ended_at >= coalesce(release_at, expires_at), false)
                                    AND ends_as = 'RELEASED' END
          WHEN 'CANCELLED' THEN coalesce(ended_at >= held_at, false)
          ELSE false END
UNION ALL
SELECT format('reservation %s is %s and has %s payment', reservation_id, status,
              CASE WHEN is_paid THEN 'a live' ELSE 'no live' END)
FROM (SELECT reservation_id, status,
             EXISTS (SELECT FROM payment
                     WHERE payment.reservation_id = reservation.reservation_id
                       AND payment.status = 'PAID') AS is_paid,
             EXISTS (SELECT FROM payment_order AS o
                     WHERE o.order_id = rehold_order AND o.status = 'REHOLDING') AS is_awaited
      FROM reservation) AS r
WHERE is_paid <> (status IN ('PAID', 'CANCELLED')) AND NOT (status = 'PAID' AND is_awaited)
UNION ALL
SELECT format('reservation %s was paid at %s, but was due %s', reservation_id, at, expires_at)
FROM payment JOIN reservation USING (reservation_id)
WHERE payment.status = 'PAID' AND at >= expires_at AND rehold_order IS NULL
UNION ALL
SELECT format('reservation %s (%s, held %s until %s) was sold for order %s, which %s',
              r.reservation_id, r.status, held_at, expires_at, rehold_order,
              CASE WHEN o.order_id IS NULL THEN 'is not there'
                   ELSE 'asked for ' || coalesce(o.rehold_id::text, 'none') END)
FROM reservation AS r LEFT JOIN payment_order AS o ON o.order_id = r.rehold_order
WHERE rehold_order IS NOT NULL
  AND (o.rehold_id IS DISTINCT FROM r.reservation_id OR held_at <> expires_at
       OR r.status NOT IN ('PAID', 'CANCELLED'))
UNION ALL
SELECT format('%s reservation %s of seats %s has given up %s, its cancellations say %s', status,
              reservation_id, seat_nos, coalesce(given_up, '{}'), coalesce(cancelled, '{}'))
FROM (SELECT status, reservation_id, seat_nos,
             (SELECT array_agg(seat_no ORDER BY seat_no)
              FROM unnest(CASE status WHEN 'CANCELLED' THEN seat_nos ELSE cancelled_seat_nos END)
                   AS seats (seat_no)) AS given_up,
             (SELECT array_agg(seat_no ORDER BY seat_no)
              FROM cancellation AS c CROSS JOIN unnest(c.seat_nos) AS seats (seat_no)
              WHERE c.reservation_id = r.reservation_id) AS cancelled
      FROM reservation AS r
      WHERE status = 'CANCELLED' OR cancelled_seat_nos IS NOT NULL
         OR EXISTS (SELECT FROM cancellation AS c WHERE c.reservation_id = r.reservation_id)) AS r
WHERE given_up IS DISTINCT FROM cancelled OR NOT seat_nos @> coalesce(given_up, '{}')
   OR status NOT IN ('PAID', 'CANCELLED')
UNION ALL
SELECT format('seats %s of reservation %s, held %s, ended %s, were cancelled at %s', c.seat_nos,
              reservation_id, held_at, coalesce(ended_at::text, 'never'), c.at)
FROM cancellation AS c JOIN reservation USING (reservation_id)
WHERE c.at < held_at OR c.at > ended_at";

/// Seats are added at `held_at` and taken off when they count no more, all of one moment together:
/// what is left then was live together. Where a limit changed within that moment, the higher one
/// counts. A hold that is settled to end counts until it lapsed, and its seats may be kept longer.
/// What is cancelled counts until then, and what was sold for a late capture not at all: who has
/// paid gets the seats whatever limit there is.
const S5: &str = "
WITH counted AS (
    SELECT *, CASE WHEN ends_as IS NULL THEN ended_at ELSE expires_at END AS until
    FROM reservation
    WHERE rehold_order IS NULL
), cancelled AS (
    SELECT reservation_id, c.at, cardinality(c.seat_nos) AS seats
    FROM cancellation AS c
), changes AS (
    SELECT schedule_id, user_id, held_at AS at, cardinality(seat_nos) AS seats, seat_limit
    FROM counted WHERE until IS DISTINCT FROM held_at
    UNION ALL
    SELECT schedule_id, user_id, until,
           coalesce((SELECT sum(seats) FROM cancelled AS c
                     WHERE c.reservation_id = counted.reservation_id), 0) - cardinality(seat_nos),
           NULL
    FROM counted WHERE until <> held_at
    UNION ALL
    SELECT schedule_id, user_id, at, -seats, NULL
    FROM cancelled JOIN counted USING (reservation_id)
    WHERE until IS DISTINCT FROM held_at
), live AS (
    SELECT DISTINCT schedule_id, user_id, at,
           sum(seats) OVER (of_user ORDER BY at) AS seats,
           max(seat_limit) OVER (PARTITION BY schedule_id, user_id, at) AS seat_limit
    FROM changes
    WINDOW of_user AS (PARTITION BY schedule_id, user_id)
)
SELECT format('user %s had %s live seats of schedule %s at %s, when the limit was %s', user_id,
              seats, schedule_id, at, seat_limit)
FROM live
WHERE seats > seat_limit
UNION ALL
SELECT format('reservation %s has %s seats, when the limit was %s', reservation_id,
              cardinality(seat_nos), seat_limit)
FROM reservation
WHERE ended_at = held_at AND cardinality(seat_nos) > seat_limit AND rehold_order IS NULL";

/// The three accounts without a balance are the system's: card, cash and sales.
const L1: &str = "
WITH moved AS (
    SELECT account_id, sum(amount) AS net
    FROM (SELECT credit AS account_id, amount FROM transfer
          UNION ALL
          SELECT debit, -amount FROM transfer) AS sides
    GROUP BY account_id
)
SELECT format('account %s has %s, its transfers make %s', account_id, balance, coalesce(net, 0))
FROM account LEFT JOIN moved USING (account_id)
WHERE balance <> coalesce(net, 0)
UNION ALL
SELECT format('account %s has %s', account_id, balance)
FROM account
WHERE balance < 0
UNION ALL
SELECT format('account %s %s a balance', account_id,
              CASE WHEN balance IS NULL THEN 'has not' ELSE 'has' END)
FROM account
WHERE (balance IS NULL) <> (account_id IN ('00000000-0000-0000-0000-00000000ca4d',
                                           '00000000-0000-0000-0000-00000000ca54',
                                           '00000000-0000-0000-0000-000000005a1e'))
UNION ALL
SELECT format('account %s, of which transfers make %s, is not there', account_id, net)
FROM moved
WHERE NOT EXISTS (SELECT FROM account WHERE account.account_id = moved.account_id)
UNION ALL
SELECT format('all accounts together make %s', sum(net))
FROM account JOIN moved USING (account_id)
HAVING sum(net) <> 0";

const L2: &str = "
SELECT format('cause %s moved points %s times', cause, count(*))
FROM transfer
GROUP BY cause
HAVING count(*) > 1
UNION ALL
SELECT 'the trigger that keeps transfers from changing is off'
WHERE NOT EXISTS (SELECT FROM pg_trigger
                  WHERE tgrelid = 'transfer'::regclass AND tgname = 'transfer_append_only'
                    AND tgenabled IN ('O', 'A'))";

const P1: &str = "
SELECT format('reservation %s has %s live payments', reservation_id, count(*))
FROM payment
WHERE status = 'PAID'
GROUP BY reservation_id
HAVING count(*) > 1
UNION ALL
SELECT format('payment %s took %s from user %s for reservation %s, which costs user %s %s',
              payment_id, amount, p.user_id, reservation_id, r.user_id, r.total)
FROM payment AS p LEFT JOIN reservation AS r USING (reservation_id)
WHERE p.status = 'PAID' AND (p.amount, p.user_id) IS DISTINCT FROM (r.total, r.user_id)
UNION ALL
SELECT format('payment %s of %s has transfer %s: %s of %s from %s to %s', payment_id, p.amount,
              coalesce(transfer_id::text, 'none'), t.kind, t.amount, t.debit, t.credit)
FROM payment AS p LEFT JOIN transfer AS t USING (transfer_id)
WHERE p.status = 'PAID' AND p.method = 'POINTS' AND (p.amount > 0 OR transfer_id IS NOT NULL)
  AND (t.amount, t.kind, t.debit, t.credit)
      IS DISTINCT FROM (p.amount, 'PAYMENT', p.user_id,
                        '00000000-0000-0000-0000-000000005a1e'::uuid)
UNION ALL
SELECT format('payment %s, %s by %s, has transfer %s', payment_id, status, method, transfer_id)
FROM payment
WHERE transfer_id IS NOT NULL AND (status, method) <> ('PAID', 'POINTS')
UNION ALL
SELECT format('transfer %s of %s paid for nothing', transfer_id, t.amount)
FROM transfer AS t
WHERE t.kind = 'PAYMENT'
  AND NOT EXISTS (SELECT FROM payment AS p
                  WHERE p.transfer_id = t.transfer_id AND p.status = 'PAID')";

/// A refund counts against its payment when it is written, and against its order when the gateway
/// has paid it back.
const P3: &str = "
WITH of_payment AS (
    SELECT payment_id, sum(amount) AS refunds FROM refund GROUP BY payment_id
), of_order AS (
    SELECT order_id, sum(amount) AS refunds, sum(amount) FILTER (WHERE status IN ('DONE', 'RESOLVED')) AS done
    FROM refund GROUP BY order_id
)
SELECT format('%s payment %s of %s gave back %s, its refunds make %s', p.status, p.payment_id,
              p.amount, p.refunded, coalesce(refunds, 0))
FROM payment AS p LEFT JOIN of_payment USING (payment_id)
WHERE p.refunded > p.amount OR p.refunded <> coalesce(refunds, 0)
   OR p.status = 'FAILED' AND p.refunded <> 0
UNION ALL
SELECT format('order %s captured %s and paid back %s; its refunds make %s, done %s', o.order_id,
              o.captured, o.refunded, coalesce(refunds, 0), coalesce(done, 0))
FROM payment_order AS o LEFT JOIN of_order USING (order_id)
WHERE o.refunded > o.captured OR o.refunded <> coalesce(done, 0)
   OR coalesce(refunds, 0) > o.captured
UNION ALL
SELECT format('%s has %s refunds', key, count(*)) FROM refund GROUP BY key HAVING count(*) > 1
UNION ALL
SELECT format('cancellation %s of %s: %s but for %s, of which %s is refunded', cancellation_id,
              seat_nos, price, fee, coalesce(f.amount, 0))
FROM cancellation AS c LEFT JOIN refund AS f ON f.key = c.cancellation_id
WHERE c.refunded <> coalesce(f.amount, 0) OR c.refunded <> price - fee OR fee > price
   OR price <> (SELECT coalesce(sum(seat.price), 0) FROM seat
                WHERE seat.schedule_id = c.schedule_id AND seat.seat_no = ANY (c.seat_nos))
UNION ALL
SELECT format('refund %s of %s to %s has transfer %s: %s of %s from %s to %s', refund_id, f.amount,
              user_id, coalesce(transfer_id::text, 'none'), t.kind, t.amount, t.debit, t.credit)
FROM refund AS f LEFT JOIN transfer AS t USING (transfer_id)
WHERE f.method = 'POINTS'
  AND (t.amount, t.kind, t.debit, t.credit)
      IS DISTINCT FROM (f.amount, 'REFUND', '00000000-0000-0000-0000-000000005a1e'::uuid,
                        f.user_id)
UNION ALL
SELECT format('refund %s of %s goes to %s by %s of order %s; what it gives back was of %s by %s of '
              'order %s', refund_id, f.amount, f.user_id, f.method, f.order_id,
              coalesce(p.user_id, o.user_id), p.method, p.order_id)
FROM refund AS f LEFT JOIN payment AS p USING (payment_id)
     LEFT JOIN payment_order AS o ON o.order_id = f.order_id
WHERE CASE WHEN f.payment_id IS NULL THEN f.user_id IS DISTINCT FROM o.user_id
           ELSE (f.user_id, f.method, f.order_id)
                IS DISTINCT FROM (p.user_id, p.method, p.order_id) END
UNION ALL
SELECT format('transfer %s of %s came back for nothing', transfer_id, t.amount)
FROM transfer AS t
WHERE t.kind = 'REFUND'
  AND NOT EXISTS (SELECT FROM refund AS f WHERE f.transfer_id = t.transfer_id)
UNION ALL
SELECT format('reservation %s is %s, and its show was cancelled until %s', reservation_id, status,
              finished_at)
FROM show_cancellation JOIN reservation USING (schedule_id)
WHERE finished_at IS NOT NULL AND status = 'PAID'";

/// Twice in one table or once in two. Two transfers of one cause are L2's. A payment by an order has
/// no command of its own.
const I1: &str = "
SELECT format('command %s was accepted %s times: %s', command_id, count(*),
              string_agg(what, ', ' ORDER BY what))
FROM (SELECT command_id, 'reservation ' || reservation_id AS what FROM reservation
      UNION ALL
      SELECT unnest(extended_by), 'extension ' || reservation_id FROM reservation
      UNION ALL
      SELECT command_id, 'payment ' || payment_id FROM payment
      WHERE status = 'PAID' AND order_id IS NULL
      UNION ALL
      SELECT command_id, 'order ' || order_id FROM payment_order
      UNION ALL
      SELECT confirm_command_id, 'confirmation of order ' || order_id FROM payment_order
      WHERE confirm_command_id IS NOT NULL
      UNION ALL
      SELECT command_id, 'cancellation ' || cancellation_id FROM cancellation
      UNION ALL
      SELECT DISTINCT cause, 'charge' FROM transfer WHERE kind = 'CHARGE'
      UNION ALL
      SELECT command_id, CASE WHEN lifts THEN 'lift of block ' ELSE 'block ' END || block_id
      FROM seat_block
      UNION ALL
      SELECT ticket_id, 'ticket ' || arrival_no FROM ticket) AS accepted
GROUP BY command_id
HAVING count(*) > 1";

/// Lanes of competing consumers have no order; their outcomes have partition -1.
const F1: &str = "
SELECT format('%s %s: message %s of incarnation %s was decided in epoch %s, commit %s, after one '
              'in epoch %s, commit %s', lane, partition_no, seq, incarnation, epoch, commit_no,
              epoch_before, commit_before)
FROM (SELECT *, lag(epoch) OVER stream AS epoch_before, lag(commit_no) OVER stream AS commit_before
      FROM outcome
      WHERE partition_no >= 0
      WINDOW stream AS (PARTITION BY lane, partition_no ORDER BY incarnation, seq)) AS in_order
WHERE epoch < epoch_before OR commit_no < commit_before
UNION ALL
SELECT format('%s %s is in epoch %s, commit %s, but has outcomes of epoch %s, commit %s', lane,
              partition_no, coalesce(p.epoch::text, 'none'), coalesce(p.commit_no::text, 'none'),
              o.epoch, o.commit_no)
FROM (SELECT lane, partition_no, max(epoch) AS epoch, max(commit_no) AS commit_no
      FROM outcome WHERE partition_no >= 0
      GROUP BY lane, partition_no) AS o
     LEFT JOIN partition AS p USING (lane, partition_no)
WHERE p.epoch IS NULL OR p.epoch < o.epoch OR p.commit_no < o.commit_no";

/// What the tables alone can tell: nothing is decided beyond the cursor. The rest is found by
/// comparing with the stream.
const F2: &str = "
SELECT format('%s %s: message %s of incarnation %s is decided, but the cursor is at %s of %s',
              lane, partition_no, seq, o.incarnation, p.applied_seq, p.incarnation)
FROM (SELECT lane, partition_no, incarnation, seq FROM outcome WHERE partition_no >= 0
      UNION
      SELECT lane, partition_no, incarnation, seq FROM dead_letter WHERE partition_no >= 0) AS o
     JOIN partition AS p USING (lane, partition_no)
WHERE (o.incarnation, o.seq) > (p.incarnation, p.applied_seq)";

/// Ages count from the beginning of the snapshot's transaction, not from when a slow check looks.
const O1: &str = "
SELECT format('notice %s to %s about schedule %s is open since %s', notice_id, lane, schedule_id,
              created_at)
FROM notice
WHERE done_at IS NULL AND created_at < now() - {open_ms} * interval '1 millisecond'
UNION ALL
SELECT format('fact %s of %s %s is not published since %s', seq, topic, aggregate_id, created_at)
FROM outbox
WHERE published_at IS NULL AND created_at < now() - {open_ms} * interval '1 millisecond'";

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::ledger::{CARD_ACCOUNT, CASH_ACCOUNT, SALES_ACCOUNT};

    #[test]
    fn the_system_accounts_are_the_schemas() {
        for account in [CARD_ACCOUNT, CASH_ACCOUNT, SALES_ACCOUNT] {
            assert!(L1.contains(&format!("'{account}'")), "{account}");
        }
        for query in [P1, P3] {
            assert!(query.contains(&format!("'{SALES_ACCOUNT}'")));
        }
    }

    #[test]
    fn the_limit_is_in_the_query() {
        let sql = query(
            Invariant::O1,
            Limits {
                open_ms: 1234,
                ..Limits::default()
            },
        );
        assert!(sql.contains("1234 * interval") && !sql.contains('{'));
    }
}
