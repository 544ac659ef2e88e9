DROP TABLE show_aside;
ALTER TABLE show_cancellation
    DROP COLUMN after_at, DROP COLUMN after_id, DROP COLUMN pass_is_last, DROP COLUMN pass_at;
ALTER TABLE sale DROP COLUMN cancelled;
