-- A show that is cancelled is worked off in passes over its reservations; what can't be cancelled
-- keeps nobody else waiting, and no late command puts the show on sale again.

-- workers::seats: the show is cancelled, so that this sale stays closed for good.
ALTER TABLE sale
    ADD COLUMN cancelled boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT sale_cancelled CHECK (NOT cancelled OR state = 'CLOSED');

-- workers::settlement. How far the pass over the date's reservations is, in the order of
-- reservation_schedule_id; nothing between two passes. A pass that began when nothing could be sold
-- any more is the last one: pass_is_last.
ALTER TABLE show_cancellation
    ADD COLUMN after_at timestamptz,
    ADD COLUMN after_id uuid,
    ADD COLUMN pass_is_last boolean NOT NULL DEFAULT false,
    -- When the next pass is due, if it is not the last one.
    ADD COLUMN pass_at timestamptz NOT NULL DEFAULT '-infinity',
    ADD CONSTRAINT show_cancellation_after CHECK ((after_at IS NULL) = (after_id IS NULL));

-- workers::settlement: reservations of a cancelled show that could not be cancelled, until they are.
CREATE TABLE show_aside (
    reservation_id uuid PRIMARY KEY,
    schedule_id uuid NOT NULL REFERENCES show_cancellation,
    attempts integer NOT NULL DEFAULT 1 CHECK (attempts > 0),
    error text NOT NULL,
    set_aside_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_at timestamptz NOT NULL
);
CREATE INDEX show_aside_schedule_id ON show_aside (schedule_id, next_at);
