ALTER TABLE waiting_room DROP COLUMN holds_per_pass_before;
