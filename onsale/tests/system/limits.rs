//! Seat limit, sale window and state.

use crate::hall::{Hall, open_policy, reservation, soon};
use onsale::seed::Policy;
use onsale_schema::status::SaleState;
use onsale_testkit::SystemOptions;

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_at_most_so_many_live_seats() {
    let mut hall = Hall::open().await;
    let date = hall
        .date_with(
            10,
            Policy {
                seats_per_user: 3,
                ..open_policy()
            },
        )
        .await;
    let buyer = hall.buyer();
    let first = hall
        .api
        .hold(&buyer, date, &["A-1-1", "A-1-2"])
        .await
        .expect(201);
    let over = hall.api.hold(&buyer, date, &["A-1-3", "A-1-4"]).await;
    over.expect_problem(422, "seat-limit-exceeded");
    hall.api.hold(&buyer, date, &["A-1-3"]).await.expect(201);
    let path = format!("/reservations/{}", reservation(&first.body));
    hall.api.delete(&buyer, &path).await.expect(204);
    hall.api.delete(&buyer, &path).await.expect(204);
    hall.api
        .hold(&buyer, date, &["A-1-3", "A-1-4"])
        .await
        .expect_problem(409, "seat-unavailable");
    hall.api
        .hold(&buyer, date, &["A-1-4", "A-1-5"])
        .await
        .expect(201);
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_its_window_and_state_nothing_is_sold() {
    let mut hall = Hall::open().await;
    let buyer = hall.buyer();
    for (policy, status, code) in [
        (
            Policy {
                state: SaleState::Paused,
                ..open_policy()
            },
            425,
            "sale-not-open",
        ),
        (
            Policy {
                booking_opens_at: soon(60),
                ..open_policy()
            },
            425,
            "sale-not-open",
        ),
        (
            Policy {
                state: SaleState::Closed,
                ..open_policy()
            },
            410,
            "sale-closed",
        ),
        (
            Policy {
                booking_closes_at: soon(-60),
                ..open_policy()
            },
            410,
            "sale-closed",
        ),
    ] {
        let date = hall.date_with(5, policy).await;
        let answer = hall.api.hold(&buyer, date, &["A-1-1"]).await;
        answer.expect_problem(status, code);
    }
    assert_eq!(
        hall.number("SELECT count(*) AS n FROM reservation").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_owner_the_outcome_is_open_and_comes_later() {
    let settings = SystemOptions::default().setting("ONSALE_REQUEST_TIMEOUT_MS", 400);
    let mut hall = Hall::open_with(settings).await;
    let date = hall.date(5).await;
    let buyer = hall.buyer();
    hall.api.hold(&buyer, date, &["A-1-5"]).await.expect(201);
    hall.system.workers[0].kill9().await;
    let open = hall.api.hold(&buyer, date, &["A-1-1"]).await.expect(202);
    let location = open.headers["location"].to_str().expect("ASCII").to_owned();
    let path = location
        .strip_prefix("/api/v1")
        .expect("a path of ours")
        .to_owned();
    hall.api.get(Some(&buyer), &path).await.expect(202);
    // Nobody else may ask.
    hall.api
        .get(Some(&hall.buyer()), &path)
        .await
        .expect_problem(404, "not-found");
    hall.system.workers[0].restart().await.expect("a worker");
    let decided = tokio::time::timeout(crate::hall::PATIENCE, async {
        loop {
            let answer = hall.api.get(Some(&buyer), &path).await;
            if answer.status != 202 {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    // Its deadline had passed when the next owner read it: refused, no ghost.
    decided
        .await
        .expect("decided")
        .expect_problem(410, "command-expired");
    hall.map_becomes(date, "AAAAH").await;
    hall.assert_sound().await;
}
