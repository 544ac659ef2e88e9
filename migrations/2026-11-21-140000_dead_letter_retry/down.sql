DROP INDEX dead_letter_at;
ALTER TABLE dead_letter
    DROP COLUMN dead_letter_id,
    DROP COLUMN retries,
    DROP COLUMN retried_at,
    DROP COLUMN retried_by;
