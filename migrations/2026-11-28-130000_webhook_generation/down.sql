CREATE INDEX outbox_created_at ON outbox (created_at);
UPDATE outbox SET feed_no = NULL WHERE feed_no <= 0;
ALTER TABLE outbox DROP COLUMN refused;
ALTER TABLE webhook DROP COLUMN rotation_print;
ALTER TABLE webhook DROP COLUMN earlier_rotations;
ALTER TABLE webhook DROP COLUMN generation;
