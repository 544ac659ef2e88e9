ALTER TABLE waiting_room DROP COLUMN cancelled;
