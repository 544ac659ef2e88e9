//! All tickets of a room, by their numbers, in as little memory as may be.

use onsale_schema::message::Fingerprint;
use onsale_schema::status::TicketStatus;
use onsale_schema::{ArrivalNo, TicketId, UserId};

/// How far a ticket is to its owner's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// In the lobby, or in line behind the front.
    Waiting,
    /// Its turn came while it was silent.
    Passed,
    /// It was passed over and heard again.
    Back,
    /// A guest's that was called before its time, and is next at the opening.
    Early,
    Admitted,
    Expired,
    Left,
    Done,
}

/// How many states there are.
const STATES: usize = State::Done as usize + 1;

impl State {
    /// What a row says; none that says LOBBY.
    pub(super) fn of(status: TicketStatus) -> Option<Self> {
        match status {
            TicketStatus::Lobby => None,
            TicketStatus::Waiting => Some(Self::Waiting),
            TicketStatus::Admitted => Some(Self::Admitted),
            TicketStatus::Expired => Some(Self::Expired),
            TicketStatus::Left => Some(Self::Left),
            TicketStatus::Done => Some(Self::Done),
        }
    }

    /// What its row says.
    pub(super) fn stored(self) -> TicketStatus {
        match self {
            Self::Waiting | Self::Passed | Self::Back | Self::Early => TicketStatus::Waiting,
            Self::Admitted => TicketStatus::Admitted,
            Self::Expired => TicketStatus::Expired,
            Self::Left => TicketStatus::Left,
            Self::Done => TicketStatus::Done,
        }
    }
}

/// Vectors by arrival number: 42 bytes a ticket, and some for the index of users.
#[derive(Clone, Debug, Default)]
pub(super) struct Tickets {
    ids: Vec<TicketId>,
    users: Vec<UserId>,
    /// The first 32 bits of each fingerprint: enough to notice that a key was used for something else.
    prints: Vec<u32>,
    states: Vec<State>,
    /// How many are in each state.
    counts: [u32; STATES],
    /// Which of its user's each is, from 1.
    nths: Vec<u8>,
    newest: Newest,
}

impl Tickets {
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.ids.len()).expect("a room has fewer tickets")
    }

    /// Adds a ticket; it is its user's newest.
    pub(super) fn push(
        &mut self,
        id: TicketId,
        user: UserId,
        fingerprint: Fingerprint,
        state: State,
    ) -> ArrivalNo {
        let no = ArrivalNo(self.len());
        self.nths.push(self.given(user).saturating_add(1));
        self.ids.push(id);
        self.users.push(user);
        self.prints.push(short(fingerprint));
        self.states.push(state);
        self.counts[state as usize] += 1;
        self.newest.put(&self.users, no);
        no
    }

    /// Takes the last ticket away again. `previous` is what its user had before.
    pub(super) fn pop(&mut self, previous: Option<ArrivalNo>) {
        let last = ArrivalNo(self.len() - 1);
        match previous {
            Some(previous) => self.newest.put(&self.users, previous),
            None => self.newest.remove(&self.users, last),
        }
        self.ids.pop();
        self.users.pop();
        self.prints.pop();
        if let Some(state) = self.states.pop() {
            self.counts[state as usize] -= 1;
        }
        self.nths.pop();
    }

    pub(super) fn get(&self, no: ArrivalNo) -> Option<State> {
        self.states.get(no.index()).copied()
    }

    pub(super) fn state(&self, no: ArrivalNo) -> State {
        self.states[no.index()]
    }

    /// Changes how far a ticket is; returns how far it was.
    pub(super) fn set_state(&mut self, no: ArrivalNo, state: State) -> State {
        let before = std::mem::replace(&mut self.states[no.index()], state);
        self.counts[before as usize] -= 1;
        self.counts[state as usize] += 1;
        before
    }

    /// How many are in a state.
    pub(super) fn count(&self, state: State) -> u32 {
        self.counts[state as usize]
    }

    pub(super) fn id(&self, no: ArrivalNo) -> TicketId {
        self.ids[no.index()]
    }

    pub(super) fn user(&self, no: ArrivalNo) -> UserId {
        self.users[no.index()]
    }

    /// Whether these are a ticket and its number.
    pub(super) fn is(&self, no: ArrivalNo, id: TicketId) -> bool {
        self.ids.get(no.index()) == Some(&id)
    }

    /// Whether the command that made a ticket asked the same.
    pub(super) fn asked(&self, no: ArrivalNo, fingerprint: Fingerprint) -> bool {
        self.prints[no.index()] == short(fingerprint)
    }

    /// How many tickets a user was given; counted no further than a byte goes.
    pub(super) fn given(&self, user: UserId) -> u8 {
        self.newest(user).map_or(0, |no| self.nths[no.index()])
    }

    /// The newest ticket of a user.
    pub(super) fn newest(&self, user: UserId) -> Option<ArrivalNo> {
        self.newest.get(&self.users, user)
    }
}

