//! A line that takes many ticks to walk along, and what others ask of the same partition meanwhile.

use crate::outside::Outside;
use crate::tables::{PARTITIONS, Sim};
use crate::{QUIET_MAX, ended_well};
use onsale_domain::admission::STEPS_PER_TICK;
use onsale_schema::admission::{Kind, Policy};
use onsale_schema::message::{COMMANDS_PER_MESSAGE_MAX, Command, CommandMessage, Fingerprint};
use onsale_schema::partition::of_schedule;
use onsale_schema::status::QueueMode;
use onsale_schema::{CommandId, IngressId, MessageId, ScheduleId, UserId};
use onsale_workers::admission::Admission;
use onsale_workers::runtime;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// In the long line: so many that it is walked along in eight ticks.
const PEOPLE: usize = 8 * STEPS_PER_TICK;
/// Until the long line opens all are in its lobby.
const OPENS_AFTER_MS: i64 = 30_000;

impl Sim {
    /// So many join, in messages as large as may be.
    fn join(&self, room: ScheduleId, count: usize) {
        let command = |user: usize| Command {
            id: CommandId(self.uuid()),
            user: UserId(Uuid::from_u128(user as u128 + 1)),
            fingerprint: Fingerprint(Uuid::nil()),
            deadline: self.now().plus_ms(OPENS_AFTER_MS),
            trace: None,
            kind: Kind::Join {
                schedule_id: room,
                code: None,
            },
        };
        let commands: Vec<_> = (0..count).map(command).collect();
        for commands in commands.chunks(COMMANDS_PER_MESSAGE_MAX) {
            let message = CommandMessage {
                id: MessageId(self.uuid()),
                reply_to: Some(IngressId(Uuid::nil())),
                commands: commands.to_vec(),
            };
            self.publish(room, Some(message));
        }
    }

    /// So many of a room have had their turn.
    fn front(&self, room: ScheduleId) -> usize {
        self.tables().rooms[&room].room.front.0 as usize
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let since = Instant::now();
        while !is_so(self) {
            assert!(since.elapsed() < QUIET_MAX, "{what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Two rooms that one owner has.
fn neighbours(sim: &Sim) -> [ScheduleId; 2] {
    let rooms = sim.rooms();
    let partition = |room: &ScheduleId| of_schedule(*room, PARTITIONS);
    let mut pairs = (0..rooms.len()).flat_map(|at| (0..at).map(move |before| (at, before)));
    let pair = pairs.find(|(one, other)| partition(&rooms[*one]) == partition(&rooms[*other]));
    let (one, other) = pair.expect("there are more rooms than partitions");
    [rooms[one], rooms[other]]
}

async fn walk(sim: Arc<Sim>) {
    sim.calm();
    let [long, other] = neighbours(&sim);
    for (room, opens_after_ms) in [(long, OPENS_AFTER_MS), (other, 0)] {
        let opens_at = sim.now().plus_ms(opens_after_ms);
        let mut tables = sim.tables();
        let row = &mut tables.rooms.get_mut(&room).expect("it is there").room;
        row.policy = Policy::new(QueueMode::Open, opens_at);
    }
    let stop = CancellationToken::new();
    let outside = Outside::new(sim.clone());
    let mut worker = JoinSet::new();
    worker.spawn(runtime::run::<Admission, Outside>(outside, stop.clone()));
    sim.join(long, PEOPLE);
    sim.until("all are in the lobby", |sim| sim.undecided() == 0)
        .await;
    assert_eq!(sim.front(long), 0);
    sim.until("the line moves", |sim| sim.front(long) > 0).await;
    sim.join(other, 1);
    sim.until("others are heard", |sim| sim.undecided() == 0)
        .await;
    assert!(
        sim.front(long) <= PEOPLE / 2,
        "others wait until {} of the line were called",
        sim.front(long)
    );
    sim.until("it goes on", |sim| sim.front(long) == PEOPLE)
        .await;
    stop.cancel();
    ended_well(worker.join_next().await.expect("it was started"));
    sim.check_whole();
}

#[test]
fn others_are_heard_between_the_ticks_of_a_long_walk() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async { walk(Sim::new(1)).await });
}
