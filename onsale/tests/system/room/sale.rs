//! A room and the date that it is for: nobody is let in to nothing.

use super::by_arrival;
use super::line::{Line, status};
use crate::catalogue::patch;
use onsale_schema::admission::PolicyChange;
use onsale_testkit::SystemOptions;
use serde_json::json;

impl Line {
    /// Has the date sell, or not.
    pub async fn sells(&self, state: &str) {
        let path = format!("/admin/schedules/{}", self.date);
        let admin = self.hall.admin();
        let done = patch(
            &self.hall.api,
            &admin,
            &path,
            &json!({ "saleState": state }),
        )
        .await;
        assert_eq!(done.expect(200).body["saleState"], state);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_while_the_date_does_not_sell() {
    let mut line = Line::start(SystemOptions::default(), by_arrival(10)).await;
    let api = line.apis().remove(0);
    let (first, second) = (line.hall.buyer(), line.hall.buyer());
    let early = line.ticket(&api, &first).await;
    line.becomes(&api, &first, &early, "ADMITTED").await;
    for state in ["PAUSED", "CLOSED"] {
        line.sells(state).await;
        line.shows(&api, &first, &early, ("room", "PAUSED")).await;
        line.sells("OPEN").await;
        line.shows(&api, &first, &early, ("room", "OPEN")).await;
    }

    line.sells("PAUSED").await;
    line.shows(&api, &first, &early, ("room", "PAUSED")).await;
    let late = line.ticket(&api, &second).await;
    line.polled_until_reported(&api, &second, &late).await;
    // Whoever takes the room over knows that, too.
    line.hall.system.workers[0].kill9().await;
    line.hall.system.workers[0]
        .restart()
        .await
        .expect("a worker");
    line.shows(&api, &second, &late, ("room", "PAUSED")).await;
    line.polled_until_reported(&api, &second, &late).await;
    let waits = line.poll(&api, &second, Some(&late)).await.expect(200);
    assert_eq!(status(&waits.body), "WAITING", "{}", waits.body);
    // What its operator says of the room is another thing.
    line.amend(PolicyChange {
        paused: Some(true),
        ..PolicyChange::default()
    })
    .await;
    line.sells("OPEN").await;
    line.polled_until_reported(&api, &second, &late).await;
    let waits = line.poll(&api, &second, Some(&late)).await.expect(200);
    assert_eq!(
        (status(&waits.body), &waits.body["room"]),
        ("WAITING", &json!("PAUSED"))
    );
    line.amend(PolicyChange {
        paused: Some(false),
        ..PolicyChange::default()
    })
    .await;
    line.becomes(&api, &second, &late, "ADMITTED").await;
}
