ALTER TABLE payment_order DROP COLUMN confirmed_at;
DROP TABLE refund_action;
DROP INDEX refund_resolved_at;
DROP INDEX refund_stuck_at;
-- What was paid back by other means is back.
UPDATE refund SET status = 'DONE' WHERE status = 'RESOLVED';
ALTER TABLE refund
    DROP CONSTRAINT refund_stuck,
    DROP COLUMN stuck_at,
    DROP CONSTRAINT refund_done,
    ADD CONSTRAINT refund_check CHECK ((status = 'DONE') = (done_at IS NOT NULL)),
    DROP CONSTRAINT refund_status_check,
    ADD CONSTRAINT refund_status_check CHECK (status IN ('PENDING', 'DONE', 'STUCK'));
