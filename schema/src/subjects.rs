//! Every subject and stream name, declared once.

use crate::ids::{IngressId, ScheduleId};
use crate::partition::PartitionNo;
use crate::status::Lane;

/// Builds subject and stream names under a prefix, so that several systems (tests, above all) can
/// share one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    /// `prefix` is empty or one token of letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn new(prefix: &str) -> Result<Self, InvalidPrefix> {
        let valid = prefix
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if valid {
            Ok(Self {
                prefix: prefix.to_owned(),
            })
        } else {
            Err(InvalidPrefix)
        }
    }

    fn subject(&self, rest: &str) -> String {
        if self.prefix.is_empty() {
            rest.to_owned()
        } else {
            format!("{}.{rest}", self.prefix)
        }
    }

    fn name(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}_{name}", self.prefix)
        }
    }

    /// The stream of a lane: `SEATS`, `ADMISSION`, `LEDGER`, `SETTLEMENT`.
    #[must_use]
    pub fn stream(&self, lane: Lane) -> String {
        self.name(&lane.as_str().to_uppercase())
    }

    /// The stream of facts for other systems.
    #[must_use]
    pub fn events_stream(&self) -> String {
        self.name("EVENTS")
    }

    /// The NATS user of a kind of process.
    #[must_use]
    pub fn user(&self, process: &str) -> String {
        self.name(process)
    }

    /// What the lane's stream holds.
    #[must_use]
    pub fn lane_filter(&self, lane: Lane) -> String {
        if lane.is_partitioned() {
            self.subject(&format!("cmd.{lane}.*"))
        } else {
            self.queue(lane)
        }
    }

    /// Commands for one partition of a partitioned lane.
    #[must_use]
    pub fn partition(&self, lane: Lane, partition: PartitionNo) -> String {
        self.subject(&format!("cmd.{lane}.{partition}"))
    }

    /// Commands for a lane of competing consumers.
    #[must_use]
    pub fn queue(&self, lane: Lane) -> String {
        self.subject(&format!("cmd.{lane}"))
    }

    /// Replies of one lane to one ingress.
    #[must_use]
    pub fn reply(&self, ingress: IngressId, lane: Lane) -> String {
        self.subject(&format!("rsp.{}.{lane}", ingress.0.simple()))
    }

    /// All replies to one ingress.
    #[must_use]
    pub fn replies(&self, ingress: IngressId) -> String {
        self.subject(&format!("rsp.{}.*", ingress.0.simple()))
    }

    /// Replies to every ingress.
    #[must_use]
    pub fn all_replies(&self) -> String {
        self.subject("rsp.*.*")
    }

    /// Map changes of one partition (core NATS).
    #[must_use]
    pub fn map(&self, partition: PartitionNo) -> String {
        self.subject(&format!("map.seats.{partition}"))
    }

    /// All map changes.
    #[must_use]
    pub fn maps(&self) -> String {
        self.subject("map.seats.*")
    }

    /// How far the lines of one partition are (core NATS).
    #[must_use]
    pub fn watermark(&self, partition: PartitionNo) -> String {
        self.subject(&format!("watermark.admission.{partition}"))
    }

    /// How far all lines are.
    #[must_use]
    pub fn watermarks(&self) -> String {
        self.subject("watermark.admission.*")
    }

    /// Lag of one partition (core NATS).
    #[must_use]
    pub fn lag(&self, lane: Lane, partition: PartitionNo) -> String {
        self.subject(&format!("lag.{lane}.{partition}"))
    }

    /// All lags.
    #[must_use]
    pub fn lags(&self) -> String {
        self.subject("lag.*.*")
    }

    /// Sessions that were revoked (core NATS, may be lost: every ingress also reads the table).
    #[must_use]
    pub fn revocations(&self) -> String {
        self.subject("session.revoked")
    }

    /// "There is something to publish": wakes the outbox worker (core NATS, may be lost).
    #[must_use]
    pub fn outbox_nudge(&self) -> String {
        self.subject("nudge.outbox")
    }

    /// "A payment order, or a refund, can go on": wakes who drives them (core NATS, may be lost).
    #[must_use]
    pub fn orders_nudge(&self) -> String {
        self.subject("nudge.orders")
    }

    /// "A partition changed hands or wants to": wakes the workers' control loops (core NATS).
    #[must_use]
    pub fn ownership_nudge(&self) -> String {
        self.subject("nudge.ownership")
    }

    /// All nudges.
    #[must_use]
    pub fn nudges(&self) -> String {
        self.subject("nudge.*")
    }

    /// Facts of one schedule's seats.
    #[must_use]
    pub fn seat_events(&self, schedule: ScheduleId) -> String {
        self.event("seats", &schedule.to_string())
    }

    /// Facts of a topic's aggregate.
    #[must_use]
    pub fn event(&self, topic: &str, aggregate: &str) -> String {
        self.subject(&format!("evt.{topic}.{aggregate}"))
    }

    /// What the events stream holds.
    #[must_use]
    pub fn events_filter(&self) -> String {
        self.subject("evt.>")
    }
}

/// A subject prefix that is not one plain token. It is not repeated here: it may be an address that
/// got into a wrong place.
#[derive(Debug, thiserror::Error)]
#[error("the subject prefix must be letters, digits, '-' and '_' only")]
pub struct InvalidPrefix;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_prefix() {
        let plain = Subjects::new("").unwrap();
        assert_eq!(plain.partition(Lane::Seats, PartitionNo(3)), "cmd.seats.3");
        assert_eq!(plain.stream(Lane::Seats), "SEATS");
        assert_eq!(plain.lane_filter(Lane::Ledger), "cmd.ledger");
        let test = Subjects::new("t1").unwrap();
        assert_eq!(test.lane_filter(Lane::Seats), "t1.cmd.seats.*");
        assert_eq!(test.lane_filter(Lane::Admission), "t1.cmd.admission.*");
        assert_eq!(test.stream(Lane::Settlement), "t1_SETTLEMENT");
        assert_eq!(
            (plain.user("ingress"), test.user("ingress")),
            ("ingress".into(), "t1_ingress".into())
        );
        assert!(Subjects::new("a.b").is_err());
    }
}
