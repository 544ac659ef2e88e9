-- What was not known to be paid back is to be seen to again.
DELETE FROM refund_action AS a USING refund AS r
WHERE r.refund_id = a.refund_id AND a.kind = 'RESOLUTION' AND r.status = 'RESOLVING';
UPDATE refund SET status = 'STUCK', next_at = NULL WHERE status = 'RESOLVING';
DROP INDEX refund_stuck_at;
ALTER TABLE refund
    DROP CONSTRAINT refund_stuck,
    ADD CONSTRAINT refund_stuck CHECK ((status = 'STUCK') = (stuck_at IS NOT NULL)),
    DROP CONSTRAINT refund_status_check,
    ADD CONSTRAINT refund_status_check CHECK (status IN ('PENDING', 'DONE', 'STUCK', 'RESOLVED')),
    DROP COLUMN key_no,
    DROP COLUMN settles_at;
CREATE INDEX refund_stuck_at ON refund (stuck_at, refund_id) WHERE status = 'STUCK';
