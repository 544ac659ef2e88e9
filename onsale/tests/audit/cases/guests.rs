//! Guests of a waiting room, and their codes.

use super::Case;

pub const CASES: &[Case] = &[
    ("two guests", "SELECT guests()", &[]),
    (
        "a guest after a later one",
        "SELECT guests_turned()",
        &["Q2"],
    ),
    (
        "a guest who was passed over, after a later one",
        "SELECT guests_turned(); UPDATE ticket SET was_passed = true WHERE arrival_no = 4",
        &[],
    ),
    (
        "a guest after a later one of a presale",
        "SELECT guests_turned(); SELECT presale(5, 34)",
        &[],
    ),
    (
        "a guest after a later one of a presale that was over",
        "SELECT guests_turned(); SELECT presale(5, 33)",
        &["Q2"],
    ),
    (
        "a guest of a presale after a later one of it",
        "SELECT guests_turned(); UPDATE access_code SET granted = 'PRESALE'",
        &["Q2"],
    ),
    (
        "a guest after one of the line",
        "SELECT guest(); UPDATE ticket SET joined_at = at(30) WHERE arrival_no = 4",
        &["Q2"],
    ),
    (
        "a guest who was passed over, after one of the line",
        "SELECT guest();
         UPDATE ticket SET joined_at = at(30), was_passed = true WHERE arrival_no = 4",
        &[],
    ),
    (
        "a guest to whom their line has not come",
        "SELECT guests(); UPDATE waiting_room SET guest_front = 5",
        &["Q2"],
    ),
    (
        "more guests than a code is good for",
        "SELECT guests(); ALTER TABLE access_code DROP CONSTRAINT access_code_used;
         UPDATE access_code SET uses = 1",
        &["Q2"],
    ),
    (
        "a code that says that it was used less often",
        "SELECT guests(); UPDATE access_code SET used = 1",
        &["Q2"],
    ),
    (
        "a code that says that somebody has used it",
        "SELECT guest(); SELECT presale(4, 40); UPDATE access_code SET used = 1",
        &["Q2"],
    ),
    (
        "an account that came back with its code",
        "SELECT guests(); UPDATE ticket SET user_id = id(5) WHERE arrival_no = 5;
         UPDATE access_code SET used = 1, uses = 1",
        &[],
    ),
    (
        "a guest with a code that is not there",
        "SELECT guest(); DELETE FROM access_code",
        &["Q2"],
    ),
    ("a presale", "SELECT early('PRESALE', 34)", &[]),
    (
        "a presale that was over",
        "SELECT early('PRESALE', 33)",
        &["Q2"],
    ),
    (
        "a guest before the opening, without a presale",
        "SELECT early('VIP', 34)",
        &["Q2"],
    ),
];
