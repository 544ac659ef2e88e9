//! The catalogue and its administration: from an empty database to a sold seat over HTTP, edits that
//! all readers see, layouts that are replaced while holds arrive.

use crate::hall::{Hall, PATIENCE, reservation, soon};
use crate::links::insist;
use futures_util::future::join_all;
use onsale_testkit::api::{id, text};
use onsale_testkit::{Answer, Api, Buyer, SystemOptions};
use reqwest::Method;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Readers see an edit within this.
const VISIBLE: Duration = Duration::from_secs(1);

async fn post(api: &Api, by: &Buyer, path: &str, body: &Value) -> Answer {
    let key = Uuid::now_v7().to_string();
    api.post(by, path, &key, body).await
}

pub async fn patch(api: &Api, by: &Buyer, path: &str, body: &Value) -> Answer {
    let request = api.request(Method::PATCH, path).bearer_auth(&by.token);
    api.send(request.json(body)).await
}

async fn put_csv(api: &Api, by: &Buyer, schedule: Uuid, csv: String) -> Answer {
    let path = format!("/admin/schedules/{schedule}/layout");
    let request = api.request(Method::PUT, &path).bearer_auth(&by.token);
    let request = request.header("content-type", "text/csv; charset=utf-8");
    api.send(request.body(csv)).await
}

/// Section `A`, row `1`, seats with these numbers in this order.
fn row(numbers: impl Iterator<Item = u32>, won: u32) -> String {
    let mut csv = "section,row,number,grade,price\r\n".to_owned();
    for number in numbers {
        write!(csv, "A,1,{number},R,{won}\r\n").expect("a string");
    }
    csv
}

fn concert(title: &str) -> Value {
    json!({
        "title": title, "artist": "아이유", "venue": "Hall", "description": "Two\nlines",
        "startsOn": "2031-05-01", "endsOn": "2031-05-02",
    })
}

fn schedule(opens_s: i64, closes_s: i64) -> Value {
    json!({
        "startsAt": "2031-05-01T10:00:00.000Z", "bookingOpensAt": soon(opens_s),
        "bookingClosesAt": soon(closes_s),
    })
}

/// A new date of a new concert, on sale and without seats.
async fn date(api: &Api, admin: &Buyer) -> Uuid {
    let made = post(api, admin, "/admin/concerts", &concert("C"))
        .await
        .expect(201);
    let path = format!("/admin/concerts/{}/schedules", id(&made.body["concertId"]));
    let made = post(api, admin, &path, &schedule(-60, 3600))
        .await
        .expect(201);
    id(&made.body["scheduleId"])
}

