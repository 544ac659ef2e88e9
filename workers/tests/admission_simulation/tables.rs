//! What all processes share: the log, the tables with their fence, the workers; and what everybody was
//! told, which must stay true.

use crate::log::{Logged, Stream};
use crate::rng::Rng;
use crate::rows::Rows;
use onsale_domain::admission::Changes;
use onsale_schema::admission::{Code, Kind, Outcome, Policy, Refusal, Watermark};
use onsale_schema::draw;
use onsale_schema::message::{CommandMessage, MessageOutcomes};
use onsale_schema::partition::of_schedule;
use onsale_schema::status::{AccessGrant, QueueMode, TicketStatus};
use onsale_schema::{
    AccessCodeId, ArrivalNo, MessageId, NoticeId, PartitionNo, ScheduleId, TicketId, Timestamp,
    WorkerId,
};
use onsale_workers::admission::Admission;
use onsale_workers::runtime::core::{Cursor, Fence, Proposal};
use onsale_workers::runtime::world::{Attempt, Owner};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

/// When every history begins.
const BASE: Timestamp = Timestamp(1_800_000_000_000_000);
/// Partitions of a history.
pub const PARTITIONS: u16 = 2;
/// Rooms of a history.
const ROOMS: usize = 3;

/// A partition's row.
pub struct PartitionRow {
    pub owner: Option<WorkerId>,
    pub fence: Fence,
    pub cursor: Cursor,
}

/// A worker's row, and its life-sign.
pub struct WorkerRow {
    pub started_at: Timestamp,
    pub heartbeat_at: Timestamp,
    pub is_living: bool,
    pub leaving: bool,
}

/// Where on the log a message was: its partition, the incarnation of that, and the sequence.
type Place = (PartitionNo, i32, u64);

/// Everything that is stored.
pub struct Tables {
    pub partitions: Vec<PartitionRow>,
    pub workers: BTreeMap<WorkerId, WorkerRow>,
    pub stream: Stream,
    pub rooms: BTreeMap<ScheduleId, Rows>,
    tickets: BTreeMap<TicketId, (ScheduleId, ArrivalNo)>,
    outcomes: BTreeMap<Place, (MessageId, Vec<Outcome>)>,
    dead: BTreeSet<Place>,
    /// Up to when each partition knew nothing but that it was applied when it lost its tail: what was
    /// stored since with a time that is no later is not decided.
    skipped: Vec<Timestamp>,
    done: BTreeSet<NoticeId>,
    /// Each version of a room that was committed: tickets and front.
    versions: BTreeMap<(ScheduleId, i64), (u32, draw::Place)>,
    /// The tickets that somebody was told of, and the places that tickets had.
    told: BTreeMap<TicketId, (ScheduleId, ArrivalNo)>,
    places: BTreeMap<(ScheduleId, ArrivalNo), draw::Place>,
}

/// One history.
pub struct Sim {
    start: Instant,
    rng: Mutex<Rng>,
    seen: Mutex<BTreeMap<&'static str, u64>>,
    tables: Mutex<Tables>,
    calm: Mutex<bool>,
    /// Something is new on the log.
    pub logged: Notify,
}

/// Codes of a room: good for some tickets, for some time.
fn codes(rng: &mut Rng, schedule_id: ScheduleId) -> Vec<Code> {
    let mut code = |grant| Code {
        code_id: AccessCodeId(rng.uuid()),
        schedule_id,
        grant,
        uses: u32::try_from(rng.range(1, 8)).unwrap(),
        from: BASE.plus_ms(rng.range(0, 2000)),
        until: BASE.plus_ms(rng.range(5000, 40_000)),
    };
    AccessGrant::ALL.map(&mut code).to_vec()
}

