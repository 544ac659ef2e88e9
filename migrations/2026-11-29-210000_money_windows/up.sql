-- What the audit holds against a window of the gateway's book is found without all that is older, and what
-- is on its way back without all that is back.

-- Orders lie about in the order of time, so that this one is next to nothing to write.
CREATE INDEX payment_order_created_at ON payment_order USING brin (created_at)
    WITH (autosummarize = on);
CREATE INDEX refund_made_at ON refund (done_at) WHERE status = 'DONE' AND method = 'GATEWAY';
CREATE INDEX refund_open ON refund (order_id) WHERE status IN ('PENDING', 'STUCK', 'RESOLVING');
