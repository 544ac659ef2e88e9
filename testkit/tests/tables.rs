//! Diesel's `table!`s against what the migrations make, and the migrations up and down.

use std::collections::BTreeMap;

use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl};
use diesel_migrations::MigrationHarness;
use onsale_platform::db;
use onsale_testkit::TestDb;

#[derive(QueryableByName)]
struct Column {
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = Text)]
    column_name: String,
    #[diesel(sql_type = Text)]
    kind: String,
}

/// Columns in the order of the table, as `name -> Type`.
type Tables = BTreeMap<String, Vec<String>>;

async fn in_postgres(conn: &mut AsyncPgConnection) -> Tables {
    let columns: Vec<Column> = sql_query(
        "SELECT table_name::text, column_name::text,
                (CASE WHEN is_nullable = 'YES' THEN 'nullable ' ELSE '' END || udt_name)::text
                    AS kind
         FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name <> '__diesel_schema_migrations'
         ORDER BY table_name, ordinal_position",
    )
    .load(conn)
    .await
    .expect("the catalogue");
    let mut tables = Tables::new();
    for column in columns {
        let (nullable, kind) = match column.kind.strip_prefix("nullable ") {
            Some(kind) => (true, kind),
            None => (false, column.kind.as_str()),
        };
        let kind = match kind {
            "bool" => "Bool",
            "int4" => "Integer",
            "int8" => "BigInt",
            "float4" => "Float",
            "text" => "Text",
            "uuid" => "Uuid",
            "bytea" => "Binary",
            "numeric" => "Numeric",
            "date" => "Date",
            "jsonb" => "Jsonb",
            "timestamptz" => "Timestamptz",
            "_text" => "Array<Text>",
            "_int4" => "Array<Integer>",
            "_numeric" => "Array<Numeric>",
            "_uuid" => "Array<Uuid>",
            other => panic!("{}.{} is {other}", column.table_name, column.column_name),
        };
        let kind = if nullable {
            format!("Nullable<{kind}>")
        } else {
            kind.to_owned()
        };
        let column_line = format!("{} -> {kind}", column.column_name);
        tables
            .entry(column.table_name)
            .or_default()
            .push(column_line);
    }
    tables
}

/// The same, read from the text of `schema/src/tables.rs`.
fn in_diesel() -> Tables {
    let source = include_str!("../../schema/src/tables.rs");
    let mut tables = Tables::new();
    for part in source.split("diesel::table! {").skip(1) {
        let (head, rest) = part.split_once('{').expect("a table has a body");
        let name = head.split('(').next().expect("a name").trim().to_owned();
        let body = rest.split_once('}').expect("a body ends").0;
        let columns = body
            .split(',')
            .map(|c| c.split_whitespace().collect::<Vec<_>>().join(" "));
        tables.insert(name, columns.filter(|c| !c.is_empty()).collect());
    }
    tables
}

#[tokio::test(flavor = "multi_thread")]
async fn diesel_sees_the_tables_that_the_migrations_make() {
    let db = TestDb::create().await.expect("a database");
    db::migrate(db.url()).await.expect("migrations");
    let mut conn = db::connect(db.url()).await.expect("a connection");
    assert_eq!(in_diesel(), in_postgres(&mut conn).await);
}

/// No foreign key says so, as all payments would lock the one account of sales.
#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_has_the_system_on_the_side_of_its_kind() {
    const CARD: &str = "ca4d";
    const SALES: &str = "5a1e";
    const USER: &str = "1";
    let db = TestDb::create().await.expect("a database");
    db::migrate(db.url()).await.expect("migrations");
    let mut conn = db::connect(db.url()).await.expect("a connection");
    for (kind, debit, credit, is_right) in [
        ("CHARGE", CARD, USER, true),
        ("CHARGE", "ca54", USER, true),
        ("CHARGE", SALES, USER, false),
        ("CHARGE", USER, CARD, false),
        ("PAYMENT", USER, SALES, true),
        ("PAYMENT", SALES, USER, false),
        ("PAYMENT", USER, CARD, false),
        ("REFUND", SALES, USER, true),
        ("REFUND", USER, SALES, false),
        ("REFUND", CARD, USER, false),
        ("GIFT", SALES, USER, false),
    ] {
        let inserted = sql_query(format!(
            "INSERT INTO transfer VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), \
                 '{kind}', lpad('{debit}', 32, '0')::uuid, lpad('{credit}', 32, '0')::uuid, 1, 1, now())"
        ))
        .execute(&mut conn)
        .await
        .map_err(db::Error::from);
        let refused = matches!(&inserted, Err(db::Error::Constraint { constraint, .. })
            if constraint == "transfer_sides");
        assert_eq!(
            refused, !is_right,
            "{kind} from {debit} to {credit}: {inserted:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_go_up_down_and_up_again_and_leave_nothing() {
    let db = TestDb::create().await.expect("a database");
    let applied = db::migrate(db.url()).await.expect("up");
    // Of two with one number only one would be.
    let made = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations");
    let made = std::fs::read_dir(made).expect("migrations");
    let made = made.filter(|entry| entry.as_ref().is_ok_and(|it| it.path().is_dir()));
    assert_eq!(applied.len(), made.count());
    assert!(db::migrate(db.url()).await.expect("again").is_empty());
    let conn = db::connect(db.url()).await.expect("a connection");
    let mut harness = AsyncMigrationHarness::new(conn);
    harness.revert_all_migrations(db::MIGRATIONS).expect("down");
    let mut conn = harness.into_inner();
    assert_eq!(in_postgres(&mut conn).await, Tables::new());
    assert_eq!(db::migrate(db.url()).await.expect("up again"), applied);
}
