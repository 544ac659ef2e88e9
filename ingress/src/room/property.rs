//! Whatever is lost, late, told twice or told by an owner that is none any more: what an ingress shows
//! is a room that was true, never an older one than before, and in the end the latest. So nobody's
//! place changes, what is ahead of it never grows, and no status goes back; but for a restore from a backup,
//! after which all is as it was once.

use super::slot::{Heard, Slot};
use super::state::{Room, Tickets};
use onsale_schema::admission::{Lobby, Moment, Order, Policy, TicketChange, Watermark};
use onsale_schema::draw::{Digest, Place};
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{ArrivalNo, Generation, ScheduleId, Timestamp};
use proptest::prelude::*;
use proptest::sample::Index;
use uuid::Uuid;

const NOW: Timestamp = Timestamp::EPOCH;
const TICKETS: u32 = 12;
/// Of them in the lobby.
const LOBBY: u32 = 8;

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// The owner commits, and tells it: the line moves on by so many places, and these tickets go on.
    Commit(u32, Vec<Index>),
    /// Postgres is restored to an earlier state, which counts on from there in a generation of its own.
    Restore(Index),
    /// An owner tells how far it is: perhaps one that has been deposed.
    Beat(Index),
    /// One of the words on their way arrives, the first of them, or any.
    Arrive(Option<Index>),
    /// One arrives, and will again.
    ArriveTwice(Index),
    Lose(Index),
    /// The room is read: what comes meanwhile is kept.
    BeginLoad,
    /// It saw the room as it was at one time since it was asked for.
    EndLoad(Index),
    /// It was read where the owners' last commits have not arrived.
    EndLoadLate(Index),
    FailLoad,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    let tickets = proptest::collection::vec(index(), 0..4);
    prop_oneof![
        8 => (0..3_u32, tickets).prop_map(|(on, tickets)| Step::Commit(on, tickets)),
        1 => index().prop_map(Step::Restore),
        2 => index().prop_map(Step::Beat),
        8 => Just(Step::Arrive(None)),
        2 => index().prop_map(|at| Step::Arrive(Some(at))),
        1 => index().prop_map(Step::ArriveTwice),
        2 => index().prop_map(Step::Lose),
        3 => Just(Step::BeginLoad),
        3 => index().prop_map(Step::EndLoad),
        1 => index().prop_map(Step::EndLoadLate),
        1 => Just(Step::FailLoad),
    ]
}

/// The room as it was at one version.
#[derive(Clone)]
struct Truth {
    told: Watermark,
    statuses: Vec<TicketStatus>,
}

impl Truth {
    fn first() -> Self {
        Self {
            told: Watermark {
                schedule_id: ScheduleId(Uuid::nil()),
                from_version: 1,
                version: 1,
                at: NOW,
                policy: Policy::new(QueueMode::Draw, NOW),
                arrivals: TICKETS,
                lobby: None,
                front: Place(0),
                window: 1000,
                active: 0,
                guests: 0,
                guest_line: None,
                passed: None,
                moved: 0,
                measured_ms: 0,
                is_sale_stopped: false,
                is_cancelled: false,
                generation: Generation::default(),
                changes: Vec::new(),
            },
            statuses: vec![TicketStatus::Waiting; TICKETS as usize],
        }
    }

    /// What comes next, and what everybody is told of it. The first commit opens the room.
    fn next(&self, on: u32, tickets: &[Index]) -> Self {
        let mut next = self.clone();
        next.told.from_version = self.told.version;
        next.told.version += 1;
        next.told.lobby.get_or_insert(Lobby {
            closed_at: NOW,
            size: LOBBY,
            digest: Digest([1; 32]),
            beacon: None,
            order: Some(Order::Arrival),
        });
        next.told.front = Place((self.told.front.0 + on).min(TICKETS));
        next.told.changes = tickets.iter().map(|at| next.go_on(at)).collect();
        next
    }

    /// The same, restored after this generation.
    fn restored_after(&self, generation: Generation) -> Self {
        let mut restored = self.clone();
        restored.told = self.beat();
        restored.told.generation = Generation(generation.0 + 1);
        restored
    }

    fn go_on(&mut self, at: &Index) -> TicketChange {
        let no = at.index(self.statuses.len());
        let (status, until) = match self.statuses[no] {
            TicketStatus::Lobby | TicketStatus::Waiting => (TicketStatus::Admitted, Some(NOW)),
            TicketStatus::Admitted => (TicketStatus::Done, None),
            ended @ (TicketStatus::Expired | TicketStatus::Left | TicketStatus::Done) => {
                (ended, None)
            }
        };
        self.statuses[no] = status;
        (ArrivalNo(u32::try_from(no).unwrap()), status, until)
    }

    fn beat(&self) -> Watermark {
        Watermark {
            from_version: self.told.version,
            changes: Vec::new(),
            ..self.told.clone()
        }
    }