impl Sim {
    pub fn new(seed: u64) -> Arc<Self> {
        let mut rng = Rng::new(seed);
        let rooms = (0..ROOMS).map(|_| {
            let id = ScheduleId(rng.uuid());
            let policy = Policy::new(QueueMode::Off, BASE);
            let room = Rows {
                room: onsale_domain::admission::RoomRow::new(id, policy),
                tickets: Vec::new(),
                codes: codes(&mut rng, id),
                revoked: BTreeMap::new(),
                used: BTreeMap::new(),
                elsewhere: BTreeSet::new(),
            };
            (id, room)
        });
        let rooms = rooms.collect();
        let partition = |_| PartitionRow {
            owner: None,
            fence: Fence {
                epoch: 0,
                commit_no: 0,
            },
            cursor: Cursor {
                incarnation: 0,
                seq: 0,
                at: Timestamp::EPOCH,
                decided_at: Timestamp::EPOCH,
            },
        };
        Arc::new(Self {
            start: Instant::now(),
            rng: Mutex::new(rng),
            seen: Mutex::default(),
            tables: Mutex::new(Tables {
                partitions: (0..PARTITIONS).map(partition).collect(),
                workers: BTreeMap::new(),
                stream: Stream::default(),
                skipped: vec![Timestamp::EPOCH; usize::from(PARTITIONS)],
                rooms,
                tickets: BTreeMap::new(),
                outcomes: BTreeMap::new(),
                dead: BTreeSet::new(),
                done: BTreeSet::new(),
                versions: BTreeMap::new(),
                told: BTreeMap::new(),
                places: BTreeMap::new(),
            }),
            calm: Mutex::new(false),
            logged: Notify::new(),
        })
    }

    pub fn now(&self) -> Timestamp {
        let us = i64::try_from(self.start.elapsed().as_micros()).unwrap();
        Timestamp(BASE.0 + us)
    }

    pub fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    pub fn range(&self, low: i64, high: i64) -> i64 {
        self.rng.lock().unwrap().range(low, high)
    }

    pub fn percent(&self, percent: i64) -> bool {
        self.rng.lock().unwrap().percent(percent)
    }

    pub fn uuid(&self) -> Uuid {
        self.rng.lock().unwrap().uuid()
    }

    pub fn pick<T: Clone>(&self, from: &[T]) -> Option<T> {
        self.rng.lock().unwrap().pick(from).cloned()
    }

    /// Whether a fault of this probability happens now.
    pub fn fails(&self, percent: i64) -> bool {
        !*self.calm.lock().unwrap() && self.percent(percent)
    }

    /// No more faults.
    pub fn calm(&self) {
        *self.calm.lock().unwrap() = true;
        self.tables().stream.jump(0);
    }

    pub fn note(&self, what: &'static str) {
        *self.seen.lock().unwrap().entry(what).or_default() += 1;
    }

