//! A room as whoever runs its sale sees it, at any ingress.

use super::by_arrival;
use super::guests::vip;
use super::line::{AGAIN, LONG_AGO, Line, never};
use crate::access_codes::join;
use crate::cancellation::cancel_show;
use crate::hall::PATIENCE;
use onsale_platform::metric;
use onsale_schema::admission::PolicyChange;
use onsale_testkit::{Api, SystemOptions};
use serde_json::{Value, json};
use uuid::Uuid;

/// What is compared: all but what is measured, and when.
const TOLD: [&str; 11] = [
    "room",
    "pausedBy",
    "arrivals",
    "waiting",
    "guests",
    "passedOver",
    "front",
    "active",
    "done",
    "expired",
    "left",
];

impl Line {
    /// Asks until the room is told so.
    async fn is_told(&self, api: &Api, wanted: &Value) -> Value {
        let (admin, path) = (self.hall.admin(), format!("/admin{}", self.path()));
        let mut told = Value::Null;
        let asked = async {
            loop {
                told = api.get(Some(&admin), &path).await.expect(200).body;
                let shown = TOLD.map(|name| (name.to_owned(), told[name].clone()));
                if Value::Object(shown.into_iter().collect()) == *wanted {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, asked).await;
        assert!(in_time.is_ok(), "{told}, not {wanted}");
        told
    }
}

/// The same, with other values.
fn but(told: &Value, others: Value) -> Value {
    let mut told = told.clone();
    let members = told.as_object_mut().expect("an object");
    members.extend(others.as_object().expect("an object").clone());
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn who_runs_a_sale_sees_how_many_wait_and_why_nobody_is_let_in() {
    let early = PolicyChange {
        opens_at: Some(never()),
        ..by_arrival(2)
    };
    let mut line = Line::start(SystemOptions::default().ingresses(2), early).await;
    let apis = line.apis();
    let (all, guest) = (line.hall.buyers(4), line.hall.buyer());
    for buyer in &all {
        line.ticket(&apis[0], buyer).await;
    }
    let code = vip(&mut line).await;
    join(&line, &apis[0], &guest, &code).await.expect(201);
    line.leave(&apis[1], &all[3], None).await.expect(204);

    let lobby = json!({
        "room": "OPEN", "pausedBy": [], "arrivals": 5, "waiting": 4, "guests": 1, "passedOver": 0,
        "front": 0, "active": 0, "done": 0, "expired": 0, "left": 1,
    });
    for api in &apis {
        let told = line.is_told(api, &lobby).await;
        assert!(
            told["lobby"].is_null() && told["turnsPerMinute"].is_null(),
            "{told}"
        );
        assert_eq!(told["lastEta"]["known"], false);
        assert_eq!(
            (&told["queue"]["mode"], &told["queue"]["capacity"]),
            (&json!("FIFO"), &json!(2))
        );
        assert_eq!(told["queue"]["opensAt"], json!(never()));
        assert_eq!(told["scheduleId"], json!(line.date));
        assert!(told["serverTime"].is_string(), "{told}");
    }

    line.amend(PolicyChange {
        opens_at: Some(LONG_AGO),
        ..PolicyChange::default()
    })
    .await;
    // The guest, and whoever came first.
    let open = but(
        &lobby,
        json!({ "waiting": 2, "guests": 0, "front": 1, "active": 2 }),
    );
    for api in &apis {
        let told = line.is_told(api, &open).await;
        assert_eq!(
            (&told["lobby"]["size"], &told["lobby"]["order"]),
            (&json!(5), &json!("ARRIVAL"))
        );
        let age_ms = told["ageMs"].as_i64().expect("a time");
        assert!((0..15_000).contains(&age_ms), "{told}");
    }
    // Its owner says the same.
    for (kind, count) in [("line", 2), ("guests", 0), ("passed", 0)] {
        let waiting = format!("{}{{kind=\"{kind}\"}} {count}", metric::ADMISSION_WAITING);
        line.hall.tells(&waiting).await;
    }
    for (name, value) in [
        (metric::ADMISSION_ACTIVE, 2),
        (metric::ADMISSION_CAPACITY, 2),
        (metric::ADMISSIONS, 2),
        (metric::ADMISSION_STALLED, 0),
    ] {
        line.hall.tells(&format!("{name} {value}")).await;
    }

    line.leave(&apis[0], &all[0], None).await.expect(204);
    let left = but(&open, json!({ "waiting": 1, "front": 2, "left": 2 }));
    line.is_told(&apis[0], &left).await;
    line.amend(PolicyChange {
        paused: Some(true),
        ..PolicyChange::default()
    })
    .await;
    let paused = |why: &[&str]| but(&left, json!({ "room": "PAUSED", "pausedBy": why }));
    line.is_told(&apis[0], &paused(&["OPERATOR"])).await;
    line.sells("PAUSED").await;
    line.is_told(&apis[0], &paused(&["OPERATOR", "SALE"])).await;
    line.amend(PolicyChange {
        paused: Some(false),
        ..PolicyChange::default()
    })
    .await;
    line.is_told(&apis[0], &paused(&["SALE"])).await;
    cancel_show(&line.hall, line.date, "the-show-key", "Storm")
        .await
        .expect(202);
    for api in &apis {
        let told = line.is_told(api, &paused(&["SALE", "CANCELLATION"])).await;
        assert!(told["turnsPerMinute"].is_null(), "{told}");
    }

    // By its rows, when its owner is away, as an ingress shows it that was just started.
    assert!(line.hall.system.workers[0].stop().await.success());
    line.hall.system.ingresses[1].kill9().await;
    let ingress = &mut line.hall.system.ingresses[1];
    ingress.restart().await.expect("an ingress");
    let api = line.apis().remove(1);
    let read = but(
        &paused(&["SALE", "CANCELLATION"]),
        json!({ "passedOver": null }),
    );
    line.is_told(&api, &read).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_nothing_to_see_where_there_is_no_room() {
    let mut line = Line::start(SystemOptions::default(), by_arrival(1)).await;
    let (api, admin) = (line.hall.api.clone(), line.hall.admin());
    let without = line.hall.date(1).await;
    for date in [without, Uuid::now_v7()] {
        let path = format!("/admin/schedules/{date}/queue");
        let told = api.get(Some(&admin), &path).await;
        told.expect_problem(404, "not-found");
    }
}
