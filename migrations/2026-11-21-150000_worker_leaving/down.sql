ALTER TABLE worker DROP COLUMN leaving;
