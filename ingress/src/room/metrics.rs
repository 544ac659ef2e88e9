//! What waiting rooms are measured by at an ingress.

use metrics::{Counter, Gauge, Histogram};
use onsale_platform::metric;
use onsale_schema::status::TicketStatus;
use std::collections::HashMap;

pub(super) struct Metrics {
    pub rooms: Gauge,
    pub age: Gauge,
    pub delay: Histogram,
    pub reloads: Counter,
    pub forecast_error: Histogram,
    pub polls: HashMap<TicketStatus, Counter>,
    pub refused: Counter,
    pub joins_new: Counter,
    pub joins_again: Counter,
}

impl Metrics {
    pub fn new() -> Self {
        let polls = |outcome| metrics::counter!(metric::ROOM_POLLS, "outcome" => outcome);
        let joins = |outcome| metrics::counter!(metric::ROOM_JOINS, "outcome" => outcome);
        let statuses = TicketStatus::ALL.into_iter();
        Self {
            rooms: metrics::gauge!(metric::ROOMS),
            age: metrics::gauge!(metric::ROOM_AGE),
            delay: metrics::histogram!(metric::ROOM_DELAY),
            reloads: metrics::counter!(metric::ROOM_RELOADS),
            forecast_error: metrics::histogram!(metric::ROOM_FORECAST_ERROR),
            polls: statuses
                .map(|status| (status, polls(status.as_str())))
                .collect(),
            refused: polls("refused"),
            joins_new: joins("new"),
            joins_again: joins("again"),
        }
    }
}
