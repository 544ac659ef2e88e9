ALTER TABLE system DROP COLUMN generation;
