//! Layouts that nobody would write: whatever the bytes are, they are read or what is wrong is said, and
//! what is read can be named and stored.

use super::{ERRORS_MAX, NUMBERS, PRICES_WON, SEATS_MAX, csv, json};
use crate::problem::{Code, Problem};
use crate::trace::TraceId;
use axum::body::Bytes;
use axum::http::HeaderMap;
use onsale_schema::layout::{self, Seat};
use proptest::prelude::*;
use std::collections::HashSet;

/// Text that means something to one of the readers.
const TELLING: &[&str] = &[
    "\"",
    ",",
    "\n",
    "\r\n",
    "\u{feff}",
    "\0",
    "-",
    " ",
    "{",
    "}",
    "[",
    "]",
    ":",
    "null",
    "-1",
    "1e999",
    "99999999999999999999",
    "1.5",
    "\\ud800",
    "\u{2603}",
    "A,1,1,R,1\n",
    "\"x\":1,",
    "\"places\":",
    "F,,3,R,1\n",
];

const CSV: &str =
    "section,row,number,grade,price\nA,1,1,VIP,150000\nA,\"2\",1, R ,0\r\n\nB,1,7,R,9\nF,,12,R,5\n";
const JSON: &str = r#"{"sections":[{"name":"A","rows":[{"name":"1","seats":[
    {"number":1,"grade":"VIP","price":{"amount":150000,"currency":"KRW"},"x":-1.5,"y":4e0},
    {"number":2,"grade":"R","price":{"amount":0,"currency":"KRW"}}]}]},
    {"name":"B","rows":[{"name":"\uac00","seats":[
    {"number":7,"grade":"R","price":{"amount":9,"currency":"KRW"}}]}]},
    {"name":"F","places":{"count":12,"grade":"R","price":{"amount":5,"currency":"KRW"},"x":0,"y":9}}
    ]}"#;

/// Bytes that replace some others: where, as a share of all, how many, and by what.
fn damage() -> impl Strategy<Value = (f64, usize, Vec<u8>)> {
    let new = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..4),
        prop::sample::select(TELLING).prop_map(|text| text.as_bytes().to_vec()),
        (any::<u8>(), 1..200usize).prop_map(|(byte, count)| vec![byte; count]),
    ];
    (0.0..1.0f64, 0..8usize, new)
}

fn damaged(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(damage(), 0..4).prop_map(move |damages| {
        let mut bytes = text.as_bytes().to_vec();
        for (share, gone, new) in damages {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a place in some hundred bytes"
            )]
            let at = (share * bytes.len() as f64) as usize;
            let end = bytes.len().min(at + gone);
            bytes.splice(at..end, new);
        }
        bytes
    })
}

fn check(read: Result<Vec<Seat>, Problem>) -> Result<(), TestCaseError> {
    let seats = match read {
        Ok(seats) => seats,
        Err(problem) => {
            let codes = [Code::MalformedJson, Code::ValidationFailed];
            prop_assert!(codes.contains(&problem.code()), "{problem:?}");
            let told = problem.to_json(&TraceId::of(&HeaderMap::new()));
            let told: serde_json::Value = serde_json::from_slice(&told).expect("JSON");
            let listed = told["errors"].as_array().map_or(1, Vec::len);
            prop_assert!((1..=ERRORS_MAX).contains(&listed), "{told}");
            return Ok(());
        }
    };
    prop_assert!((1..=SEATS_MAX).contains(&seats.len()));
    let labels: HashSet<_> = seats.iter().map(Seat::label).collect();
    prop_assert_eq!(labels.len(), seats.len());
    for seat in &seats {
        prop_assert!(NUMBERS.contains(&seat.number.into()), "{seat:?}");
        prop_assert!(PRICES_WON.contains(&seat.price.to_won()), "{seat:?}");
        prop_assert!(seat.x.is_finite() && seat.y.is_finite(), "{seat:?}");
        let names = [&seat.section, &seat.row, &seat.grade];
        // Postgres takes no zero, and a line of the hash ends at its end.
        let is_plain = |name: &&String| !name.contains(['\0', '\n', ',']);
        prop_assert!(names.iter().all(is_plain), "{seat:?}");
        prop_assert!(
            !seat.section.is_empty() && !seat.grade.is_empty(),
            "{seat:?}"
        );
    }
    let sections = |is_place: bool| -> HashSet<&str> {
        let of = seats.iter().filter(|seat| seat.row.is_empty() == is_place);
        of.map(|seat| &*seat.section).collect()
    };
    prop_assert!(sections(true).is_disjoint(&sections(false)));
    prop_assert_eq!(layout::hash(&seats).len(), 64);
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check(csv(&bytes))?;
        check(json(Bytes::from(bytes)))?;
    }

    #[test]
    fn damaged_csv(bytes in damaged(CSV)) {
        check(csv(&bytes))?;
    }

    #[test]
    fn damaged_json(bytes in damaged(JSON)) {
        check(json(Bytes::from(bytes)))?;
    }
}

#[test]
fn what_is_damaged_was_whole() {
    assert_eq!(csv(CSV.as_bytes()).expect("CSV").len(), 15);
    assert_eq!(json(Bytes::from(JSON)).expect("JSON").len(), 15);
}
