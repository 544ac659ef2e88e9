//! The part of Q2 that no query can say: whoever was let in from a drawn line had the place that the draw
//! gave it, by the seed in the room's row. That the seed is what was promised is proved from outside
//! (`onsale verify-draw`).
//!
//! One room after the other is read, in pages and in the audit's snapshot: of a million tickets there are
//! never more in memory than a page, and their order, 4 bytes each. What is computed, tenths of a second
//! for a million, is computed on a thread of its own: an ingress that audits has others to serve.

use super::{Check, EXAMPLES_MAX};
use crate::db::Error;
use diesel::sql_types::{BigInt, Binary, Integer, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_schema::draw::{Digest, Draw, Place};
use onsale_schema::{ArrivalNo, ScheduleId};

/// So many tickets are read at once.
const PAGE: i64 = 50_000;
/// Above so many tickets of the order for each that was let in, each is looked for alone.
const FEW: usize = 100;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    rooms: usize,
    tickets: u64,
    violations: u64,
    /// The first of them, in words.
    examples: Vec<String>,
}

#[derive(QueryableByName)]
struct Room {
    #[diesel(sql_type = SqlUuid)]
    schedule_id: ScheduleId,
    #[diesel(sql_type = Binary)]
    seed: Vec<u8>,
    #[diesel(sql_type = Integer)]
    lobby_size: i32,
    #[diesel(sql_type = BigInt)]
    placed: i64,
}

#[derive(QueryableByName)]
struct Placed {
    #[diesel(sql_type = Integer)]
    arrival_no: i32,
    #[diesel(sql_type = Integer)]
    place: i32,
}

/// The places that a draw gave.
enum Order {
    All(Vec<ArrivalNo>),
    Each(Draw),
}

impl Order {
    fn of(draw: Draw, placed: usize) -> Self {
        let size = draw.size() as usize;
        match size / placed.max(1) > FEW {
            true => Self::Each(draw),
            false => Self::All(draw.order()),
        }
    }

    fn ticket(&self, place: usize) -> Option<ArrivalNo> {
        match self {
            Self::All(order) => order.get(place).copied(),
            Self::Each(draw) => {
                let place = u32::try_from(place).ok()?;
                draw.arrival(Place(place))
            }
        }
    }
}

impl Drawn {
    /// Reads the places of all drawn rooms, and holds them against the draw.
    ///
    /// # Errors
    /// When Postgres fails.
    pub(super) async fn check(conn: &mut AsyncPgConnection) -> Result<Self, Error> {
        let rooms: Vec<Room> = sql_query(
            "SELECT schedule_id, seed, lobby_size, \
                    (SELECT count(*) FROM ticket AS t \
                     WHERE t.schedule_id = r.schedule_id AND place IS NOT NULL) AS placed \
             FROM waiting_room AS r WHERE lobby_order = 'DRAWN' ORDER BY schedule_id",
        )
        .load(conn)
        .await?;
        let mut found = Self::default();
        for room in rooms {
            found = found.check_room(conn, room).await?;
        }
        Ok(found)
    }

    async fn check_room(mut self, conn: &mut AsyncPgConnection, room: Room) -> Result<Self, Error> {
        let Room {
            schedule_id,
            seed,
            lobby_size,
            placed,
        } = room;
        self.rooms += 1;
        let (Ok(seed), Ok(size)) = (seed.try_into(), u32::try_from(lobby_size)) else {
            self.add(|| format!("the draw of schedule {schedule_id} has no seed or no size"));
            return Ok(self);
        };
        let placed = usize::try_from(placed).unwrap_or(usize::MAX);
        if placed == 0 {
            return Ok(self);
        }
        let draw = Draw::new(Digest(seed), size);
        let mut order = apart(move || Order::of(draw, placed)).await?;
        let mut after = -1;
        loop {
            let page: Vec<Placed> = sql_query(
                "SELECT arrival_no, place FROM ticket \
                 WHERE schedule_id = $1 AND arrival_no > $2 AND arrival_no < $3 \
                   AND place IS NOT NULL \
                 ORDER BY arrival_no LIMIT $4",
            )
            .bind::<SqlUuid, _>(schedule_id)
            .bind::<Integer, _>(after)
            .bind::<Integer, _>(lobby_size)
            .bind::<BigInt, _>(PAGE)
            .load(conn)
            .await?;
            let Some(last) = page.last() else {
                return Ok(self);
            };
            after = last.arrival_no;
            (self, order) = apart(move || {
                self.compare(schedule_id, &order, &page);
                (self, order)
            })
            .await?;
        }
    }

    fn compare(&mut self, schedule_id: ScheduleId, order: &Order, page: &[Placed]) {
        for Placed { arrival_no, place } in page {
            self.tickets += 1;
            let drawn = usize::try_from(*place).ok().and_then(|at| order.ticket(at));
            let is_it = drawn.is_some_and(|no| i64::from(no.0) == i64::from(*arrival_no));
            if !is_it {
                self.add(|| {
                    format!(
                        "the ticket with number {arrival_no} of schedule {schedule_id} was let in \
                         from place {place}, where the draw has {}",
                        drawn.map_or("none".to_owned(), |no| no.0.to_string())
                    )
                });
            }
        }
    }

    /// Adds what was found to what the queries have.
    pub(super) fn tell(self, check: &mut Check) {
        check.violations += self.violations;
        let room = EXAMPLES_MAX.saturating_sub(check.examples.len());
        check.examples.extend(self.examples.into_iter().take(room));
        let (tickets, rooms) = (self.tickets, self.rooms);
        check.note = Some(format!(
            "{tickets} places of {rooms} drawn rooms drawn again"
        ));
    }

    fn add(&mut self, what: impl FnOnce() -> String) {
        self.violations += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what());
        }
    }
}

/// Computes something where it keeps no other task waiting.
async fn apart<T: Send + 'static>(
    compute: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let computed = tokio::task::spawn_blocking(compute).await;
    computed.map_err(|error| Error::Refused(error.to_string()))
}
