//! Who is let in: everything that the owner of one waiting room knows, and its decisions.
//!
//! The order of a line is settled once, at its opening, and by nothing but the numbers of the tickets
//! and a seed ([`Line`]); so nothing is written per ticket then, and a ticket's row changes only when
//! it is admitted and when it ends. A decision must never depend on anything but committed rows, the
//! order of the commands and their times. Who was heard when is the one thing that is in no row: a
//! new owner begins with everybody present, so that it can only pass over fewer than its predecessor.

mod changes;
mod decide;
mod guests;
mod line;
mod opening;
mod policy;
mod presence;
mod rate;
mod selling;
mod slots;
mod speed;
mod still;
mod tickets;
mod undo;

pub use crate::seats::Times;
pub use changes::{Changes, NewTicket, RoomChanges, RoomUpdate, TicketUpdate};
pub use guests::StoredCode;
pub use line::{OPENING_GRACE_MS, STEPS_PER_TICK};
pub use onsale_schema::admission::{Policy, WINDOW};
pub use rate::BURST_MS;
pub use selling::Selling;
pub use slots::{Admission, LINGER_MS, Slot, SlotHold};
pub use still::Counts;

use guests::Guests;
use onsale_schema::admission::{Kind, Line, Lobby, Watermark};
use onsale_schema::draw::{Digest, Place, Secret};
use onsale_schema::message::Fingerprint;
use onsale_schema::status::TicketStatus;
use onsale_schema::{
    AccessCodeId, ArrivalNo, Generation, NoticeId, ScheduleId, TicketId, Timestamp, UserId,
};
use presence::Presence;
use slots::Slots;
use speed::Speed;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use still::Still;
use tickets::{State, Tickets};

/// What the row of a room says, but for its secret, which never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomRow {
    /// Whose room.
    pub schedule_id: ScheduleId,
    /// How it lets people in.
    pub policy: Policy,
    /// The show is cancelled, so that the room is paused for good.
    pub is_cancelled: bool,
    /// The public source that the draw will take a word of, if one was named.
    pub beacon_name: Option<String>,
    /// Counts the commits that changed the room.
    pub version: i64,
    /// So many tickets were given: the next one gets this number.
    pub arrivals: u32,
    /// The digest of all tickets.
    pub digest: Digest,
    /// The lobby, once it is closed.
    pub lobby: Option<Lobby>,
    /// All before it were admitted, have left or were passed over.
    pub front: Place,
    /// All guests with a lower number were admitted, have left, were passed over or wait for the opening.
    pub guest_front: ArrivalNo,
    /// So many were admitted: the next admission gets this number.
    pub admissions: u32,
    /// Up to when the rate is used up, see [`BURST_MS`].
    pub rate_used: Timestamp,
    /// Within which all this is counted; it is the same for all rooms, and no commit of one changes it.
    pub generation: Generation,
    /// The latest time that is written. What is written later is never earlier, also when a tick's
    /// clock ran ahead of the stream's, and the next owner knows it as well.
    pub latest: Timestamp,
}

impl RoomRow {
    /// A room that nobody has come to.
    #[must_use]
    pub fn new(schedule_id: ScheduleId, policy: Policy) -> Self {
        Self {
            schedule_id,
            policy,
            is_cancelled: false,
            beacon_name: None,
            version: 0,
            arrivals: 0,
            digest: Digest::of_room(schedule_id),
            lobby: None,
            front: Place::default(),
            guest_front: ArrivalNo(0),
            admissions: 0,
            rate_used: Timestamp::EPOCH,
            generation: Generation::default(),
            latest: Timestamp::EPOCH,
        }
    }
}

/// A ticket as its row says. Its number is its place in the order of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTicket {
    /// Its id.
    pub ticket_id: TicketId,
    /// Whose.
    pub user_id: UserId,
    /// What the command that made it asked, as a digest.
    pub fingerprint: Fingerprint,
    /// How far it is; never LOBBY, which follows from the room.
    pub status: TicketStatus,
    /// What it was admitted to; looked at if that lasts.
    pub slot: Option<Slot>,
    /// The code that it was made with, if it is a guest's.
    pub access_code_id: Option<AccessCodeId>,
}

