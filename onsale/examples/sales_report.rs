//! A consumer of facts that keeps a sales report, as another system would: it reads the events stream
//! by JetStream, and what it has counted and how far it is are one file, replaced as a whole. So it may
//! be killed at any moment and counts nothing twice, also where the stream has a fact twice, or was
//! made anew, or has lost its end, and counts what comes by numbers that were others' before.
//!
//! ```text
//! NATS_URL="nats://consumer:$(cat .onsale/secrets/nats-consumer)@127.0.0.1:4222" \
//!     cargo run -p onsale --example sales_report -- report.json
//! ```
//!
//! That is the password that `onsale up` has made in its data directory.
//!
//! The file then has, by date: seats that are sold now and those that were cancelled, what was paid
//! (`gross`), what of it went back (`refunded`), and what of the rest is fees of cancellations
//! (`fees`), in won. `gaps` counts facts that are missing or that could not be read, each with a line
//! on standard error. Only what was seen from the beginning is counted: the cancellation of a sale from
//! before the stream begins takes nothing away.
//!
//! It never reads the tables, and needs no right but to read the stream. The file has every reservation that
//! was not given back, so that what is cancelled later is known, and is written as a whole: enough for some
//! sales. Who reports for years keeps them in a table, with the place in the stream in the same transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::{self, Message, consumer, stream};
use futures_util::{FutureExt, StreamExt};
use onsale_platform::nats;
use onsale_schema::subjects::Subjects;
use onsale_schema::{facts, settlement};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

/// The file is written after so many messages, or when there is nothing more to read.
const WRITE_EVERY: usize = 1000;
/// How often it looks whether the stream is still the same one, and how soon it tries again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The whole state of this consumer.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    /// Which stream it was: one that is made anew counts from 1 again.
    stream_created: String,
    /// The last message that is in here.
    stream_sequence: u64,
    /// Facts that are missing or can't be read.
    gaps: u64,
    /// Up to here the stream is read once more, as a number was missing: what it had lost and got again may be
    /// at a place that was read before.
    again_until: u64,
    /// The last message that could not be read: each is said once, however often it is read.
    unread_until: u64,
    dates: BTreeMap<String, Sales>,
    /// By topic and aggregate, the last facts that are in here: their numbers have no gaps and never
    /// begin anew.
    seen: BTreeMap<String, i64>,
    reservations: BTreeMap<String, Reservation>,
}

/// What is known of a date; money is in won.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Sales {
    seats_sold: usize,
    seats_cancelled: usize,
    gross: i64,
    refunded: i64,
    fees: i64,
}

/// What of a reservation is in the numbers of its date.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Reservation {
    /// Those that are held or, once it is sold, not cancelled.
    seats: BTreeSet<i64>,
    is_sold: bool,
    is_paid: bool,
}

impl Report {
    fn read(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the file: after a crash it is the one before or this one, never a part.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let aside = path.with_extension("new");
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        std::fs::rename(&aside, path)?;
        Ok(())
    }

    /// Begins where the stream begins, if it is another one or has lost its end: what was counted before
    /// is known by its numbers.
    fn begin(&mut self, now: &stream::Info) {
        if !self.is_of(now) {
            self.stream_created = now.created.to_string();
            (self.stream_sequence, self.again_until, self.unread_until) = (0, 0, 0);
        }
    }

    /// Whether the place in here is one of this stream. A stream that ends before it has lost messages,
    /// and gives their numbers to those that come.
    fn is_of(&self, now: &stream::Info) -> bool {
        self.stream_created == now.created.to_string()
            && self.stream_sequence <= now.state.last_sequence
    }

    fn gap(&mut self, what: &str) {
        eprintln!("{what}");
        self.gaps += 1;
    }

    /// Counts a message, unless it was counted before. One that can't be read is passed by: to fail
    /// would be to fail again at each start.
    fn count(&mut self, message: &Message) -> anyhow::Result<Learned> {
        let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
        let place = info.stream_sequence;
        match self.learn(message, place) {
            Ok(Learned::Counted) => {}
            Ok(Learned::Missing) => {
                // What is missing after that, too, is at a place that is read again with it.
                (self.stream_sequence, self.again_until) = (0, place + info.pending);
                return Ok(Learned::Missing);
            }
            Err(_) if place <= self.unread_until => {}
            Err(error) => {
                self.unread_until = place;
                self.gap(&format!("message {place} can't be read: {error:#}"));
            }
        }
        self.stream_sequence = place;
        Ok(Learned::Counted)
    }

