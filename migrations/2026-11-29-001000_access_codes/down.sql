-- Where guests were admitted, who was before whom can't be said without their codes: those rooms do not
-- fit in any more, and this fails.
ALTER TABLE waiting_room DROP CONSTRAINT waiting_room_admissions;
ALTER TABLE waiting_room ADD CHECK (admissions BETWEEN 0 AND front);
ALTER TABLE waiting_room DROP COLUMN guest_front;
ALTER TABLE ticket DROP CONSTRAINT ticket_admitted;
ALTER TABLE ticket ADD CHECK (
    num_nonnulls(admission_no, admitted_at, place, active_before, was_passed, pass_until) IN (0, 6));
ALTER TABLE ticket DROP COLUMN access_code_id;
DROP TABLE access_code;
