//! Charges through the ledger lane.

use crate::rig::{Asker, Rig, charge};
use onsale_domain::ledger::{Cards, Limits};
use onsale_schema::ledger::{Kind, Outcome, Refusal};
use onsale_schema::message::{Command, CommandMessage, encode};
use onsale_schema::{Lane, MessageId, Money, Timestamp, UserId};
use onsale_workers::compete::commit::{self, Job, Mode};
use onsale_workers::config::Role;
use onsale_workers::ledger::Ledger;
use onsale_workers::runtime::core::Inbound;
use std::sync::Arc;
use tokio::task::JoinSet;
use uuid::Uuid;

fn balance(outcome: &Outcome) -> i64 {
    match outcome {
        Outcome::Charged { balance, .. } => balance.to_won(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_make_each_charge_once_though_one_is_killed() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Ledger).await;
    let (killed, survivor) = (
        rig.worker(Role::Ledger).await,
        rig.worker(Role::Ledger).await,
    );
    let users: Vec<UserId> = (0..20).map(|_| UserId(Uuid::now_v7())).collect();
    // 200 charges of 1,000 in messages of one to four, each user's charges spread over many.
    let charges: Vec<_> = (0..200).map(|n| charge(users[n % 20], 1000)).collect();
    let mut messages = Vec::new();
    let mut rest = &charges[..];
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(rest.len().min(1 + messages.len() % 4));
        messages.push(asker.send(part.to_vec()).await);
        rest = behind;
        if messages.len() == 40 {
            asker.hear().await;
        }
    }
    drop(killed);
    let mut outcomes = Vec::new();
    for message in messages {
        outcomes.extend(asker.outcomes(message).await);
    }
    survivor.stop().await;
    assert_eq!(outcomes.len(), 200);
    let highest = outcomes.iter().map(balance).max();
    assert_eq!(highest, Some(10_000), "ten charges each");
    assert_eq!(
        rig.number("SELECT count(*) AS n FROM account WHERE balance = 10000")
            .await,
        20
    );
    assert_eq!(
        rig.number("SELECT count(DISTINCT cause) AS n FROM transfer")
            .await,
        200
    );
    rig.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_duplicates_then_validity_then_the_cap() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Ledger).await;
    let worker = rig.worker(Role::Ledger).await;
    let user = UserId(Uuid::now_v7());
    let first = charge(user, 600_000);
    let accepted = asker.ask(first.clone()).await;
    assert_eq!(balance(&accepted), 600_000);
    assert_eq!(asker.ask(first.clone()).await, accepted, "the same key");

    let mut other_body = charge(user, 5);
    other_body.id = first.id;
    let mut late = charge(user, 5);
    late.deadline = late.deadline.plus_ms(-240_000);
    let cap = Money::won(1_000_000);
    for (command, refusal) in [
        (other_body, Refusal::KeyReused),
        (late, Refusal::CommandExpired),
        (charge(user, 0), Refusal::AmountInvalid),
        (charge(user, -5), Refusal::AmountInvalid),
        (charge(user, 1_000_001), Refusal::AmountInvalid),
        (charge(user, 400_001), Refusal::BalanceCapExceeded { cap }),
    ] {
        assert_eq!(asker.ask(command).await, Outcome::Refused(refusal));
    }
    // Twice in one message, and what is left below the cap.
    let last = charge(user, 400_000);
    let message = asker.send(vec![last.clone(), last]).await;
    let outcomes = asker.outcomes(message).await;
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(balance(&outcomes[0]), 1_000_000);
    worker.stop().await;
    rig.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_again_is_answered_alike() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Ledger).await;
    let user = rig.user(900_000).await;
    let worker = rig.worker(Role::Ledger).await;
    let message = asker.message(vec![charge(user, 50_000), charge(user, 500_000)]);
    asker.send_bytes(encode(&message)).await;
    let first = asker.outcomes(message.id).await;
    assert_eq!(balance(&first[0]), 950_000);
    let cap = Money::won(1_000_000);
    assert_eq!(
        first[1],
        Outcome::Refused(Refusal::BalanceCapExceeded { cap })
    );
    // Meanwhile there is room for the second. It was refused, and whoever asked was told so.
    rig.sql("UPDATE account SET balance = 0 WHERE balance IS NOT NULL")
        .await;
    asker.send_bytes(encode(&message)).await;
    assert_eq!(asker.outcomes(message.id).await, first);
    assert_eq!(
        rig.number("SELECT count(*) AS n FROM transfer").await,
        2,
        "the user's, and the first"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_commit_and_reply_loses_nothing() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Ledger).await;
    let user = rig.user(1000).await;
    let worker = rig.worker(Role::Ledger).await;
    // The worker waits for the account; it dies; its transaction goes on.
    rig.sql("BEGIN; SELECT FROM account WHERE balance IS NOT NULL FOR UPDATE")
        .await;
    let message = asker.send(vec![charge(user, 500)]).await;
    rig.until(
        "SELECT count(*) AS n FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'",
        1,
    )
    .await;
    drop(worker);
    rig.sql("COMMIT").await;
    rig.until("SELECT count(*) AS n FROM outcome", 1).await;
    let successor = rig.worker(Role::Ledger).await;
    assert_eq!(balance(&asker.outcomes(message).await[0]), 1500);
    successor.stop().await;
    rig.assert_balanced().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_decide_a_message_at_once_agree() {
    let mut rig = Rig::new().await;
    let asker = Asker::<Outcome>::new(&rig, Lane::Ledger).await;
    let user = rig.user(900_000).await;
    let limits = Limits {
        charge_max: Money::won(1_000_000),
        balance_cap: Money::won(1_000_000),
        cards: Cards::Terminal,
        cash: true,
    };
    let queue = Arc::new(Ledger::new(limits));
    let pool = rig.pool(8);
    // What is refused by the first would be accepted by the second.
    rig.sql(
        "CREATE FUNCTION spend() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN UPDATE account SET balance = 0 WHERE balance IS NOT NULL; RETURN NULL; END $$;
         CREATE TRIGGER spend AFTER INSERT ON outcome FOR EACH ROW EXECUTE FUNCTION spend()",
    )
    .await;
    for round in 1..=20 {
        let message = asker.message(vec![charge(user, 60_000), charge(user, 50_000)]);
        let inbound = Arc::new(Inbound {
            seq: round,
            at: Timestamp::EPOCH,
            after: Timestamp::EPOCH,
            body: Ok(message.clone()),
        });
        let mut replicas = JoinSet::new();
        for replica in 0..8 {
            let job = Arc::new(Job {
                queue: Arc::clone(&queue),
                incarnation: Arc::default(),
                messages: vec![Arc::clone(&inbound)],
                mode: if replica % 2 == 0 {
                    Mode::Together
                } else {
                    Mode::Apart
                },
            });
            let pool = pool.clone();
            replicas.spawn(async move {
                loop {
                    match commit::run(&pool, Arc::clone(&job)).await {
                        Err(error) if error.retryable() => eprintln!("{error}"),
                        done => return done,
                    }
                }
            });
        }
        let mut all = Vec::new();
        while let Some(done) = replicas.join_next().await {
            let done = done.unwrap().unwrap();
            assert_eq!(done.decided.len(), 1);
            all.push(done.decided[0].outcomes.clone());
        }
        assert!(all.iter().all(|outcomes| *outcomes == all[0]), "{all:?}");
        rig.sql("UPDATE account SET balance = 900000 WHERE balance IS NOT NULL")
            .await;
    }
    let charges = "SELECT count(*) AS n FROM transfer WHERE amount < 100000";
    assert_eq!(rig.number(charges).await, 20);
    assert_eq!(rig.number("SELECT count(*) AS n FROM outcome").await, 20);
}

