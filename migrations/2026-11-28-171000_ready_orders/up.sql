-- A reservation has one order that is READY, however often one is asked for; an order that nobody
-- has confirmed is purged some time after its reservation has ended.

-- workers::settlement: commands that have asked for an order, and what they were told of: a command
-- asks for one, whether that was made for it or was there. They are purged when nobody is promised the
-- same answer under the same key any more.
CREATE TABLE payment_order_key (
    command_id uuid PRIMARY KEY,
    order_id uuid NOT NULL REFERENCES payment_order,
    at timestamptz NOT NULL
);
CREATE INDEX payment_order_key_order_id ON payment_order_key (order_id);
CREATE INDEX payment_order_key_at ON payment_order_key (at);

CREATE INDEX payment_order_ready ON payment_order (created_at) WHERE status = 'READY';
-- Who deletes an order has to know that no payment is of it.
CREATE INDEX payment_order_id ON payment (order_id) WHERE order_id IS NOT NULL;

-- What was ever confirmed stays for good: it may have moved money.
CREATE FUNCTION payment_order_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an order that was confirmed is kept' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER payment_order_keep BEFORE DELETE ON payment_order
    FOR EACH ROW WHEN (OLD.status <> 'READY') EXECUTE FUNCTION payment_order_is_kept();
