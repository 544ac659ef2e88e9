//! Clients that would rather look later than wait (`Prefer: respond-async`).

use crate::hall::{Hall, PATIENCE};
use onsale_testkit::SystemOptions;
use onsale_testkit::api::{Answer, Buyer};
use serde_json::json;
use std::time::Duration;

pub async fn hold_preferring(
    hall: &Hall,
    by: &Buyer,
    date: uuid::Uuid,
    seat: &str,
    prefer: &str,
) -> Answer {
    let body = json!({ "scheduleId": date, "seats": [seat] });
    let request = hall
        .api
        .post_request(by, "/reservations", &format!("prefer-{seat}"), &body);
    hall.api.send(request.header("prefer", prefer)).await
}

/// What became of a command that was answered 202.
pub async fn outcome(hall: &Hall, by: &Buyer, open: &Answer) -> serde_json::Value {
    let location = open.headers["location"].to_str().expect("ASCII");
    let path = location.strip_prefix("/api/v1").expect("a path of ours");
    let decided = async {
        loop {
            let answer = hall.api.get(Some(by), path).await;
            if answer.status != 202 {
                return answer.expect(200).body;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, decided)
        .await
        .expect("decided")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_prefers_it_is_told_where_the_outcome_will_be() {
    let patient = SystemOptions::default().setting("ONSALE_REQUEST_TIMEOUT_MS", 30_000);
    let mut hall = Hall::open_with(patient).await;
    let date = hall.date(5).await;
    let buyer = hall.buyer();
    // The schedule is loaded by the first, so that the others could be answered at once.
    let waited = hold_preferring(&hall, &buyer, date, "A-1-1", "respond-async, wait=5").await;
    waited.expect(201);

    let open = hold_preferring(&hall, &buyer, date, "A-1-2", "respond-async").await;
    if open.status == 202 {
        assert_eq!(open.headers["preference-applied"], "respond-async");
        let decided = outcome(&hall, &buyer, &open).await;
        assert_eq!(decided["status"], 201, "{decided}");
        assert_eq!(decided["body"]["seats"][0]["label"], "A-1-2", "{decided}");
    } else {
        // The outcome was quicker than the stream's acknowledgement.
        open.expect(201);
    }

    // With no owner there is no outcome: only who prefers it need not wait for that.
    hall.system.workers[0].kill9().await;
    let open = hold_preferring(&hall, &buyer, date, "A-1-3", "respond-async").await;
    let open = open.expect(202);
    assert_eq!(open.headers["preference-applied"], "respond-async");
    hall.system.workers[0].restart().await.expect("a worker");
    let decided = outcome(&hall, &buyer, &open).await;
    assert_eq!(decided["status"], 201, "{decided}");
    hall.map_becomes(date, "HHHAA").await;
    hall.assert_sound().await;
}
