-- Which events stream the facts were published to, and how far that is known to reach: so the publisher
-- notices that the stream was made anew or has lost its end, and puts back what is still here.
ALTER TABLE fact_feed
    ADD COLUMN stream_created text,
    ADD COLUMN stream_seq bigint NOT NULL DEFAULT 0;
