//! Every invariant is made to fail, and reported.

use std::collections::HashSet;

use diesel_async::SimpleAsyncConnection;
use onsale::audit::{self, Options};
use onsale_schema::invariant::Invariant;
use onsale_testkit::TestDb;

use crate::cases;
use crate::rig::{healthy, report};

#[tokio::test(flavor = "multi_thread")]
async fn each_planted_violation_is_reported_under_its_name() {
    let db = TestDb::create().await.unwrap();
    for (number, (name, plant, expected)) in cases::all().enumerate() {
        let (url, mut conn) = healthy(&db, &format!("case_{number}")).await;
        conn.batch_execute(plant)
            .await
            .unwrap_or_else(|error| panic!("planting {name}: {error}"));
        let report = report(&url).await;
        assert_eq!(report.violated(), *expected, "{name}\n{report}");
        assert_eq!(report.ok(), expected.is_empty());
        for check in &report.checks {
            let shown = check.examples.len() as u64;
            assert_eq!(shown, check.violations.min(5), "{name}: examples are shown");
        }
    }
    let planted: HashSet<&str> = cases::all()
        .flat_map(|(_, _, expected)| *expected)
        .copied()
        .collect();
    for invariant in Invariant::ALL {
        assert!(
            planted.contains(invariant.id()),
            "{invariant} was never made to fail"
        );
    }
}

/// A sweep that finds thousands counts them all and shows a few.
#[tokio::test(flavor = "multi_thread")]
async fn violations_are_counted_beyond_what_is_shown() {
    let db = TestDb::create().await.unwrap();
    let (url, mut conn) = healthy(&db, "one").await;
    conn.batch_execute(
        "INSERT INTO notice SELECT id(10000 + n), 'seats', id(16), '', at(0)
         FROM generate_series(1, 1234) AS n",
    )
    .await
    .unwrap();
    let report = report(&url).await;
    let o1 = report.checks.last().unwrap();
    assert_eq!((o1.violations, o1.examples.len()), (1234, 5));
    assert!(report.to_string().contains("and 1229 more"), "{report}");
}

/// What the audit needs is there, or it says so; it never calls an empty database sound.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_tables_is_no_success() {
    let db = TestDb::create().await.unwrap();
    let error = audit::audit(&Options::new(db.url())).await.unwrap_err();
    assert!(format!("{error:#}").contains("onsale migrate"), "{error:#}");
}
