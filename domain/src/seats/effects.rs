//! The effects of decisions on the state and on what must be written. What must hold is asserted
//! here, in release builds too: a wrong write is worse than a stopped partition.

use super::{Changes, Claim, Ended, Entry, Reservation, Sale};
use onsale_schema::admission::HoldState;
use onsale_schema::message::Command;
use onsale_schema::seats::{Fact, Hold, Kind};
use onsale_schema::status::{ClaimState, ReservationStatus};
use onsale_schema::{CommandId, Money, ReservationId, SeatNo, Timestamp};

impl Sale {
    /// Gives seats that were checked to be free.
    pub(super) fn grant(
        &mut self,
        command: &Command<Kind>,
        reservation_id: ReservationId,
        seats: &[SeatNo],
        entry: Option<Entry>,
        now: Timestamp,
        changes: &mut Changes,
    ) -> Hold {
        let claim = Claim {
            reservation: Some(reservation_id),
            state: ClaimState::Held,
        };
        let mut total = Money::ZERO;
        for &seat in seats {
            let at = self.seat_index(seat).expect("the seats were checked");
            let before = self.set_claim(at, Some(claim));
            assert!(before.is_none(), "S1: seat {seat:?} is free when granted");
            changes
                .claims
                .record(self.schedule_id, seat, None, Some(claim));
            total = total + self.layout.prices[at];
        }
        let r = Reservation {
            reservation_id,
            user_id: command.user,
            command_id: command.id,
            fingerprint: command.fingerprint,
            seats: seats.to_vec(),
            total,
            seat_limit: self.policy.seats_per_user,
            status: ReservationStatus::Held,
            held_at: now,
            term: self.term(reservation_id, now.plus_ms(self.policy.hold_ms)),
            ended_at: None,
            rehold_order: None,
            cancelled: Vec::new(),
            cancelled_at: None,
            entry,
        };
        r.assert_valid();
        let hold = r.hold(self.schedule_id);
        changes.note_latest(self.schedule_id, self.latest);
        self.latest = now;
        self.facts.push(Fact::Held {
            user_id: command.user,
            command_id: command.id,
            hold: hold.clone(),
        });
        changes.make(self.schedule_id, r.clone());
        self.entries.add(entry);
        self.tell_room(&r, HoldState::Until(r.term.expires_at), changes);
        self.insert(r);
        hold
    }

    /// Ends a hold and frees its seats.
    pub(super) fn end(
        &mut self,
        id: ReservationId,
        status: ReservationStatus,
        given_back_by: Option<CommandId>,
        at: Timestamp,
        changes: &mut Changes,
    ) {
        let r = self
            .reservations
            .get_mut(&id)
            .expect("only known holds are ended");
        assert_eq!(r.status, ReservationStatus::Held, "S4");
        assert!(!status.is_live(), "S4");
        assert!(r.held_at <= at, "S2: an end is not before its beginning");
        r.status = status;
        r.ended_at = Some(at);
        if given_back_by.is_some() {
            r.term.given_back_by = given_back_by;
        }
        changes.note_latest(self.schedule_id, self.latest);
        self.latest = at;

        let is_listed = self.due.contains(&(r.term.release_at, id));
        assert!(is_listed, "every hold has its end in the order");
        let r = r.clone();
        self.strike_off(&r);
        // Of one that counts no more since a while that was said then.
        if r.term.ends_as.is_none() {
            self.tell_room(&r, HoldState::Over, changes);
        }

        let held = Some(Claim {
            reservation: Some(id),
            state: ClaimState::Held,
        });
        for &seat in &r.seats {
            let index = seat.index().expect("a reservation's seats are seats");
            let before = self.set_claim(index, None);
            assert_eq!(before, held, "S3: a hold has its seats");
            changes.claims.record(self.schedule_id, seat, before, None);
        }
        changes.end(Ended {
            reservation_id: id,
            schedule_id: self.schedule_id,
            from: ReservationStatus::Held,
            to: status,
            given_back_by,
            at,
        });
        self.facts.push(Fact::Ended {
            reservation_id: id,
            status,
            at,
        });
    }
}
