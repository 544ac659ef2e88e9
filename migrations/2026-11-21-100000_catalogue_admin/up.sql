-- The catalogue is edited over HTTP.

-- What was asked when it was made, so that a key that is used for another request is noticed. Null
-- for what no request made.
ALTER TABLE concert ADD COLUMN fingerprint uuid;
ALTER TABLE schedule ADD COLUMN fingerprint uuid;

-- Grows by one each time that the layout is replaced. The ingress alone writes this column, under
-- the row's lock and only while there never was a claim; the owner of the schedule writes the
-- others, and nothing that it decided by another layout.
ALTER TABLE sale ADD COLUMN layout_no bigint NOT NULL DEFAULT 0;