async fn get(api: &Api, path: &str) -> Value {
    api.get(None, path).await.expect(200).body
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_concert_to_a_sold_seat() {
    let hall = Hall::open().await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let made = api
        .post(&admin, "/admin/concerts", "the-first-key", &concert(" 봄 "))
        .await
        .expect(201);
    let concert_id = id(&made.body["concertId"]);
    let location = format!("/api/v1/concerts/{concert_id}");
    assert_eq!(made.headers["location"], location);
    assert_eq!(made.body["title"], "봄");
    let path = format!("/concerts/{concert_id}");
    assert_eq!(get(&api, &path).await, made.body);

    // The key again, also after an edit.
    let edit = json!({ "title": "Spring", "endsOn": "2031-06-01" });
    let admin_path = format!("/admin/concerts/{concert_id}");
    let edited = patch(&api, &admin, &admin_path, &edit).await.expect(200);
    assert_eq!(
        (&edited.body["title"], &edited.body["artist"]),
        (&json!("Spring"), &json!("아이유"))
    );
    assert_eq!(get(&api, &path).await, edited.body);
    let again = api
        .post(&admin, "/admin/concerts", "the-first-key", &concert(" 봄 "))
        .await
        .expect(201);
    assert_eq!(again.body, made.body);
    api.post(
        &admin,
        "/admin/concerts",
        "the-first-key",
        &concert("Other"),
    )
    .await
    .expect_problem(422, "idempotency-key-reused");
    assert_eq!(get(&api, &path).await["title"], "Spring");
    let backwards = json!({ "startsOn": "2031-07-01" });
    let refused = patch(&api, &admin, &admin_path, &backwards).await;
    let refused = refused.expect_problem(422, "validation-failed");
    assert_eq!(refused.body["errors"][0]["pointer"], "/endsOn");

    let mut wanted = schedule(-60, 3600);
    wanted["saleState"] = json!("PAUSED");
    let path = format!("/admin/concerts/{concert_id}/schedules");
    let made = api.post(&admin, &path, "the-same-key", &wanted).await;
    let made = made.expect(201);
    let date = id(&made.body["scheduleId"]);
    assert_eq!(
        made.headers["location"],
        format!("/api/v1/schedules/{date}")
    );
    assert_eq!(
        (&made.body["holdSeconds"], &made.body["seatsPerUser"]),
        (&json!(300), &json!(4))
    );
    let again = api.post(&admin, &path, "the-same-key", &wanted).await;
    assert_eq!(again.expect(201).body, made.body);
    let mut elsewhen = wanted.clone();
    elsewhen["startsAt"] = json!("2032-05-01T10:00:00.000Z");
    let refused = api.post(&admin, &path, "one-more-key", &elsewhen).await;
    let refused = refused.expect_problem(422, "validation-failed");
    assert_eq!(refused.body["errors"][0]["pointer"], "/startsAt");
    let nowhere = format!("/admin/concerts/{}/schedules", Uuid::now_v7());
    api.post(&admin, &nowhere, "another-key", &wanted)
        .await
        .expect_problem(404, "not-found");
    api.post(&admin, &nowhere, "the-same-key", &wanted)
        .await
        .expect_problem(422, "idempotency-key-reused");
    let shown = get(&api, &format!("/schedules/{date}")).await;
    assert_eq!(
        (&shown["total"], &shown["saleState"]),
        (&json!(0), &json!("PAUSED"))
    );

    // The seats, and the sale.
    let put = put_csv(&api, &admin, date, row(1..=3, 1000))
        .await
        .expect(200);
    assert_eq!(put.body["seats"], 3);
    let shown = get(&api, &format!("/schedules/{date}")).await;
    assert_eq!(
        (&shown["total"], &shown["remaining"], &shown["layoutHash"]),
        (&json!(3), &json!(3), &put.body["layoutHash"])
    );
    api.hold(&buyer, date, &["A-1-2"])
        .await
        .expect_problem(425, "sale-not-open");
    let path = format!("/admin/schedules/{date}");
    let open = json!({ "saleState": "OPEN" });
    let opened = patch(&api, &admin, &path, &open).await.expect(200);
    assert_eq!(
        (&opened.body["saleState"], &opened.body["bookable"]),
        (&json!("OPEN"), &json!(true))
    );
    let held = api.hold(&buyer, date, &["A-1-2"]).await.expect(201);
    api.charge(&buyer, 1000).await.expect(201);
    api.pay(&buyer, reservation(&held.body)).await.expect(201);
    hall.map_becomes(date, "ASA").await;

    put_csv(&api, &admin, date, row(1..=4, 1000))
        .await
        .expect_problem(409, "layout-in-use");
    let same = put_csv(&api, &admin, date, row(1..=3, 1000))
        .await
        .expect(200);
    assert_eq!(same.body, put.body);
    for (method, path, code) in [
        (Method::PATCH, path, "forbidden-role"),
        (Method::POST, "/admin/concerts".to_owned(), "forbidden-role"),
    ] {
        let request = api.request(method, &path).bearer_auth(&buyer.token);
        api.send(request.json(&open))
            .await
            .expect_problem(403, code);
    }
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_seats_are_put_in_one_call_and_errors_have_lines() {
    let hall = Hall::open().await;
    let (api, admin) = (hall.api.clone(), hall.admin());
    let date = date(&api, &admin).await;
    let mut csv = "section,row,number,grade,price\n".to_owned();
    for seat in 0..50_000 {
        let (section, row, number) = (seat / 1000, seat / 40 % 25, seat % 40 + 1);
        writeln!(csv, "{section},{row},{number},R,99000").expect("a string");
    }
    let wrong = csv.replacen("0,0,16,R", "0,0,0,R", 1);
    let refused = put_csv(&api, &admin, date, wrong).await;
    let refused = refused.expect_problem(422, "validation-failed");
    assert_eq!(
        refused.body["errors"],
        json!([{ "pointer": "/lines/17", "code": "invalid-number" }])
    );
    let put = put_csv(&api, &admin, date, csv).await.expect(200);
    assert_eq!(put.body["seats"], 50_000);
    let shown = get(&api, &format!("/schedules/{date}")).await;
    assert_eq!(
        (&shown["total"], &shown["remaining"]),
        (&json!(50_000), &json!(50_000))
    );
    let layout = get(&api, &format!("/schedules/{date}/layout")).await;
    let last = layout
        .pointer("/sections/49/rows/24/seats/39")
        .expect("it is there");
    assert_eq!(
        (&last["label"], &last["seatNo"]),
        (&json!("49-24-40"), &json!(49_999))
    );
    // Its owner reads all of it first, which a slow machine does not do in the time of a request.
    let wanted = json!({ "scheduleId": date, "seats": ["49-24-40"] });
    let buyer = hall.buyer();
    let held = insist(&api, &buyer, "/reservations", &wanted);
    let held = tokio::time::timeout(PATIENCE, held).await.expect("in time");
    assert_eq!(held["seats"][0]["label"], "49-24-40");
}

/// Polls until something is seen, which must not take longer than an edit may.
async fn sees(what: &str, api: &Api, path: &str, is_seen: impl Fn(&Value) -> bool) {
    let since = Instant::now();
    loop {
        let seen = is_seen(&get(api, path).await);
        let took = since.elapsed();
        assert!(took < VISIBLE, "{what}: not seen after {took:?}");
        if seen {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_seen_within_a_second_at_every_ingress() {
    let hall = Hall::open_with(SystemOptions::default().ingresses(2)).await;
    let (here, there) = (hall.api.clone(), Api::new(hall.system.url(1)));
    let admin = hall.admin();
    let date = date(&here, &admin).await;
    put_csv(&here, &admin, date, row(1..=3, 1000))
        .await
        .expect(200);
    let one = format!("/schedules/{date}");
    let concert = text(&get(&here, &one).await["concertId"]).to_owned();
    let (concert, layout) = (format!("/concerts/{concert}"), format!("{one}/layout"));
    let map = format!("{one}/seats");
    let dates = format!("{concert}/schedules");
    for path in [&one, &concert, &layout, &map, &dates] {
        get(&there, path).await;
    }

    let edit = json!({ "venue": "Elsewhere" });
    let path = format!("/admin{concert}");
    patch(&here, &admin, &path, &edit).await.expect(200);
    assert_eq!(
        get(&here, &concert).await["venue"],
        "Elsewhere",
        "here at once"
    );
    sees("a concert", &there, &concert, |seen| {
        seen["venue"] == "Elsewhere"
    })
    .await;

    let before = there.get(None, &map).await.headers["etag"].clone();
    let put = put_csv(&here, &admin, date, row(1..=5, 2000))
        .await
        .expect(200);
    let hash = put.body["layoutHash"].clone();
    assert_eq!(
        get(&here, &layout).await["layoutHash"],
        hash,
        "here at once"
    );
    sees("a layout", &there, &layout, |seen| {
        seen["layoutHash"] == hash
    })
    .await;
    sees("a map", &there, &map, |seen| seen["seats"] == "AAAAA").await;
    assert_ne!(there.get(None, &map).await.headers["etag"], before);
    sees("prices", &there, &one, |seen| {
        seen["total"] == 5 && seen["prices"][0]["price"]["amount"] == 2000
    })
    .await;

    let policy = json!({ "saleState": "PAUSED", "holdSeconds": 77 });
    let path = format!("/admin{one}");
    let told = patch(&here, &admin, &path, &policy).await.expect(200);
    assert_eq!(told.body["holdSeconds"], 77);
    assert_eq!(
        get(&here, &one).await["saleState"],
        "PAUSED",
        "here at once"
    );
    sees("a policy", &there, &one, |seen| {
        seen["saleState"] == "PAUSED" && seen["holdSeconds"] == 77
    })
    .await;
    sees("a list", &there, &dates, |seen| {
        seen[0]["bookable"] == false
    })
    .await;
    let starts_at = "2031-05-02T10:00:00.000Z";
    let moved = json!({ "startsAt": starts_at });
    patch(&here, &admin, &path, &moved).await.expect(200);
    sees("a time", &there, &one, |seen| {
        seen["startsAt"] == json!(starts_at)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_hold_goes_by_a_changed_policy() {
    let mut hall = Hall::open().await;
    let (api, admin, buyer) = (hall.api.clone(), hall.admin(), hall.buyer());
    let date = hall.date(10).await;
    let path = format!("/admin/schedules/{date}");
    let first = api.hold(&buyer, date, &["A-1-1"]).await.expect(201);
    let change = |body: Value| {
        let (api, admin, path) = (api.clone(), admin.clone(), path.clone());
        async move { patch(&api, &admin, &path, &body).await }
    };
    change(json!({ "saleState": "PAUSED" })).await.expect(200);
    api.hold(&buyer, date, &["A-1-2"])
        .await
        .expect_problem(425, "sale-not-open");
    change(json!({ "saleState": "OPEN", "seatsPerUser": 2, "holdSeconds": 77 }))
        .await
        .expect(200);
    api.hold(&buyer, date, &["A-1-2", "A-1-3"])
        .await
        .expect_problem(422, "seat-limit-exceeded");
    let second = api.hold(&buyer, date, &["A-1-2"]).await.expect(201);
    let lasts = |held: &Answer| {
        let time = |member: &str| {
            let time = chrono::DateTime::parse_from_rfc3339(text(&held.body[member]));
            time.expect("a time")
        };
        (time("expiresAt") - time("heldAt")).num_seconds()
    };
    assert_eq!((lasts(&first), lasts(&second)), (300, 77));
    change(json!({ "bookingClosesAt": soon(-1) }))
        .await
        .expect(200);
    api.hold(&buyer, date, &["A-1-4"])
        .await
        .expect_problem(410, "sale-closed");

    for (body, pointer) in [
        (json!({ "bookingOpensAt": soon(1) }), "/bookingClosesAt"),
        (json!({ "holdSeconds": 0 }), "/holdSeconds"),
        (json!({ "seatsPerUser": 101 }), "/seatsPerUser"),
        (
            json!({ "startsAt": soon(1), "saleState": "OPEN" }),
            "/startsAt",
        ),
        (
            json!({ "startsAt": "2063-05-01T10:00:00.000Z" }),
            "/startsAt",
        ),
        (json!({ "saleState": "AJAR" }), "/saleState"),
        (json!({ "queue": { "mode": "AJAR" } }), "/queue/mode"),
        (json!({ "queues": { "mode": "OFF" } }), ""),
    ] {
        let refused = change(body.clone()).await;
        let refused = refused.expect_problem(422, "validation-failed");
        assert_eq!(refused.body["errors"][0]["pointer"], pointer, "{body}");
    }
    let nowhere = format!("/admin/schedules/{}", Uuid::now_v7());
    for body in [
        json!({ "saleState": "OPEN" }),
        json!({ "startsAt": soon(1) }),
        json!({}),
    ] {
        let refused = patch(&api, &admin, &nowhere, &body).await;
        refused.expect_problem(404, "not-found");
    }

    // Who would rather not wait finds the same answer later.
    let request = api.request(Method::PATCH, &path).bearer_auth(&admin.token);
    let request = request.header("prefer", "respond-async");
    let open = api.send(request.json(&json!({ "holdSeconds": 99 }))).await;
    if open.status == 202 {
        let location = open.headers["location"].to_str().expect("ASCII").to_owned();
        let decided = decided(&api, &admin, &location).await;
        assert_eq!(decided["body"]["holdSeconds"], 99);
    } else {
        assert_eq!(open.expect(200).body["holdSeconds"], 99);
    }
    hall.assert_sound().await;
}

/// What a command is decided to be.
pub async fn decided(api: &Api, by: &Buyer, location: &str) -> Value {
    let path = location.strip_prefix("/api/v1").expect("a path of ours");
    let decided = tokio::time::timeout(crate::hall::PATIENCE, async {
        loop {
            let answer = api.get(Some(by), path).await;
            if answer.status != 202 {
                return answer.expect(200).body;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    decided.await.expect("decided")
}

/// Each round, buyers hold seats at two ingresses while an admin replaces the layout by one in which
/// the same labels are other seats at another price. Whoever is first, everybody gets the seats that
/// they asked for, at the price that these have.
#[tokio::test(flavor = "multi_thread")]
async fn a_layout_is_replaced_while_holds_arrive() {
    const ROUNDS: usize = 12;
    const SEATS: u32 = 6;
    let mut hall = Hall::open_with(SystemOptions::default().ingresses(2)).await;
    let apis = [hall.api.clone(), Api::new(hall.system.url(1))];
    let admin = hall.admin();
    let mut replaced = 0;
    for round in 0..ROUNDS {
        let date = date(&apis[0], &admin).await;
        put_csv(&apis[0], &admin, date, row(1..=SEATS, 1000))
            .await
            .expect(200);
        // Both ingresses and the owner know the first layout.
        for api in &apis {
            get(api, &format!("/schedules/{date}/layout")).await;
        }
        let path = format!("/admin/schedules/{date}");
        let same = json!({ "seatsPerUser": 4 });
        patch(&apis[0], &admin, &path, &same).await.expect(200);

        let buyers = hall.buyers(SEATS as usize);
        let holds = (1..=SEATS).zip(&buyers).map(|(number, buyer)| {
            let api = &apis[number as usize % 2];
            async move {
                // Some before, some after.
                let pause_ms = (round as u64 * u64::from(number)) % 15;
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                api.hold(buyer, date, &[&format!("A-1-{number}")]).await
            }
        });
        let second = row((1..=SEATS).rev(), 2000);
        let (put, held) = tokio::join!(
            put_csv(&apis[round % 2], &admin, date, second),
            join_all(holds)
        );
        let won = match put.status.as_u16() {
            200 => 2000,
            _ => {
                put.expect_problem(409, "layout-in-use");
                1000
            }
        };
        replaced += usize::from(won == 2000);
        for ((number, held), buyer) in (1..=SEATS).zip(held).zip(&buyers) {
            let held = held.expect(201);
            let path = format!("/reservations/{}", reservation(&held.body));
            for api in &apis {
                let shown = api.get(Some(buyer), &path).await.expect(200).body;
                for body in [&held.body, &shown] {
                    assert_eq!(
                        (&body["seats"][0]["label"], &body["total"]["amount"]),
                        (&json!(format!("A-1-{number}")), &json!(won)),
                        "round {round}: {body}"
                    );
                }
            }
        }
        // As the rows say it, too.
        let wrong = format!(
            "SELECT count(*) AS n FROM reservation r JOIN seat s \
                 ON s.schedule_id = r.schedule_id AND s.seat_no = r.seat_nos[1] \
             WHERE r.schedule_id = '{date}' AND (s.price <> r.total OR r.total <> {won})"
        );
        assert_eq!(hall.number(&wrong).await, 0, "round {round}");
    }
    println!("{replaced} of {ROUNDS} layouts were replaced first");
    assert_eq!(
        hall.number("SELECT count(*) AS n FROM dead_letter").await,
        0
    );
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concerts_are_listed_in_pages_that_may_shift_and_by_what_is_bookable() {
    let mut hall = Hall::open().await;
    hall.sql("DELETE FROM concert").await;
    let (api, admin) = (hall.api.clone(), hall.admin());
    let make = |title: &'static str, day: &'static str| {
        let (api, admin) = (api.clone(), admin.clone());
        async move {
            let mut body = concert(title);
            (body["startsOn"], body["endsOn"]) = (json!(day), json!(day));
            let made = post(&api, &admin, "/admin/concerts", &body)
                .await
                .expect(201);
            id(&made.body["concertId"])
        }
    };
    let bookable = make("b1", "2031-05-02").await;
    for title in ["b2", "b3", "b4"] {
        make(title, "2031-05-02").await;
    }
    let page = async |query: &str| get(&api, &format!("/concerts?{query}")).await;
    let titles = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().expect("a list").iter();
        items.map(|item| text(&item["title"]).to_owned()).collect()
    };
    let first = page("limit=2").await;
    let mut seen = titles(&first);
    // One before what was seen and one after.
    make("a", "2031-05-01").await;
    make("c", "2031-05-03").await;
    let mut cursor = first["nextCursor"].clone();
    while let Some(next) = cursor.as_str() {
        let page = page(&format!("limit=2&cursor={next}")).await;
        seen.extend(titles(&page));
        cursor = page["nextCursor"].clone();
    }
    seen.sort_unstable();
    assert_eq!(
        seen,
        ["b1", "b2", "b3", "b4", "c"],
        "nothing twice, nothing left out"
    );
    assert_eq!(titles(&page("limit=1").await), ["a"]);
    assert_eq!(page("limit=100").await["nextCursor"], Value::Null);
    for query in [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=x",
        "cursor=",
        "cursor=x",
    ] {
        let refused = api.get(None, &format!("/concerts?{query}")).await;
        refused.expect_problem(422, "validation-failed");
    }

    let path = format!("/admin/concerts/{bookable}/schedules");
    let later = post(&api, &admin, &path, &schedule(60, 3600))
        .await
        .expect(201);
    assert!(titles(&page("bookable=true").await).is_empty(), "not yet");
    let path = format!("/admin/schedules/{}", id(&later.body["scheduleId"]));
    let now = json!({ "bookingOpensAt": soon(-60) });
    let seatless = patch(&api, &admin, &path, &now).await.expect(200);
    assert_eq!(seatless.body["bookable"], false, "without seats");
    sees("no seats", &api, "/concerts?bookable=false", |page| {
        titles(page).len() == 6
    })
    .await;
    let put = put_csv(
        &api,
        &admin,
        id(&later.body["scheduleId"]),
        row(1..=3, 1000),
    );
    put.await.expect(200);
    let bookable = |page: &Value| titles(page) == ["b1"];
    sees("a bookable one", &api, "/concerts?bookable=true", bookable).await;
    let others = |page: &Value| titles(page).len() == 5 && !titles(page).contains(&"b1".into());
    sees("the others", &api, "/concerts?bookable=false", others).await;
    let closed = json!({ "saleState": "CLOSED" });
    patch(&api, &admin, &path, &closed).await.expect(200);
    let none = |page: &Value| titles(page).is_empty();
    sees("none", &api, "/concerts?bookable=true", none).await;
}
