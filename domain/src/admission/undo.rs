//! Taking a batch back that was decided but not stored, so that the owner need not load a million
//! tickets anew because one row was not as it thought.

use super::changes::Step;
use super::tickets::State;
use super::{Changes, Room};
use onsale_schema::admission::Line;

impl Room {
    /// Takes a sealed batch back: this state is as if the batch had never been decided, but for who
    /// was heard when. To be called once, with the changes of the batch that was sealed last.
    pub fn undo(&mut self, changes: &Changes) {
        let Some(mine) = changes.rooms.get(&self.row.schedule_id) else {
            return;
        };
        for step in mine.journal.iter().rev() {
            match step {
                Step::Joined(previous) => self.tickets.pop(*previous),
                Step::State(no, before) => {
                    self.set_state(*no, *before);
                    if matches!(before, State::Back | State::Early) {
                        self.queue_back(*no);
                    }
                }
                Step::Slot(no, before) => {
                    self.slots.set(*no, before.clone());
                }
                Step::Invited(no) => {
                    self.guests.take_back(*no, self.tickets.user(*no));
                }
                Step::Revoked(code) => self.guests.revoke(*code, false),
            }
        }
        let had_order = mine
            .before
            .lobby
            .as_ref()
            .is_some_and(|l| l.order.is_some());
        if !had_order {
            self.line = mine.before.lobby.as_ref().and_then(Line::behind);
        }
        self.row = mine.before.clone();
        // Looked along anew: the front is back.
        self.near.clear();
    }
}
