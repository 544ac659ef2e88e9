//! Streams of events (Server-Sent Events, WHATWG HTML section 9.2): the changes of a date's seat map
//! as they happen, from memory, and to who waits for that date how far its ticket is. However many
//! follow, a change of the map is written once.
//!
//! A stream costs its connection and a place in a queue. One that does not read what it asked for is
//! ended; it comes back where it was, by `Last-Event-ID` or `lastEventId`. A stream decides nothing and
//! knows nothing that `GET …/seats` and `GET …/queue` do not show.

pub mod store;

use crate::address::ClientAddress;
use crate::answer::Answer;
use crate::app::App;
use crate::auth::{Tokens, User};
use crate::extract::{Id, Query};
use crate::places::{self, Places};
use crate::problem::{Code, Problem};
use crate::room;
use crate::seat_map::{self, Last};
use crate::stack::LAST_EVENT_ID;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream;
use metrics::{Counter, Gauge};
use onsale_platform::metric;
use onsale_schema::{ScheduleId, SessionId, Timestamp};
use rand::{Rng, RngCore};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

/// The least time between two pieces of one stream: what happens meanwhile goes together.
const GAP: Duration = Duration::from_millis(100);
/// The bytes from which on a piece takes in no more.
const PIECE_BYTES: usize = 64 * 1024;
/// When a client comes back after its stream has ended, in milliseconds; each is told another time,
/// so that they don't come all at once.
pub(crate) const RETRY_MS: std::ops::RangeInclusive<u32> = 1000..=5000;
/// When a client whose address has as many streams as it may is to come again, in seconds.
const FULL_RETRY_S: u32 = 5;
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The streams of this ingress.
pub struct Streams {
    places: Arc<Semaphore>,
    places_of: Arc<Places>,
    /// Streams of one address; 0 is no bound.
    per_address_max: u32,
    heartbeat: Duration,
    open: Gauge,
    refused: Counter,
    refused_of: Counter,
    slow: Counter,
}

impl Streams {
    /// Bounds by `settings`.
    #[must_use]
    pub fn new(settings: &crate::config::Events) -> Self {
        let max = usize::try_from(settings.streams_max).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(max)),
            places_of: Arc::default(),
            per_address_max: settings.streams_per_address_max,
            heartbeat: settings.heartbeat(),
            open: metrics::gauge!(metric::EVENT_STREAMS),
            refused: metrics::counter!(metric::HTTP_REFUSED, "reason" => "streams"),
            refused_of: metrics::counter!(metric::HTTP_REFUSED, "reason" => "address-streams"),
            slow: metrics::counter!(metric::HTTP_REFUSED, "reason" => "slow-stream"),
        }
    }

    fn place(&self, from: ClientAddress) -> Result<Place, Problem> {
        let of_address = match self.per_address_max {
            0 => None,
            max => Some(self.places_of.take(from.network(), max).ok_or_else(|| {
                self.refused_of.increment(1);
                Problem::new(Code::RateLimited).retry_after_s(FULL_RETRY_S)
            })?),
        };
        let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
            self.refused.increment(1);
            return Err(Problem::new(Code::Overloaded));
        };
        self.open.increment(1.0);
        Ok(Place {
            open: self.open.clone(),
            _permit: permit,
            _of_address: of_address,
        })
    }
}

/// A stream's place, given back when it ends.
struct Place {
    open: Gauge,
    _permit: OwnedSemaphorePermit,
    _of_address: Option<places::Place>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

/// A token for the query of an event stream.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StreamToken {
    /// Good once.
    stream_token: String,
    /// When it is good no more.
    expires_at: Timestamp,
    server_time: Timestamp,
}

/// Get a token for an event stream
///
/// For browsers, whose `EventSource` sends no headers. It stands in an address, which may be logged:
/// so it is good once, for a short time, and ends with its session.
#[utoipa::path(post, path = "/stream-tokens", operation_id = "createStreamToken", tag = "Sessions",
    responses((status = 201, description = "A token", body = StreamToken)))]
