//! Who was heard when. Time passes here only while reports come that somebody was heard: an outage of
//! whatever lies between the clients and the owner makes nobody silent, be it before or behind the
//! ingress.
//!
//! Where only few wait, all of them say nothing for a moment again and again, so a while without anybody
//! counts when somebody is heard after it, up to [`QUIET_PARTS`]. So whoever is heard every now and then
//! always gets past those who have gone away, and nobody is passed over for what comes together of that
//! while, of the time since its last poll and of the time until the next, since a client asks four times
//! before it counts as silent.
//!
//! Of who is far from the front nothing is reported, so that nobody is silent there. It is listened to
//! from some time on, and may have been told just before to ask again much later: until then it counts
//! as heard, and nobody is passed over that asks when it is told to.

use onsale_schema::admission::FIRST_SILENT_MS;
use onsale_schema::{ArrivalNo, Timestamp};

/// Ingresses report each second. A longer gap between two reports than this, in milliseconds, is an
/// outage, and counts as no more than this.
const REPORT_GAP_MAX_MS: i64 = 3000;
/// Into so many parts the time is divided after which somebody counts as silent. A while in which nobody
/// at all was heard counts as no more than one of them.
const QUIET_PARTS: i64 = 5;

/// Milliseconds during which reports came of somebody who was heard; 49 days of them, after which
/// everybody counts as heard for a moment.
type Flow = u32;
/// So far ahead may lie until when somebody counts as heard.
const AHEAD_MAX: Flow = FIRST_SILENT_MS as Flow;

#[derive(Clone, Debug, Default)]
pub(super) struct Presence {
    flow: Flow,
    /// Milliseconds in which reports came that nobody was heard; counted when somebody is, if at all.
    quiet: Flow,
    reported_at: Option<Timestamp>,
    /// The time-out before, which was longer, in milliseconds, and until when it counts.
    longer: Option<(i64, Flow)>,
    /// By arrival number.
    heard: Vec<Flow>,
}

impl Presence {
    /// A report came, of somebody who was heard or of nobody.
    pub(super) fn report(&mut self, now: Timestamp, is_heard: bool, presence_ms: i64) {
        if let Some(last) = self.reported_at {
            let gap = now.ms_since(last).clamp(0, REPORT_GAP_MAX_MS);
            let gap = Flow::try_from(gap).unwrap_or(0);
            self.quiet = self.quiet.saturating_add(gap);
        }
        self.reported_at = self.reported_at.max(Some(now));
        if is_heard {
            let most = Flow::try_from(presence_ms / QUIET_PARTS).unwrap_or(Flow::MAX);
            let counted = std::mem::take(&mut self.quiet).min(most);
            self.flow = self.flow.wrapping_add(counted);
            let is_ahead = |until: Flow| (1..=AHEAD_MAX).contains(&until.wrapping_sub(self.flow));
            self.longer = self.longer.filter(|(_, until)| is_ahead(*until));
        }
    }

    /// The time-out changes. Of several that were longer the longest counts.
    pub(super) fn change(&mut self, from_ms: i64, to_ms: i64) {
        let before_ms = self.patience_ms(from_ms);
        if to_ms < before_ms {
            // Nobody is told to wait for longer than that.
            let until = Flow::try_from(before_ms).map_or(AHEAD_MAX, |ms| ms.min(AHEAD_MAX));
            self.longer = Some((before_ms, self.flow.wrapping_add(until)));
        }
    }

    /// How long somebody may be silent now, by a time-out of so many milliseconds.
    fn patience_ms(&self, presence_ms: i64) -> i64 {
        self.longer
            .map_or(presence_ms, |(longer_ms, _)| presence_ms.max(longer_ms))
    }

    /// A ticket was heard, or is new.
    pub(super) fn hear(&mut self, no: ArrivalNo) {
        self.hear_at(no, self.flow);
    }

    /// A ticket is listened to from now on.
    pub(super) fn begin(&mut self, no: ArrivalNo, presence_ms: i64) {
        let ahead = (FIRST_SILENT_MS - presence_ms).max(0);
        let ahead = Flow::try_from(ahead).unwrap_or(AHEAD_MAX);
        self.hear_at(no, self.flow.wrapping_add(ahead));
    }

    fn hear_at(&mut self, no: ArrivalNo, flow: Flow) {
        if self.heard.len() <= no.index() {
            self.heard.resize(no.index() + 1, self.flow);
        }
        self.heard[no.index()] = flow;
    }

