//! Waiting rooms and what their passes let one do (Q1 to Q3).

use super::Case;

pub const CASES: &[Case] = &[
    (
        "two live tickets of one user",
        "DROP INDEX ticket_live; UPDATE ticket SET user_id = id(1) WHERE arrival_no = 4",
        &["Q1"],
    ),
    (
        "another ticket after the first has ended",
        "UPDATE ticket SET user_id = id(2) WHERE arrival_no = 4",
        &[],
    ),
    (
        "a ticket that is lost",
        "DELETE FROM ticket WHERE arrival_no = 4",
        &["Q1"],
    ),
    (
        "a number that was given twice",
        "DROP INDEX ticket_arrival_no; UPDATE ticket SET arrival_no = 2 WHERE arrival_no = 4",
        &["Q1"],
    ),
    (
        "a number that was left out",
        "UPDATE ticket SET arrival_no = 5 WHERE arrival_no = 4",
        &["Q1"],
    ),
    (
        "a ticket without a room",
        "DELETE FROM ticket WHERE arrival_no < 4;
         DELETE FROM waiting_room",
        &["Q1"],
    ),
    (
        "an admission to a full room",
        "ALTER TABLE ticket DROP CONSTRAINT ticket_room;
         UPDATE ticket SET capacity = 1 WHERE arrival_no = 3",
        &["Q2"],
    ),
    (
        "an admission that says that the room was emptier than it was",
        "UPDATE ticket SET active_before = 0 WHERE arrival_no = 3",
        &["Q2"],
    ),
    (
        "what ended in the moment of an admission, counted before it or after it",
        "UPDATE ticket SET ended_at = at(31), active_before = 1 WHERE arrival_no = 1;
         SELECT finish(0, 'EXPIRED', 31)",
        &[],
    ),
    (
        "an admission out of order",
        "UPDATE ticket SET was_passed = false WHERE arrival_no = 0",
        &["Q2"],
    ),
    (
        "two places of a drawn line that were swapped",
        "UPDATE ticket SET place = 3 - place WHERE arrival_no IN (0, 1)",
        &["Q2"],
    ),
    (
        "a line that was drawn by another seed",
        "UPDATE waiting_room SET seed = sha256('w')",
        &["Q2"],
    ),
    (
        "an admission before the opening",
        "UPDATE waiting_room SET closed_at = at(7)",
        &["Q2"],
    ),
    (
        "an admission that is left out",
        "UPDATE ticket SET admission_no = 5 WHERE arrival_no = 3",
        &["Q2"],
    ),
    (
        "an admission that the room knows nothing of",
        "UPDATE waiting_room SET admissions = 3",
        &["Q2"],
    ),
    (
        "admissions that went back in time",
        "UPDATE ticket SET admitted_at = at(8), joined_at = at(1) WHERE arrival_no = 3;
         UPDATE ticket SET ended_at = at(8) WHERE arrival_no IN (1, 2)",
        &["Q2"],
    ),
    (
        "a latecomer in the lobby's places",
        "UPDATE ticket SET place = 4 WHERE arrival_no = 0;
         UPDATE waiting_room SET front = 5",
        &["Q2"],
    ),
    (
        "a place of two",
        "UPDATE ticket SET place = 2 WHERE arrival_no = 0",
        &["Q2"],
    ),
    (
        "a place that the line has not come to",
        "UPDATE waiting_room SET admissions = 3, front = 3;
         UPDATE ticket SET admission_no = 3 WHERE arrival_no = 3",
        &["Q2"],
    ),
    (
        "an admission from no place",
        "ALTER TABLE ticket DROP CONSTRAINT ticket_admitted;
         UPDATE ticket SET place = NULL WHERE arrival_no = 3",
        &["Q2"],
    ),
    ("a hold with a pass", "SELECT enter(1010, 1, 0, 599)", &[]),
    (
        "a hold with a pass that lasted as long as another hold",
        "UPDATE ticket SET holds = '[[\"\", 1767226300000000, true]]' WHERE arrival_no = 0;
         SELECT enter(1010, 1, 0, 699)",
        &[],
    ),
    (
        "a hold with a pass that is over",
        "SELECT enter(1010, 1, 0, 600)",
        &["Q3"],
    ),
    (
        "a hold without a pass",
        "SELECT reserve(1010, 1, '{5}', 'EXPIRED', 501, 502, 503)",
        &["Q3"],
    ),
    (
        "a hold without a pass when there was no room",
        "SELECT reserve(1010, 1, '{5}', 'EXPIRED', 500, 502, 503)",
        &[],
    ),
    (
        "a hold without a pass where the room is off",
        "UPDATE sale SET pass_required_since = NULL; UPDATE waiting_room SET mode = 'OFF';
         SELECT reserve(1010, 1, '{5}', 'EXPIRED', 501, 502, 503)",
        &[],
    ),
    (
        "a late capture, which takes no pass",
        "SELECT late();
         UPDATE reservation SET held_at = at(501), expires_at = at(501)
         WHERE reservation_id = id(1007)",
        &[],
    ),
    (
        "a late capture that somebody says took a pass",
        "SELECT late();
         UPDATE reservation SET held_at = at(501), expires_at = at(501), user_id = id(1),
             ticket_id = id(2000) WHERE reservation_id = id(1007)",
        &["Q3"],
    ),
    (
        "a hold with somebody else's pass",
        "SELECT enter(1010, 3, 0, 501)",
        &["Q3"],
    ),
    (
        "a hold by a ticket that waits",
        "SELECT enter(1010, 5, 4, 501)",
        &["Q3"],
    ),
    (
        "a hold before its ticket was admitted",
        "SELECT enter(1010, 4, 3, 25)",
        &["Q3"],
    ),
    (
        "a hold by a clock that was behind another",
        "SELECT enter(1010, 4, 3, 27)",
        &[],
    ),
    (
        "more holds than any pass is good for",
        "SELECT reserve(3000 + n, 1, '{5}', 'EXPIRED', 501, 501, 501)
         FROM generate_series(1, 5) AS n;
         UPDATE reservation SET ticket_id = id(2000) WHERE reservation_id > id(3000)",
        &["Q3"],
    ),
    (
        "as many holds as a pass was good for before",
        "SELECT reserve(3000 + n, 1, '{5}', 'EXPIRED', 501, 501, 501)
         FROM generate_series(1, 5) AS n;
         UPDATE reservation SET ticket_id = id(2000) WHERE reservation_id > id(3000);
         UPDATE waiting_room SET holds_per_pass_before = 5",
        &[],
    ),
    (
        "a hold with a pass that was given back",
        "UPDATE ticket SET pass_until = at(200) WHERE arrival_no = 1;
         SELECT enter(1010, 2, 1, 91)",
        &["Q3"],
    ),
    (
        "a hold with a pass that was given back a moment ago",
        "UPDATE ticket SET pass_until = at(200) WHERE arrival_no = 1;
         SELECT enter(1010, 2, 1, 89)",
        &[],
    ),
    (
        "a hold with a pass that was given back while nobody could be told",
        "UPDATE ticket SET pass_until = at(200) WHERE arrival_no = 1;
         SELECT enter(1010, 2, 1, 91);
         INSERT INTO notice VALUES (id(702), 'seats', id(16), 'PassesOver', at(30), at(92))",
        &[],
    ),
    (
        "a hold with a pass after it was told that it was given back",
        "UPDATE ticket SET pass_until = at(200) WHERE arrival_no = 1;
         SELECT enter(1010, 2, 1, 95);
         INSERT INTO notice VALUES (id(702), 'seats', id(16), 'PassesOver', at(30), at(92)),
             (id(703), 'seats', id(16), 'PassesOver', at(90), at(99)),
             (id(704), 'seats', id(16), 'Paid', at(30), at(99))",
        &["Q3"],
    ),
    (
        "a room that the owner of the seats knows nothing of",
        "UPDATE sale SET pass_required_since = NULL",
        &["Q3"],
    ),
    (
        "a room that the owner of the seats is about to know of",
        "UPDATE sale SET pass_required_since = NULL;
         INSERT INTO notice VALUES (id(702), 'seats', id(16), 'Room', now())",
        &[],
    ),
    (
        "a room that the owner of the seats knows nothing of while it is told of other things",
        "UPDATE sale SET pass_required_since = NULL;
         INSERT INTO notice VALUES (id(702), 'seats', id(16), 'PaidAll', now())",
        &["Q3"],
    ),
];
