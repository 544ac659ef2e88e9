//! When holds will be decided: an ingress may be ready long before a partition has an owner, for
//! instance while the lease of a killed one runs.

use diesel::QueryableByName;
use diesel::sql_types::{Bool, Integer};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use onsale_workers::runtime::servers::LIFE_CLASS;

/// Whether the owner of every partition gives its life-sign. After `onsale repartition` there may be
/// rows of more partitions than are in use.
///
/// # Errors
/// When Postgres can't be asked.
pub(super) async fn all_live(conn: &mut AsyncPgConnection) -> diesel::QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Answer {
        #[diesel(sql_type = Bool)]
        all_live: bool,
    }
    let answer: Answer = diesel::sql_query(
        "WITH life AS MATERIALIZED (SELECT objid FROM pg_locks \
             WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = $1::int::oid \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) \
         SELECT coalesce(bool_and(EXISTS (SELECT FROM life \
                    WHERE objid = (life_key::bigint & 4294967295)::oid)), false) AS all_live \
         FROM system JOIN partition ON partition_no < partitions \
         LEFT JOIN worker ON worker_id = owner",
    )
    .bind::<Integer, _>(LIFE_CLASS)
    .get_result(conn)
    .await?;
    Ok(answer.all_live)
}