fn short(fingerprint: Fingerprint) -> u32 {
    let (first, ..) = fingerprint.0.as_fields();
    first
}

/// The newest ticket of each user: a hash table of numbers alone, 4 to 8 bytes for each user, where a
/// map from ids would take 40. Open addressing, the next place that is free.
#[derive(Clone, Debug, Default)]
struct Newest {
    /// A number plus one; 0 is none. A power of two of them, or none at all.
    cells: Vec<u32>,
    used: usize,
}

impl Newest {
    fn get(&self, users: &[UserId], user: UserId) -> Option<ArrivalNo> {
        let at = self.find(users, user)?;
        self.cells[at].checked_sub(1).map(ArrivalNo)
    }

    /// Makes a ticket its user's newest.
    fn put(&mut self, users: &[UserId], no: ArrivalNo) {
        if (self.used + 1) * 4 > self.cells.len() * 3 {
            self.grow(users);
        }
        let at = self.find(users, users[no.index()]);
        let at = at.expect("there is a free cell");
        self.used += usize::from(self.cells[at] == 0);
        self.cells[at] = no.0 + 1;
    }

    /// Forgets a user whose only ticket this is.
    fn remove(&mut self, users: &[UserId], no: ArrivalNo) {
        let mask = self.cells.len() - 1;
        let mut hole = self.find(users, users[no.index()]);
        let mut hole = hole.take().expect("there is a cell");
        assert_eq!(
            self.cells[hole],
            no.0 + 1,
            "the ticket is its user's newest"
        );
        self.cells[hole] = 0;
        self.used -= 1;
        // What was pushed on by it moves up, or it would not be found any more.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let Some(index) = self.cells[at].checked_sub(1) else {
                return;
            };
            let home = home(users[index as usize], mask);
            let is_pushed_on = (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask);
            if is_pushed_on {
                self.cells.swap(hole, at);
                hole = at;
            }
        }
    }

    /// The cell of a user, or where it would be; none in an empty table.
    fn find(&self, users: &[UserId], user: UserId) -> Option<usize> {
        let mask = self.cells.len().checked_sub(1)?;
        let mut at = home(user, mask);
        loop {
            match self.cells[at].checked_sub(1) {
                Some(index) if users[index as usize] != user => at = (at + 1) & mask,
                Some(_) | None => return Some(at),
            }
        }
    }

    fn grow(&mut self, users: &[UserId]) {
        let size = (self.cells.len() * 2).max(16);
        let known = std::mem::replace(&mut self.cells, vec![0; size]);
        for cell in known.into_iter().filter(|cell| *cell > 0) {
            let at = self.find(users, users[cell as usize - 1]);
            self.cells[at.expect("there is a free cell")] = cell;
        }
    }
}

/// Where a user is looked for first. Our ids are random in their second half; whoever could choose them
/// would only make a look-up longer.
fn home(user: UserId, mask: usize) -> usize {
    let (first, second) = user.0.as_u64_pair();
    let mixed = (first ^ second).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from(mixed >> 32).expect("32 bits fit") & mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use uuid::Uuid;

    #[test]
    fn the_newest_ticket_of_everybody_is_found_also_after_some_were_taken_back() {
        let mut tickets = Tickets::default();
        let mut history: Vec<(UserId, Option<ArrivalNo>)> = Vec::new();
        let mut model: HashMap<UserId, ArrivalNo> = HashMap::new();
        let mut random: u64 = 1;
        let mut below = |end: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % end
        };
        for _ in 0..20_000 {
            if below(5) < 3 || history.is_empty() {
                let user = UserId(Uuid::from_u128(u128::from(below(3000))));
                let id = TicketId(user.0);
                let previous = tickets.newest(user);
                let no = tickets.push(id, user, Fingerprint(user.0), State::Waiting);
                assert_eq!(previous, model.insert(user, no));
                history.push((user, previous));
            } else if let Some((user, previous)) = history.pop() {
                tickets.pop(previous);
                match previous {
                    Some(previous) => model.insert(user, previous),
                    None => model.remove(&user),
                };
            }
            let user = UserId(Uuid::from_u128(u128::from(below(3000))));
            assert_eq!(tickets.newest(user), model.get(&user).copied());
        }
        for (user, no) in &model {
            assert_eq!(tickets.newest(*user), Some(*no));
            assert!(tickets.is(*no, TicketId(user.0)));
        }
        assert_eq!(tickets.newest.used, model.len());
    }
}
