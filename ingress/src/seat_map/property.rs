//! Whatever is lost, late, told twice or told by an owner that is none any more: what an ingress shows
//! is a map that was true, never an older one than before, and in the end the latest; and what a client
//! makes of the stream is one that was true, wherever it went on or looked meanwhile.

use super::feed::Last;
use super::slot::{Heard, Slot};
use super::state::{Map, Stamp};
use axum::body::Bytes;
use onsale_schema::seats::MapChange;
use onsale_schema::status::ClaimState;
use onsale_schema::{ScheduleId, SeatNo, Timestamp};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use uuid::Uuid;

const NOW: Timestamp = Timestamp::EPOCH;

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// The owner commits, and tells it.
    Commit(Vec<(Index, Option<ClaimState>)>),
    /// The layout is replaced, if it may still be; nobody is told.
    Replace(usize),
    /// An owner tells which map it has: perhaps one that has been deposed.
    Beat(Index),
    /// One of the broadcasts on their way arrives, the first of them, or any.
    Arrive(Option<Index>),
    /// One arrives, and will again.
    ArriveTwice(Index),
    Lose(Index),
    /// The map is read: what comes meanwhile is kept.
    BeginLoad,
    /// It saw one of the maps since it was asked for.
    EndLoad(Index),
    /// It was read where the owners' last commits have not arrived.
    EndLoadLate(Index),
    FailLoad,
    /// Versions are compared with one of those since the comparison before.
    Check(Index),
    /// The client reads what has come for it.
    Read,
    /// The client's stream ends, and it comes back.
    Return,
    /// It comes from another ingress, which showed it one of the maps so far.
    Come(Index),
    /// It gets the seats of another ingress while it follows this one.
    Look(Index),
}

fn claim() -> impl Strategy<Value = Option<ClaimState>> {
    let states = [ClaimState::Held, ClaimState::Sold, ClaimState::Blocked];
    proptest::option::weighted(0.7, proptest::sample::select(states.to_vec()))
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        8 => proptest::collection::vec((index(), claim()), 0..4).prop_map(Step::Commit),
        1 => (2..6_usize).prop_map(Step::Replace),
        2 => index().prop_map(Step::Beat),
        8 => Just(Step::Arrive(None)),
        2 => index().prop_map(|at| Step::Arrive(Some(at))),
        1 => index().prop_map(Step::ArriveTwice),
        2 => index().prop_map(Step::Lose),
        3 => Just(Step::BeginLoad),
        3 => index().prop_map(Step::EndLoad),
        1 => index().prop_map(Step::EndLoadLate),
        1 => Just(Step::FailLoad),
        2 => index().prop_map(Step::Check),
        4 => Just(Step::Read),
        2 => Just(Step::Return),
        1 => index().prop_map(Step::Come),
        1 => index().prop_map(Step::Look),
    ]
}

/// What the client has made of its stream.
#[derive(Default)]
struct Client {
    has: Option<(Stamp, Vec<u8>)>,
    stream: Option<Receiver<Bytes>>,
}

struct World {
    /// Every map that was true, in their order.
    truth: Vec<Stamp>,
    seats: BTreeMap<Stamp, Vec<u8>>,
    was_claimed: bool,
    /// Broadcasts on their way.
    air: Vec<MapChange>,
    slot: Slot,
    /// The map that was true when the load under way began.
    loading_since: Option<usize>,
    checked: usize,
    /// Somebody is to load the map again.
    is_reload_due: bool,
    client: Client,
}

impl World {
    fn new() -> Self {
        let first = Stamp {
            layout_no: 0,
            version: 0,
        };
        Self {
            truth: vec![first],
            seats: BTreeMap::from([(first, vec![b'A'; 4])]),
            was_claimed: false,
            air: Vec::new(),
            slot: Slot::default(),
            loading_since: None,
            checked: 0,
            is_reload_due: false,
            client: Client::default(),
        }
    }

    fn latest(&self) -> Stamp {
        self.truth[self.truth.len() - 1]
    }

    fn becomes(&mut self, stamp: Stamp, seats: Vec<u8>) {
        self.truth.push(stamp);
        self.seats.insert(stamp, seats);
    }

