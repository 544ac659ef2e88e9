//! The position on an event stream: what a poll would say, told when it says something else.

use super::{Rooms, Signer, TicketView};
use axum::body::Bytes;
use onsale_platform::Clock;
use onsale_schema::admission::Ticketed;
use onsale_schema::draw::Place;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked. A stream that is open is heard by it as if it polled.
const EVERY: Duration = Duration::from_secs(1);

/// Follows one ticket for one stream.
pub struct Follower {
    rooms: Rooms,
    signer: Signer,
    clock: Clock,
    ticket: Ticketed,
    place: Option<Place>,
    told: Option<TicketView>,
    /// When to look next.
    due: Instant,
}

impl Follower {
    /// Tells how the ticket is now, and then of every change.
    #[must_use]
    pub fn new(rooms: Rooms, signer: Signer, clock: Clock, ticket: Ticketed) -> Self {
        Self {
            rooms,
            signer,
            clock,
            ticket,
            place: None,
            told: None,
            due: Instant::now(),
        }
    }

    /// The next event. Given up and asked again it loses nothing; after the ticket's end there is
    /// none.
    pub async fn next(&mut self) -> Bytes {
        loop {
            if self.told.as_ref().is_some_and(TicketView::is_over) {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep_until(self.due).await;
            // What can't be read now is told when it can be.
            let standing = self.rooms.look(&self.ticket, self.place).await;
            self.due = Instant::now() + EVERY;
            let Ok(standing) = standing else {
                continue;
            };
            self.place = standing.place;
            let view = TicketView::of(&self.signer, &self.ticket, &standing, self.clock.now());
            let is_news = (self.told.as_ref()).is_none_or(|told| view.is_news_after(told));
            if is_news && let Ok(json) = serde_json::to_string(&view) {
                self.told = Some(view);
                return format!("event: queue\ndata: {json}\n\n").into();
            }
        }
    }
}
