-- workers::seats alone writes these: whether a hold takes an entry pass, since when (business time),
-- and which version of the waiting room said so.
ALTER TABLE sale
    ADD COLUMN pass_required_since timestamptz,
    ADD COLUMN pass_required boolean NOT NULL
        GENERATED ALWAYS AS (pass_required_since IS NOT NULL) STORED,
    ADD COLUMN room_version bigint NOT NULL DEFAULT 0 CHECK (room_version >= 0);

-- Q3: the ticket with whose pass a hold was made; none where that takes no pass.
ALTER TABLE reservation ADD COLUMN ticket_id uuid REFERENCES ticket;
-- How many holds were made with a ticket. Others cost nothing.
CREATE INDEX reservation_ticket_id ON reservation (schedule_id, ticket_id)
    WHERE ticket_id IS NOT NULL;
-- Passes that outlive their tickets: those of who has left or paid, or had a hold.
CREATE INDEX ticket_outlived ON ticket (schedule_id)
    WHERE ended_at IS NOT NULL AND (pass_until > ended_at OR holds IS NOT NULL);
