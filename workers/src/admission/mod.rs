//! The admission lane: the waiting rooms, decided by [`onsale_domain::admission`], loaded and stored
//! here.
//!
//! This module alone writes rooms and tickets, and only as the owner of their partition. It must never
//! write a row per poll, nor per ticket at an opening: who was heard is in no row, and who stands
//! where follows from the row of the room.

mod load;
mod store;
mod watched;

use crate::context::Context;
use crate::runtime::lane::{PartitionedLane, Persistent, Stored, Times};
use diesel_async::AsyncPgConnection;
use onsale_domain::admission::{self, Changes, Known, Room, RoomChanges, Selling, TicketUpdate};
use onsale_platform::db;
use onsale_schema::admission::{Broadcast, Kind, Outcome, Refusal, Watermark};
use onsale_schema::message::{Command, MESSAGE_BYTES_MAX, encode};
use onsale_schema::subjects::Subjects;
use onsale_schema::{ArrivalNo, Lane, NoticeId, PartitionNo, ScheduleId, TicketId, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;

/// A room that nobody asked about for this long is dropped from memory, in milliseconds.
const IDLE_MS: i64 = 10 * 60 * 1000;
/// The same for one in which somebody is in line or has a pass. While any client asks how far it is,
/// some ingress reports each second; so after this long nobody is there whom it could let in.
const ABANDONED_MS: i64 = 60 * 60 * 1000;

/// The rooms in one broadcast take so many bytes, at most; some are left for what is around them.
const ROOMS_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 256;

/// The admission lane.
pub struct Admission;

/// The rooms of one partition that are loaded.
#[derive(Default)]
pub struct State {
    rooms: BTreeMap<ScheduleId, Loaded>,
    /// Touched since the last seal.
    touched: BTreeSet<ScheduleId>,
    /// Tickets made since the last seal. A key that is used for two rooms of the partition in one
    /// batch has no row yet that would tell the second room of the first.
    made: HashMap<TicketId, ScheduleId>,
    watched: watched::Share,
}

struct Loaded {
    room: Room,
    used_at: Timestamp,
}

/// Where a ticket is, as its row says.
pub type Found = (TicketId, ScheduleId, ArrivalNo);

/// Reads the rows that state is loaded from. Production's are in Postgres, those of a simulation in
/// memory; what is read when is the same for both: [`State::load`].
pub trait Rows: Sync {
    /// The room of a schedule in one snapshot; none when there is no such schedule on sale. A schedule
    /// that never had a room has one that is OFF, with a secret of its own that is in no row yet.
    ///
    /// # Errors
    /// When it can't be read now.
    fn room(
        &self,
        schedule_id: ScheduleId,
    ) -> impl Future<Output = Result<Option<Room>, db::Error>> + Send;
    /// How these schedules sell now.
    ///
    /// # Errors
    /// When that can't be read now.
    fn selling(
        &self,
        ids: &[ScheduleId],
    ) -> impl Future<Output = Result<HashMap<ScheduleId, Selling>, db::Error>> + Send;
    /// Which of these notices are there and not done.
    ///
    /// # Errors
    /// When that can't be read now.
    fn open_notices(
        &self,
        ids: &[NoticeId],
    ) -> impl Future<Output = Result<HashSet<NoticeId>, db::Error>> + Send;
    /// Which of these tickets there are, of whatever schedule.
    ///
    /// # Errors
    /// When that can't be read now.
    fn tickets(
        &self,
        ids: &[TicketId],
    ) -> impl Future<Output = Result<Vec<Found>, db::Error>> + Send;
}

impl State {
    /// Loads what these commands need, see [`Persistent::load`].
    ///
    /// # Errors
    /// When a row can't be read now.
    pub async fn load(
        &mut self,
        rows: &impl Rows,
        commands: &[&Command<Kind>],
        thorough: bool,
    ) -> Result<(), db::Error> {
        let schedules = commands.iter().map(|command| command.kind.schedule_id());
        let doubtful = self.doubtful(commands);
        if !doubtful.is_empty() {
            for (schedule_id, selling) in rows.selling(&doubtful).await? {
                if let Some(loaded) = self.rooms.get_mut(&schedule_id) {
                    loaded.room.sells(selling);
                }
            }
        }
        let missing: BTreeSet<ScheduleId> = schedules
            .filter(|schedule_id| !self.rooms.contains_key(schedule_id))
            .collect();
        for schedule_id in missing {
            if let Some(room) = rows.room(schedule_id).await? {
                let used_at = Timestamp::EPOCH;
                self.rooms.insert(schedule_id, Loaded { room, used_at });
            }
        }
        let joins = commands.iter().filter(|command| match command.kind {
            Kind::Join { .. } => thorough,
            Kind::Leave { .. }
            | Kind::Seen { .. }
            | Kind::Holds { .. }
            | Kind::Policy { .. }
            | Kind::NameBeacon { .. }
            | Kind::RevealBeacon { .. }
            | Kind::Sale { .. }
            | Kind::RevokeCode { .. } => false,
        });
        let ids: Vec<TicketId> = joins.map(|command| TicketId(command.id.0)).collect();
        if !ids.is_empty() {
            self.tell(commands, rows.tickets(&ids).await?);
        }
        let kinds = commands.iter().map(|command| &command.kind);
        let notices: Vec<NoticeId> = kinds.filter_map(admission::true_while_open).collect();
        if !notices.is_empty() {
            self.tell_done(commands, &rows.open_notices(&notices).await?);
        }
        Ok(())
    }

    /// The rooms that are loaded and of which it has to be read how their dates sell: where these
    /// commands tell that it has changed, or may turn a room on. Of one that is off nobody tells.
    fn doubtful(&self, commands: &[&Command<Kind>]) -> Vec<ScheduleId> {
        let tells = |kind: &Kind| match kind {
            Kind::Sale { .. } | Kind::Policy { .. } => true,
            Kind::Join { .. }
            | Kind::Leave { .. }
            | Kind::Seen { .. }
            | Kind::Holds { .. }
            | Kind::NameBeacon { .. }
            | Kind::RevealBeacon { .. }
            | Kind::RevokeCode { .. } => false,
        };
        let kinds = commands.iter().map(|command| &command.kind);
        let schedules = kinds.filter(|kind| tells(kind)).map(Kind::schedule_id);
        let loaded = schedules.filter(|id| self.rooms.contains_key(id));
        loaded.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Makes the rooms of these commands know which of them have made a ticket, in whatever room.
    fn tell(&mut self, commands: &[&Command<Kind>], found: Vec<Found>) {
        let found: HashMap<TicketId, (ScheduleId, ArrivalNo)> = found
            .into_iter()
            .map(|(id, schedule_id, no)| (id, (schedule_id, no)))
            .collect();
        for command in commands {
            let (here, id) = (command.kind.schedule_id(), TicketId(command.id.0));
            let Some((schedule_id, no)) = found.get(&id) else {
                continue;
            };
            let known = match *schedule_id == here {
                true => Known::Here(*no),
                false => Known::Elsewhere,
            };
            if let Some(loaded) = self.rooms.get_mut(&here) {
                loaded.room.load_known(id, known);
            }
        }
    }

    /// Makes the rooms of these commands know which of them are of notices that are not open.
    fn tell_done(&mut self, commands: &[&Command<Kind>], open: &HashSet<NoticeId>) {
        for command in commands {
            if let Some(notice) = admission::true_while_open(&command.kind)
                && !open.contains(&notice)
                && let Some(loaded) = self.rooms.get_mut(&command.kind.schedule_id())
            {
                loaded.room.load_told(notice);
            }
        }
    }
}

impl PartitionedLane for Admission {
    const LANE: Lane = Lane::Admission;
    type Kind = Kind;
    type Outcome = Outcome;
    type State = State;
    type Changes = Changes;

    fn decide(
        state: &mut State,
        command: &Command<Kind>,
        times: Times,
        changes: &mut Changes,
    ) -> Outcome {
        let schedule_id = command.kind.schedule_id();
        let Some(loaded) = state.rooms.get_mut(&schedule_id) else {
            return Outcome::Refused(Refusal::UnknownSchedule);
        };
        loaded.used_at = times.clock;
        state.touched.insert(schedule_id);
        let id = TicketId(command.id.0);
        if state.made.get(&id).is_some_and(|made| *made != schedule_id) {
            loaded.room.load_known(id, Known::Elsewhere);
        }
        let times = admission::Times {
            business: times.business,
            clock: times.clock,
        };
        let outcome = loaded.room.decide(command, times, changes);
        if let Outcome::Joined(ticket) = &outcome
            && ticket.ticket_id == id
        {
            state.made.insert(id, schedule_id);
        }
        outcome
    }

    fn tick(
        state: &mut State,
        now: Timestamp,
        heard_until: Timestamp,
        changes: &mut Changes,
    ) -> bool {
        let mut is_more = false;
        for (schedule_id, loaded) in &mut state.rooms {
            is_more |= loaded.room.tick(now, heard_until, changes);
            state.touched.insert(*schedule_id);
        }
        is_more
    }

    fn seal(state: &mut State, business: Timestamp, changes: &mut Changes) {
        state.made.clear();
        for schedule_id in std::mem::take(&mut state.touched) {
            if let Some(loaded) = state.rooms.get_mut(&schedule_id) {
                loaded.room.seal(business, changes);
            }
        }
    }

    fn undo(state: &mut State, changes: &Changes) {
        for schedule_id in changes.rooms.keys() {
            if let Some(loaded) = state.rooms.get_mut(schedule_id) {
                loaded.room.undo(changes);
            }
        }
    }

    fn evict(state: &mut State, now: Timestamp) {
        state.rooms.retain(|_, loaded| {
            loaded.room.prune();
            let limit_ms = match loaded.room.is_busy() {
                true => ABANDONED_MS,
                false => IDLE_MS,
            };
            now.ms_since(loaded.used_at) < limit_ms
        });
    }

    fn is_empty(changes: &Changes) -> bool {
        changes.is_empty()
    }

    fn broadcasts_to(subjects: &Subjects, partition: PartitionNo) -> String {
        subjects.watermark(partition)
    }

    fn broadcast(changes: &Changes, now: Timestamp) -> Vec<Vec<u8>> {
        let told = changes.rooms.values();
        told_all(told.filter_map(|room| room.watermark.clone()), now)
    }

    /// The owner of the seats has to know which rooms are on, and whose passes are over.
    fn nudges(changes: &Changes, subjects: &Subjects) -> Vec<String> {
        let has_news = |room: &RoomChanges| {
            let is_turned = room
                .room
                .as_ref()
                .is_some_and(|room| room.turned().is_some());
            is_turned || room.updates.values().any(TicketUpdate::leaves_a_pass)
        };
        let has_news = changes.rooms.values().any(has_news);
        has_news
            .then(|| subjects.outbox_nudge())
            .into_iter()
            .collect()
    }

    fn beat(state: &State, now: Timestamp) -> Vec<Vec<u8>> {
        let rooms = state.rooms.values().map(|loaded| &loaded.room);
        // Of a schedule that never had a room there is nothing to tell.
        let there = rooms.filter(|room| room.row().version > 0);
        told_all(
            there.map(|room| room.watermark(now.max(room.row().latest))),
            now,
        )
    }

    fn count(changes: &Changes) {
        let updates = changes
            .rooms
            .values()
            .flat_map(|room| room.updates.values());
        let admitted = updates.filter(|update| update.admits()).count();
        watched::admitted(admitted as u64);
    }

    fn watch(state: &State, now: Timestamp) {
        let rooms = state.rooms.values().map(|loaded| &loaded.room);
        state.watched.tell(rooms, now);
    }

    fn dead_lettered() -> Outcome {
        Outcome::DeadLettered
    }

    fn labels(kind: &Kind, outcome: &Outcome) -> (&'static str, &'static str) {
        let outcome = match outcome {
            Outcome::Joined(_) | Outcome::Left { .. } | Outcome::Applied | Outcome::Policy(_) => {
                "accepted"
            }
            Outcome::Refused(refusal) => refusal_label(*refusal),
            Outcome::DeadLettered => "dead-lettered",
        };
        (kind.name(), outcome)
    }
}

impl Persistent for Admission {
    async fn load(
        ctx: &Context,
        state: &mut State,
        commands: &[&Command<Kind>],
        thorough: bool,
    ) -> Result<(), db::Error> {
        state.load(ctx, commands, thorough).await
    }

    async fn store(conn: &AsyncPgConnection, changes: &[&Changes]) -> Result<Stored, db::Error> {
        store::changes(conn, changes).await
    }
}

/// What is told of rooms, in as many messages as it takes. A room with more changes than there is space
/// for is told of as by a beat: who follows it finds that it has missed them, and reads the room.
fn told_all(rooms: impl Iterator<Item = Watermark>, sent_at: Timestamp) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let (mut part, mut part_bytes) = (Vec::new(), 0);
    let mut send = |rooms: Vec<Watermark>| {
        if !rooms.is_empty() {
            messages.push(encode(&Broadcast { rooms, sent_at }));
        }
    };
    for mut room in rooms {
        let mut bytes = encode(&room).len();
        if bytes > ROOMS_BYTES_MAX {
            room.from_version = room.version;
            room.changes.clear();
            bytes = encode(&room).len();
        }
        if part_bytes + bytes > ROOMS_BYTES_MAX {
            send(std::mem::take(&mut part));
            part_bytes = 0;
        }
        part_bytes += bytes;
        part.push(room);
    }
    send(part);
    messages
}

fn refusal_label(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::CommandExpired => "command-expired",
        Refusal::KeyReused => "idempotency-key-reused",
        Refusal::UnknownSchedule | Refusal::NotFound => "not-found",
        Refusal::RoomOff => "room-off",
        Refusal::RoomFull => "room-full",
        Refusal::TicketsUsedUp => "tickets-used-up",
        Refusal::PolicyInvalid => "policy-invalid",
        Refusal::BeaconFixed => "beacon-fixed",
        Refusal::NotDue => "not-due",
        Refusal::CodeInvalid => "access-code-invalid",
        Refusal::CodeRevoked => "access-code-revoked",
        Refusal::CodeNotYet => "access-code-not-yet",
        Refusal::CodeExpired => "access-code-expired",
        Refusal::CodeUsedUp => "access-code-used-up",
        Refusal::ShowCancelled => "show-cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::Generation;
    use onsale_schema::admission::Policy;
    use onsale_schema::draw::Place;
    use onsale_schema::message::decode;
    use onsale_schema::status::{QueueMode, TicketStatus};

    fn room(no: u128, changes: u32) -> Watermark {
        let late = Timestamp::from_micros(4_000_000_000_000_000);
        let admitted = |no| (ArrivalNo(no), TicketStatus::Admitted, Some(late));
        Watermark {
            schedule_id: ScheduleId(uuid::Uuid::from_u128(no)),
            from_version: 6,
            version: 7,
            at: late,
            policy: Policy::new(QueueMode::Draw, late),
            arrivals: 4_000_000,
            lobby: None,
            front: Place(4_000_000),
            window: 1000,
            active: 100,
            guests: 0,
            guest_line: None,
            passed: None,
            moved: 10,
            measured_ms: 1000,
            is_sale_stopped: false,
            is_cancelled: false,
            generation: Generation::default(),
            changes: (0..changes).map(|no| admitted(3_000_000 + no)).collect(),
        }
    }

    #[test]
    fn rooms_are_told_of_in_messages_that_are_not_too_large() {
        let rooms = || {
            let many = (0..3000).map(|no| room(no, 0));
            many.chain([room(3000, 500), room(3001, 100_000), room(3002, 3)])
        };
        let messages = told_all(rooms(), Timestamp::EPOCH);
        assert!(messages.len() > 1 && messages.len() < 10);
        assert!(messages.iter().all(|it| it.len() <= MESSAGE_BYTES_MAX));
        let told = messages.iter().flat_map(|message| {
            let broadcast: Broadcast = decode(message).unwrap();
            broadcast.rooms
        });
        for (told, room) in told.zip(rooms()) {
            let expected = match room.changes.len() {
                // As in a beat.
                100_000 => Watermark {
                    from_version: 7,
                    changes: Vec::new(),
                    ..room
                },
                _ => room,
            };
            assert_eq!(told, expected);
        }
        assert!(told_all(std::iter::empty(), Timestamp::EPOCH).is_empty());
    }
}
