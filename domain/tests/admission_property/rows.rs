//! The tables as the store would leave them: all of a batch or nothing, with the constraints that
//! the migrations will have, and the invariants checked from the rows alone.

use onsale_domain::admission::{
    Admission, Changes, Loading, Room, RoomRow, Slot, StoredCode, StoredTicket,
};
use onsale_schema::admission::{Code, Order};
use onsale_schema::draw::{Digest, Draw, Place, Secret};
use onsale_schema::message::Fingerprint;
use onsale_schema::status::{AccessGrant, TicketStatus};
use onsale_schema::{AccessCodeId, ArrivalNo, ScheduleId, TicketId, Timestamp, UserId};
use std::collections::{BTreeMap, BTreeSet};

pub const SECRET: Secret = Secret([42; 32]);

#[derive(Clone, Debug)]
pub struct Row {
    pub ticket_id: TicketId,
    pub user_id: UserId,
    pub fingerprint: Fingerprint,
    pub status: TicketStatus,
    pub slot: Option<Slot>,
    pub joined_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub access_code_id: Option<AccessCodeId>,
}

pub struct Rows {
    pub room: RoomRow,
    pub tickets: Vec<Row>,
    /// All codes of the room, and which of them were revoked when.
    pub codes: Vec<Code>,
    pub revoked: BTreeMap<AccessCodeId, Timestamp>,
    /// How often their rows say that they were used.
    pub used: BTreeMap<AccessCodeId, u32>,
    /// Ids of tickets of other rooms.
    pub elsewhere: BTreeSet<TicketId>,
}

impl Rows {
    /// What the next owner knows.
    pub fn load(&self) -> Room {
        let stored = self.tickets.iter().map(|row| StoredTicket {
            ticket_id: row.ticket_id,
            user_id: row.user_id,
            fingerprint: row.fingerprint,
            status: row.status,
            slot: row.slot.clone(),
            access_code_id: row.access_code_id,
        });
        let mut loading = Loading::new(self.room.clone(), SECRET);
        for code in &self.codes {
            let is_revoked = self.revoked.contains_key(&code.code_id);
            if is_revoked || self.used.contains_key(&code.code_id) {
                loading.code(StoredCode {
                    code_id: code.code_id,
                    grant: code.grant,
                    until: code.until,
                    is_revoked,
                });
            }
        }
        stored.for_each(|ticket| loading.push(ticket));
        loading.finish()
    }

    /// Who has tickets that were made with a code.
    fn users(&self, code: &Code) -> BTreeSet<UserId> {
        let with_it = |row: &&Row| row.access_code_id == Some(code.code_id);
        let with_it = self.tickets.iter().filter(with_it);
        with_it.map(|row| row.user_id).collect()
    }

    /// The number of the ticket that a command made here.
    pub fn number(&self, id: TicketId) -> Option<ArrivalNo> {
        let at = self.tickets.iter().position(|row| row.ticket_id == id);
        at.map(|at| ArrivalNo(u32::try_from(at).unwrap()))
    }

    /// Stores a batch, or says which commands made a ticket before.
    pub fn commit(&mut self, schedule: ScheduleId, changes: &Changes) -> Result<(), Vec<TicketId>> {
        let Some(mine) = changes.rooms.get(&schedule) else {
            return Ok(());
        };
        let ids = mine.joined.iter().map(|new| new.ticket_id);
        let taken = ids.filter(|id| self.number(*id).is_some() || self.elsewhere.contains(id));
        let taken: Vec<_> = taken.collect();
        if !taken.is_empty() {
            return Err(taken);
        }
        let update = mine.room.as_ref().expect("a batch is sealed");
        assert_eq!(update.before, self.room, "nobody else writes the row");
        assert_eq!(update.after.version, self.room.version + 1);
        assert!(update.after.front >= self.room.front && update.after.latest >= self.room.latest);
        assert!(update.after.guest_front >= self.room.guest_front);
        self.room = update.after.clone();
        for (no, update) in &mine.updates {
            let row = &mut self.tickets[no.index()];
            assert_eq!(row.status, update.from, "{no:?}");
            row.status = update.to;
            row.slot = update.slot.clone();
            row.ended_at = update.ended_at;
        }
        for (id, times) in &mine.used {
            let used = self.used.entry(*id).or_default();
            *used += times;
            let code = self.codes.iter().find(|code| code.code_id == *id);
            assert!(*used <= code.expect("it is of this room").uses, "CHECK");
        }
        for (code, at) in &mine.revoked {
            assert!(
                self.revoked.insert(*code, *at).is_none(),
                "it is noted once"
            );
        }
        for new in &mine.joined {
            assert_eq!(new.arrival_no.index(), self.tickets.len(), "Q1: dense");
            self.tickets.push(Row {
                ticket_id: new.ticket_id,
                user_id: new.user_id,
                fingerprint: new.fingerprint,
                status: new.status,
                slot: None,
                joined_at: new.joined_at,
                ended_at: new.ended_at,
                access_code_id: new.access_code_id,
            });
        }
        Ok(())
    }