    pub fn seen(&self) -> BTreeMap<&'static str, u64> {
        self.seen.lock().unwrap().clone()
    }

    pub fn rooms(&self) -> Vec<ScheduleId> {
        self.tables().rooms.keys().copied().collect()
    }

    /// Puts a message on the log; none that can be read without one.
    pub fn publish(&self, room: ScheduleId, message: Option<CommandMessage<Kind>>) {
        let partition = of_schedule(room, PARTITIONS);
        self.tables().stream.store(self.now(), partition, message);
        self.logged.notify_waiters();
    }

    /// The last messages of the stream are gone, its clock is wrong from now on, or both, as of a server
    /// that is started again on another host.
    pub fn break_stream(&self) {
        let is_restart = self.percent(60);
        if is_restart {
            let count = self.range(1, 12).unsigned_abs();
            if self.tables().stream.lose_tail(count) > 0 {
                self.note("tail lost");
            }
            self.logged.notify_waiters();
        }
        if !is_restart || self.percent(75) {
            self.note("stream clock");
            let ms = self.range(-9000, 4000);
            self.tables().stream.jump(ms);
        }
    }

    /// Messages behind the cursors. By their times: the sequences of a tail that was lost are given
    /// again.
    pub fn undecided(&self) -> usize {
        let tables = self.tables();
        let behind = tables.stream.logs.iter().zip(&tables.partitions);
        behind
            .map(|(log, row)| log.iter().filter(|m| m.at > row.cursor.at).count())
            .sum()
    }

    /// Tickets in line.
    pub fn waiting(&self) -> usize {
        let undecided = self.undecided();
        let tables = self.tables();
        let tickets = tables.rooms.values().flat_map(|room| &room.tickets);
        let waiting = tickets.filter(|row| row.status == TicketStatus::Waiting);
        waiting.count() + undecided
    }

    /// One transaction.
    pub fn write(&self, me: WorkerId, proposals: &[&Proposal<Admission>]) -> Attempt {
        let mut tables = self.tables();
        let deposed: HashSet<usize> = tables.deposed(me, proposals);
        let missed = tables.missed(proposals);
        if !deposed.is_empty() || !missed.is_empty() {
            for _ in &deposed {
                self.note("deposed");
            }
            for _ in &missed {
                self.note("missed");
            }
            return Attempt::Refused { deposed, missed };
        }
        for proposal in proposals {
            tables.apply(proposal);
        }
        for what in tables.check() {
            self.note(what);
        }
        self.note("commit");
        Attempt::Committed
    }

    /// Somebody is told what became of a message.
    pub fn answer(&self, told: &MessageOutcomes<Outcome>) {
        self.note("answered");
        let mut tables = self.tables();
        let mut known = tables.outcomes.values();
        let is_committed =
            known.any(|(id, outcomes)| *id == told.message_id && *outcomes == told.outcomes);
        assert!(is_committed, "answers are committed: {told:?}");
        for outcome in &told.outcomes {
            assert_ne!(*outcome, Outcome::DeadLettered, "{told:?}");
            if *outcome == Outcome::Refused(Refusal::CodeUsedUp) {
                self.note("code used up");
            }
            if let Outcome::Joined(ticket) = outcome {
                let place = (ticket.schedule_id, ticket.arrival_no);
                let before = tables.told.insert(ticket.ticket_id, place);
                assert!(before.is_none_or(|before| before == place), "{ticket:?}");
            }
        }
    }

    /// Everybody is told how far a line is.
    pub fn tell(&self, told: &Watermark) {
        let tables = self.tables();
        let committed = tables.versions.get(&(told.schedule_id, told.version));
        assert_eq!(
            committed,
            Some(&(told.arrivals, told.front)),
            "what is broadcast is committed: {told:?}"
        );
    }

    /// At the end: every message has its outcomes, but for what a stream that lost its tail has stored
    /// in its past; and every ticket that anybody heard of is there.
    pub fn check_whole(&self) {
        let tables = self.tables();
        for (no, log) in (0..).map(PartitionNo).zip(&tables.stream.logs) {
            // What it begins anew behind is in no row yet where nothing has come since.
            let cursor = tables.partitions[usize::from(no.0)].cursor;
            let is_there = |logged: &Logged| (logged.seq, logged.at) == (cursor.seq, cursor.at);
            let begins = match log.iter().any(is_there) {
                true => Timestamp::EPOCH,
                false => cursor.at,
            };
            let skipped = tables.skipped[usize::from(no.0)].max(begins);
            for logged in log.iter().filter(|logged| !tables.is_decided(no, logged)) {
                assert!(logged.at <= skipped, "F2: {} has no outcome", logged.seq);
                self.note("skipped");
            }
        }
        for (id, place) in &tables.told {
            assert_eq!(tables.tickets.get(id), Some(place), "no ticket is lost");
        }
    }
}

impl Tables {
    /// Whether a message has its outcomes, in whatever incarnation, and its notices are done.
    fn is_decided(&self, no: PartitionNo, logged: &Logged) -> bool {
        let last = self.partitions[usize::from(no.0)].cursor.incarnation;
        let mut places = (0..=last).map(|incarnation| (no, incarnation, logged.seq));
        let Some(message) = &logged.message else {
            return places.any(|place| self.dead.contains(&place));
        };
        let outcomes = places.filter_map(|place| self.outcomes.get(&place));
        let mut outcomes = outcomes.filter(|(id, _)| *id == message.id);
        let Some((_, outcomes)) = outcomes.next() else {
            return false;
        };
        assert_eq!(outcomes.len(), message.commands.len());
        let holds = message.commands.iter().filter_map(|c| match &c.kind {
            Kind::Holds { notice_id, .. } => Some(notice_id),
            _ => None,
        });
        assert!(holds.into_iter().all(|id| self.done.contains(id)));
        true
    }

    fn deposed(&self, me: WorkerId, proposals: &[&Proposal<Admission>]) -> HashSet<usize> {
        let is_deposed = |proposal: &Proposal<Admission>| {
            let row = &self.partitions[usize::from(proposal.partition.0)];
            row.owner != Some(me) || row.fence != proposal.expect
        };
        let all = proposals.iter().enumerate();
        all.filter(|(_, proposal)| is_deposed(proposal))
            .map(|(at, _)| at)
            .collect()
    }

