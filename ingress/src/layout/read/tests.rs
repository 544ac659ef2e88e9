//! Layouts as somebody might write them, right and wrong.

use super::*;
use crate::trace::TraceId;
use axum::http::HeaderMap;
use onsale_schema::layout;

fn errors(read: Result<Vec<Seat>, Problem>) -> Vec<String> {
    let problem = read.expect_err("something is wrong");
    let json = problem.to_json(&TraceId::of(&HeaderMap::new()));
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let errors = json["errors"].as_array().unwrap().iter();
    errors
        .map(|e| {
            format!(
                "{} {}",
                e["pointer"].as_str().unwrap(),
                e["code"].as_str().unwrap()
            )
        })
        .collect()
}

fn read_json(text: &str) -> Result<Vec<Seat>, Problem> {
    json(Bytes::copy_from_slice(text.as_bytes()))
}

fn won(n: i64) -> String {
    format!(r#"{{"amount":{n},"currency":"KRW"}}"#)
}

fn labels(seats: &[Seat]) -> Vec<String> {
    seats.iter().map(Seat::label).collect()
}

#[test]
fn both_forms_say_the_same() {
    let lines = "\u{feff}section,row,number,grade,price\r\n A , 1 ,1, VIP ,150000\r\n\
                 B,1,7,\"R\",99000\r\n\r\nA,1,2,VIP,150000\r\nA,가,1,R,0";
    let from_csv = csv(lines.as_bytes()).unwrap();
    assert_eq!(labels(&from_csv), ["A-1-1", "A-1-2", "A-가-1", "B-1-7"]);
    let seat = |number, grade: &str, n| {
        format!(
            r#"{{"number":{number},"grade":"{grade}","price":{}}}"#,
            won(n)
        )
    };
    let text = format!(
        r#"{{"sections":[{{"name":"A","rows":[{{"name":"1","seats":[{},{}]}},
           {{"name":"가","seats":[{}]}}]}},{{"name":"B","rows":[{{"name":"1","seats":[{}]}}]}}]}}"#,
        seat(1, "VIP", 150_000),
        seat(2, "VIP", 150_000),
        seat(1, "R", 0),
        seat(7, "R", 99_000)
    );
    let from_json = read_json(&text).unwrap();
    assert_eq!(from_csv, from_json);
    assert_eq!(layout::hash(&from_csv), layout::hash(&from_json));
}

#[test]
fn lines_are_named_with_what_is_wrong() {
    let head = "section,row,number,grade,price\n";
    let text = format!(
        "{head}A,1,1,VIP,1\nA,1,1,VIP,1\n\nA-1,1,2,VIP,1\nA,\"1,2\",2,VIP,1\nA,1,0,VIP,1\n\
         A,1,x,VIP,1\nA,1,3,,1\nA,1,4,R,-1\nA,1,5,R,100000001\nA,1,6,R\nA,1,+7,R,1.5\n"
    );
    let expected = [
        "/lines/3 duplicate-seat",
        "/lines/5 invalid-section",
        "/lines/6 invalid-row",
        "/lines/7 invalid-number",
        "/lines/8 invalid-number",
        "/lines/9 invalid-grade",
        "/lines/10 invalid-price",
        "/lines/11 invalid-price",
        "/lines/12 invalid-columns",
        "/lines/13 invalid-number",
        "/lines/13 invalid-price",
    ];
    assert_eq!(errors(csv(text.as_bytes())), expected);
    assert_eq!(errors(csv(b"")), ["/lines/1 invalid-header"]);
    assert_eq!(
        errors(csv(b"a,b\nA,1,1,R,1\n")),
        ["/lines/1 invalid-header"]
    );
    assert_eq!(errors(csv(head.as_bytes())), ["/lines too-few"]);
    let bytes = [head.as_bytes(), b"A\xff,1,1,R,1\n"].concat();
    assert_eq!(errors(csv(&bytes)), ["/lines/2 invalid-encoding"]);
    let control = format!("{head}A\u{1},1,1,R,1\nA,1,1,{},1\n", "x".repeat(33));
    assert_eq!(
        errors(csv(control.as_bytes())),
        ["/lines/2 invalid-section", "/lines/3 invalid-grade"]
    );
    let crlf = format!(
        "{}\r\n\r\nA,1,0,R,1\r\nA,1,1,R,1\r\nA,1,0,R,1",
        head.trim_end()
    );
    assert_eq!(
        errors(csv(crlf.as_bytes())),
        ["/lines/3 invalid-number", "/lines/5 invalid-number"]
    );
    let quoted = format!("{head}\"A,1,1,R,1\nA,1,2,R,1\n");
    assert_eq!(errors(csv(quoted.as_bytes())), ["/lines/2 invalid-columns"]);
}