    fn snapshot(&self) -> Room {
        let mut tickets = Tickets::default();
        for (no, status) in (0..).map(ArrivalNo).zip(&self.statuses) {
            if *status != TicketStatus::Waiting {
                let until = (*status == TicketStatus::Admitted).then_some(NOW);
                tickets.set((no, *status, until));
            }
        }
        Room::new(self.beat(), tickets)
    }
}

/// What everybody is told: status, position, how many are ahead.
type Shown = Vec<(TicketStatus, Option<u32>, Option<u32>)>;

fn shown(room: &Room) -> Shown {
    let look = |no| {
        let look = room.look(ArrivalNo(no));
        let sight = look.sight(look.place(), NOW);
        (look.status, sight.position, sight.ahead)
    };
    (0..TICKETS).map(look).collect()
}

struct World {
    /// Every state that was true, in their order.
    truth: Vec<Truth>,
    /// Words on their way.
    air: Vec<Watermark>,
    slot: Slot,
    /// What was true when the load under way began.
    loading_since: Option<usize>,
    /// Somebody is to read the room again.
    is_reload_due: bool,
    before: Option<(Moment, Shown)>,
}

impl World {
    fn new() -> Self {
        Self {
            truth: vec![Truth::first()],
            air: Vec::new(),
            slot: Slot::default(),
            loading_since: None,
            is_reload_due: false,
            before: None,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Commit(on, tickets) => {
                let next = self.truth.last().unwrap().next(*on, tickets);
                self.air.push(next.told.clone());
                self.truth.push(next);
            }
            Step::Restore(at) => {
                let generation = self.truth.last().unwrap().told.generation;
                let restored = at.get(&self.truth).restored_after(generation);
                self.truth.push(restored);
            }
            Step::Beat(at) => {
                let beat = at.get(&self.truth).beat();
                self.air.push(beat);
            }
            Step::Arrive(_) | Step::ArriveTwice(_) | Step::Lose(_) if self.air.is_empty() => {}
            Step::Arrive(at) => {
                let at = at.map_or(0, |at| at.index(self.air.len()));
                let told = self.air.remove(at);
                self.take_in(&told);
            }
            Step::ArriveTwice(at) => {
                let told = at.get(&self.air).clone();
                self.take_in(&told);
            }
            Step::Lose(at) => drop(self.air.remove(at.index(self.air.len()))),
            Step::BeginLoad => self.begin_load(),
            Step::EndLoad(at) => {
                let Some(since) = self.loading_since else {
                    return;
                };
                let seen = since + at.index(self.truth.len() - since);
                self.end_load(Some(seen));
            }
            Step::EndLoadLate(at) => {
                let seen = at.index(self.truth.len());
                self.end_load(Some(seen));
            }
            Step::FailLoad => self.end_load(None),
        }
    }

    fn begin_load(&mut self) {
        if self.loading_since.is_none() {
            self.loading_since = Some(self.truth.len() - 1);
            self.slot.begin_load();
        }
    }

    fn end_load(&mut self, seen: Option<usize>) {
        if self.loading_since.take().is_some() {
            let room = seen.map(|at| self.truth[at].snapshot());
            self.slot.end_load(room, NOW);
        }
    }

    fn take_in(&mut self, told: &Watermark) {
        match self.slot.take_in(told, NOW) {
            Heard::Nothing | Heard::Moved => {}
            Heard::Gap => {
                assert!(!self.is_reload_due, "nobody else is about to");
                self.is_reload_due = true;
            }
        }
    }

    /// What is shown was true, and is not behind what was shown before.
    fn check(&mut self) {
        let Some(room) = self.slot.room() else {
            assert!(self.before.is_none(), "what was shown is there");
            return;
        };
        let now = (room.moment(), shown(room));
        let mut truth = self.truth.iter();
        let truth = truth.find(|truth| truth.told.moment() == now.0).unwrap();
        assert_eq!(now.1, shown(&truth.snapshot()));
        let before = self.before.replace(now.clone());
        if let Some((moment, before)) = before {
            assert!(now.0 >= moment, "{:?} after {moment:?}", now.0);
            if now.0.0 > moment.0 {
                return;
            }
            for (new, old) in now.1.iter().zip(&before) {
                assert!(new.0 >= old.0, "{new:?} after {old:?}");
                assert!(old.1.is_none() || new.1 == old.1, "{new:?} after {old:?}");
                assert!(old.2.is_none() || new.2 <= old.2, "{new:?} after {old:?}");
            }
        }
    }

    /// Nothing is lost any more.
    fn heal(&mut self) {
        self.air.clear();
        if self.loading_since.is_some() {
            self.end_load(None);
        }
        if self.slot.room().is_none() {
            self.begin_load();
            self.end_load(Some(self.truth.len() - 1));
        }
        let beat = self.truth.last().unwrap().beat();
        self.take_in(&beat);
        if std::mem::take(&mut self.is_reload_due) {
            while !self.slot.is_reloaded() {
                self.begin_load();
                self.end_load(Some(self.truth.len() - 1));
            }
        }
        self.check();
        let room = self.slot.room().expect("it was read");
        assert_eq!(room.moment(), self.truth.last().unwrap().told.moment());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_shown_was_true_and_never_goes_back(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.heal();
    }
}
