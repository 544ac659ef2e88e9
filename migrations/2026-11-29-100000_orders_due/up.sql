-- Orders on their way, whose buyers wait, and those that had ended and are looked up once more are taken
-- apart: however many of one kind are due, the other is not looked for among them.
DROP INDEX payment_order_next_at;
CREATE INDEX payment_order_next_at ON payment_order (next_at)
    WHERE next_at IS NOT NULL AND status NOT IN ('READY', 'FAILED');
CREATE INDEX payment_order_look_at ON payment_order (next_at)
    WHERE next_at IS NOT NULL AND status IN ('READY', 'FAILED');
