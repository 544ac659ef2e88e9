DROP INDEX payment_order_look_at;
DROP INDEX payment_order_next_at;
CREATE INDEX payment_order_next_at ON payment_order (next_at) WHERE next_at IS NOT NULL;