    fn commit(&mut self, wanted: &[(Index, Option<ClaimState>)]) {
        let before = self.latest();
        let mut seats = self.seats[&before].clone();
        let mut changes = Vec::new();
        for (at, claim) in wanted {
            let at = at.index(seats.len());
            seats[at] = claim.map_or(b'A', |state| state.as_str().as_bytes()[0]);
            self.was_claimed |= claim.is_some();
            changes.push((SeatNo(i32::try_from(at).unwrap()), *claim));
        }
        let after = Stamp {
            version: before.version + 1,
            ..before
        };
        self.becomes(after, seats);
        self.air.push(told(before.version, after, changes));
    }

    fn heard(&mut self, heard: Heard) {
        self.is_reload_due |= heard == Heard::Gap;
    }

    fn arrive(&mut self, at: Index, stays: bool) {
        if self.air.is_empty() {
            return;
        }
        let at = at.index(self.air.len());
        let change = match stays {
            true => self.air[at].clone(),
            false => self.air.remove(at),
        };
        let heard = self.slot.take_in(&change);
        self.heard(heard);
    }

    fn begin_load(&mut self) {
        self.slot.begin_load();
        self.loading_since = Some(self.truth.len() - 1);
    }

    fn end_load(&mut self, seen: Option<usize>) {
        let map = seen.map(|seen| {
            let stamp = self.truth[seen];
            let seats = &self.seats[&stamp];
            let claims = (0..)
                .zip(seats.iter().copied())
                .filter(|(_, letter)| *letter != b'A');
            Map::new(stamp.layout_no, stamp.version, seats.len(), claims)
        });
        self.slot.end_load(map, NOW);
        self.loading_since = None;
        // Whoever has a reload to do goes on with it.
        self.is_reload_due = !self.slot.is_reloaded();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Commit(changes) => self.commit(&changes),
            Step::Replace(seats) if !self.was_claimed => {
                let before = self.latest();
                let after = Stamp {
                    layout_no: before.layout_no + 1,
                    ..before
                };
                self.becomes(after, vec![b'A'; seats]);
            }
            Step::Replace(_) => {}
            Step::Beat(by) => {
                let stamp = self.truth[by.index(self.truth.len())];
                self.air.push(told(stamp.version, stamp, Vec::new()));
            }
            Step::Arrive(None) if !self.air.is_empty() => {
                let change = self.air.remove(0);
                let heard = self.slot.take_in(&change);
                self.heard(heard);
            }
            Step::Arrive(None) => {}
            Step::Arrive(Some(at)) => self.arrive(at, false),
            Step::ArriveTwice(at) => self.arrive(at, true),
            Step::Lose(at) => {
                if !self.air.is_empty() {
                    self.air.remove(at.index(self.air.len()));
                }
            }
            Step::BeginLoad if self.loading_since.is_none() => self.begin_load(),
            Step::BeginLoad => {}
            Step::EndLoad(at) => {
                if let Some(since) = self.loading_since {
                    self.end_load(Some(since + at.index(self.truth.len() - since)));
                }
            }
            Step::EndLoadLate(at) => {
                if let Some(since) = self.loading_since {
                    self.end_load(Some(at.index(since + 1)));
                }
            }
            Step::FailLoad => {
                if self.loading_since.is_some() {
                    self.end_load(None);
                }
            }
            Step::Check(at) => {
                self.checked += at.index(self.truth.len() - self.checked);
                let heard = self.slot.check(self.truth[self.checked], NOW);
                self.heard(heard);
            }
            Step::Read => self.read(),
            Step::Return => self.follow(),
            Step::Look(at) => {
                let stamp = self.truth[at.index(self.truth.len())];
                // An older one than it has tells a client nothing.
                if self
                    .client
                    .has
                    .as_ref()
                    .is_some_and(|(has, _)| stamp > *has)
                {
                    self.client.has = Some((stamp, self.seats[&stamp].clone()));
                }
            }
            Step::Come(at) => {
                let stamp = self.truth[at.index(self.truth.len())];
                self.client.has = Some((stamp, self.seats[&stamp].clone()));
                self.follow();
            }
        }
    }

    /// The client opens a stream, if there is a map.
    fn follow(&mut self) {
        let last = match &self.client.has {
            Some((stamp, _)) => Last::Map(*stamp),
            None => Last::None,
        };
        let Some((first, stream)) = self.slot.join(last) else {
            self.client.stream = None;
            return;
        };
        self.client.stream = Some(stream);
        self.take(&first);
    }

    fn read(&mut self) {
        while let Some(stream) = &mut self.client.stream {
            match stream.try_recv() {
                Ok(events) => self.take(&events),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => self.follow(),
            }
        }
    }

    /// The client takes in events, as the API's description tells it to.
    fn take(&mut self, events: &[u8]) {
        for event in std::str::from_utf8(events)
            .unwrap()
            .split_terminator("\n\n")
        {
            let field = |name| {
                event
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap()
            };
            let stamp: Stamp = field("id: ").parse().unwrap();
            let data: serde_json::Value = serde_json::from_str(field("data: ")).unwrap();
            assert_eq!(data["version"], stamp.version);
            let changes = data["changes"].as_array();
            assert_eq!(changes.is_some(), field("event: ") == "seats", "{event}");
            match (&mut self.client.has, changes) {
                (Some((has, _)), Some(_)) if stamp <= *has => {}
                (Some((has, seats)), Some(changes))
                    if data["from"] == has.version && has.layout_no == stamp.layout_no =>
                {
                    for change in changes {
                        let seat = usize::try_from(change[0].as_u64().unwrap()).unwrap();
                        seats[seat] = change[1].as_str().unwrap().as_bytes()[0];
                    }
                    *has = stamp;
                }
                _ => self.get(stamp),
            }
            let (has, seats) = self.client.has.as_ref().unwrap();
            assert_eq!(seats, &self.seats[has], "what the client has of {has}");
        }
    }

    /// The client gets the map, which is not older than what it was told.
    fn get(&mut self, at_least: Stamp) {
        let map = self.slot.look().unwrap();
        assert!(map.stamp() >= at_least);
        self.client.has = Some((map.stamp(), letters(map)));
    }

    /// What is shown.
    fn shown(&mut self) -> Option<Stamp> {
        let map = self.slot.look()?;
        let (stamp, letters) = (map.stamp(), letters(map));
        assert_eq!(letters, self.seats[&stamp], "what is shown of {stamp}");
        Some(stamp)
    }

    /// Nothing is told any more: checks alone find what is missing.
    fn heals(&mut self) {
        let last = self.truth.len() - 1;
        self.air.clear();
        if self.loading_since.is_some() {
            self.end_load(None);
        }
        if self.slot.map().is_none() {
            self.begin_load();
            self.end_load(Some(last));
        }
        for _ in 0..2 {
            let heard = self.slot.check(self.latest(), NOW);
            self.heard(heard);
            if self.is_reload_due {
                self.begin_load();
                self.end_load(Some(last));
            }
        }
        assert!(!self.is_reload_due);
        assert_eq!(self.shown(), Some(self.latest()));
        self.read();
        if self.client.stream.is_none() {
            self.follow();
        }
        let has = self.client.has.as_ref().map(|(stamp, _)| *stamp);
        assert_eq!(has, Some(self.latest()), "what the client has");
    }
}

fn told(from_version: i64, to: Stamp, changes: Vec<(SeatNo, Option<ClaimState>)>) -> MapChange {
    MapChange {
        schedule_id: ScheduleId(Uuid::nil()),
        from_version,
        version: to.version,
        at: NOW,
        changes,
        layout_no: Some(to.layout_no),
    }
}

fn letters(map: &mut Map) -> Vec<u8> {
    let json = map.rendered().form(false).1;
    let map: serde_json::Value = serde_json::from_slice(&json).unwrap();
    map["seats"].as_str().unwrap().as_bytes().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_shown_was_true_never_goes_back_and_becomes_the_latest(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        let mut before = None;
        for step in steps {
            world.step(step);
            let shown = world.shown();
            assert!(shown >= before, "{shown:?} after {before:?}");
            before = shown;
        }
        world.heals();
    }
}