    /// The place of every ticket, from the table of a whole draw.
    pub fn places(&self) -> Option<Vec<Place>> {
        let lobby = self.room.lobby.as_ref()?;
        let mut order: Vec<ArrivalNo> = match lobby.order? {
            Order::Arrival => Vec::new(),
            Order::Drawn { seed } => Draw::new(seed, lobby.size).order(),
        };
        order.extend((order.len()..self.tickets.len()).map(|no| ArrivalNo(no as u32)));
        let mut places = vec![Place(0); order.len()];
        for (place, no) in (0..).zip(order) {
            places[no.index()] = Place(place);
        }
        Some(places)
    }

    /// The invariants Q1 and Q2, from the rows alone.
    pub fn check(&self) {
        let mut live = BTreeSet::new();
        let mut digest = Digest::of_room(self.room.schedule_id);
        for (no, row) in (0..).map(ArrivalNo).zip(&self.tickets) {
            digest = digest.with(no, row.ticket_id);
            assert!(
                !row.status.is_live() || live.insert(row.user_id),
                "Q1: one live ticket per user"
            );
            assert_eq!(row.status.is_live(), row.ended_at.is_none());
            assert!(row.ended_at.is_none_or(|at| at >= row.joined_at));
        }
        assert_eq!(digest, self.room.digest);
        assert_eq!(self.room.arrivals as usize, self.tickets.len());
        for code in &self.codes {
            let used = self.used.get(&code.code_id).copied().unwrap_or_default();
            assert_eq!(self.users(code).len(), used as usize, "Q2: {code:?}");
        }
        self.check_admissions();
    }

    /// A guest has no place, its turn had come, and before the opening it was one of a presale.
    fn check_guest(&self, how: Admission, no: usize) {
        assert_eq!(how.place, None);
        assert!(no < self.room.guest_front.index());
        let id = self.tickets[no].access_code_id;
        let code = self.codes.iter().find(|code| Some(code.code_id) == id);
        let code = code.expect("its code is of this room");
        let closed_at = self.room.lobby.as_ref().map(|lobby| lobby.closed_at);
        let is_early = code.grant == AccessGrant::Presale && how.at < code.until;
        assert!(
            is_early || closed_at.is_some_and(|at| at <= how.at),
            "Q2: {how:?}"
        );
    }

    /// Whether a guest was let in at this time before another with a lower number, as may be: in its
    /// presale, while the other one had none.
    fn may_be_by(&self, by: usize, other: usize, at: Timestamp) -> bool {
        let is_early = |no: usize| {
            let mut codes = self.codes.iter();
            let id = self.tickets[no].access_code_id;
            let code = codes.find(|code| Some(code.code_id) == id).unwrap();
            code.grant == AccessGrant::Presale && at < code.until
        };
        is_early(by) && !is_early(other)
    }

    fn check_admissions(&self) {
        let slots = self.tickets.iter().enumerate();
        let slots = slots.filter_map(|(no, row)| Some((row.slot.as_ref()?, no)));
        let admitted: BTreeMap<u32, (&Slot, usize)> = slots
            .map(|(slot, no)| (slot.admission.no, (slot, no)))
            .collect();
        assert!(admitted.keys().copied().eq(0..self.room.admissions));
        let places = self.places();
        let mut last = Timestamp::EPOCH;
        let mut place_before = None;
        let mut guests: Vec<(usize, Timestamp)> = Vec::new();
        let mut line_at = Timestamp::EPOCH;
        for (slot, no) in admitted.values() {
            let how = slot.admission;
            if let Some(capacity) = how.capacity {
                assert!(how.active_before < capacity, "Q2: {how:?}");
            }
            assert!(last <= how.at);
            last = how.at;
            if self.tickets[*no].access_code_id.is_some() {
                self.check_guest(how, *no);
                if !how.was_passed {
                    assert!(self.tickets[*no].joined_at >= line_at, "Q2: guests first");
                    for (before, at) in &guests {
                        let is_in_order = before < no || self.may_be_by(*before, *no, *at);
                        assert!(is_in_order, "Q2: order");
                    }
                    guests.push((*no, how.at));
                }
                continue;
            }
            line_at = how.at;
            let places = places.as_ref();
            let place = places.expect("others are let in when there is an order")[*no];
            assert_eq!(how.place, Some(place));
            assert!(place < self.room.front);
            if !how.was_passed {
                assert!(place_before < Some(place), "Q2: order");
                place_before = Some(place);
            }
        }
        // So many had a pass as was said, by the rows' own times. What ended at the same moment may
        // have been before or after.
        for (slot, _) in admitted.values() {
            let how = slot.admission;
            let others = admitted
                .values()
                .filter(|(other, _)| other.admission.no < how.no);
            let ended = |no: &usize| self.tickets[*no].ended_at;
            let surely = others
                .clone()
                .filter(|(_, no)| ended(no).is_none_or(|at| at > how.at))
                .count() as u32;
            let perhaps = others
                .filter(|(_, no)| ended(no).is_none_or(|at| at >= how.at))
                .count() as u32;
            assert!(
                (surely..=perhaps).contains(&how.active_before),
                "Q2: {how:?}"
            );
        }
    }
}
