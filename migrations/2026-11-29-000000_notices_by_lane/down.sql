DROP INDEX notice_open;
CREATE INDEX notice_open ON notice (created_at) WHERE done_at IS NULL;
