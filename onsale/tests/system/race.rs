//! Many want the same seat.

use crate::hall::Hall;
use futures_util::future::join_all;
use onsale_testkit::Api;
use onsale_testkit::SystemOptions;

#[tokio::test(flavor = "multi_thread")]
async fn of_200_clients_on_one_seat_exactly_one_wins() {
    let mut hall = Hall::open_with(SystemOptions::default().ingresses(2)).await;
    let date = hall.date(10).await;
    let buyers = hall.buyers(200);
    let other = Api::new(hall.system.url(1));
    let holds = buyers.iter().enumerate().map(|(n, buyer)| {
        let api = if n % 2 == 0 { &hall.api } else { &other };
        api.hold(buyer, date, &["A-1-5"])
    });
    let answers = join_all(holds).await;
    let won = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(won, 1);
    for answer in answers.into_iter().filter(|answer| answer.status != 201) {
        let answer = answer.expect_problem(409, "seat-unavailable");
        assert_eq!(answer.body["seats"], serde_json::json!(["A-1-5"]));
    }
    hall.map_becomes(date, "AAAAHAAAAA").await;
    hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_holds_are_all_or_none() {
    let mut hall = Hall::open().await;
    let date = hall.date(40).await;
    let buyers = hall.buyers(60);
    // Each wants three seats in a row that overlap with the neighbours'.
    let wanted: Vec<Vec<String>> = (0..60)
        .map(|n| {
            (0..3)
                .map(|k| format!("A-1-{}", (n * 2 + k) % 40 + 1))
                .collect()
        })
        .collect();
    let holds = buyers.iter().zip(&wanted).map(|(buyer, seats)| {
        let seats: Vec<&str> = seats.iter().map(String::as_str).collect();
        let (api, buyer) = (hall.api.clone(), buyer.clone());
        async move { api.hold(&buyer, date, &seats).await }
    });
    let answers = join_all(holds).await;
    let won = answers.iter().filter(|answer| answer.status == 201).count();
    assert!(
        answers
            .iter()
            .all(|a| a.status == 201 || a.code() == "seat-unavailable")
    );
    let sql = "SELECT count(*) AS n FROM seat_claim";
    assert_eq!(hall.number(sql).await, i64::try_from(won * 3).expect("few"));
    hall.assert_sound().await;
}