#[test]
fn a_section_of_places_is_a_count() {
    let head = "section,row,number,grade,price\n";
    let text = format!("{head}A,1,1,VIP,150000\nFLOOR,,3,R,99000\nA,1,2,VIP,150000\n");
    let from_csv = csv(text.as_bytes()).unwrap();
    assert_eq!(
        labels(&from_csv),
        ["A-1-1", "A-1-2", "FLOOR-1", "FLOOR-2", "FLOOR-3"]
    );
    assert_eq!(from_csv[2].price, Money::won(99_000));
    let at = |no: usize| (from_csv[no].x, from_csv[no].y);
    assert_eq!(at(2), at(4));
    let seat = |number| {
        format!(
            r#"{{"number":{number},"grade":"VIP","price":{}}}"#,
            won(150_000)
        )
    };
    let json = |more: &str| {
        read_json(&format!(
            r#"{{"sections":[{{"name":"A","rows":[{{"name":"1","seats":[{},{}]}}]}},
               {{"name":"FLOOR","places":{{"count":3,"grade":"R","price":{}{more}}}}}]}}"#,
            seat(1),
            seat(2),
            won(99_000)
        ))
    };
    assert_eq!(json("").unwrap(), from_csv);
    let placed = json(r#","x":1.5,"y":-2"#).unwrap();
    assert_eq!((placed[4].x, placed[4].y), (1.5, -2.0));
    assert_eq!(
        errors(json(r#","x":1"#)),
        ["/sections/1/places invalid-place"]
    );
}

#[test]
fn what_is_wrong_with_places_is_told() {
    let head = "section,row,number,grade,price\n";
    let text = format!(
        "{head}F,,0,R,1\nF,,100000,R,1\nF,,x,R,1\nF,,5,\"a,b\",-1\nF-1,,5,R,1\n\
         A,1,1,R,1\nA,,5,R,1\nG,,5,R,1\nG,1,1,R,1\nG,,5,R,1\n"
    );
    let expected = [
        "/lines/2 invalid-count",
        "/lines/3 invalid-count",
        "/lines/4 invalid-count",
        "/lines/5 invalid-grade",
        "/lines/5 invalid-price",
        "/lines/6 invalid-section",
        "/lines/8 not-with-rows",
        "/lines/10 not-with-places",
        "/lines/11 duplicate-section",
    ];
    assert_eq!(errors(csv(text.as_bytes())), expected);
    let seats = r#"[{"name":"1","seats":[{"number":1,"grade":"R",
        "price":{"amount":1,"currency":"KRW"}}]}]"#;
    let places = |count: i64| {
        format!(r#"{{"count":{count},"grade":"R","price":{{"amount":1,"currency":"KRW"}}}}"#)
    };
    let text = format!(
        r#"{{"sections":[{{"name":"A","rows":{seats},"places":{few}}},{{"name":"B"}},
           {{"name":"C","places":{none}}},{{"name":"D","places":{few}}},
           {{"name":"D","rows":{seats}}},{{"name":"D","places":{few}}},
           {{"name":"E","rows":{seats}}},{{"name":"E","places":{few}}}]}}"#,
        few = places(2),
        none = places(0),
    );
    let expected = [
        "/sections/0/places not-with-rows",
        "/sections/1/rows missing-field",
        "/sections/2/places/count invalid-count",
        "/sections/4/rows not-with-places",
        "/sections/5/places duplicate-section",
        "/sections/7/places not-with-rows",
    ];
    assert_eq!(errors(read_json(&text)), expected);
    let all = format!("{head}F,,99999,R,1\nG,,1,R,1\n");
    assert_eq!(csv(all.as_bytes()).unwrap().len(), SEATS_MAX);
    let text = format!("{all}H,,1,R,1\n");
    assert_eq!(errors(csv(text.as_bytes())), ["/lines too-many"]);
}

