-- What was charged by card stays in the ledger; refunds of such orders go with them.
DELETE FROM refund WHERE order_id IN (SELECT order_id FROM payment_order
                                      WHERE reservation_id IS NULL);
DELETE FROM payment_order WHERE reservation_id IS NULL;
ALTER TABLE payment_order
    DROP CONSTRAINT payment_order_charge,
    DROP CONSTRAINT payment_order_purpose,
    ALTER COLUMN reservation_id SET NOT NULL,
    ALTER COLUMN schedule_id SET NOT NULL;
