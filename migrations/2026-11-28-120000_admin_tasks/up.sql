-- Refunds that the gateway would not make are tasks for people; and how long orders take.

-- workers::settlement: since when it is for somebody to see to. RESOLVED is money that somebody has
-- paid back by other means: the gateway's book has nothing of it.
ALTER TABLE refund
    ADD COLUMN stuck_at timestamptz,
    DROP CONSTRAINT refund_status_check,
    ADD CONSTRAINT refund_status_check
        CHECK (status IN ('PENDING', 'DONE', 'STUCK', 'RESOLVED')),
    DROP CONSTRAINT refund_check,
    ADD CONSTRAINT refund_done CHECK ((status IN ('DONE', 'RESOLVED')) = (done_at IS NOT NULL));
UPDATE refund SET stuck_at = created_at WHERE status = 'STUCK';
ALTER TABLE refund ADD CONSTRAINT refund_stuck CHECK ((status = 'STUCK') = (stuck_at IS NOT NULL));
CREATE INDEX refund_stuck_at ON refund (stuck_at, refund_id) WHERE status = 'STUCK';
CREATE INDEX refund_resolved_at ON refund (done_at, refund_id) WHERE status = 'RESOLVED';

-- workers::settlement: what people have done about refunds that were stuck. It never changes.
CREATE TABLE refund_action (
    command_id uuid PRIMARY KEY,
    fingerprint uuid NOT NULL,
    refund_id uuid NOT NULL REFERENCES refund,
    kind text NOT NULL CHECK (kind IN ('RETRY', 'RESOLUTION')),
    -- Who, and how the money went back.
    user_id uuid NOT NULL,
    note text CHECK (char_length(note) BETWEEN 1 AND 500),
    at timestamptz NOT NULL,
    CHECK ((kind = 'RESOLUTION') = (note IS NOT NULL))
);
CREATE INDEX refund_action_refund_id ON refund_action (refund_id, at);
-- It is paid back by other means once.
CREATE UNIQUE INDEX refund_action_resolution ON refund_action (refund_id)
    WHERE kind = 'RESOLUTION';

-- workers::settlement: when the buyer wanted it captured; unknown of orders that are older than this.
ALTER TABLE payment_order ADD COLUMN confirmed_at timestamptz;