    fn learn(&mut self, message: &Message, place: u64) -> anyhow::Result<Learned> {
        let headers = message.headers.as_ref().context("no headers")?;
        let id = headers.get(async_nats::header::NATS_MESSAGE_ID);
        let id = id.context("no message id")?.as_str();
        let (topic, aggregate, seq) = facts::parts_of(id).context("another message id")?;
        let counter = format!("{topic} {aggregate}");
        let last = self.seen.get(&counter).copied().unwrap_or_default();
        if seq <= last {
            return Ok(Learned::Counted);
        }
        let is_missing = last > 0 && seq > last + 1;
        if is_missing && place > self.again_until {
            return Ok(Learned::Missing);
        }
        self.seen.insert(counter, seq);
        if is_missing {
            self.gap(&format!(
                "{topic} {aggregate}: facts are missing before {seq}"
            ));
        }
        let data = facts::to_json(&message.payload)?;
        let date = text(&data, "scheduleId")?.to_owned();
        for fact in data["facts"].as_array().context("no facts")? {
            let sales = self.dates.entry(date.clone()).or_default();
            match topic {
                facts::SEATS => sales.learn_of_seats(&mut self.reservations, fact)?,
                settlement::TOPIC => sales.learn_of_money(&mut self.reservations, fact)?,
                // Other topics say nothing about sales.
                _ => {}
            }
        }
        Ok(Learned::Counted)
    }
}

/// What was learned of a message.
#[derive(Debug, PartialEq, Eq)]
enum Learned {
    /// It is in the report, or says nothing about sales.
    Counted,
    /// There is a fact before it that this has not seen: the stream is to be read from its beginning.
    Missing,
}

