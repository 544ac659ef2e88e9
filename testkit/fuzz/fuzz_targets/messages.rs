//! Bytes that come on a stream or lie in a row: decoding them is an answer or an error, and what was
//! decoded can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onsale_schema::message::{CommandMessage, Lag, Reply, Revocation, decode, encode};
use onsale_schema::seats::{Facts, MapBroadcast};
use onsale_schema::{admission, ledger, seats, settlement};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

fn try_as<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(message) = decode::<T>(bytes) {
        let again = decode::<T>(&encode(&message)).expect("what was written is read");
        assert_eq!(again, message);
    }
}

fuzz_target!(|bytes: &[u8]| {
    try_as::<CommandMessage<seats::Kind>>(bytes);
    try_as::<CommandMessage<admission::Kind>>(bytes);
    try_as::<CommandMessage<ledger::Kind>>(bytes);
    try_as::<CommandMessage<settlement::Kind>>(bytes);
    try_as::<Reply<seats::Outcome>>(bytes);
    try_as::<Reply<admission::Outcome>>(bytes);
    try_as::<Reply<ledger::Outcome>>(bytes);
    try_as::<Reply<settlement::Outcome>>(bytes);
    try_as::<Vec<seats::Outcome>>(bytes);
    try_as::<admission::Broadcast>(bytes);
    try_as::<MapBroadcast>(bytes);
    try_as::<Facts>(bytes);
    try_as::<settlement::Facts>(bytes);
    try_as::<Lag>(bytes);
    try_as::<Revocation>(bytes);
});