/// A message whose command has a name that nobody knows.
fn of_an_odd_kind(command: Command<Kind>) -> Vec<u8> {
    let mut bytes = encode(&CommandMessage {
        id: MessageId(Uuid::now_v7()),
        reply_to: None,
        commands: vec![command],
    });
    let name = bytes.windows(6).position(|name| name == b"Charge");
    bytes[name.expect("its name") + 2] = 0;
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_processed_is_set_aside_and_the_queue_goes_on() {
    let mut rig = Rig::new().await;
    let mut asker = Asker::<Outcome>::new(&rig, Lane::Ledger).await;
    let user = rig.user(1000).await;
    // A command whose transfer can't be written: its cause has another kind of transfer already.
    let poison = charge(user, 7);
    rig.sql(&format!(
        "ALTER TABLE transfer ADD CONSTRAINT poison CHECK (cause <> '{}')",
        poison.id
    ))
    .await;
    asker.send_bytes(b"\xc1 no message".to_vec()).await;
    // The reason quotes the name, and Postgres takes no NUL in a text.
    asker.send_bytes(of_an_odd_kind(charge(user, 7))).await;
    let message = asker
        .send(vec![charge(user, 1), poison, charge(user, 2)])
        .await;
    asker.send_bytes(Vec::new()).await;
    let behind = asker.send(vec![charge(user, 3)]).await;
    let worker = rig.worker(Role::Ledger).await;
    let outcomes = asker.outcomes(message).await;
    assert_eq!(balance(&outcomes[0]), 1001);
    assert_eq!(outcomes[1], Outcome::DeadLettered);
    assert_eq!(balance(&outcomes[2]), 1003);
    assert_eq!(balance(&asker.outcomes(behind).await[0]), 1006);
    rig.until("SELECT count(*) AS n FROM dead_letter", 4).await;
    let whole = "SELECT count(*) AS n FROM dead_letter WHERE command_index = -1";
    assert_eq!(rig.number(whole).await, 3);
    assert_eq!(
        rig.number(
            "SELECT command_index::bigint AS n FROM dead_letter WHERE error LIKE '%poison%'"
        )
        .await,
        1
    );
    // Acknowledged, all of it: nothing comes again.
    worker.stop().await;
    let mut stream = rig
        .jetstream
        .get_stream(rig.subjects.stream(Lane::Ledger))
        .await
        .unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 0);
    rig.assert_balanced().await;
}
