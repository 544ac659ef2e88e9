DROP TABLE webhook;
ALTER TABLE outbox DROP COLUMN feed_no;
DROP TABLE fact_feed;
