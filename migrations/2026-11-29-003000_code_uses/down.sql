DROP INDEX ticket_guests_waiting;
ALTER TABLE access_code DROP COLUMN used;
