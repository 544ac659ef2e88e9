//! Whether the date sells, as far as its room has to know: while nobody can hold a seat, nobody is let
//! in, whatever the room's own policy says. It is in no row of the room, but in that of the sale.

use super::Room;
use onsale_schema::Timestamp;
use onsale_schema::status::SaleState;

/// How the date sells, as the row of its sale says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selling {
    /// Whether it sells at all.
    pub state: SaleState,
    /// First moment of the booking window.
    pub booking_opens_at: Timestamp,
    /// First moment after the booking window.
    pub booking_closes_at: Timestamp,
}

impl Selling {
    /// Without a beginning or an end.
    pub const ALWAYS: Self = Self {
        state: SaleState::Open,
        booking_opens_at: Timestamp::EPOCH,
        booking_closes_at: Timestamp::from_micros(i64::MAX),
    };

    /// Whether it does not sell, or not any more. That it does not sell yet is another thing: nobody is
    /// told that a line is stopped which has not begun.
    fn is_stopped(&self, now: Timestamp) -> bool {
        match self.state {
            SaleState::Open => now >= self.booking_closes_at,
            SaleState::Paused | SaleState::Closed => true,
        }
    }
}

impl Room {
    /// The date sells like this from now on. To be called with what the row of the sale says, when it
    /// was read after the commit that the owner of the seats tells of.
    pub fn sells(&mut self, selling: Selling) {
        self.selling = selling;
    }

    /// Whether nobody is let in for now because the date does not sell.
    pub(super) fn is_sale_stopped(&self, now: Timestamp) -> bool {
        self.selling.is_stopped(now)
    }

    /// Whether nobody is let in yet because nobody can hold a seat yet: the booking was moved, and guests of a
    /// presale are here already.
    pub(super) fn is_before_booking(&self, now: Timestamp) -> bool {
        now < self.selling.booking_opens_at
    }
}
