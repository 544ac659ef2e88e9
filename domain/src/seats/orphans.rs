//! Seats that nobody would buy: free ones without a free one beside them.

use super::Sale;
use onsale_schema::seats::Refusal;
use onsale_schema::{SeatNo, Timestamp};

impl Sale {
    /// Refuses seats that would leave others alone, where the policy wants it so and there is a
    /// choice.
    pub(super) fn leave_no_orphans(&self, seats: &[SeatNo], now: Timestamp) -> Result<(), Refusal> {
        if !self.policy.prevents_orphans {
            return Ok(());
        }
        let orphans = self.layout.plan.orphans(&self.free_at(now), seats);
        if orphans.is_empty() {
            Ok(())
        } else {
            Err(Refusal::OrphanSeat { seats: orphans })
        }
    }
}
