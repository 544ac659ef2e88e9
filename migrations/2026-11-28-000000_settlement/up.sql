-- Payments through a gateway, cancellations and refunds.

-- workers::settlement: what is to be paid through the gateway. Each step of an order is a row that
-- is committed before and after the gateway is asked, never during it: who dies in between leaves
-- the step to whoever looks at next_at next. step_no counts the changes, so that a step is written
-- only by who has read the one before.
CREATE TABLE payment_order (
    order_id uuid PRIMARY KEY,
    reservation_id uuid NOT NULL REFERENCES reservation,
    schedule_id uuid NOT NULL,
    user_id uuid NOT NULL,
    command_id uuid NOT NULL UNIQUE,
    fingerprint uuid NOT NULL,
    amount numeric(14, 0) NOT NULL CHECK (amount > 0),
    status text NOT NULL CHECK (status IN ('READY', 'SECURING', 'CAPTURING', 'UNKNOWN', 'CAPTURED',
                                           'REHOLDING', 'PAID', 'FAILED', 'REFUNDING', 'REFUNDED')),
    step_no integer NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz,
    -- One paymentKey serves one order, for good.
    payment_key text UNIQUE CHECK (char_length(payment_key) BETWEEN 1 AND 200),
    confirm_command_id uuid UNIQUE,
    confirm_fingerprint uuid,
    -- The word to the owner of the seats whose answer is waited for.
    notice_id uuid,
    -- The reservation that a capture which came too late was given, if its seats were free.
    rehold_id uuid UNIQUE,
    fail_code text,
    captured numeric(14, 0) NOT NULL DEFAULT 0,
    refunded numeric(14, 0) NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    -- P3.
    CHECK (refunded >= 0 AND refunded <= captured),
    CHECK (captured = 0 OR captured = amount),
    CHECK ((payment_key IS NULL) = (confirm_command_id IS NULL)),
    CHECK ((confirm_command_id IS NULL) = (confirm_fingerprint IS NULL))
) WITH (fillfactor = 80);
-- One capture at a time: of all orders of a reservation at most one is on its way.
CREATE UNIQUE INDEX payment_order_live ON payment_order (reservation_id)
    WHERE status IN ('SECURING', 'CAPTURING', 'UNKNOWN', 'CAPTURED', 'REHOLDING', 'PAID');
CREATE INDEX payment_order_next_at ON payment_order (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX payment_order_user_id ON payment_order (user_id, created_at);
CREATE INDEX payment_order_reservation_id ON payment_order (reservation_id);

ALTER TABLE payment
    ADD COLUMN order_id uuid REFERENCES payment_order,
    ADD COLUMN refunded numeric(14, 0) NOT NULL DEFAULT 0,
    DROP CONSTRAINT payment_method_check,
    ADD CONSTRAINT payment_method_check CHECK (method IN ('POINTS', 'GATEWAY')),
    DROP CONSTRAINT payment_check1,
    ADD CONSTRAINT payment_money
        CHECK (status = 'FAILED' OR amount = 0
               OR CASE method WHEN 'POINTS' THEN transfer_id ELSE order_id END IS NOT NULL),
    -- P3.
    ADD CONSTRAINT payment_refunded CHECK (refunded >= 0 AND refunded <= amount);

-- workers::settlement: what of a paid reservation was given up, by whom, and what that cost. Its
-- seats are the reservation's until their owner has been told.
CREATE TABLE cancellation (
    cancellation_id uuid PRIMARY KEY,
    reservation_id uuid NOT NULL REFERENCES reservation,
    schedule_id uuid NOT NULL,
    command_id uuid NOT NULL UNIQUE,
    fingerprint uuid NOT NULL,
    -- Who did it: the owner of the reservation, or who administers.
    user_id uuid NOT NULL,
    seat_nos integer[] NOT NULL CHECK (cardinality(seat_nos) > 0),
    price numeric(14, 0) NOT NULL CHECK (price >= 0),
    fee numeric(14, 0) NOT NULL CHECK (fee >= 0 AND fee <= price),
    refunded numeric(14, 0) NOT NULL,
    at timestamptz NOT NULL,
    CHECK (refunded = price - fee)
);
CREATE INDEX cancellation_reservation_id ON cancellation (reservation_id);

-- workers::settlement: money on its way back. key is what it is for, once (P3): a cancellation, or
-- an order whose capture came too late.
CREATE TABLE refund (
    refund_id uuid PRIMARY KEY,
    key uuid NOT NULL UNIQUE,
    user_id uuid NOT NULL,
    payment_id uuid REFERENCES payment,
    order_id uuid REFERENCES payment_order,
    method text NOT NULL CHECK (method IN ('POINTS', 'GATEWAY')),
    amount numeric(14, 0) NOT NULL CHECK (amount > 0),
    status text NOT NULL CHECK (status IN ('PENDING', 'DONE', 'STUCK')),
    step_no integer NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    next_at timestamptz,
    last_error text,
    transfer_id uuid REFERENCES transfer,
    created_at timestamptz NOT NULL,
    done_at timestamptz,
    CHECK ((status = 'DONE') = (done_at IS NOT NULL)),
    CHECK (method = 'POINTS' OR order_id IS NOT NULL),
    CHECK (method = 'GATEWAY' OR (payment_id IS NOT NULL AND status = 'DONE'
                                  AND transfer_id IS NOT NULL))
);
CREATE INDEX refund_next_at ON refund (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX refund_payment_id ON refund (payment_id);
CREATE INDEX refund_order_id ON refund (order_id);

-- Points come back, too; the fee of a cancellation stays in the sales account.
ALTER TABLE transfer
    DROP CONSTRAINT transfer_kind_check,
    ADD CONSTRAINT transfer_kind_check CHECK (kind IN ('CHARGE', 'PAYMENT', 'REFUND'));

ALTER TABLE reservation
    -- workers::settlement, with the row's lock: what was cancelled of a paid one. All of it when the
    -- status is CANCELLED.
    ADD COLUMN cancelled_seat_nos integer[],
    -- workers::seats: the order that is being captured; until it has ended the hold can't be given
    -- back, nor paid by other means.
    ADD COLUMN paying_order uuid,
    -- workers::seats: the order whose late capture made this reservation, PAID from the beginning.
    ADD COLUMN rehold_order uuid UNIQUE;
