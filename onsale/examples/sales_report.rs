//! A consumer of facts that keeps a sales report, as another system would: it reads the events stream
//! by JetStream, and what it has counted and how far it is are one file, replaced as a whole. So it may
//! be killed at any moment and counts nothing twice, also where the stream has a fact twice, or was
//! made anew and begins to count again.
//!
//! ```text
//! NATS_URL=nats://consumer:…@127.0.0.1:4222 cargo run --example sales_report -- report.json
//! ```
//!
//! The file then has, by date: seats that are sold, what was paid for them, and what of it was
//! cancelled. It never reads the tables, and needs no right but to read the stream.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream::{self, Message, consumer, stream};
use futures_util::{FutureExt, StreamExt};
use onsale_platform::nats;
use onsale_schema::facts;
use onsale_schema::subjects::Subjects;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file is written after so many messages, or when there is nothing more to read.
const WRITE_EVERY: usize = 100;

/// The whole state of this consumer.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    /// Which stream it was: one that is made anew counts from 1 again.
    stream_created: String,
    /// The last message that is in here.
    stream_sequence: u64,
    schedules: BTreeMap<String, Sales>,
}

/// What is known of a date.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Sales {
    /// The last facts that are in here: their sequence has no gaps and never begins anew.
    version: i64,
    seats_sold: usize,
    /// In won; what was cancelled is still in it.
    revenue: i64,
    seats_cancelled: usize,
    /// Reservations that may yet be sold.
    held: BTreeMap<String, Held>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Held {
    seats: usize,
    total: i64,
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

    /// Counts a message, unless it was counted before.
    fn count(&mut self, message: &Message) -> anyhow::Result<()> {
        let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
        let data = facts::to_json(&message.payload)?;
        let schedule = text(&data, "scheduleId")?.to_owned();
        let version = number(&data, "version")?;
        let sales = self.schedules.entry(schedule.clone()).or_default();
        if version > sales.version {
            if sales.version > 0 && version > sales.version + 1 {
                eprintln!("{schedule}: facts are missing before version {version}");
            }
            for fact in data["facts"].as_array().into_iter().flatten() {
                sales.learn(fact)?;
            }
            sales.version = version;
        }
        self.stream_sequence = info.stream_sequence;
        Ok(())
    }
}

impl Sales {
    /// A kind that is not known says nothing about sales.
    fn learn(&mut self, fact: &Value) -> anyhow::Result<()> {
        match fact["type"].as_str() {
            Some("Held") => {
                let hold = &fact["hold"];
                self.held
                    .insert(text(hold, "reservationId")?.to_owned(), held(hold)?);
            }
            // A payment that came late was given the seats after all.
            Some("Reheld") => self.sold(&held(&fact["hold"])?),
            Some("Sold") => {
                let sold = self.held.remove(text(fact, "reservationId")?);
                // One that was held before the stream begins is not known.
                if let Some(sold) = sold {
                    self.sold(&sold);
                }
            }
            Some("Ended") => {
                self.held.remove(text(fact, "reservationId")?);
            }
            Some("Cancelled") => {
                let seats = fact["seats"].as_array().map_or(0, Vec::len);
                self.seats_sold = self.seats_sold.saturating_sub(seats);
                self.seats_cancelled += seats;
            }
            _ => {}
        }
        Ok(())
    }

    fn sold(&mut self, sold: &Held) {
        self.seats_sold += sold.seats;
        self.revenue += sold.total;
    }
}

fn held(hold: &Value) -> anyhow::Result<Held> {
    Ok(Held {
        seats: hold["seats"].as_array().map_or(0, Vec::len),
        total: number(&hold["total"], "amount")?,
    })
}

fn text<'a>(object: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    object[name].as_str().with_context(|| format!("no {name}"))
}

fn number(object: &Value, name: &str) -> anyhow::Result<i64> {
    object[name].as_i64().with_context(|| format!("no {name}"))
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
    let client = nats::connect(&url, "sales-report").await?;
    let mut stream = jetstream::new(client)
        .get_stream(subjects.events_stream())
        .await?;
    let created = stream.info().await?.created.to_string();
    if report.stream_created != created {
        // Begin where it begins: what was counted before is known by its version.
        report.stream_created = created;
        report.stream_sequence = 0;
    }
    follow(&stream, &subjects, &mut report, &path).await
}

async fn follow(
    stream: &stream::Stream,
    subjects: &Subjects,
    report: &mut Report,
    path: &Path,
) -> anyhow::Result<()> {
    // It begins behind what is in the report. To replay from a time, say `ByStartTime`.
    let config = consumer::pull::OrderedConfig {
        deliver_policy: consumer::DeliverPolicy::ByStartSequence {
            start_sequence: report.stream_sequence + 1,
        },
        filter_subject: subjects.event(facts::SEATS, "*"),
        max_expires: Duration::from_secs(10),
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    loop {
        let Some(message) = messages.next().await else {
            bail!("the stream has ended");
        };
        report.count(&message?)?;
        for _ in 1..WRITE_EVERY {
            match messages.next().now_or_never() {
                Some(Some(message)) => report.count(&message?)?,
                Some(None) | None => break,
            }
        }
        report.write(path)?;
    }
}
