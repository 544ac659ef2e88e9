//! The opening: the lobby is closed, and then gets its order, by a seed in which everything was fixed
//! before anybody could know it.

use super::{Changes, Room};
use onsale_schema::Timestamp;
use onsale_schema::admission::{BEACON_BYTES, BEACON_CHARS, Line, Lobby, Order, Outcome, Refusal};
use onsale_schema::status::QueueMode;

impl Room {
    /// Closes the lobby when it is time, once: whoever joins later is behind everybody who is in it.
    /// Then gives it its order, once, as soon as everything for that is there.
    pub(super) fn open(&mut self, is_time: bool, now: Timestamp, changes: &mut Changes) {
        let is_off = self.row.policy.mode == QueueMode::Off;
        if is_time && !is_off && self.row.lobby.is_none() {
            changes.of(&self.row);
            self.row.lobby = Some(Lobby {
                closed_at: now,
                size: self.row.arrivals,
                digest: self.row.digest,
                beacon: None,
                order: None,
            });
            self.row.latest = now;
        }
        let waits = |lobby: &&Lobby| lobby.order.is_none();
        let Some(lobby) = self.row.lobby.as_ref().filter(waits) else {
            return;
        };
        let order = match (self.row.policy.mode, &lobby.beacon, &self.row.beacon_name) {
            (QueueMode::Off, _, _) | (QueueMode::Draw, None, Some(_)) => return,
            (QueueMode::Fifo | QueueMode::Open, _, _) => Order::Arrival,
            (QueueMode::Draw, beacon, _) => Order::Drawn {
                seed: self
                    .secret
                    .seed(lobby.digest, beacon.as_deref().unwrap_or_default()),
            },
        };
        changes.of(&self.row);
        let mut lobby = lobby.clone();
        lobby.order = Some(order);
        self.line = Line::behind(&lobby);
        self.row.lobby = Some(lobby);
        self.row.latest = now;
    }

    pub(super) fn name_beacon(
        &mut self,
        name: &str,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        if self.row.beacon_name.as_deref() == Some(name) {
            return Outcome::Applied;
        }
        if self.row.arrivals > 0 || self.row.lobby.is_some() {
            return Outcome::Refused(Refusal::BeaconFixed);
        }
        if !BEACON_CHARS.contains(&name.chars().count()) {
            return Outcome::Refused(Refusal::PolicyInvalid);
        }
        changes.of(&self.row);
        self.row.beacon_name = Some(name.to_owned());
        self.row.latest = now;
        Outcome::Applied
    }

    pub(super) fn reveal_beacon(
        &mut self,
        value: &[u8],
        now: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let Some(lobby) = &self.row.lobby else {
            return Outcome::Refused(Refusal::NotDue);
        };
        match (&lobby.beacon, &self.row.beacon_name, lobby.order) {
            (Some(known), _, _) if known == value => return Outcome::Applied,
            (Some(_), _, _) => return Outcome::Refused(Refusal::BeaconFixed),
            (None, None, _) | (None, _, Some(_)) => return Outcome::Refused(Refusal::NotDue),
            (None, Some(_), None) => {}
        }
        if !BEACON_BYTES.contains(&value.len()) {
            return Outcome::Refused(Refusal::PolicyInvalid);
        }
        changes.of(&self.row);
        let mut lobby = lobby.clone();
        lobby.beacon = Some(value.to_vec());
        self.row.lobby = Some(lobby);
        self.row.latest = now;
        self.open(true, now, changes);
        Outcome::Applied
    }
}
