-- The most holds that one pass of the room was ever good for before, so that the audit knows how many
-- any may have made. Of rooms that are there it is not known: as many as a pass can be good for.
ALTER TABLE waiting_room
    ADD COLUMN holds_per_pass_before integer NOT NULL DEFAULT 0 CHECK (holds_per_pass_before >= 0);
UPDATE waiting_room SET holds_per_pass_before = 100;