/// Everything the owner of one room knows; a function of committed rows and the commands since.
///
/// A ticket takes some 50 bytes, so that a million of them is no matter: vectors by arrival number,
/// and whatever is known of few of them beside those.
#[derive(Clone, Debug)]
pub struct Room {
    row: RoomRow,
    secret: Secret,
    /// Once there is an order.
    line: Option<Line>,
    tickets: Tickets,
    slots: Slots,
    presence: Presence,
    /// The tickets at the places from the front on, as far as the line was looked along.
    near: VecDeque<ArrivalNo>,
    /// Everybody at a place before is listened to: since it came so near, or from the beginning.
    listened: Place,
    /// Those that were passed over and heard again since; one may be here that is so no more.
    back: BTreeSet<(Place, ArrivalNo)>,
    guests: Guests,
    speed: Speed,
    still: Still,
    /// How the date sells; in no row of the room.
    selling: Selling,
    /// Tickets that conflicting inserts have told of, see [`Self::load_known`].
    known: HashMap<TicketId, Known>,
    /// Notices that are not open, see [`Self::load_told`].
    told: HashSet<NoticeId>,
}

/// A room that is being loaded, so that its tickets need not be in memory all at once.
#[derive(Debug)]
pub struct Loading(Room);

impl Loading {
    /// Begins with the row of a room.
    #[must_use]
    pub fn new(row: RoomRow, secret: Secret) -> Self {
        Self(Room {
            line: row.lobby.as_ref().and_then(Line::behind),
            row,
            secret,
            tickets: Tickets::default(),
            slots: Slots::default(),
            presence: Presence::default(),
            near: VecDeque::new(),
            listened: Place(*WINDOW.start()),
            back: BTreeSet::new(),
            guests: Guests::default(),
            speed: Speed::default(),
            still: Still::default(),
            selling: Selling::ALWAYS,
            known: HashMap::new(),
            told: HashSet::new(),
        })
    }

    /// The row that it began with.
    #[must_use]
    pub fn row(&self) -> &RoomRow {
        let Self(room) = self;
        &room.row
    }

    /// Adds a code that was used or revoked.
    pub fn code(&mut self, code: StoredCode) {
        let Self(room) = self;
        room.guests.load(code);
    }

    /// Adds the ticket with the next number.
    ///
    /// # Panics
    /// When its row contradicts itself.
    pub fn push(&mut self, ticket: StoredTicket) {
        let Self(room) = self;
        let state = State::of(ticket.status).expect("no row says LOBBY");
        let no = room
            .tickets
            .push(ticket.ticket_id, ticket.user_id, ticket.fingerprint, state);
        // It may have been told to ask again in a while, and by other rules.
        room.presence.begin(no, room.row.policy.presence_ms);
        if let Some(code) = ticket.access_code_id {
            room.guests.add(no, code, ticket.user_id, state);
        }
        if state == State::Admitted {
            let slot = ticket.slot.expect("an admitted ticket has its slot");
            room.slots.set(no, Some(slot));
        }
    }

    /// So many tickets are missing.
    #[must_use]
    pub fn missing(&self) -> u32 {
        let Self(room) = self;
        room.row.arrivals.saturating_sub(room.tickets.len())
    }

    /// The room, with all its tickets.
    ///
    /// # Panics
    /// When the rows contradict each other.
    #[must_use]
    pub fn finish(self) -> Room {
        let Self(mut room) = self;
        assert_eq!(
            room.tickets.len(),
            room.row.arrivals,
            "Q1: numbers are dense"
        );
        let has_begun = room.line.is_some() || room.row.front == Place::default();
        assert!(has_begun, "nobody is admitted before there is an order");
        if let Some(line) = &room.line {
            for no in line.before(room.row.front) {
                if room.tickets.state(no) == State::Waiting && !room.guests.is_one(no) {
                    room.tickets.set_state(no, State::Passed);
                }
            }
        }
        // A guest who was called counts as heard, as everybody does at first, and is called again.
        let called: Vec<ArrivalNo> = room.guests.before(room.row.guest_front).collect();
        for no in called {
            if room.tickets.state(no) == State::Waiting {
                let called = room.guests.called(no, room.line.is_some());
                room.set_state(no, called);
                room.guests.queue_back(no);
            }
        }
        room
    }
}

