-- workers::seats: more of what the owner of a schedule decides by. Clients are
-- never told the seed.
ALTER TABLE sale
    ADD COLUMN extensions_max integer NOT NULL DEFAULT 0 CHECK (extensions_max >= 0),
    ADD COLUMN hold_total_ms bigint NOT NULL DEFAULT 900000 CHECK (hold_total_ms > 0),
    ADD COLUMN prevents_orphans boolean NOT NULL DEFAULT false,
    ADD COLUMN release_jitter_ms bigint NOT NULL DEFAULT 0 CHECK (release_jitter_ms >= 0),
    ADD COLUMN release_seed uuid NOT NULL DEFAULT gen_random_uuid();

-- workers::seats: a hold lapses at expires_at; its seats are for others from then on, or from
-- release_at if there is one. What it ends as then may be settled before, and once it is, the hold
-- can't be paid. first_expires_at is when it was to lapse at first, if that is another time.
-- extended_by has the commands that made it last longer, given_back_by the one that
-- gave it back.
ALTER TABLE reservation
    ADD COLUMN release_at timestamptz,
    ADD COLUMN first_expires_at timestamptz,
    ADD COLUMN ends_as text CHECK (ends_as IN ('EXPIRED', 'RELEASED')),
    ADD COLUMN extended_by uuid[],
    ADD COLUMN given_back_by uuid,
    DROP CONSTRAINT reservation_check1,
    ADD CONSTRAINT reservation_term
        CHECK (held_at <= expires_at AND expires_at < coalesce(release_at, 'infinity'));
DROP INDEX reservation_due;
CREATE INDEX reservation_due ON reservation ((coalesce(release_at, expires_at)))
    WHERE status = 'HELD';
