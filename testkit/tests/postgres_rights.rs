//! What each role may do in Postgres: every table of the catalogue, by every kind of statement, as
//! that role.
#![allow(
    clippy::unwrap_used,
    reason = "a test says what failed by where it panics"
)]

use std::collections::BTreeMap;

use onsale_platform::address;
use onsale_platform::db;
use onsale_platform::rights::{self, Refused, Role, TABLES};
use onsale_testkit::TestDb;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

/// A connection of the test's own, which says the SQLSTATE of what is refused.
async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    #[allow(clippy::disallowed_methods, reason = "it ends with the client")]
    drop(tokio::spawn(connection));
    client
}

async fn database() -> TestDb {
    let db = TestDb::create().await.unwrap();
    db::migrate(db.url()).await.unwrap();
    db.make_roles().await.unwrap();
    db
}

/// The tables and their columns, as Postgres has them.
async fn catalogue(client: &Client) -> BTreeMap<String, Vec<String>> {
    let sql = "SELECT tablename::text, array_agg(column_name::text ORDER BY ordinal_position)
               FROM pg_tables JOIN information_schema.columns
                 ON table_schema = schemaname AND table_name = tablename
               WHERE schemaname = 'public' AND tablename <> '__diesel_schema_migrations'
               GROUP BY 1";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// What kinds of statement there are, each with one that changes nothing.
fn statements(table: &str, columns: &[String]) -> Vec<(&'static str, Vec<String>)> {
    let each = |sql: &dyn Fn(&String) -> String| columns.iter().map(sql).collect::<Vec<_>>();
    vec![
        (
            "SELECT",
            each(&|column| format!("SELECT {column} FROM {table} WHERE false")),
        ),
        (
            "INSERT",
            each(&|column| format!("INSERT INTO {table} ({column}) VALUES (DEFAULT)")),
        ),
        (
            "UPDATE",
            each(&|column| format!("UPDATE {table} SET {column} = DEFAULT WHERE false")),
        ),
        ("DELETE", vec![format!("DELETE FROM {table} WHERE false")]),
        ("TRUNCATE", vec![format!("TRUNCATE {table}")]),
    ]
}

/// Whether a role may run a statement; it is taken back.
async fn may(client: &Client, sql: &str) -> bool {
    client.batch_execute("BEGIN").await.unwrap();
    let done = client.batch_execute(sql).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    match done {
        Ok(()) => true,
        Err(error) => {
            let error = error
                .as_db_error()
                .unwrap_or_else(|| panic!("{sql}: {error}"));
            // Refused by a constraint is refused later: the right was there.
            *error.code() != SqlState::INSUFFICIENT_PRIVILEGE
        }
    }
}

/// The right as a grant has it, for a column: `SELECT` of a whole table, or `SELECT (a, b)`.
fn is_granted(rights: &str, verb: &str, column: Option<&str>) -> bool {
    let mut rest = rights;
    while let Some(at) = rest.find(verb) {
        let after = rest[at + verb.len()..].trim_start();
        match after.strip_prefix('(') {
            None => return true,
            Some(columns) => {
                let (columns, left) = columns.split_once(')').unwrap();
                let listed = columns.split(',').map(str::trim);
                if listed.into_iter().any(|listed| Some(listed) == column) {
                    return true;
                }
                rest = left;
            }
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_may_do_what_is_listed_with_every_table_and_nothing_else() {
    let db = database().await;
    let tables = catalogue(&connect(db.url()).await).await;
    let listed: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    let there: Vec<&str> = tables.keys().map(String::as_str).collect();
    assert_eq!(
        listed, there,
        "platform/src/rights.rs lists every table, by name"
    );

    let (mut granted, mut denied) = (0, 0);
    for role in Role::ALL {
        let client = connect(&db.url_of(role)).await;
        for table in TABLES {
            let columns = &tables[table.name];
            for (verb, statements) in statements(table.name, columns) {
                for (index, sql) in statements.iter().enumerate() {
                    let column = (statements.len() == columns.len()).then(|| &columns[index][..]);
                    let expected = is_granted(table.of(role), verb, column);
                    assert_eq!(may(&client, sql).await, expected, "{role:?}: {sql}");
                    *(if expected { &mut granted } else { &mut denied }) += 1;
                }
            }
        }
    }
    assert!(
        granted > 100 && denied > 100,
        "{granted} granted, {denied} denied"
    );
}

/// What holds whatever the list of rights becomes.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_may_is_refused() {
    let db = database().await;
    let owners = "account partition outcome outbox notice reservation payment seat_claim \
                  seat_block ticket transfer waiting_room";
    let mut refused: Vec<(Role, String)> = Vec::new();
    for role in Role::ALL {
        for sql in [
            "UPDATE transfer SET amount = 1",
            "DELETE FROM transfer",
            "TRUNCATE transfer",
            "TRUNCATE reservation CASCADE",
            "ALTER TABLE transfer DISABLE TRIGGER ALL",
            "DROP TABLE outbox",
            "CREATE TABLE mine (id integer)",
            "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
            "CREATE ROLE mine",
            "SET session_replication_role = replica",
            "SELECT rolpassword FROM pg_authid",
            "COPY concert TO PROGRAM 'cat'",
        ] {
            refused.push((role, sql.to_owned()));
        }
        refused.push((role, format!("SET ROLE {}", "onsale")));
    }
    for table in owners.split(' ') {
        for role in [Role::Ingress, Role::Reader] {
            refused.push((role, format!("INSERT INTO {table} DEFAULT VALUES")));
            refused.push((role, format!("DELETE FROM {table}")));
        }
    }
    for sql in [
        "SELECT FROM app_user",
        "SELECT password_hash FROM app_user",
        "INSERT INTO session DEFAULT VALUES",
        "DELETE FROM session",
        "UPDATE seat_block SET reason = NULL",
        "DELETE FROM seat_block",
        "INSERT INTO seat DEFAULT VALUES",
        "DELETE FROM seat",
        "UPDATE concert SET title = ''",
        "INSERT INTO webhook DEFAULT VALUES",
        "DELETE FROM webhook",
        "UPDATE webhook SET url = ''",
        "UPDATE webhook SET secret = ''",
        "UPDATE waiting_room SET secret = ''",
        "DELETE FROM waiting_room",
        "DELETE FROM ticket",
        "UPDATE ticket SET arrival_no = 0",
    ] {
        refused.push((Role::Workers, sql.to_owned()));
    }
    refused.push((
        Role::Reader,
        "SELECT password_hash FROM app_user".to_owned(),
    ));
    refused.push((
        Role::Reader,
        "SELECT refresh_digest FROM session".to_owned(),
    ));
    for column in ["secret", "previous_secret", "url", "recent"] {
        refused.push((Role::Reader, format!("SELECT {column} FROM webhook")));
    }
    refused.push((Role::Ingress, "UPDATE webhook SET cursor_no = 0".to_owned()));
    for role in [Role::Ingress, Role::Reader] {
        refused.push((role, "SELECT secret FROM waiting_room".to_owned()));
    }
    for role in Role::ALL {
        let client = connect(&db.url_of(role)).await;
        for (_, sql) in refused.iter().filter(|(whose, _)| *whose == role) {
            assert!(!may(&client, sql).await, "{role:?}: {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_too_can_not_change_a_transfer() {
    let db = database().await;
    let owner = connect(db.url()).await;
    for sql in [
        "UPDATE transfer SET amount = 1",
        "DELETE FROM transfer",
        "TRUNCATE transfer CASCADE",
    ] {
        let error = owner.batch_execute(sql).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::RESTRICT_VIOLATION), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_given_again_and_by_many_at_once() {
    let db = TestDb::create().await.unwrap();
    db::migrate(db.url()).await.unwrap();
    let all = (0..8).map(|_| db.make_roles());
    for made in futures_util::future::join_all(all).await {
        made.unwrap();
    }
    // What somebody gave by hand is taken back.
    let owner = connect(db.url()).await;
    let reader = Role::Reader.name(db.name());
    owner
        .batch_execute(&format!("GRANT ALL ON session TO {reader}"))
        .await
        .unwrap();
    let client = connect(&db.url_of(Role::Reader)).await;
    assert!(may(&client, "DELETE FROM session").await);
    let applied = rights::apply(db.url(), |_| None).await.unwrap();
    assert_eq!(
        (applied.database.as_str(), applied.made.len()),
        (db.name(), 0)
    );
    assert!(!may(&client, "DELETE FROM session").await);
    // And without a new password the one that was set still opens.
    connect(&db.url_of(Role::Ingress)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_make_roles_is_told_what_is_missing() {
    let db = TestDb::create().await.unwrap();
    let admin = connect(db.url()).await;
    let owner = format!("{}_owner", db.name());
    admin
        .batch_execute(&format!(
            "CREATE ROLE {owner} LOGIN PASSWORD 'p'; ALTER DATABASE {} OWNER TO {owner}",
            db.name()
        ))
        .await
        .unwrap();
    let url = address::with_user(db.url(), &owner, "p");
    db::migrate(&url).await.unwrap();
    let Err(Refused::MayNotCreate { user, sql }) = rights::apply(&url, |_| None).await else {
        panic!("it may not make roles");
    };
    assert_eq!(user, owner);
    assert_eq!(sql.matches("CREATE ROLE").count(), 3, "{sql}");
    // With roles that somebody else made, it gives the rights.
    admin
        .batch_execute(&sql.replace('…', "role-password"))
        .await
        .unwrap();
    rights::apply(&url, |_| Some("not mine to set".into()))
        .await
        .unwrap();
    let workers = connect(&db.url_of(Role::Workers)).await;
    assert!(may(&workers, "SELECT FROM partition").await);
    assert!(!may(&workers, "UPDATE transfer SET amount = 1").await);
    drop((workers, admin));
    let name = db.name().to_owned();
    let server = connect(&onsale_testkit::shared().await.unwrap().database_url).await;
    drop(db);
    server
        .batch_execute(&format!("DROP ROLE {owner}"))
        .await
        .expect(&name);
}
