-- Open notices are listed lane by lane, so that those of one that stands still hide nobody else's.
DROP INDEX notice_open;
CREATE INDEX notice_open ON notice (lane, created_at) WHERE done_at IS NULL;
