//! What happens once, in order and in time: keys (I1), partitions (F1 and F2), and what is to be told
//! (O1).

use super::Case;

pub const CASES: &[Case] = &[
    (
        "a ticket whose key made a reservation, too",
        "UPDATE ticket SET ticket_id = id(1102) WHERE arrival_no = 4",
        &["I1"],
    ),
    (
        "a command that cancels and charges",
        "SELECT cancel_one(1000, 100);
         UPDATE cancellation SET command_id = id(201)",
        &["I1"],
    ),
    (
        "a command that bought two things",
        "UPDATE payment SET command_id = id(1101) WHERE status = 'PAID'",
        &["I1"],
    ),
    (
        "a command that holds and charges",
        "SET session_replication_role = replica;
         UPDATE reservation SET command_id = id(201) WHERE reservation_id = id(1002)",
        &["I1"],
    ),
    (
        "a command that holds and blocks",
        "UPDATE seat_block SET command_id = id(1102) WHERE command_id = id(801)",
        &["I1"],
    ),
    (
        "a command that holds and cancels",
        "SELECT partly(); UPDATE cancellation SET command_id = id(1101)",
        &["I1"],
    ),
    (
        "an order that was confirmed by the command that made it",
        "SELECT late(); UPDATE payment_order SET confirm_command_id = command_id",
        &["I1"],
    ),
    (
        "a deposed owner that went on",
        "UPDATE outcome SET epoch = 3 WHERE lane = 'seats' AND seq = 2;
         UPDATE partition SET epoch = 3",
        &["F1"],
    ),
    (
        "a commit number that went back",
        "UPDATE outcome SET commit_no = 10 WHERE lane = 'seats' AND seq = 1;
         UPDATE partition SET commit_no = 10",
        &["F1"],
    ),
    (
        "a partition behind its outcomes",
        "UPDATE partition SET epoch = 1",
        &["F1"],
    ),
    (
        "a partition that is not there",
        "DELETE FROM partition",
        &["F1"],
    ),
    (
        "a decision beyond the cursor",
        "UPDATE partition SET applied_seq = 2",
        &["F2"],
    ),
    (
        "a dead letter beyond the cursor",
        "INSERT INTO dead_letter VALUES ('seats', 0, 1, 1, -1, '', '')",
        &["F2"],
    ),
    (
        "a notice that nobody takes",
        "INSERT INTO notice VALUES (id(702), 'seats', id(16), '', now() - interval '11 s')",
        &["O1"],
    ),
    (
        "a fact that nobody publishes",
        "INSERT INTO outbox VALUES ('seats', id(16), 2, '', now() - interval '11 s')",
        &["O1"],
    ),
    (
        "what is open for a moment",
        "INSERT INTO outbox VALUES ('seats', id(16), 2, '', now() - interval '9 s');
         INSERT INTO notice VALUES (id(702), 'seats', id(16), '', now() - interval '9 s')",
        &[],
    ),
];