    /// Whether a ticket was silent for longer than this.
    pub(super) fn is_silent(&self, no: ArrivalNo, presence_ms: i64) -> bool {
        let heard = self.heard.get(no.index());
        let silent = heard.map_or(0, |heard| self.flow.wrapping_sub(*heard));
        let is_ahead = silent >= Flow::MAX - AHEAD_MAX;
        !is_ahead && i64::from(silent) > self.patience_ms(presence_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME_OUT_MS: i64 = 20_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn silence_counts_while_reports_come_and_an_outage_does_not() {
        let (quiet, heard) = (ArrivalNo(0), ArrivalNo(1));
        let mut presence = Presence::default();
        presence.hear(quiet);
        presence.hear(heard);
        for second in 0..=10 {
            presence.report(at(second), true, TIME_OUT_MS);
            presence.hear(heard);
        }
        // Nothing for ten minutes.
        presence.report(at(610), true, TIME_OUT_MS);
        assert!(!presence.is_silent(heard, 5000) && presence.is_silent(quiet, 5000));
        assert!(!presence.is_silent(quiet, 13_000));
        presence.report(at(611), true, TIME_OUT_MS);
        assert!(presence.is_silent(quiet, 13_000));
        // A report that is late counts once.
        presence.report(at(605), true, TIME_OUT_MS);
        presence.report(at(611), true, TIME_OUT_MS);
        assert!(!presence.is_silent(quiet, 14_000));
    }

    #[test]
    fn who_is_first_listened_to_has_the_time_that_it_may_have_been_told() {
        let (near, far) = (ArrivalNo(0), ArrivalNo(1));
        for presence_ms in [15_000, 60_000, 120_000] {
            // Also where the count of time begins anew.
            for flow in [0, Flow::MAX - 40_000] {
                let mut presence = Presence {
                    flow,
                    ..Presence::default()
                };
                presence.report(at(0), true, presence_ms);
                presence.hear(near);
                presence.begin(far, presence_ms);
                for second in 1..=200 {
                    presence.report(at(second), true, presence_ms);
                    let silent = |no| presence.is_silent(no, presence_ms);
                    assert_eq!(silent(near), second * 1000 > presence_ms, "{second}");
                    let least = presence_ms.max(FIRST_SILENT_MS);
                    assert_eq!(silent(far), second * 1000 > least, "{second}");
                }
            }
        }
    }

    #[test]
    fn a_shorter_time_out_counts_when_the_longer_one_is_over() {
        let [asked, later] = [ArrivalNo(0), ArrivalNo(1)];
        // Also where the count of time begins anew.
        for flow in [0, Flow::MAX - 40_000] {
            let mut presence = Presence {
                flow,
                ..Presence::default()
            };
            presence.report(at(0), true, 120_000);
            presence.hear(asked);
            // And shorter still while the first one counts: that makes nobody silent sooner.
            presence.change(120_000, 60_000);
            presence.change(60_000, 15_000);
            let last = FIRST_SILENT_MS / 1000;
            for second in 1..last {
                presence.report(at(second), true, 15_000);
                assert!(!presence.is_silent(asked, 15_000), "{second}");
            }
            presence.hear(later);
            for second in last..last + 15 {
                presence.report(at(second), true, 15_000);
                assert!(presence.is_silent(asked, 15_000), "{second}");
                assert!(!presence.is_silent(later, 15_000), "{second}");
            }
            presence.report(at(last + 15), true, 15_000);
            assert!(presence.is_silent(later, 15_000));
            // A longer one counts at once.
            presence.change(15_000, 60_000);
            assert!(!presence.is_silent(later, 60_000));
        }
    }

    #[test]
    fn a_while_in_which_nobody_was_heard_counts_little_however_long_it_is() {
        let quiet = ArrivalNo(0);
        for (seconds, counted_ms) in [(1, 1000), (3, 3000), (4, 4000), (5, 4000), (3600, 4000)] {
            let mut presence = Presence::default();
            presence.hear(quiet);
            presence.report(at(0), true, TIME_OUT_MS);
            for second in 1..seconds {
                presence.report(at(second), false, TIME_OUT_MS);
                assert!(!presence.is_silent(quiet, 0), "nobody was heard");
            }
            presence.report(at(seconds), true, TIME_OUT_MS);
            let silent = |than| presence.is_silent(quiet, than);
            assert!(silent(counted_ms - 1) && !silent(counted_ms), "{seconds}");
            presence.report(at(seconds + 1), true, TIME_OUT_MS);
            assert!(presence.is_silent(quiet, counted_ms + 999), "it goes on");
        }
    }
}