pub async fn create_token(State(app): State<App>, user: User) -> Result<Response, Problem> {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    let token = URL_SAFE_NO_PAD.encode(bytes);
    let now = app.clock.now();
    let new = store::NewToken {
        digest: digest(&token),
        user_id: user.id,
        session_id: user.session,
        expires_at: now.plus_ms(app.stream_token_ttl_s.saturating_mul(1000)),
    };
    store::token_insert(&app.pool, &new).await?;
    let view = StreamToken {
        stream_token: token,
        expires_at: new.expires_at,
        server_time: app.clock.now(),
    };
    Ok(Answer::created(None, &view)?.into_response())
}

fn digest(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

/// The query of an event stream.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventsQuery {
    /// A `streamToken`; without it the stream is nobody's.
    #[param(value_type = String, required = false)]
    token: Option<String>,
    /// As the header `Last-Event-ID`, which counts for more: for a new `EventSource`, which can't send
    /// it.
    #[param(value_type = String, required = false)]
    last_event_id: Option<String>,
    /// A ticket of yours for this date's waiting room, beside `token`: the stream tells how far it is.
    /// With `token` alone your newest one is looked up.
    #[param(value_type = String, required = false)]
    queue_ticket: Option<String>,
}

/// Where a stream is to go on, as documented.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "only described: it may be anything")]
pub struct LastEventId {
    /// The `id` of the last event that the client has seen; browsers send it by themselves. What it
    /// missed comes first, or `event: reset`.
    #[param(rename = "Last-Event-ID", required = false, example = "42")]
    last_event_id: String,
}

fn last(headers: &HeaderMap, query: Option<&str>) -> Last {
    let header = headers.get(LAST_EVENT_ID).map(HeaderValue::as_bytes);
    let mut told = [header, query.map(str::as_bytes)].into_iter().flatten();
    let Some(value) = told.find(|value| !value.is_empty()) else {
        return Last::None;
    };
    let text = std::str::from_utf8(value).ok();
    let version = text.and_then(|text| text.parse().ok());
    version.map_or(Last::Unreadable, Last::Map)
}

/// Follow the seats of a date
///
/// `event: seats` has `{from, version, changes: [[seatNo, "H"], …]}`: the seats that changed between
/// those two versions; its `id` is the version (with more behind it where the layout was replaced:
/// send it back as it is). Skip it if you have `version` or a later one; apply it if you have `from`;
/// else get the seats again, until they are of `version` or a later one. The first one has no changes
/// and tells from which version on they follow. `event: reset` has `{version}`: get the seats again,
/// until they are of that version or a later one.
///
/// Each ingress goes forward; behind a load balancer the next one that you ask may be some moments
/// behind. A version that is lower than yours is older: keep what you have.
///
/// Who has a ticket of the waiting room and opens the stream with a `token` is told how far it is:
/// `event: queue` has what `GET …/queue` answers, at once and whenever it changes, at most once a
/// second. While the stream is open you need not ask yourself: it ends where who waits is not heard by it
/// any more, as when its server is cut off from the others. Its `id` is that of the seats before it. Who
/// joins with an access code meanwhile is told that the ticket is `LEFT`, and then of the guest's. Who had
/// no ticket when the stream was opened is told of none: open it when you have joined.
///
/// With a `token`, an `EventSource` that has lost its stream is refused when it comes back by itself:
/// its token is used up. So on `error` close it, and when you have a ticket that waits, ask `GET …/queue`:
/// where that is refused, its `Retry-After` says when to ask again, and another server may answer. Then, or
/// after some seconds, get a new token, and open a new stream with that and the last `id` as `lastEventId`.
/// HEAD uses no token up.
#[utoipa::path(get, path = "/schedules/{scheduleId}/events", operation_id = "followSchedule",
    tag = "Catalogue",
    params(("scheduleId" = ScheduleId, Path, description = "The date"), EventsQuery, LastEventId),
    extensions(("x-problems" = json!([Code::TokenMissing, Code::TokenInvalid,
        Code::QueueTicketInvalid, Code::Overloaded]))),
    responses((status = 200, description = "A stream of events",
        body = String, content_type = "text/event-stream")))]
