-- Money that went back twice, or has perhaps, is a task until somebody has closed it.

ALTER TABLE refund
    -- workers::settlement: why somebody has to compare what the gateway has given back with what was
    -- paid by other means (TWICE: the gateway has made a refund that was resolved as well; BY_HAND: as
    -- much was given back in its own pages, which may be one and the same), since when, and since when
    -- somebody has. It is written when the refund ends.
    ADD COLUMN compare text,
    ADD COLUMN compare_at timestamptz,
    ADD COLUMN compared_at timestamptz,
    ADD CONSTRAINT refund_compare
        CHECK (CASE WHEN compare IS NULL THEN compare_at IS NULL AND compared_at IS NULL
                    ELSE compare IN ('TWICE', 'BY_HAND') AND compare_at IS NOT NULL
                         AND status IN ('DONE', 'RESOLVED') END);

ALTER TABLE refund_action
    DROP CONSTRAINT refund_action_kind_check,
    ADD CONSTRAINT refund_action_kind_check CHECK (kind IN ('RETRY', 'RESOLUTION', 'COMPARISON')),
    DROP CONSTRAINT refund_action_check,
    ADD CONSTRAINT refund_action_note CHECK ((kind <> 'RETRY') = (note IS NOT NULL));
-- It is compared once.
CREATE UNIQUE INDEX refund_action_comparison ON refund_action (refund_id)
    WHERE kind = 'COMPARISON';

-- What was made by the gateway although somebody had resolved it: which of both it was, only the log
-- had.
UPDATE refund AS r SET compare = 'BY_HAND', compare_at = r.done_at
FROM refund_action AS a
WHERE a.refund_id = r.refund_id AND a.kind = 'RESOLUTION' AND r.status = 'DONE';

CREATE INDEX refund_compare_at ON refund (compare_at, refund_id)
    WHERE compare_at IS NOT NULL AND compared_at IS NULL;
CREATE INDEX refund_compared_at ON refund (compared_at, refund_id) WHERE compared_at IS NOT NULL;
