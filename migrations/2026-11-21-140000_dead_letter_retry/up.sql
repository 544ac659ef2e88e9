-- What could not be processed is listed over HTTP, and tried again when somebody says so.
--
-- The ingress alone writes retries, retried_at and retried_by, the workers the others.
ALTER TABLE dead_letter
    ADD COLUMN dead_letter_id uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    ADD COLUMN retries integer NOT NULL DEFAULT 0,
    ADD COLUMN retried_at timestamptz,
    ADD COLUMN retried_by uuid;
CREATE INDEX dead_letter_at ON dead_letter (at, dead_letter_id);