#[test]
fn at_most_a_hundred_errors_are_listed() {
    let head = "section,row,number,grade,price\n";
    let text = format!("{head}{}", "A,1,0,R,1\n".repeat(500));
    let errors = errors(csv(text.as_bytes()));
    assert_eq!(errors.len(), ERRORS_MAX);
    assert_eq!(errors[99], "/lines/101 invalid-number");
}

#[test]
fn there_is_an_end_to_seats() {
    let mut text = "section,row,number,grade,price\n".to_owned();
    for n in 0..=SEATS_MAX {
        let (row, number) = (n / 90_000, n % 90_000 + 1);
        text.push_str(&format!("A,{row},{number},R,1\n"));
    }
    assert_eq!(errors(csv(text.as_bytes())), ["/lines too-many"]);
    let last = text.trim_end().rfind('\n').unwrap();
    assert_eq!(csv(&text.as_bytes()[..last]).unwrap().len(), SEATS_MAX);
}

#[test]
fn members_are_pointed_at() {
    let text = r#"{"sections":[
        {"name":"","rows":[{"name":"1","seats":[
            {"number":0,"grade":"R","price":{"amount":-1,"currency":"KRW"}}]}]},
        {"name":"B","rows":[{"name":"1-2","seats":[]},{"name":"2","seats":[
            {"number":1,"grade":"a,b","price":{"amount":1,"currency":"KRW"},"x":1},
            {"number":2,"grade":"R","price":{"amount":1,"currency":"KRW"},"x":1,"y":20000},
            {"number":3,"grade":"R","price":{"amount":1,"currency":"KRW"},"x":-0.001,"y":1},
            {"number":3,"grade":"R","price":{"amount":1,"currency":"KRW"}}]}]}]}"#;
    let expected = [
        "/sections/0/name invalid-section",
        "/sections/0/rows/0/seats/0/number invalid-number",
        "/sections/0/rows/0/seats/0/price invalid-price",
        "/sections/1/rows/0/name invalid-row",
        "/sections/1/rows/1/seats/0/grade invalid-grade",
        "/sections/1/rows/1/seats/0 invalid-place",
        "/sections/1/rows/1/seats/1 invalid-place",
        "/sections/1/rows/1/seats/3 duplicate-seat",
    ];
    assert_eq!(errors(read_json(text)), expected);
    assert_eq!(
        errors(read_json(r#"{"sections":[]}"#)),
        ["/sections too-few"]
    );
    let wrong = r#"{"sections":[{"name":"A","rows":[{"name":"1","seats":[{"number":1.5}]}]}]}"#;
    assert_eq!(
        errors(read_json(wrong)),
        ["/sections/0/rows/0/seats/0/number invalid-type"]
    );
}

#[test]
fn who_is_not_placed_gets_a_place_of_their_own() {
    let mut text = "section,row,number,grade,price\n".to_owned();
    for section in 0..7 {
        for (row, number) in (0..5).flat_map(|row| (1..=9 + row).map(move |n| (row, n))) {
            text.push_str(&format!("S{section},{row},{number},R,1\n"));
        }
    }
    let seats = csv(text.as_bytes()).unwrap();
    let places: HashSet<(u32, u32)> = seats
        .iter()
        .map(|seat| (seat.x.to_bits(), seat.y.to_bits()))
        .collect();
    assert_eq!(places.len(), seats.len());
    assert!(seats.iter().all(|seat| seat.y >= 4.0));
}
