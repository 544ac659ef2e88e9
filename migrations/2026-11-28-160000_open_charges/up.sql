-- A user may have only so many charges by card at the gateway: the ledger counts them under the
-- account's lock. As workers::settlement::charge_orders says it.
CREATE INDEX payment_order_open_charge ON payment_order (user_id)
    WHERE reservation_id IS NULL AND status IN ('CAPTURING', 'UNKNOWN', 'CAPTURED');
