-- Cancelling: what it costs, whole shows, and facts of money.

-- Until when a buyer may cancel, and what that costs: schema::cancellation::Rules. By default it is
-- free of charge until the beginning.
ALTER TABLE schedule
    ADD COLUMN cancellation_rules jsonb NOT NULL
        DEFAULT '{"untilSecondsBefore": 0, "fees": [], "rounding": "HALF_UP", "unit": 1}';

-- Numbers the facts of a reservation's money without a gap, under the row's lock.
ALTER TABLE reservation ADD COLUMN fact_seq bigint NOT NULL DEFAULT 0;

-- The ingress inserts what somebody who administers wants, workers::settlement works it off. One
-- piece at a time, under the row's lock; a crash leaves the rest to whoever looks at next_at next.
CREATE TABLE show_cancellation (
    schedule_id uuid PRIMARY KEY REFERENCES schedule,
    command_id uuid NOT NULL UNIQUE,
    fingerprint uuid NOT NULL,
    -- Who wants it, and why.
    user_id uuid NOT NULL,
    reason text NOT NULL CHECK (char_length(reason) BETWEEN 1 AND 500),
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    next_at timestamptz DEFAULT clock_timestamp(),
    -- Reservations that were cancelled by it, and what went back for them.
    done bigint NOT NULL DEFAULT 0 CHECK (done >= 0),
    refunded numeric(16, 0) NOT NULL DEFAULT 0 CHECK (refunded >= 0),
    CHECK ((finished_at IS NULL) = (next_at IS NOT NULL))
);
CREATE INDEX show_cancellation_next_at ON show_cancellation (next_at) WHERE next_at IS NOT NULL;

-- Whether a cancellation is a part of its show's, and not the buyer's own.
ALTER TABLE cancellation ADD COLUMN of_show boolean NOT NULL DEFAULT false;
CREATE INDEX cancellation_of_show ON cancellation (schedule_id) WHERE of_show;

-- Money that may still be captured for a date.
CREATE INDEX payment_order_open ON payment_order (schedule_id)
    WHERE status IN ('SECURING', 'CAPTURING', 'UNKNOWN', 'CAPTURED', 'REHOLDING');
