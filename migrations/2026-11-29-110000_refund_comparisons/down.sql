DROP INDEX refund_compared_at;
DROP INDEX refund_compare_at;
DROP INDEX refund_action_comparison;
DELETE FROM refund_action WHERE kind = 'COMPARISON';
ALTER TABLE refund_action
    DROP CONSTRAINT refund_action_note,
    ADD CONSTRAINT refund_action_check CHECK ((kind = 'RESOLUTION') = (note IS NOT NULL)),
    DROP CONSTRAINT refund_action_kind_check,
    ADD CONSTRAINT refund_action_kind_check CHECK (kind IN ('RETRY', 'RESOLUTION'));
ALTER TABLE refund
    DROP CONSTRAINT refund_compare,
    DROP COLUMN compared_at,
    DROP COLUMN compare_at,
    DROP COLUMN compare;
