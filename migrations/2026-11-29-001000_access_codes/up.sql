-- Codes that make their users guests of a waiting room. Who makes them writes them, before anybody is
-- told of one; the owner of the room alone revokes them.
CREATE TABLE access_code (
    access_code_id uuid PRIMARY KEY,
    schedule_id uuid NOT NULL REFERENCES schedule,
    -- What the request that made it asked, as a digest.
    fingerprint uuid NOT NULL,
    label text NOT NULL,
    granted text NOT NULL CHECK (granted IN ('VIP', 'PRESALE')),
    -- Q2: no more tickets are made with it.
    uses integer NOT NULL CHECK (uses > 0),
    valid_from timestamptz NOT NULL,
    valid_until timestamptz NOT NULL,
    made_by uuid NOT NULL,
    made_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CHECK (valid_from < valid_until)
);
-- The newest are shown first.
CREATE INDEX access_code_made ON access_code (schedule_id, made_at DESC, access_code_id DESC);

-- Two checks are another one from here on. Postgres gave them their names, so they are found by the
-- columns that they are about.
DO $$
DECLARE
    it record;
BEGIN
    FOR it IN
        SELECT c.conrelid::regclass AS of, c.conname AS name
        FROM pg_constraint AS c
             JOIN (VALUES ('waiting_room'::regclass, ARRAY['admissions', 'front']),
                          ('ticket'::regclass, ARRAY['active_before', 'admission_no', 'admitted_at',
                                                     'pass_until', 'place', 'was_passed']))
                  AS about (of, columns) ON c.conrelid = about.of
        WHERE c.contype = 'c'
          AND about.columns = ARRAY(SELECT a.attname::text FROM pg_attribute AS a
                                    WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
                                    ORDER BY a.attname::text COLLATE "C")
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', it.of, it.name);
    END LOOP;
END $$;

-- A ticket that was made with a code is a guest's: it is admitted from no place. No foreign key, as
-- with all of a ticket: only the owner of the room writes them, by what was signed after its row was
-- there.
ALTER TABLE ticket ADD COLUMN access_code_id uuid;
CREATE INDEX ticket_access_code ON ticket (access_code_id) WHERE access_code_id IS NOT NULL;
ALTER TABLE ticket ADD CONSTRAINT ticket_admitted CHECK (
    num_nonnulls(admission_no, admitted_at, active_before, was_passed, pass_until) IN (0, 5)
    AND (place IS NOT NULL) = (admission_no IS NOT NULL AND access_code_id IS NULL));

-- All guests with a lower number were admitted, have left, were passed over or wait for the opening.
-- They are let in without the front having moved, and before there is an order.
ALTER TABLE waiting_room ADD COLUMN guest_front integer NOT NULL DEFAULT 0
    CONSTRAINT waiting_room_guest_front CHECK (guest_front BETWEEN 0 AND arrivals);
ALTER TABLE waiting_room ADD CONSTRAINT waiting_room_admissions
    CHECK (admissions BETWEEN 0 AND arrivals);
