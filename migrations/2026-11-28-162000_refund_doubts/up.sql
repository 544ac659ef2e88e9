-- A refund is not asked for again, left to a person or said to be paid back by other means before it
-- is known that the gateway has not made it.

ALTER TABLE refund
    -- workers::settlement: until then what was asked of the gateway may be on its way; none as long as
    -- nothing was that could have an effect.
    ADD COLUMN settles_at timestamptz,
    -- How often the gateway has refused it for good, each time under a key of its own.
    ADD COLUMN key_no integer NOT NULL DEFAULT 0 CHECK (key_no >= 0),
    -- RESOLVING: somebody says to have paid it back by other means.
    DROP CONSTRAINT refund_status_check,
    ADD CONSTRAINT refund_status_check
        CHECK (status IN ('PENDING', 'DONE', 'STUCK', 'RESOLVED', 'RESOLVING')),
    DROP CONSTRAINT refund_stuck,
    ADD CONSTRAINT refund_stuck
        CHECK ((status IN ('STUCK', 'RESOLVING')) = (stuck_at IS NOT NULL));
-- What came of what was asked before, nobody knows.
UPDATE refund SET settles_at = now(),
    key_no = CASE WHEN status = 'STUCK' AND (last_error LIKE 'the gateway declined%'
                                             OR last_error = 'the gateway knows no such payment')
                  THEN 1 ELSE 0 END
WHERE method = 'GATEWAY' AND status IN ('PENDING', 'STUCK');
DROP INDEX refund_stuck_at;
CREATE INDEX refund_stuck_at ON refund (stuck_at, refund_id) WHERE status IN ('STUCK', 'RESOLVING');
