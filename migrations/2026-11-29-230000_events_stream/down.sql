ALTER TABLE fact_feed
    DROP COLUMN stream_created,
    DROP COLUMN stream_seq;
