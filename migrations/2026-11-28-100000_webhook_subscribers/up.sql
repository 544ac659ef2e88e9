-- Facts are numbered as they are published, and subscribers get them over HTTP.

-- workers::outbox: how many facts were numbered, and up to which of them some were purged. Its row is
-- locked by who gives numbers, until the commit: so numbers become visible in their order, and
-- nothing appears behind a subscriber's cursor.
CREATE TABLE fact_feed (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    last_no bigint NOT NULL DEFAULT 0,
    purged_no bigint NOT NULL DEFAULT 0,
    CHECK (purged_no <= last_no)
) WITH (fillfactor = 50);
INSERT INTO fact_feed DEFAULT VALUES;

ALTER TABLE outbox ADD COLUMN feed_no bigint UNIQUE;

-- Who wants facts over HTTP. The ingress writes what was asked for, and raises the dead; the workers
-- alone write how far a subscriber is.
CREATE TABLE webhook (
    webhook_id uuid PRIMARY KEY,
    url text NOT NULL CHECK (char_length(url) BETWEEN 1 AND 2000),
    -- Only facts of these topics; of all without it.
    topics text[] CHECK (cardinality(topics) > 0),
    fingerprint uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by uuid NOT NULL,
    -- It signs as long as it is there, the one before until its time is over.
    secret bytea NOT NULL,
    previous_secret bytea,
    previous_secret_until timestamptz,
    -- The request that made the secret, where it is not the first one.
    rotation_id uuid,
    state text NOT NULL DEFAULT 'ACTIVE' CHECK (state IN ('ACTIVE', 'DEAD')),
    -- The fact before the next one, and how many were delivered (or are known to be lost) so far.
    cursor_no bigint NOT NULL,
    sequence bigint NOT NULL DEFAULT 0 CHECK (sequence >= 0),
    -- Of the next fact: attempts that failed, since when, and when the next may be made.
    attempts integer NOT NULL DEFAULT 0,
    failing_since timestamptz,
    next_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    delivered_at timestamptz,
    -- When facts were found purged before they were delivered, the last time.
    missed_at timestamptz,
    -- The last attempts, the newest last, as JSON.
    recent text NOT NULL DEFAULT '[]',
    CHECK ((previous_secret IS NULL) = (previous_secret_until IS NULL)),
    CHECK ((attempts = 0) = (failing_since IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX webhook_created_at ON webhook (created_at, webhook_id);
