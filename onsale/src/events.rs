//! `onsale events`: prints the facts of the events stream, from a time on.
//!
//! It reads as any consumer may read: by a throw-away consumer that begins at a time and takes
//! nothing away. A connection that breaks is made again, from the fact after the last one.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{DeliverPolicy, pull::OrderedConfig};
use chrono::DateTime;
use clap::Args as ClapArgs;
use futures_util::StreamExt;
use onsale_platform::{nats, shutdown};
use onsale_schema::subjects::Subjects;
use onsale_schema::{Timestamp, facts, message};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::target::Target;
use crate::when;

/// Prints facts for other systems from the events stream, each as one JSON object on a line.
///
/// Without --since it begins with the oldest one that the stream still has. Ctrl-C ends it.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub target: Target,

    /// Prefix of all subjects and streams of the system.
    #[arg(long, env = "ONSALE_SUBJECT_PREFIX", default_value = "")]
    pub subject_prefix: String,

    /// Begin with what was published then: a time as `2027-05-01T10:00:00Z`, or how long ago, as
    /// `90s`, `10m`, `2h` or `3d`.
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub since: Option<Timestamp>,

    /// Only of this topic, for example `seats`.
    #[arg(long)]
    pub topic: Option<String>,

    /// Only of this aggregate: for seats, a schedule.
    #[arg(long, visible_alias = "schedule", value_name = "ID")]
    pub aggregate: Option<Uuid>,

    /// Go on with what is published from now on.
    #[arg(long)]
    pub follow: bool,

    /// End after so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// When NATS can't be reached, the stream is not there, or nobody reads any more.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    let signals = JoinSet::from_iter([shutdown::on_signal(stop.clone())]);
    let printed = stop.run_until_cancelled(Box::pin(print(&args))).await;
    drop(signals);
    printed.unwrap_or(Ok(()))?;
    Ok(ExitCode::SUCCESS)
}

async fn print(args: &Args) -> anyhow::Result<()> {
    let subjects = Subjects::new(&args.subject_prefix)?;
    let client = nats::connect(&args.target.nats_url()?, "onsale-events").await?;
    let name = subjects.events_stream();
    let mut stream = nats::jetstream(client)
        .get_stream(&name)
        .await
        .with_context(|| format!("looking for stream {name}"))?;
    // Without --follow, what is published after this moment is not waited for.
    let last = stream.info().await?.state.last_sequence;
    let config = OrderedConfig {
        description: Some("onsale events".into()),
        deliver_policy: match args.since {
            Some(at) => DeliverPolicy::ByStartTime {
                start_time: DateTime::from(at),
            },
            None => DeliverPolicy::All,
        },
        filter_subject: filter(&subjects, args)?,
        max_expires: Duration::from_secs(10),
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let is_empty = consumer.cached_info().num_pending == 0;
    if is_empty && !args.follow {
        return Ok(());
    }
    let mut messages = consumer.messages().await?;
    let mut printed = 0;
    while let Some(message) = messages.next().await {
        let message = message.context("reading the stream")?;
        let info = message.info().map_err(|error| anyhow::anyhow!("{error}"))?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        if !args.follow && sequence > last {
            return Ok(());
        }
        let published = Timestamp::from(info.published);
        match line(&message, sequence, published) {
            Ok(line) => {
                write(&line)?;
                printed += 1;
            }
            // Whoever may reach the stream can put anything there; that is no reason to show nothing.
            Err(error) => eprintln!("message {sequence} is no fact: {error}"),
        }
        let is_last = !args.follow && (pending == 0 || sequence >= last);
        if is_last || args.limit == Some(printed) {
            return Ok(());
        }
    }
    bail!("the stream has ended")
}

fn filter(subjects: &Subjects, args: &Args) -> anyhow::Result<String> {
    let topic = args.topic.as_deref().unwrap_or("*");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if topic != "*" && (topic.is_empty() || !topic.chars().all(is_plain)) {
        bail!("a topic has letters, digits, '-' and '_' only");
    }
    let aggregate = args.aggregate.map_or("*".to_owned(), |id| id.to_string());
    Ok(subjects.event(topic, &aggregate))
}

/// What is printed of a message.
fn line(
    message: &Message,
    sequence: u64,
    published: Timestamp,
) -> Result<String, message::DecodeError> {
    let mut parts = message.subject.rsplit('.');
    let aggregate = parts.next().unwrap_or_default();
    let topic = parts.next().unwrap_or_default();
    let headers = message.headers.as_ref();
    let id = headers.and_then(|headers| headers.get(async_nats::header::NATS_MESSAGE_ID));
    let id = id.map(|id| id.as_str()).unwrap_or_default();
    let data = facts::to_json(&message.payload)?;
    let object = json!({
        "id": id,
        "type": topic,
        "aggregateId": aggregate,
        "aggregateSeq": facts::seq_of(id),
        "streamSequence": sequence,
        "publishedAt": published,
        "data": data,
    });
    Ok(object.to_string())
}

fn write(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
