ALTER TABLE sale DROP COLUMN layout_no;
ALTER TABLE schedule DROP COLUMN fingerprint;
ALTER TABLE concert DROP COLUMN fingerprint;
