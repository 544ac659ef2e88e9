//! The position on an event stream: what a poll would say, as often as one would ask, and at once when
//! the ticket turns into something else. An open stream keeps its place in line, as polls do; where that can't
//! be told to the owner of the room any more, it ends, so that its client opens another one elsewhere.

use super::{Rooms, Signer, Standing, TicketView};
use axum::body::Bytes;
use onsale_platform::Clock;
use onsale_schema::Timestamp;
use onsale_schema::admission::Ticketed;
use onsale_schema::draw::Place;
use onsale_schema::status::TicketStatus;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether the ticket has turned.
const EVERY: Duration = Duration::from_secs(1);

/// Follows one ticket for one stream.
pub struct Follower {
    rooms: Rooms,
    signer: Signer,
    clock: Clock,
    opened_at: Instant,
    ticket: Ticketed,
    place: Option<Place>,
    told: Option<(Standing, Timestamp)>,
    /// Whether there is nothing more to tell.
    is_over: bool,
    /// When to look next.
    due: Instant,
    /// When a poll would ask next. A stream that is open is heard then, as if it polled.
    poll_at: Instant,
}

impl Follower {
    /// Tells how the ticket is now, and then of every change.
    #[must_use]
    pub fn new(rooms: Rooms, signer: Signer, clock: Clock, ticket: Ticketed) -> Self {
        Self {
            rooms,
            signer,
            opened_at: Instant::now(),
            clock,
            ticket,
            place: None,
            told: None,
            is_over: false,
            due: Instant::now(),
            poll_at: Instant::now(),
        }
    }

    /// Who leaves the line by joining with an access code has a guest's ticket from then on: the stream
    /// goes on with that one. After any other end there is nothing to tell.
    async fn go_on_after(&mut self, ended: TicketStatus) {
        let mut newest = None;
        if ended == TicketStatus::Left && !self.ticket.is_guest {
            let Ok(found) = self.rooms.newest(&self.ticket).await else {
                // What can't be read now is read when it can be.
                return;
            };
            newest = found;
        }
        match newest.filter(|(ticket, ended)| ticket.is_guest && ended.is_none()) {
            Some((guest, _)) => {
                (self.ticket, self.place, self.told) = (guest, None, None);
                (self.due, self.poll_at) = (Instant::now(), Instant::now());
            }
            None => self.is_over = true,
        }
    }

    /// The ticket was signed before a restore: goes on with the one that its owner has by the rows, if that is
    /// there.
    async fn go_on_restored(&mut self) {
        match self.rooms.newest(&self.ticket).await {
            Ok(Some((ticket, _))) => {
                (self.ticket, self.place, self.told) = (ticket, None, None);
                self.poll_at = Instant::now();
            }
            Ok(None) => self.is_over = true,
            // What can't be read now is read when it can be.
            Err(_) => {}
        }
    }

    /// The next event; none when the stream is to end, as who waits is not heard by it any more. Given up
    /// and asked again it loses nothing. After the ticket's end it never comes.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.is_over {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep_until(self.due).await;
            let now = Instant::now();
            self.due = now + EVERY;
            let told = self.told.map(|(told, _)| told.status);
            if let Some(ended) = told.filter(|status| !status.is_live()) {
                self.go_on_after(ended).await;
                continue;
            }
            let waits = told != Some(TicketStatus::Admitted);
            let schedule = self.ticket.schedule_id;
            if waits && self.rooms.is_cut_off(schedule, self.opened_at) {
                return None;
            }
            let is_poll = now >= self.poll_at;
            let standing = if is_poll {
                self.rooms.look(&self.ticket, self.place).await
            } else {
                self.rooms.glance(&self.ticket, self.place).await
            };
            let standing = match standing {
                Ok(Some(standing)) => standing,
                Ok(None) => {
                    self.go_on_restored().await;
                    continue;
                }
                // What can't be read now is told when it can be.
                Err(_) => continue,
            };
            self.place = standing.place;
            let at = self.clock.now();
            let has_turned = (self.told).is_none_or(|told| standing.has_turned(&told, at));
            if is_poll || has_turned {
                let after_ms = standing.sight.map_or(0, |sight| sight.poll_after_ms);
                self.poll_at = now + EVERY.max(Duration::from_millis(after_ms.into()));
            }
            let ahead = |it: &Standing| it.sight.and_then(|sight| sight.ahead);
            let has_moved = (self.told).is_none_or(|(told, _)| ahead(&told) != ahead(&standing));
            if !(has_turned || is_poll && has_moved) {
                continue;
            }
            let view = TicketView::of(&self.signer, &self.ticket, &standing, at);
            if let Ok(json) = serde_json::to_string(&view) {
                self.told = Some((standing, at));
                return Some(format!("event: queue\ndata: {json}\n\n").into());
            }
        }
    }
}
