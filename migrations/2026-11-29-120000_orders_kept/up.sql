-- Orders that have ended with the money captured are looked up as well, when the gateway tells of them: with
-- those that had ended otherwise, so that no buyer waits behind them.
DROP INDEX payment_order_next_at;
CREATE INDEX payment_order_next_at ON payment_order (next_at)
    WHERE next_at IS NOT NULL AND status IN ('SECURING', 'CAPTURING', 'UNKNOWN', 'CAPTURED', 'REHOLDING');
DROP INDEX payment_order_look_at;
CREATE INDEX payment_order_look_at ON payment_order (next_at)
    WHERE next_at IS NOT NULL AND status IN ('READY', 'FAILED', 'PAID', 'REFUNDING', 'REFUNDED');