    /// Whose tickets are there already, also by another proposal of the same transaction.
    fn missed(&self, proposals: &[&Proposal<Admission>]) -> HashSet<usize> {
        let mut made = BTreeSet::new();
        let mut missed = HashSet::new();
        for (at, proposal) in proposals.iter().enumerate() {
            let rooms = proposal.changes.rooms.values();
            for new in rooms.flat_map(|room| &room.joined) {
                if self.tickets.contains_key(&new.ticket_id) || !made.insert(new.ticket_id) {
                    missed.insert(at);
                }
            }
        }
        missed
    }

    fn apply(&mut self, proposal: &Proposal<Admission>) {
        let row = &mut self.partitions[usize::from(proposal.partition.0)];
        let no = proposal.partition;
        let place = |seq| (no, proposal.cursor.incarnation, seq);
        let reached = |cursor: &Cursor| (cursor.incarnation, cursor.seq);
        assert!(
            reached(&proposal.cursor) >= reached(&row.cursor),
            "F1: no way back"
        );
        let skipped = &mut self.skipped[usize::from(no.0)];
        if proposal.cursor.incarnation > row.cursor.incarnation {
            *skipped = row.cursor.at.max(*skipped);
        }
        row.fence.commit_no += 1;
        row.cursor = proposal.cursor;
        for decided in &proposal.decided {
            let place = place(decided.seq);
            let outcomes = (decided.message_id, decided.outcomes.clone());
            let before = self.outcomes.insert(place, outcomes);
            assert!(before.is_none(), "F2: one outcome");
        }
        for dead in &proposal.dead {
            assert_eq!(dead.command_index, -1, "{}", dead.error);
            self.dead.insert(place(dead.seq));
        }
        self.store(&proposal.changes);
    }

    fn store(&mut self, changes: &Changes) {
        self.done.extend(&changes.notices_done);
        for (id, change) in &changes.rooms {
            let room = self.rooms.get_mut(id).expect("the room is there");
            room.commit(*id, changes).expect("nothing was missed");
            let row = &room.room;
            self.versions
                .insert((*id, row.version), (row.arrivals, row.front));
            for new in &change.joined {
                let place = (*id, new.arrival_no);
                assert!(self.tickets.insert(new.ticket_id, place).is_none(), "I1");
            }
        }
    }

    /// Q1 and Q2 of all rooms, and that no place is another; what was seen.
    fn check(&mut self) -> BTreeSet<&'static str> {
        let mut seen = BTreeSet::new();
        for (id, room) in &self.rooms {
            room.check();
            for (no, place) in (0..).zip(room.places().unwrap_or_default()) {
                let before = self.places.insert((*id, ArrivalNo(no)), place);
                assert!(before.is_none_or(|before| before == place), "places stay");
                if place.0 != no {
                    seen.insert("drawn");
                }
            }
            for row in &room.tickets {
                seen.extend(row.slot.is_some().then_some("admitted"));
                let is_guest = row.slot.is_some() && row.access_code_id.is_some();
                seen.extend(is_guest.then_some("guest admitted"));
                seen.extend((!row.status.is_live()).then_some("ended"));
            }
        }
        seen
    }

    /// Whoever is told of holds has written a notice before.
    pub fn open_notices(&self, ids: &[NoticeId]) -> HashSet<NoticeId> {
        let open = ids.iter().filter(|id| !self.done.contains(id));
        open.copied().collect()
    }

    pub fn find(&self, ids: &[TicketId]) -> Vec<(TicketId, ScheduleId, ArrivalNo)> {
        let found = ids.iter().filter_map(|id| {
            let (room, no) = self.tickets.get(id)?;
            Some((*id, *room, *no))
        });
        found.collect()
    }

    pub fn owner(&self, partition: PartitionNo) -> Owner {
        let row = &self.partitions[usize::from(partition.0)];
        Owner {
            owner: row.owner,
            fence: row.fence,
        }
    }

    /// The number and id of some ticket of a room.
    pub fn ticket(&self, room: ScheduleId, at: i64) -> Option<(ArrivalNo, TicketId)> {
        let tickets = &self.rooms[&room].tickets;
        let count = i64::try_from(tickets.len()).unwrap();
        let no = u32::try_from(at.checked_rem(count)?).unwrap();
        Some((ArrivalNo(no), tickets[no as usize].ticket_id))
    }
}
