-- workers::settlement: numbers the facts about a date's money without a gap, under the row's lock, which
-- is taken after almost all others and so is short. The catalogue need not know the date.
CREATE TABLE payment_facts (
    schedule_id uuid PRIMARY KEY,
    last_seq bigint NOT NULL CHECK (last_seq > 0)
) WITH (fillfactor = 50);

-- Until now they were numbered by reservation.
ALTER TABLE reservation DROP COLUMN fact_seq;
