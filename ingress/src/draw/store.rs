//! Reading draws and the tickets that they were made among.

use super::{DrawState, DrawView};
use diesel::sql_types::{Binary, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{OptionalExtension, QueryableByName};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_platform::sql::statement;
use onsale_schema::draw::Digest;
use onsale_schema::{ScheduleId, TicketId, Timestamp};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Binary)]
    commitment: Vec<u8>,
    #[diesel(sql_type = Nullable<Text>)]
    beacon_name: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    closed_at: Option<Timestamp>,
    #[diesel(sql_type = Nullable<Integer>)]
    lobby_size: Option<i32>,
    #[diesel(sql_type = Nullable<Binary>)]
    lobby_digest: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    beacon: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Text>)]
    lobby_order: Option<String>,
    #[diesel(sql_type = Nullable<Binary>)]
    revealed: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    seed: Option<Vec<u8>>,
}

/// The draw of a schedule's room, as far as it is public; none where there is no room.
pub async fn find(pool: &Pool, schedule: ScheduleId) -> Result<Option<DrawView>, Error> {
    let mut conn = pool.get().await?;
    let row: Option<Row> = statement(
        "SELECT commitment, beacon_name, closed_at, lobby_size, lobby_digest, beacon, lobby_order, \
                revealed, seed \
         FROM waiting_room WHERE schedule_id = $1",
    )
    .bind::<SqlUuid, _>(schedule)
    .get_result(&mut conn)
    .await
    .optional()?;
    row.map(|row| row.into_view(schedule)).transpose()
}

impl Row {
    fn into_view(self, schedule_id: ScheduleId) -> Result<DrawView, Error> {
        let state = match (self.closed_at, self.lobby_order.as_deref()) {
            (None, _) => DrawState::Lobby,
            (Some(_), None) => DrawState::Closed,
            (Some(_), Some("DRAWN")) => DrawState::Drawn,
            (Some(_), Some(_)) => DrawState::Arrival,
        };
        let size = self.lobby_size.map(u32::try_from).transpose();
        Ok(DrawView {
            schedule_id,
            state,
            commitment: digest(&self.commitment)?,
            beacon_name: self.beacon_name,
            closed_at: self.closed_at,
            size: size.map_err(|_| wrong())?,
            digest: self.lobby_digest.as_deref().map(digest).transpose()?,
            beacon: self.beacon,
            secret: self.revealed.as_deref().map(digest).transpose()?,
            seed: self.seed.as_deref().map(digest).transpose()?,
        })
    }
}

fn digest(bytes: &[u8]) -> Result<Digest, Error> {
    bytes.try_into().map(Digest).map_err(|_| wrong())
}

/// Constraints say that it can't be.
fn wrong() -> Error {
    Error::Refused("the row of a waiting room contradicts its constraints".to_owned())
}

/// The tickets with the numbers from `from` until before `until`, in their order.
pub async fn tickets(
    pool: &Pool,
    schedule: ScheduleId,
    from: u32,
    until: u32,
) -> Result<Vec<TicketId>, Error> {
    #[derive(QueryableByName)]
    struct Ticket {
        #[diesel(sql_type = SqlUuid)]
        ticket_id: TicketId,
    }
    let signed = |no: u32| i32::try_from(no).unwrap_or(i32::MAX);
    let mut conn = pool.get().await?;
    let rows: Vec<Ticket> = statement(
        "SELECT ticket_id FROM ticket \
         WHERE schedule_id = $1 AND arrival_no >= $2 AND arrival_no < $3 ORDER BY arrival_no",
    )
    .bind::<SqlUuid, _>(schedule)
    .bind::<Integer, _>(signed(from))
    .bind::<Integer, _>(signed(until))
    .load(&mut conn)
    .await?;
    Ok(rows.into_iter().map(|row| row.ticket_id).collect())
}
