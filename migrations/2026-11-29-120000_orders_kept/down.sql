-- Nobody looks these up any more.
UPDATE payment_order SET next_at = NULL
WHERE next_at IS NOT NULL AND status IN ('PAID', 'REFUNDING', 'REFUNDED');
DROP INDEX payment_order_look_at;
CREATE INDEX payment_order_look_at ON payment_order (next_at)
    WHERE next_at IS NOT NULL AND status IN ('READY', 'FAILED');
DROP INDEX payment_order_next_at;
CREATE INDEX payment_order_next_at ON payment_order (next_at)
    WHERE next_at IS NOT NULL AND status NOT IN ('READY', 'FAILED');