/// The notice of a command that says what the owner of the seats has written in other rows. It must be known
/// before it is decided whether that is open. Once it is done, what it says is in the row of the ticket; and
/// where it is not there, Postgres was restored to an older state: holds that were made since are not, by the
/// rows, though the stream tells of them again.
#[must_use]
pub fn true_while_open(kind: &Kind) -> Option<NoticeId> {
    match kind {
        Kind::Holds { notice_id, .. } => Some(*notice_id),
        // That of a sale only has its row read.
        Kind::Sale { .. }
        | Kind::Join { .. }
        | Kind::Leave { .. }
        | Kind::Seen { .. }
        | Kind::Policy { .. }
        | Kind::NameBeacon { .. }
        | Kind::RevealBeacon { .. }
        | Kind::RevokeCode { .. } => None,
    }
}

/// A ticket that a command has made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// In this room.
    Here(ArrivalNo),
    /// In another one: the key was used for another request.
    Elsewhere,
}

impl Room {
    /// A room from its rows; the tickets in the order of their numbers.
    ///
    /// # Panics
    /// When the rows contradict each other.
    #[must_use]
    pub fn load(
        row: RoomRow,
        secret: Secret,
        tickets: impl IntoIterator<Item = StoredTicket>,
    ) -> Self {
        let mut loading = Loading::new(row, secret);
        tickets.into_iter().for_each(|ticket| loading.push(ticket));
        loading.finish()
    }

    /// Adds what a conflicting insert tells of a command: it has made a ticket before, so that it
    /// makes none again.
    pub fn load_known(&mut self, ticket_id: TicketId, known: Known) {
        self.known.insert(ticket_id, known);
    }

    /// Adds that a notice of [`true_while_open`] is done, or is no more: nothing comes of it again.
    pub fn load_told(&mut self, notice_id: NoticeId) {
        self.told.insert(notice_id);
    }

    /// Forgets what was told of commands; another retry of them is told of again.
    pub fn prune(&mut self) {
        self.known.clear();
        self.told.clear();
    }

    /// What its row says after the last seal.
    #[must_use]
    pub fn row(&self) -> &RoomRow {
        &self.row
    }

    /// So many have a pass.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.slots.len()
    }

    /// Whether time alone may change something: somebody has a pass or is in line.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.slots.len() > 0
            || !self.back.is_empty()
            || self.row.front.0 < self.row.arrivals
            || self.guests.are_waiting(&self.row)
    }

    /// How far a ticket is.
    #[must_use]
    pub fn status(&self, no: ArrivalNo) -> Option<TicketStatus> {
        let state = self.tickets.get(no)?;
        Some(match state {
            State::Waiting if self.is_in_lobby(no) && !self.guests.is_one(no) => {
                TicketStatus::Lobby
            }
            State::Waiting | State::Passed | State::Back | State::Early => TicketStatus::Waiting,
            State::Admitted => TicketStatus::Admitted,
            State::Expired => TicketStatus::Expired,
            State::Left => TicketStatus::Left,
            State::Done => TicketStatus::Done,
        })
    }

    /// The place of a ticket, once there is an order.
    #[must_use]
    pub fn place(&self, no: ArrivalNo) -> Option<Place> {
        self.line.as_ref().map(|line| line.place(no))
    }

    /// What an admitted ticket has.
    #[must_use]
    pub fn slot(&self, no: ArrivalNo) -> Option<&Slot> {
        self.slots.get(no)
    }

    /// How far the line is, for everybody, without changes.
    #[must_use]
    pub fn watermark(&self, at: Timestamp) -> Watermark {
        let (moved, measured_ms) = self.speed.measured();
        Watermark {
            schedule_id: self.row.schedule_id,
            from_version: self.row.version,
            version: self.row.version,
            at,
            policy: self.row.policy,
            arrivals: self.row.arrivals,
            lobby: self.row.lobby.clone(),
            front: self.row.front,
            window: self.row.policy.window(),
            active: self.active(),
            guests: self.guests.waiting,
            guest_line: self.guests.line(self.row.guest_front),
            passed: Some(self.tickets.count(State::Passed)),
            moved,
            measured_ms,
            is_sale_stopped: self.is_sale_stopped(at),
            is_cancelled: self.row.is_cancelled,
            generation: self.row.generation,
            changes: Vec::new(),
        }
    }

    /// Whether a ticket was there before the opening and has no place yet.
    fn is_in_lobby(&self, no: ArrivalNo) -> bool {
        match &self.row.lobby {
            None => true,
            Some(lobby) => lobby.order.is_none() && no.0 < lobby.size,
        }
    }
}
