//! What must be true of payments through the gateway.

/// A payment is of an order that was captured for what it sold, and a captured order has its payment
/// or gives its money back. That a paymentKey serves one order is its unique key. A charge by card,
/// which sells nothing, has the transfer of its points in place of a payment: one, with its own id,
/// and only when it is paid.
pub(super) const P1: &str = "
SELECT format('payment %s of %s for reservation %s has order %s: %s, %s captured for %s',
              payment_id, p.amount, p.reservation_id, coalesce(p.order_id::text, 'none'), o.status,
              o.captured, coalesce(o.rehold_id, o.reservation_id))
FROM payment AS p LEFT JOIN payment_order AS o USING (order_id)
WHERE p.status = 'PAID' AND p.method = 'GATEWAY'
  AND (o.status, o.captured, coalesce(o.rehold_id, o.reservation_id), o.user_id)
      IS DISTINCT FROM ('PAID', p.amount, p.reservation_id, p.user_id)
UNION ALL
SELECT format('order %s is PAID, but has no live payment', order_id)
FROM payment_order AS o
WHERE status = 'PAID' AND reservation_id IS NOT NULL
  AND NOT EXISTS (SELECT FROM payment AS p
                  WHERE p.order_id = o.order_id AND p.status = 'PAID' AND p.method = 'GATEWAY')
UNION ALL
SELECT format('charge %s of %s by user %s is %s with %s captured and has transfer %s: %s of %s from %s '
              'to %s', order_id, o.amount, user_id, status, captured,
              coalesce(transfer_id::text, 'none'), kind, t.amount, debit, credit)
FROM payment_order AS o
     LEFT JOIN transfer AS t ON t.cause = o.order_id OR t.transfer_id = o.order_id
WHERE reservation_id IS NULL
  AND CASE WHEN status = 'PAID'
           THEN (transfer_id, cause, kind, t.amount, debit, credit)
                IS DISTINCT FROM (order_id, order_id, 'CHARGE', captured,
                                  '00000000-0000-0000-0000-00000000ca4d'::uuid, user_id)
           ELSE transfer_id IS NOT NULL END
UNION ALL
SELECT format('order %s of %s is %s with %s captured and %s refunded', order_id, amount, status,
              captured, refunded)
FROM payment_order
WHERE NOT CASE
          WHEN status IN ('READY', 'SECURING', 'CAPTURING', 'UNKNOWN', 'FAILED')
              THEN captured = 0 AND refunded = 0
          WHEN status = 'REFUNDED' THEN captured = amount AND refunded = amount
          WHEN status = 'PAID' THEN captured = amount AND (reservation_id IS NOT NULL OR refunded = 0)
          ELSE captured = amount AND refunded = 0 END";

/// Ages count from the beginning of the snapshot's transaction. A show that is cancelled sells nothing:
/// what was paid for it has to go back, too (that it has, where the cancellation is said to be finished,
/// is P3's). What somebody has to see to is late as well: it stays a violation until somebody has, and
/// has said so by name, or has put it right at the gateway. So it is with money that the gateway has
/// captured and that is not what was ordered, whatever its order has come to; how much that is, the
/// gateway's book says. What went back twice is lost at once.
pub(super) const P2: &str = "
SELECT format('order %s of %s is %s with %s captured since %s', order_id,
              coalesce('reservation ' || reservation_id, 'points'), status, captured, updated_at)
FROM payment_order
WHERE status IN ('CAPTURED', 'REHOLDING')
  AND updated_at < now() - {refund_ms} * interval '1 millisecond'
UNION ALL
SELECT format('order %s of %s is on its way, %s, since %s: %s may be captured%s', order_id,
              coalesce('reservation ' || reservation_id, 'points'), status, updated_at, amount,
              '; the payment at the gateway is not what was ordered, since ' || odd_at)
FROM payment_order
WHERE status IN ('SECURING', 'CAPTURING', 'UNKNOWN')
  AND updated_at < now() - {refund_ms} * interval '1 millisecond'
UNION ALL
SELECT format('order %s of %s is %s, with %s captured and %s refunded for %s, but the payment at the '
              'gateway is not what was ordered, since %s', order_id,
              coalesce('reservation ' || reservation_id, 'points'), status, captured, refunded, amount,
              odd_at)
FROM payment_order
WHERE odd_at < now() - {refund_ms} * interval '1 millisecond'
  AND NOT (status IN ('CAPTURED', 'REHOLDING', 'SECURING', 'CAPTURING', 'UNKNOWN')
           AND updated_at < now() - {refund_ms} * interval '1 millisecond')
UNION ALL
SELECT format('refund %s of order %s went back twice: the gateway made %s of it at %s, and %s has paid it '
              'back by other means', refund_id, order_id, amount, done_at,
              coalesce(a.user_id::text, 'somebody'))
FROM refund AS r
     LEFT JOIN (SELECT * FROM refund_action WHERE kind = 'RESOLUTION') AS a USING (refund_id)
WHERE r.compare = 'TWICE' AND r.compared_at IS NULL
UNION ALL
SELECT format('refund %s of order %s has to be compared since %s: %s was given back at the gateway by '
              'hand, and as much is said to be paid back by other means', refund_id, order_id, compare_at,
              amount)
FROM refund
WHERE compare = 'BY_HAND' AND compared_at IS NULL
  AND compare_at < now() - {refund_ms} * interval '1 millisecond'
UNION ALL
SELECT format('refund %s of %s was compared, but nobody has said so, or the other way round', refund_id,
              amount)
FROM refund AS r
     LEFT JOIN (SELECT * FROM refund_action WHERE kind = 'COMPARISON') AS a USING (refund_id)
WHERE (r.compared_at IS NULL) <> (a.command_id IS NULL)
UNION ALL
SELECT format('refund %s of %s is %s since %s', refund_id, amount, status, created_at)
FROM refund
WHERE status NOT IN ('DONE', 'RESOLVED') AND created_at < now() - {refund_ms} * interval '1 millisecond'
UNION ALL
SELECT format('reservation %s is PAID, and its show is cancelled since %s%s', r.reservation_id,
              started_at, coalesce('; it is set aside: ' || a.error, ''))
FROM show_cancellation AS s JOIN reservation AS r USING (schedule_id)
     JOIN payment AS p ON p.reservation_id = r.reservation_id AND p.status = 'PAID'
     LEFT JOIN show_aside AS a ON a.reservation_id = r.reservation_id
WHERE s.finished_at IS NULL AND r.status = 'PAID'
  AND greatest(s.started_at, p.at) < now() - {refund_ms} * interval '1 millisecond'
UNION ALL
SELECT format('order %s is REFUNDING, but has no refund', order_id)
FROM payment_order AS o
WHERE status = 'REFUNDING'
  AND NOT EXISTS (SELECT FROM refund AS r WHERE r.order_id = o.order_id)
UNION ALL
SELECT format('refund %s of %s is %s, but %s has said that it was paid back by other means',
              refund_id, amount, status, coalesce(a.user_id::text, 'nobody'))
FROM refund AS r
     FULL JOIN (SELECT * FROM refund_action WHERE kind = 'RESOLUTION') AS a USING (refund_id)
WHERE CASE r.status WHEN 'DONE' THEN false -- by the gateway after all
                    WHEN 'RESOLVED' THEN a.command_id IS NULL
                    WHEN 'RESOLVING' THEN a.command_id IS NULL
                    ELSE a.command_id IS NOT NULL END";

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::ledger::CARD_ACCOUNT;

    #[test]
    fn the_account_of_cards_is_the_schemas() {
        assert!(P1.contains(&format!("'{CARD_ACCOUNT}'")));
    }
}
