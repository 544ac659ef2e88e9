ALTER TABLE partition DROP COLUMN decided_at;
