//! Taking a batch back that was decided but not stored, so that the owner need not load the whole
//! schedule anew because one row was not as it thought.

use super::{Accepted, Changes, Sale};
use onsale_schema::ReservationId;
use onsale_schema::status::ReservationStatus;

impl Sale {
    /// Takes a sealed batch back: this state is as if the batch had never been decided, but for the
    /// payments that its notices told of, whose rows are PAID. What the batch ended may have been
    /// paid by now, too, see [`Self::doubtful`]. To be called once, with the
    /// changes of the batch that was sealed last.
    ///
    /// # Panics
    /// When the changes are not those of that batch.
    pub fn undo(&mut self, changes: &Changes) {
        for (seat, before) in changes.claims.before(self.schedule_id) {
            let at = self.seat_index(seat).expect("a changed seat is a seat");
            self.set_claim(at, before);
        }
        for made in &changes.reservations {
            let command_id = made.reservation.command_id;
            // Another schedule of the batch has been told of this command.
            if made.schedule_id == self.schedule_id
                || matches!(
                    self.commands.get(&command_id),
                    Some(Accepted::Elsewhere(..))
                )
            {
                self.commands.remove(&command_id);
            }
            if made.schedule_id == self.schedule_id {
                let id = made.reservation.reservation_id;
                let r = self.reservations.remove(&id);
                let r = r.expect("what was made is known");
                self.entries.take(r.entry);
                self.strike_off(&r);
            }
        }
        for ended in &changes.ended {
            if ended.schedule_id != self.schedule_id {
                continue;
            }
            let id = ended.reservation_id;
            let mut r = self.reservations.remove(&id).expect("what ended is known");
            r.status = ended.from;
            r.ended_at = None;
            if ended.given_back_by.is_some() {
                r.term.given_back_by = None;
            }
            self.enlist(&r);
            self.reservations.insert(id, r);
            self.doubtful.push(id);
        }
        for update in &changes.terms {
            if update.schedule_id != self.schedule_id {
                continue;
            }
            let id = update.reservation_id;
            let mut r = self.reservations.remove(&id).expect("what lasts is known");
            self.strike_off(&r);
            r.term = update.before.clone();
            self.enlist(&r);
            self.reservations.insert(id, r);
            self.doubtful.push(id);
        }
        self.blocks.undo(changes, self.schedule_id);
        for update in &changes.policies {
            if update.schedule_id == self.schedule_id {
                self.policy = update.before;
            }
        }
        for (schedule_id, no) in &changes.passes_over {
            if *schedule_id == self.schedule_id {
                self.entries.revive(*no);
            }
        }
        for update in &changes.gates {
            if update.schedule_id == self.schedule_id {
                self.gate = update.before;
            }
        }
        if changes
            .maps
            .iter()
            .any(|map| map.schedule_id == self.schedule_id)
        {
            self.map_version -= 1;
        }
        if let Some(latest) = changes.latest_before(self.schedule_id) {
            self.latest = latest;
        }
    }

    /// Holds of which the rows may know more: a batch that ended them was taken back, perhaps
    /// because they were paid. Each must be looked up and told by [`Self::assure`] before the next
    /// decision, or that could end them again, and miss again.
    #[must_use]
    pub fn doubtful(&self) -> &[ReservationId] {
        &self.doubtful
    }

    /// What the row of a doubtful hold says now. False when it is something that this state can't
    /// follow: then it must be loaded anew.
    #[must_use]
    pub fn assure(&mut self, id: ReservationId, status: ReservationStatus) -> bool {
        self.doubtful.retain(|doubtful| *doubtful != id);
        let Some(r) = self.reservations.get_mut(&id) else {
            return true;
        };
        match (r.status, status) {
            (known, said) if known == said => true,
            (ReservationStatus::Held, ReservationStatus::Paid) => {
                r.status = ReservationStatus::Paid;
                self.due.remove(&(r.term.release_at, id));
                true
            }
            _ => false,
        }
    }
}
