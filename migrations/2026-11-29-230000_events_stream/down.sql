ALTER TABLE fact_feed
    DROP COLUMN stream_created,
    DROP COLUMN stream_seq,
    DROP COLUMN put_back_no,
    DROP COLUMN put_back_at;
