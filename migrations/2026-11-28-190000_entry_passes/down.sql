DROP INDEX ticket_outlived;
DROP INDEX reservation_ticket_id;
ALTER TABLE reservation DROP COLUMN ticket_id;
ALTER TABLE sale DROP COLUMN pass_required, DROP COLUMN pass_required_since, DROP COLUMN room_version;
