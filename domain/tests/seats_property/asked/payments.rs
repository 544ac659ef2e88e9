//! Notices: mostly those that are open, and again those that are done; rarely about nothing.

use crate::World;
use crate::common::user;
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::seats::Kind;
use onsale_schema::{CommandId, Money, NoticeId, PaymentOrderId, ReservationId, Timestamp, UserId};
use uuid::Uuid;

impl World {
    pub(super) fn notice(&mut self) -> Command<Kind> {
        let open: Vec<_> = self.rows.open_notices.clone().into_iter().collect();
        let from = if self.rng.percent(70) {
            &open
        } else {
            &self.notices
        };
        let known = match self.rng.percent(97) {
            true => self.rng.pick(from).cloned(),
            false => None,
        };
        let (notice, kind) = known.unwrap_or_else(|| self.nonsense());
        let command = self.command(user(0), kind);
        Command {
            id: CommandId(notice.0),
            fingerprint: Fingerprint(Uuid::nil()),
            ..command
        }
    }

    /// By a notice that was never written, or is no more since a restore: about what was never sold, nor
    /// cancelled.
    fn nonsense(&mut self) -> (NoticeId, Kind) {
        let notice_id = NoticeId(self.rng.uuid());
        let (some_id, user_id, until) = self.some_reservation();
        let other_id = ReservationId(self.rng.uuid());
        let order_id = PaymentOrderId(self.rng.uuid());
        let paying = self.rows.reservations.get(&some_id);
        let paying = paying.and_then(|r| r.term.paying_order);
        let schedule_id = self.rows.schedule;
        let seats = self.seats();
        let kind = match self.rng.range(0, 5) {
            0 => Kind::PaidAll {
                notice_id,
                reservation_ids: vec![other_id, some_id],
                schedule_id,
            },
            1 => Kind::Paid {
                notice_id,
                reservation_id: some_id,
                schedule_id,
            },
            2 => Kind::Secure {
                notice_id,
                order_id,
                reservation_id: some_id,
                schedule_id,
                until: until.plus_ms(5000),
            },
            3 => Kind::Unsecure {
                notice_id,
                order_id: paying.unwrap_or(order_id),
                reservation_id: some_id,
                schedule_id,
            },
            4 => Kind::Rehold {
                notice_id,
                order_id,
                reservation_id: other_id,
                lapsed_id: some_id,
                schedule_id,
                user_id,
                seats,
                total: Money::won(7),
            },
            _ => Kind::Cancelled {
                notice_id,
                reservation_id: some_id,
                schedule_id,
                seats,
                at: self.now,
            },
        };
        self.model.decided.insert(notice_id);
        (notice_id, kind)
    }

    /// One that was asked for or has a row, whether it was accepted or not.
    pub(super) fn any_row(&mut self) -> Option<(ReservationId, UserId, Timestamp)> {
        let rows: Vec<_> = self.rows.reservations.values().collect();
        let row = self.rng.pick(&rows)?;
        Some((row.reservation_id, row.user_id, row.term.expires_at))
    }
}
