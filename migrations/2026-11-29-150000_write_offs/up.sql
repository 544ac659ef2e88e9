-- What the gateway tells while an order has its money and is not at its end yet is looked at when it is.
-- workers::settlement: whether the gateway has told since then that some of it may have gone back.
ALTER TABLE payment_order ADD COLUMN may_be_back boolean NOT NULL DEFAULT false;

-- workers::settlement: what people say went back of a payment at the gateway apart from its refunds, and is
-- to stay so, each amount as the gateway has it. The latest row of an order counts; none ever changes.
CREATE TABLE write_off (
    command_id uuid PRIMARY KEY,
    fingerprint uuid NOT NULL,
    order_id uuid NOT NULL REFERENCES payment_order,
    amounts numeric(14, 0)[] NOT NULL CHECK (0 < ALL (amounts)),
    user_id uuid NOT NULL,
    note text NOT NULL CHECK (char_length(note) BETWEEN 1 AND 500),
    at timestamptz NOT NULL
);
CREATE INDEX write_off_order_id ON write_off (order_id, at DESC, command_id DESC);
CREATE INDEX write_off_at ON write_off (at, order_id);