pub async fn follow(
    State(app): State<App>,
    Id(schedule): Id<ScheduleId>,
    Query(query): Query<EventsQuery>,
    method: Method,
    from: ClientAddress,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = app.streams.place(from)?;
    let shown = query.queue_ticket.as_deref();
    if shown.is_some() && query.token.is_none() {
        return Err(Problem::new(Code::TokenMissing));
    }
    let shown = match shown {
        Some(text) => Some(room::current(&app, room::read(&app, schedule, text)?).await?),
        None => None,
    };
    let layout_no = seat_map::layout_no(&app, schedule).await?;
    let last = last(&headers, query.last_event_id.as_deref());
    let (events, changes) = app.seat_maps.join(schedule, layout_no, last).await?;
    // Last, so that no other refusal uses it up.
    let bearer = bearer(&app, &method, query.token.as_deref()).await?;
    let ticket = match (&bearer, shown) {
        (None, _) => None,
        (Some(bearer), Some(ticket)) => Some(room::own(&app, ticket, bearer.user_id)?),
        (Some(bearer), None) => {
            let newest = room::newest(&app.pool, schedule, bearer.user_id).await?;
            newest.map(|(ticket, _)| ticket)
        }
    };
    let retry_ms = rand::rng().random_range(RETRY_MS);
    let first = [format!("retry: {retry_ms}\n\n").as_bytes(), &events].concat();
    let follower = Follower {
        first: Some(first.into()),
        changes,
        heartbeat: app.streams.heartbeat,
        slow: app.streams.slow.clone(),
        tokens: app.tokens.clone(),
        session: bearer.map(|bearer| bearer.session_id),
        ticket: ticket.map(|ticket| {
            let (rooms, signer) = (app.rooms.clone(), app.room_signer.clone());
            room::Follower::new(rooms, signer, app.clock.clone(), ticket)
        }),
        stopping: app.stopping.clone(),
        _place: place,
    };
    let pieces = stream::unfold(follower, |mut follower| async move {
        let piece = follower.next().await?;
        Some((Ok::<_, Infallible>(piece), follower))
    });
    let head = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Else nginx would gather what is to be told at once.
        (ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((head, Body::from_stream(pieces)).into_response())
}

/// Whose stream it is, if it is anybody's. The token is used up, unless only the head is asked for.
async fn bearer(
    app: &App,
    method: &Method,
    token: Option<&str>,
) -> Result<Option<store::Bearer>, Problem> {
    let Some(token) = token else {
        return Ok(None);
    };
    let digest = digest(token);
    let bearer = match *method {
        Method::HEAD => store::token_find(&app.pool, &digest).await?,
        _ => store::token_use(&app.pool, &digest).await?,
    };
    let bearer = bearer.ok_or_else(|| Problem::new(Code::TokenInvalid))?;
    Ok(Some(bearer))
}

/// One stream.
struct Follower {
    first: Option<Bytes>,
    changes: Receiver<Bytes>,
    heartbeat: Duration,
    slow: Counter,
    tokens: Tokens,
    /// Whose it is; it ends with the session.
    session: Option<SessionId>,
    /// Of the one who waits.
    ticket: Option<room::Follower>,
    stopping: CancellationToken,
    _place: Place,
}

impl Follower {
    /// The next piece; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let stopping = self.stopping.clone();
        let piece = stopping.run_until_cancelled(self.piece()).await??;
        let is_out = |session| self.tokens.revocations().contains(session);
        (!self.session.is_some_and(is_out)).then_some(piece)
    }

    async fn piece(&mut self) -> Option<Bytes> {
        let until = Instant::now() + self.heartbeat;
        tokio::time::sleep(GAP.min(self.heartbeat)).await;
        let position = async {
            match &mut self.ticket {
                Some(ticket) => ticket.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = self.changes.recv() => match change {
                Ok(change) => self.gather(change),
                Err(RecvError::Lagged(_)) => self.too_slow(),
                Err(RecvError::Closed) => None,
            },
            position = position => position,
            // A comment, so that both ends learn when the other has gone.
            () = tokio::time::sleep_until(until) => Some(Bytes::from_static(b":\n\n")),
        }
    }

    /// Takes in what else is there. A change that is alone is not copied.
    fn gather(&mut self, first: Bytes) -> Option<Bytes> {
        let mut piece = first;
        let mut more = Vec::new();
        while piece.len() + more.len() < PIECE_BYTES {
            match self.changes.try_recv() {
                Ok(change) => more.extend_from_slice(&change),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                Err(TryRecvError::Lagged(_)) => return self.too_slow(),
            }
        }
        if !more.is_empty() {
            piece = [&piece[..], &more].concat().into();
        }
        Some(piece)
    }

    fn too_slow(&self) -> Option<Bytes> {
        self.slow.increment(1);
        None
    }
}
