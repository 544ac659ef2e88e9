-- What somebody else changes on a subscriber while it is served; facts that no stream takes.

-- The ingress raises it with each change of address, state or secret: what the workers know of a
-- subscriber holds for one generation.
ALTER TABLE webhook ADD COLUMN generation bigint NOT NULL DEFAULT 0;
-- The requests of earlier rotations, the last ones first, and what the present one asked for: a late
-- repetition makes no further secret.
ALTER TABLE webhook ADD COLUMN earlier_rotations uuid[] NOT NULL DEFAULT '{}';
ALTER TABLE webhook ADD COLUMN rotation_print uuid;

-- workers::outbox: why a fact can't be on the stream. It has its number, and subscribers get it.
ALTER TABLE outbox ADD COLUMN refused text;
ALTER TABLE outbox ADD CONSTRAINT outbox_refused_check
    CHECK (refused IS NULL OR published_at IS NOT NULL);

-- Facts are purged in the order of their numbers. What was published before there were numbers comes
-- before all others.
UPDATE outbox o SET feed_no = x.place - x.total FROM (
    SELECT topic, aggregate_id, seq, count(*) OVER () AS total,
           row_number() OVER (ORDER BY published_at, topic, aggregate_id, seq) AS place
    FROM outbox WHERE published_at IS NOT NULL AND feed_no IS NULL
) x WHERE (o.topic, o.aggregate_id, o.seq) = (x.topic, x.aggregate_id, x.seq);
DROP INDEX outbox_created_at;
