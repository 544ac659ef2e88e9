//! Making and reading access codes; the owners of rooms revoke them.

use super::NewAccessCodes;
use crate::page::PageStart;
use diesel::QueryableByName;
use diesel::sql_types::{
    Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl;
use onsale_platform::db::{Error, Pool};
use onsale_platform::sql::statement;
use onsale_schema::message::Fingerprint;
use onsale_schema::status::AccessGrant;
use onsale_schema::{AccessCodeId, ScheduleId, Timestamp, UserId};
use uuid::Uuid;

/// A code.
#[derive(QueryableByName)]
pub struct Row {
    #[diesel(sql_type = SqlUuid)]
    pub access_code_id: AccessCodeId,
    #[diesel(sql_type = SqlUuid)]
    pub fingerprint: Uuid,
    #[diesel(sql_type = Text)]
    pub label: String,
    #[diesel(sql_type = Text)]
    pub granted: AccessGrant,
    #[diesel(sql_type = Integer)]
    pub uses: i32,
    /// Accounts that were given tickets with it.
    #[diesel(sql_type = Integer)]
    pub used: i32,
    #[diesel(sql_type = Timestamptz)]
    pub valid_from: Timestamp,
    #[diesel(sql_type = Timestamptz)]
    pub valid_until: Timestamp,
    #[diesel(sql_type = SqlUuid)]
    pub made_by: UserId,
    #[diesel(sql_type = Timestamptz)]
    pub made_at: Timestamp,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub revoked_at: Option<Timestamp>,
}

/// Who makes codes, where and when.
pub struct Made {
    pub schedule: ScheduleId,
    pub fingerprint: Fingerprint,
    pub by: UserId,
    pub at: Timestamp,
}

/// Makes all of them, or none if the first is there: then the request was made before, perhaps with
/// another body. Returns those that are there then.
pub(super) async fn create(
    pool: &Pool,
    ids: &[AccessCodeId],
    wanted: &NewAccessCodes,
    made: &Made,
) -> Result<Vec<Row>, Error> {
    let mut conn = pool.get().await?;
    statement(
        "WITH first AS ( \
             INSERT INTO access_code (access_code_id, schedule_id, fingerprint, label, granted, \
                 uses, valid_from, valid_until, made_by, made_at) \
             VALUES (($1::uuid[])[1], $2, $3, $4, $5, $6, $7, $8, $9, $10) \
             ON CONFLICT (access_code_id) DO NOTHING RETURNING *) \
         INSERT INTO access_code (access_code_id, schedule_id, fingerprint, label, granted, uses, \
             valid_from, valid_until, made_by, made_at) \
         SELECT rest.id, schedule_id, fingerprint, label, granted, uses, valid_from, valid_until, \
                made_by, made_at \
         FROM first, unnest(($1::uuid[])[2:]) AS rest (id)",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<SqlUuid, _>(made.schedule)
    .bind::<SqlUuid, _>(made.fingerprint.0)
    .bind::<Text, _>(&wanted.label)
    .bind::<Text, _>(wanted.grants)
    .bind::<Integer, _>(i32::try_from(wanted.uses).unwrap_or(i32::MAX))
    .bind::<Timestamptz, _>(wanted.valid_from)
    .bind::<Timestamptz, _>(wanted.valid_until)
    .bind::<SqlUuid, _>(made.by)
    .bind::<Timestamptz, _>(made.at)
    .execute(&mut conn)
    .await?;
    drop(conn);
    find(pool, ids).await
}

/// Those of these codes that are there, in this order.
pub(super) async fn find(pool: &Pool, ids: &[AccessCodeId]) -> Result<Vec<Row>, Error> {
    let mut conn = pool.get().await?;
    let rows = statement(
        "SELECT access_code_id, fingerprint, label, granted, uses, valid_from, valid_until, made_by, \
                made_at, revoked_at, used \
         FROM unnest($1::uuid[]) WITH ORDINALITY AS ids (access_code_id, nth) \
              JOIN access_code AS c USING (access_code_id) \
         ORDER BY nth",
    )
    .bind::<Array<SqlUuid>, _>(ids)
    .load(&mut conn)
    .await?;
    Ok(rows)
}

/// The codes of a schedule, the newest first.
pub async fn list(pool: &Pool, schedule: ScheduleId, start: &PageStart) -> Result<Vec<Row>, Error> {
    let mut conn = pool.get().await?;
    let rows = statement(
        "SELECT access_code_id, fingerprint, label, granted, uses, valid_from, valid_until, made_by, \
                made_at, revoked_at, used \
         FROM access_code AS c \
         WHERE schedule_id = $1 AND ($2 IS NULL OR (made_at, access_code_id) < ($2, $3)) \
         ORDER BY made_at DESC, access_code_id DESC LIMIT $4",
    )
    .bind::<SqlUuid, _>(schedule)
    .bind::<Nullable<Timestamptz>, _>(start.after.map(|after| after.at()))
    .bind::<Nullable<SqlUuid>, _>(start.after.map(|after| after.id))
    .bind::<BigInt, _>(start.rows())
    .load(&mut conn)
    .await?;
    Ok(rows)
}

/// Whether a schedule has this code.
pub async fn is_there(
    pool: &Pool,
    schedule: ScheduleId,
    code: AccessCodeId,
) -> Result<bool, Error> {
    #[derive(QueryableByName)]
    struct There {
        #[diesel(sql_type = Bool)]
        is_there: bool,
    }
    let mut conn = pool.get().await?;
    let there: There = statement(
        "SELECT EXISTS (SELECT FROM access_code WHERE access_code_id = $1 AND schedule_id = $2) \
             AS is_there",
    )
    .bind::<SqlUuid, _>(code)
    .bind::<SqlUuid, _>(schedule)
    .get_result(&mut conn)
    .await?;
    Ok(there.is_there)
}
