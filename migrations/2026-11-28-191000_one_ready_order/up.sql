-- A reservation has one order that is READY, as its lock sees to; whatever else writes here may not
-- make another one.

-- Nobody makes another one meanwhile, nor waits for a row that is changed here.
LOCK TABLE payment_order IN SHARE ROW EXCLUSIVE MODE;

-- Of several that were made before that was so the newest is the one that is told of. The others have
-- failed: they stay, and are looked up if the gateway says something about them.
UPDATE payment_order AS o
SET status = 'FAILED', fail_code = 'order-replaced', step_no = step_no + 1,
    updated_at = clock_timestamp()
WHERE status = 'READY'
  AND EXISTS (SELECT FROM payment_order AS newer
              WHERE newer.reservation_id = o.reservation_id AND newer.status = 'READY'
                AND (newer.created_at, newer.order_id) > (o.created_at, o.order_id));
CREATE UNIQUE INDEX payment_order_one_ready ON payment_order (reservation_id)
    WHERE status = 'READY';
