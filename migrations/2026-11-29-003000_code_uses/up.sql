-- How many accounts have used a code: written by the owner of the room, in the transaction that makes the
-- ticket, so that no code is used more often than it says, whatever its owner thinks.
ALTER TABLE access_code ADD COLUMN used integer NOT NULL DEFAULT 0;
UPDATE access_code AS c SET used = t.used
FROM (SELECT schedule_id, access_code_id, count(DISTINCT user_id) AS used
      FROM ticket WHERE access_code_id IS NOT NULL GROUP BY schedule_id, access_code_id) AS t
WHERE c.schedule_id = t.schedule_id AND c.access_code_id = t.access_code_id;
ALTER TABLE access_code ADD CONSTRAINT access_code_used CHECK (used BETWEEN 0 AND uses);

-- What ingresses count of a room: the guests who wait.
CREATE INDEX ticket_guests_waiting ON ticket (schedule_id)
    WHERE status = 'WAITING' AND access_code_id IS NOT NULL;
