//! Bytes from outside: whatever comes on a stream or lies in a row, decoding it is an answer or an
//! error, and what was decoded can be used, written and read again.
//!
//! Two kinds of bytes are tried, for some seconds in all: any, and frozen messages that were damaged.

use onsale_schema::message::{CommandMessage, Lag, Reply, Revocation, decode, encode};
use onsale_schema::seats::{Facts, MapBroadcast};
use onsale_schema::{admission, ledger, seats, settlement};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::path::Path;

/// Tries a kind of message; whether the bytes are one.
fn is_read<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = decode::<T>(bytes) else {
        return false;
    };
    // What is logged must not fail either.
    let shown = format!("{message:?}");
    let again = decode::<T>(&encode(&message));
    assert_eq!(again.ok().as_ref(), Some(&message), "{shown}");
    true
}

/// Tries every kind that is read from a stream, a subject or a row; how many the bytes are.
fn kinds_read(bytes: &[u8]) -> usize {
    let read = [
        is_read::<CommandMessage<seats::Kind>>(bytes),
        is_read::<CommandMessage<admission::Kind>>(bytes),
        is_read::<CommandMessage<ledger::Kind>>(bytes),
        is_read::<CommandMessage<settlement::Kind>>(bytes),
        is_read::<Reply<seats::Outcome>>(bytes),
        is_read::<Reply<admission::Outcome>>(bytes),
        is_read::<Reply<ledger::Outcome>>(bytes),
        is_read::<Reply<settlement::Outcome>>(bytes),
        is_read::<Vec<seats::Outcome>>(bytes),
        is_read::<Vec<admission::Outcome>>(bytes),
        is_read::<Vec<ledger::Outcome>>(bytes),
        is_read::<Vec<settlement::Outcome>>(bytes),
        is_read::<admission::Broadcast>(bytes),
        is_read::<MapBroadcast>(bytes),
        is_read::<Facts>(bytes),
        is_read::<settlement::Facts>(bytes),
        is_read::<Lag>(bytes),
        is_read::<Revocation>(bytes),
    ];
    read.into_iter().filter(|read| *read).count()
}

fn fixtures() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let files = std::fs::read_dir(folder).expect("the fixtures folder is there");
    let paths = files.map(|file| file.expect("it can be listed").path());
    let mut paths: Vec<_> = paths.collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("a fixture can be read");
    paths.into_iter().map(read).collect()
}

/// One piece of damage, at a place given as a share of the length.
#[derive(Clone, Debug)]
enum Damage {
    Set(u16, u8),
    Insert(u16, Vec<u8>),
    Remove(u16, u8),
    Cut(u16),
}

fn damage() -> impl Strategy<Value = Damage> {
    // The markers of MessagePack, and the extremes of what follows them.
    let telling = prop::sample::select(vec![
        0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc4, 0xc6, 0xca, 0xcb, 0xcf,
        0xd3, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xff,
    ]);
    let byte = prop_oneof![any::<u8>(), telling];
    prop_oneof![
        4 => (any::<u16>(), byte.clone()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => (any::<u16>(), prop::collection::vec(byte, 1..9))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (any::<u16>(), 1..9u8).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => any::<u16>().prop_map(Damage::Cut),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let place = |at: u16| usize::from(at) * bytes.len() / (usize::from(u16::MAX) + 1);
        match damage {
            Damage::Set(at, byte) => {
                let at = place(*at);
                if let Some(old) = bytes.get_mut(at) {
                    *old = *byte;
                }
            }
            Damage::Insert(at, new) => {
                let at = place(*at);
                bytes.splice(at..at, new.iter().copied());
            }
            Damage::Remove(at, count) => {
                let at = place(*at);
                let end = bytes.len().min(at + usize::from(*count));
                bytes.drain(at..end);
            }
            Damage::Cut(at) => {
                let at = place(*at);
                bytes.truncate(at);
            }
        }
    }
    bytes
}

#[test]
fn frozen_messages_are_read() {
    for bytes in fixtures() {
        assert!(kinds_read(&bytes) > 0);
    }
}

/// A length that is only claimed takes no memory.
#[test]
fn a_claimed_length_is_not_believed() {
    for head in [0xdd, 0xdf, 0xc6, 0xdb] {
        assert_eq!(kinds_read(&[head, 0xff, 0xff, 0xff, 0xff]), 0);
    }
    let nested = vec![0x91; 100_000];
    assert_eq!(kinds_read(&nested), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        kinds_read(&bytes);
    }

    #[test]
    fn damaged_messages_are_messages_or_errors(
        which in any::<prop::sample::Index>(),
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let all = fixtures();
        kinds_read(&damaged(all[which.index(all.len())].clone(), &damages));
    }
}
