-- workers::seats: what was taken off sale, and put on sale again, by whom and why; append-only. The
-- row of a block names its seats, the rows that lift it name those that came back by each. What a
-- block still holds are its seats without those, and exactly these are claimed as blocked.
CREATE TABLE seat_block (
    command_id uuid PRIMARY KEY,
    schedule_id uuid NOT NULL,
    block_id uuid NOT NULL,
    lifts boolean NOT NULL,
    seat_nos integer[] NOT NULL CHECK (cardinality(seat_nos) > 0),
    user_id uuid NOT NULL,
    reason text CHECK (char_length(reason) BETWEEN 1 AND 500),
    fingerprint uuid NOT NULL,
    at timestamptz NOT NULL,
    CHECK (lifts OR reason IS NOT NULL)
);
CREATE UNIQUE INDEX seat_block_block_id ON seat_block (block_id) WHERE NOT lifts;
CREATE INDEX seat_block_schedule_id ON seat_block (schedule_id, at);
