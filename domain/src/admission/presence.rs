//! Who was heard when. Time passes here only while reports come: an outage of whatever lies between
//! the clients and the owner makes nobody silent.

use onsale_schema::{ArrivalNo, Timestamp};

/// Ingresses report each second. A longer gap between two reports than this, in milliseconds, is an
/// outage, and counts as no more than this.
const REPORT_GAP_MAX_MS: i64 = 3000;

/// Milliseconds during which reports came; 49 days of them, after which everybody counts as heard for
/// a moment.
type Flow = u32;

#[derive(Clone, Debug, Default)]
pub(super) struct Presence {
    flow: Flow,
    reported_at: Option<Timestamp>,
    /// By arrival number.
    heard: Vec<Flow>,
}

impl Presence {
    /// Reports came.
    pub(super) fn report(&mut self, now: Timestamp) {
        if let Some(last) = self.reported_at {
            let gap = now.ms_since(last).clamp(0, REPORT_GAP_MAX_MS);
            let gap = Flow::try_from(gap).unwrap_or(0);
            self.flow = self.flow.wrapping_add(gap);
        }
        self.reported_at = self.reported_at.max(Some(now));
    }

    /// A ticket was heard, is new, or is to be listened to from now on.
    pub(super) fn hear(&mut self, no: ArrivalNo) {
        if self.heard.len() <= no.index() {
            self.heard.resize(no.index() + 1, self.flow);
        }
        self.heard[no.index()] = self.flow;
    }

    /// Whether a ticket was silent for longer than this.
    pub(super) fn is_silent(&self, no: ArrivalNo, presence_ms: i64) -> bool {
        let heard = self.heard.get(no.index());
        let silent = heard.map_or(0, |heard| self.flow.wrapping_sub(*heard));
        i64::from(silent) > presence_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_while_reports_come_and_an_outage_does_not() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let (quiet, heard) = (ArrivalNo(0), ArrivalNo(1));
        let mut presence = Presence::default();
        presence.hear(quiet);
        presence.hear(heard);
        for second in 0..=10 {
            presence.report(at(second));
            presence.hear(heard);
        }
        // Nothing for ten minutes.
        presence.report(at(610));
        assert!(!presence.is_silent(heard, 5000) && presence.is_silent(quiet, 5000));
        assert!(!presence.is_silent(quiet, 13_000));
        presence.report(at(611));
        assert!(presence.is_silent(quiet, 13_000));
        // A report that is late counts once.
        presence.report(at(605));
        presence.report(at(611));
        assert!(!presence.is_silent(quiet, 14_000));
    }
}
