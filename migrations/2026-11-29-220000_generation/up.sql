-- onsale restored: another one since each restore from a backup, the time of it in microseconds. What was told
-- by number before it, as a ticket of a waiting room is, may be somebody else's now. For the whole
-- database, since a room that is made after the restore is restored, too: to having had no tickets.
ALTER TABLE system ADD COLUMN generation bigint NOT NULL DEFAULT 0;
