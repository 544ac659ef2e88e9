-- Which events stream the facts were published to, and how far that is known to reach: so the publisher
-- notices that the stream was made anew or has lost its end, and puts back what is still here.
ALTER TABLE fact_feed
    ADD COLUMN stream_created text,
    ADD COLUMN stream_seq bigint NOT NULL DEFAULT 0,
    -- What is behind this number of the feed is being put back.
    ADD COLUMN put_back_no bigint,
    -- When that was done last: the stream's messages from before are younger than their facts.
    ADD COLUMN put_back_at timestamptz;