impl Sales {
    /// A kind that is not known says nothing about sales.
    fn learn_of_seats(
        &mut self,
        reservations: &mut BTreeMap<String, Reservation>,
        fact: &Value,
    ) -> anyhow::Result<()> {
        let of = |object: &Value| anyhow::Ok(text(object, "reservationId")?.to_owned());
        match fact["type"].as_str() {
            Some("Held") => {
                let reservation = reservations.entry(of(&fact["hold"])?).or_default();
                reservation.seats = seats(&fact["hold"])?;
            }
            // A payment that came late was given the seats after all.
            Some("Reheld") => {
                let reservation = reservations.entry(of(&fact["hold"])?).or_default();
                reservation.seats = seats(&fact["hold"])?;
                self.sold(reservation);
            }
            // One that was held before the stream begins has no seats here.
            Some("Sold") => self.sold(reservations.entry(of(fact)?).or_default()),
            Some("Ended") => {
                reservations.remove(&of(fact)?);
            }
            Some("Cancelled") => {
                let reservation = reservations.entry(of(fact)?).or_default();
                let given_up = seats(fact)?;
                let before = reservation.seats.len();
                reservation.seats.retain(|seat| !given_up.contains(seat));
                let cancelled = before - reservation.seats.len();
                // Only what was paid for is cancelled; that it was sold may be told afterwards.
                self.seats_cancelled += cancelled;
                if reservation.is_sold {
                    self.seats_sold -= cancelled;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn sold(&mut self, reservation: &mut Reservation) {
        if !std::mem::replace(&mut reservation.is_sold, true) {
            self.seats_sold += reservation.seats.len();
        }
    }

    /// `Refunded` only says that what a cancellation gives back has arrived.
    fn learn_of_money(
        &mut self,
        reservations: &mut BTreeMap<String, Reservation>,
        fact: &Value,
    ) -> anyhow::Result<()> {
        let of = text(fact, "reservationId")?.to_owned();
        let reservation = reservations.entry(of).or_default();
        match fact["type"].as_str() {
            Some("Paid") => {
                self.gross += won(fact, "amount")?;
                reservation.is_paid = true;
            }
            Some("Cancelled") if reservation.is_paid => {
                self.refunded += won(fact, "refunded")?;
                self.fees += won(fact, "fee")?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn text<'a>(object: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    object[name].as_str().with_context(|| format!("no {name}"))
}

fn won(object: &Value, name: &str) -> anyhow::Result<i64> {
    let amount = object[name]["amount"].as_i64();
    amount.with_context(|| format!("no {name}"))
}

fn seats(object: &Value) -> anyhow::Result<BTreeSet<i64>> {
    let seats = object["seats"].as_array().context("no seats")?;
    let numbers = seats.iter().map(|seat| seat.as_i64().context("no seat"));
    numbers.collect()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("which file?")?;
    let path = PathBuf::from(path);
    let url = std::env::var("NATS_URL").context("NATS_URL is not set")?;
    let prefix = std::env::var("ONSALE_SUBJECT_PREFIX").unwrap_or_default();
    let subjects = Subjects::new(&prefix)?;
    let mut report = Report::read(&path)?;

    // Whatever client connects: each user has its answers below `_INBOX.<user>`, where nobody else may
    // listen.
    let mut connected = None;
    loop {
        let followed = async {
            let jetstream = match &mut connected {
                Some(jetstream) => jetstream,
                none => none.insert(jetstream::new(nats::connect(&url, "sales-report").await?)),
            };
            follow(jetstream, &subjects, &mut report, &path).await
        };
        if let Err(error) = followed.await {
            eprintln!("{error:#}; it is tried again");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Counts for as long as the stream is the same one: also one that is made anew while this runs begins
/// to count at 1, and would be read from the middle. One that loses its end and has grown past this place
/// before anybody looks is noticed by a number that is missing.
async fn follow(
    jetstream: &jetstream::Context,
    subjects: &Subjects,
    report: &mut Report,
    path: &Path,
) -> anyhow::Result<()> {
    let mut stream = jetstream.get_stream(subjects.events_stream()).await?;
    report.begin(stream.info().await?);
    // It begins behind what is in the report. To replay from a time, say `ByStartTime`.
    let config = consumer::pull::OrderedConfig {
        deliver_policy: consumer::DeliverPolicy::ByStartSequence {
            start_sequence: report.stream_sequence + 1,
        },
        filter_subject: subjects.events_filter(),
        max_expires: Duration::from_secs(10),
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let mut looked = Instant::now();
    loop {
        let before = report.stream_sequence;
        if let Ok(next) = tokio::time::timeout(LOOK_EVERY, messages.next()).await {
            let mut learned = report.count(&next.context("the stream has ended")??)?;
            for _ in 1..WRITE_EVERY {
                match messages.next().now_or_never() {
                    Some(Some(message)) if learned == Learned::Counted => {
                        learned = report.count(&message?)?;
                    }
                    Some(_) | None => break,
                }
            }
            if learned == Learned::Missing {
                return report.write(path);
            }
        }
        // Before it is written: what came from another stream is not where this one is.
        if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            if !report.is_of(stream.info().await?) {
                return Ok(());
            }
        }
        if report.stream_sequence != before {
            report.write(path)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_cancelled_before_it_is_told_to_be_sold_is_not_sold() {
        let (mut sales, mut reservations) = (Sales::default(), BTreeMap::new());
        let cancelled = json!({ "type": "Cancelled", "reservationId": "r", "seats": [1] });
        for (fact, sold, given_up) in [
            (
                json!({ "type": "Held", "hold": { "reservationId": "r", "seats": [1, 2, 3] } }),
                0,
                0,
            ),
            (cancelled, 0, 1),
            (json!({ "type": "Sold", "reservationId": "r" }), 2, 1),
            (
                json!({ "type": "Cancelled", "reservationId": "r", "seats": [2] }),
                1,
                2,
            ),
            // Held before the stream began.
            (
                json!({ "type": "Cancelled", "reservationId": "other", "seats": [7] }),
                1,
                2,
            ),
        ] {
            sales
                .learn_of_seats(&mut reservations, &fact)
                .expect("a fact");
            assert_eq!(
                (sales.seats_sold, sales.seats_cancelled),
                (sold, given_up),
                "{fact}"
            );
        }
    }
}
