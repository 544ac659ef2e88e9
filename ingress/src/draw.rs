//! The draw of a waiting room, for everybody who wants to check it: what is published of it when, and
//! which tickets it was made among. [`onsale_schema::draw`] says what follows from that.
//!
//! Nothing here may tell who somebody is: a ticket is shown by its id, which is the digest of its
//! owner's key, and by its number. Nor may anything be told before its time: the rights of the
//! ingress in Postgres leave it no way to the secret before the draw.

pub mod beacon;
mod store;
mod tickets;

pub use tickets::{__path_list, list};

use crate::answer::{self, Answer};
use crate::app::App;
use crate::etag::{self, IfNoneMatch};
use crate::extract::Id;
use crate::fresh::Fresh;
use crate::gzip;
use crate::problem::{Code, Problem};
use crate::refusal;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use onsale_platform::db::Pool;
use onsale_schema::admission::Outcome;
use onsale_schema::draw::{Digest, hex};
use onsale_schema::{ScheduleId, Timestamp};
use quick_cache::sync::Cache;
use serde::{Serialize, Serializer};
use std::sync::Arc;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

/// Rooms whose draw is kept for a moment.
const FRESH_ENTRIES: usize = 1024;
/// Bytes of lists of tickets that are kept: those of a room with a million.
const LIST_BYTES: u64 = 64 << 20;
/// Pages that a list of a million tickets has.
const LIST_PAGES: usize = 100;
/// Pages that are read at once.
const LOADS_MAX: usize = 2;
/// An answer that is final may be kept.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// Draws that somebody looks at.
pub struct Draws {
    pool: Pool,
    views: Fresh<ScheduleId, Option<Arc<DrawView>>>,
    pages: Cache<(ScheduleId, u32), Arc<gzip::Body>, tickets::ByBytes>,
    loads: Semaphore,
}

/// How far the draw of a room is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
enum DrawState {
    /// The lobby is open: tickets are still added.
    Lobby,
    /// It is closed, and has no order yet: the word of the beacon is waited for, or the room is OFF.
    Closed,
    /// The order was drawn.
    Drawn,
    /// The order is that of arrival: nothing was drawn.
    Arrival,
}

impl DrawState {
    fn is_final(self) -> bool {
        match self {
            Self::Lobby | Self::Closed => false,
            Self::Drawn | Self::Arrival => true,
        }
    }
}

/// A draw, as far as it is public: the commitment from the beginning, tickets and digest from when the
/// lobby is closed, and everything once it was drawn. Bytes are hexadecimal.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Draw)]
#[serde(rename_all = "camelCase")]
pub struct DrawView {
    schedule_id: ScheduleId,
    #[schema(inline)]
    state: DrawState,
    /// The hash of the secret: no other one can be put in its place.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    commitment: Digest,
    /// The public source whose word the draw takes, and which of its words; none if none was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    beacon_name: Option<String>,
    /// When the lobby was closed, and no ticket could be added any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    closed_at: Option<Timestamp>,
    /// So many tickets were in the lobby; see `…/queue/draw/tickets`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    size: Option<u32>,
    /// The digest of those tickets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, pattern = "^[0-9a-f]{64}$")]
    digest: Option<Digest>,
    /// What the beacon said.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "hexadecimal"
    )]
    #[schema(nullable = false, value_type = Option<String>, pattern = "^([0-9a-f]{2})+$")]
    beacon: Option<Vec<u8>>,
    /// The secret, once it was drawn by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, pattern = "^[0-9a-f]{64}$")]
    secret: Option<Digest>,
    /// The seed of the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<String>, pattern = "^[0-9a-f]{64}$")]
    seed: Option<Digest>,
}

fn hexadecimal<S: Serializer>(bytes: &Option<Vec<u8>>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex(bytes.as_deref().unwrap_or_default()))
}

impl Draws {
    /// Draws read through `pool`.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            views: Fresh::new(FRESH_ENTRIES),
            pages: Cache::with_weighter(LIST_PAGES, LIST_BYTES, tickets::ByBytes),
            loads: Semaphore::new(LOADS_MAX),
        }
    }

    /// A draw, as it was a moment ago; not found where there is no room.
    async fn get(&self, schedule: ScheduleId) -> Result<Arc<DrawView>, Problem> {
        let load = async { Ok(store::find(&self.pool, schedule).await?.map(Arc::new)) };
        let view = self.views.get(&schedule, load).await?;
        view.ok_or_else(|| Problem::new(Code::NotFound))
    }
}

/// The draw of a waiting room
///
/// What is known of it yet, so that everybody can check it: the hash of its secret before anybody can
/// come, the tickets in the lobby and their digest when that is closed, and all the rest when it is
/// drawn; from then on the answer is always the same. `onsale verify-draw` recomputes it, and so does
/// `deploy/verify_draw.py`.
#[utoipa::path(get, path = "/schedules/{scheduleId}/queue/draw", operation_id = "getDraw",
    tag = "Waiting room",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), IfNoneMatch),
    responses((status = 200, description = "What is known yet", body = DrawView)))]
pub async fn get(
    State(app): State<App>,
    Id(schedule): Id<ScheduleId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let view = app.draws.get(schedule).await?;
    let json = answer::to_json(&*view)?;
    let kept = if view.state.is_final() {
        FOR_EVER
    } else {
        NO_CACHE
    };
    let etag = tag(&Digest::of(&json).to_string());
    let caching = [(header::CACHE_CONTROL, kept), (header::ETAG, etag.clone())];
    if etag::matches(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    Ok((caching, [(header::CONTENT_TYPE, answer::JSON)], json).into_response())
}

/// The `ETag` of a name that is made of digits, letters and dots.
fn tag(name: &str) -> HeaderValue {
    HeaderValue::try_from(format!("\"{name}\"")).expect("it is ASCII")
}

/// What a command about a draw is answered with: the draw after it.
///
/// # Errors
/// The refusal, as a problem; `dependency-unavailable`.
pub async fn told(app: &App, schedule: ScheduleId, outcome: &Outcome) -> Result<Answer, Problem> {
    match outcome {
        Outcome::Applied => {}
        Outcome::Refused(why) => return Err(refusal::of_room(*why)),
        Outcome::DeadLettered => return Err(Problem::unavailable()),
        Outcome::Joined(_) | Outcome::Left { .. } | Outcome::Policy(_) => {
            tracing::error!("a command was answered as another kind");
            return Err(Problem::internal());
        }
    }
    app.draws.views.forget(&schedule);
    let view = app.draws.get(schedule).await?;
    Ok(Answer {
        status: StatusCode::OK,
        location: None,
        json: answer::to_json(&*view)?,
    })
}
