-- What was given back ended when its seats were released, before it lapsed by the older rule.
UPDATE reservation SET expires_at = ended_at + interval '1 microsecond'
    WHERE status = 'RELEASED' AND ended_at >= expires_at;
DROP INDEX reservation_due;
CREATE INDEX reservation_due ON reservation (expires_at) WHERE status = 'HELD';
ALTER TABLE reservation
    DROP CONSTRAINT reservation_term,
    DROP COLUMN release_at,
    DROP COLUMN first_expires_at,
    DROP COLUMN ends_as,
    DROP COLUMN extended_by,
    DROP COLUMN given_back_by;
-- What was given back in the moment of its beginning.
UPDATE reservation SET expires_at = held_at + interval '1 microsecond' WHERE expires_at <= held_at;
ALTER TABLE reservation ADD CONSTRAINT reservation_check1 CHECK (held_at < expires_at);
ALTER TABLE sale
    DROP COLUMN extensions_max,
    DROP COLUMN hold_total_ms,
    DROP COLUMN prevents_orphans,
    DROP COLUMN release_jitter_ms,
    DROP COLUMN release_seed;
