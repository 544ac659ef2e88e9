//! What is public of a draw, as an ingress tells it. Its word is not trusted: what it says is bounded,
//! and has to be about the draw that was asked for.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use onsale_platform::http::{Failure, PlainHttp, Request, Server};
use onsale_schema::admission::TICKETS_MAX;
use onsale_schema::draw::Digest;
use onsale_schema::{ScheduleId, TicketId, Timestamp};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::bar::Bar;

/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// The most bytes of an answer: a page of 10,000 tickets has a tenth of them.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// So many times a server that is busy is asked.
const TRIES: u32 = 10;
/// The pause between two of them.
const PAUSE: Duration = Duration::from_secs(1);

/// How far a draw is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// The lobby is open.
    Lobby,
    /// It is closed, and has no order yet.
    Closed,
    /// It was drawn.
    Drawn,
    /// The order is that of arrival.
    Arrival,
}

/// A draw, as it is published.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    pub schedule_id: ScheduleId,
    pub state: State,
    pub commitment: Digest,
    pub beacon_name: Option<String>,
    pub closed_at: Option<Timestamp>,
    pub size: Option<u32>,
    pub digest: Option<Digest>,
    /// Hexadecimal.
    pub beacon: Option<String>,
    pub secret: Option<Digest>,
    pub seed: Option<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    ticket_ids: Vec<TicketId>,
    next: Option<usize>,
}

/// An ingress that is asked about one draw.
pub struct Source {
    server: Server,
    schedule: ScheduleId,
}

impl Source {
    /// An ingress at `https://host[:port]`, or `http://…` on a private network.
    pub fn new(api: &str, ca: Option<&Path>, schedule: ScheduleId) -> anyhow::Result<Self> {
        let address = api.parse().with_context(|| format!("the ingress {api}"))?;
        let server = Server::new(address, ca, PlainHttp::PrivateNetwork, ANSWER_BYTES_MAX);
        Ok(Self {
            server: server.with_context(|| format!("the ingress {api}"))?,
            schedule,
        })
    }

    /// The draw, as far as it is public.
    pub async fn draw(&self) -> anyhow::Result<Published> {
        let draw: Published = self.get("").await?;
        let asked = self.schedule;
        ensure!(
            draw.schedule_id == asked,
            "another draw than that of {asked} was answered"
        );
        Ok(draw)
    }

    /// The tickets that it was made among, in the order of their arrival.
    pub async fn tickets(&self, draw: &Published) -> anyhow::Result<Vec<TicketId>> {
        let mut bar = Bar::new("reading tickets", draw.size.unwrap_or(0) as usize);
        let mut tickets = Vec::new();
        loop {
            let page: Page = self
                .get(&format!("/tickets?from={}", tickets.len()))
                .await?;
            let is_more = !page.ticket_ids.is_empty();
            tickets.extend(page.ticket_ids);
            bar.at(tickets.len());
            ensure!(
                tickets.len() <= TICKETS_MAX as usize,
                "there are more tickets than a room has"
            );
            match page.next {
                None => return Ok(tickets),
                Some(next) => ensure!(
                    is_more && next == tickets.len(),
                    "a page has a gap after it"
                ),
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, below: &str) -> anyhow::Result<T> {
        let path = format!("/api/v1/schedules/{}/queue/draw{below}", self.schedule);
        for _ in 0..TRIES {
            let request = Request::get(self.server.path(&path)).body(Default::default())?;
            match self.server.ask(request, REQUEST_LIMIT).await {
                Ok(answer) if answer.status == 200 => {
                    return serde_json::from_slice(&answer.body)
                        .with_context(|| format!("{path} answered something unexpected"));
                }
                Ok(answer) if [429, 503].contains(&answer.status) => {}
                Ok(answer) if answer.status == 404 => {
                    bail!("schedule {} has no waiting room", self.schedule)
                }
                Ok(answer) => bail!("{path} answered {}", answer.status),
                Err(Failure::NotSent(why) | Failure::NotAnswered(why)) => {
                    bail!("{path}: {why} (is the ingress running?)")
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("{path}: the server was busy {TRIES} times in a row")
    }
}
