-- The show is cancelled: the room lets nobody in any more, whatever anybody says later.
ALTER TABLE waiting_room ADD COLUMN cancelled boolean NOT NULL DEFAULT false;
UPDATE waiting_room SET cancelled = true, paused = true
    WHERE schedule_id IN (SELECT schedule_id FROM show_cancellation);
ALTER TABLE waiting_room ADD CONSTRAINT waiting_room_cancelled CHECK (paused OR NOT cancelled);
