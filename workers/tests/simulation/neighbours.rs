//! The other workers: the outbox, whose own code publishes the notices; expiry; an operator who
//! replaces layouts. Settlement is played elsewhere.

use crate::database::Key;
use crate::people::{short, shown};
use crate::settlement::notice_of;
use crate::sim::{Sim, lock};
use crate::store::unavailable;
use crate::stream::{Body, publish};
use onsale_platform::db;
use onsale_schema::message::{Command, CommandMessage};
use onsale_schema::seats::Kind;
use onsale_schema::status::ReservationStatus;
use onsale_schema::{CommandId, Lane, MessageId, NoticeId, PartitionNo};
use onsale_workers::outbox::notices::{self, Message, Notices, Post, Row};
use onsale_workers::outbox::system::{self, message_id};
use onsale_workers::sabotage::{self, Bug};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Holds that are due for less than this are left to their owners, in milliseconds.
const GRACE_MS: i64 = 300;

/// Runs the outbox worker, which is restarted now and then and knows nothing then.
pub async fn outbox(sim: Arc<Sim>) {
    let post = Office(sim.clone());
    loop {
        let mut notices = Notices::default();
        loop {
            sim.sleep(100, 500).await;
            if !sim.is_calm() && sim.percent(2) {
                sim.note("outbox restart", String::new);
                break;
            }
            if let Err(error) = notices.look(&post).await {
                sim.note("outbox waits", || error.to_string());
            }
        }
    }
}

struct Office(Arc<Sim>);

impl Post for Office {
    fn partitions(&self) -> u16 {
        self.0.plan.partitions
    }

    async fn list_open(&self, max: i64) -> Result<Vec<NoticeId>, db::Error> {
        self.0.travel().await;
        let database = lock(&self.0.database);
        if !database.is_up {
            return Err(unavailable("not up"));
        }
        let mut open: Vec<_> = database
            .rows
            .notices
            .iter()
            .filter(|(_, row)| !row.is_done)
            .map(|(id, row)| (row.created_at, *id))
            .collect();
        open.sort_unstable();
        open.truncate(usize::try_from(max).expect("a bound"));
        Ok(open.into_iter().map(|(_, id)| id).collect())
    }

    async fn list(&self, ids: &[NoticeId]) -> Result<Vec<Row>, db::Error> {
        self.0.travel().await;
        let database = lock(&self.0.database);
        if !database.is_up {
            return Err(unavailable("not up"));
        }
        let rows = ids.iter().filter_map(|id| {
            let row = database.rows.notices.get(id).filter(|row| !row.is_done)?;
            Some(Row {
                notice_id: *id,
                lane: Lane::Seats.as_str().to_owned(),
                schedule_id: row.schedule,
                payload: row.payload.clone(),
            })
        });
        Ok(rows.collect())
    }

    async fn send(&self, messages: Vec<Message>) -> Vec<Result<(), system::Error>> {
        let mut stored = Vec::with_capacity(messages.len());
        for ((lane, partition), id, commands) in messages {
            assert_eq!(
                lane,
                Lane::Seats,
                "of what is not played, there are no notices"
            );
            let commands: Vec<Command<Kind>> = commands.into_iter().map(to_seats).collect();
            self.0.note("notices sent", || {
                format!("p{partition} {}:{}", short(id.0), shown(&commands))
            });
            let is_stored = send(&self.0, partition, id, commands.clone()).await;
            if is_stored && sabotage::is(Bug::NoticeDoneAtAck) {
                self.mark(&commands);
            }
            stored.push(if is_stored {
                Ok(())
            } else {
                Err(system::Error::Lost("no ack".to_owned()))
            });
        }
        stored
    }
}

fn to_seats(command: Command<notices::Kind>) -> Command<Kind> {
    command.map(|kind| match kind {
        notices::Kind::Seats(kind) => kind,
        notices::Kind::Admission(kind) => panic!("nobody plays waiting rooms: {kind:?}"),
    })
}

impl Office {
    /// The bug: done, because the stream has it.
    fn mark(&self, commands: &[Command<Kind>]) {
        let mut database = lock(&self.0.database);
        for command in commands {
            if let Some(notice) = notice_of(&command.kind)
                && let Some(row) = database.rows.notices.get_mut(&notice)
            {
                row.is_done = true;
            }
        }
    }
}

/// Publishes commands of the system.
async fn send(
    sim: &Arc<Sim>,
    partition: PartitionNo,
    id: MessageId,
    commands: Vec<Command<Kind>>,
) -> bool {
    let message = Arc::new(CommandMessage {
        id,
        reply_to: None,
        commands,
    });
    lock(&sim.database).ghost.send(&message);
    publish(sim, partition, id, Body::Commands(message)).await
}

/// Replaces layouts for as long as that is allowed, under the lock of the sale's row.
pub async fn administrator(sim: Arc<Sim>) {
    let schedules: Vec<_> = lock(&sim.database).rows.sales.keys().copied().collect();
    let chaos_ms = u128::from(sim.plan.chaos_ms);
    while sim.elapsed().as_millis() < chaos_ms {
        sim.sleep(0, 150).await;
        let schedule = sim.pick(&schedules).expect("there are schedules");
        let replaced = {
            let mut database = lock(&sim.database);
            let may = database.is_up && !database.is_locked(Key::Sale(schedule));
            may && database.rows.replace_layout(schedule)
        };
        if replaced {
            sim.note("layout replaced", || short(schedule.0));
        }
    }
}

/// Asks owners to let lapse what is due, as the expiry worker does.
pub async fn sweeper(sim: Arc<Sim>) {
    loop {
        sim.sleep(500, 1000).await;
        let mut by_partition: BTreeMap<PartitionNo, Vec<Command<Kind>>> = BTreeMap::new();
        {
            let database = lock(&sim.database);
            let before = sim.now().plus_ms(-GRACE_MS);
            for (id, row) in &database.rows.reservations {
                let r = &row.reservation;
                if r.status == ReservationStatus::Held && r.term.release_at < before {
                    let kind = Kind::Expire {
                        reservation_id: *id,
                        schedule_id: row.schedule,
                        expires_at: r.term.expires_at,
                    };
                    let command = CommandId::of_system("expire", id.0, r.term.expires_at.micros());
                    by_partition
                        .entry(database.rows.partition_of(row.schedule))
                        .or_default()
                        .push(system::command(command, kind));
                }
            }
        }
        for (partition, commands) in by_partition {
            let round = sim.now().micros() / 2_000_000;
            let id = message_id(commands.iter().map(|command| command.id.0), round);
            send(&sim, partition, id, commands).await;
        }
    }
}
