//! How samples are frozen, see `fixtures/main.rs`.

use onsale_schema::message::{
    Command, CommandMessage, Fingerprint, MessageOutcomes, Reply, decode, encode,
};
use onsale_schema::{CommandId, IngressId, MessageId, Timestamp, UserId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::path::PathBuf;
use uuid::Uuid;

pub fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + n)
}

pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_micros(1_790_000_000_000_000).plus_ms(ms)
}

pub fn message<K>(kind: K) -> CommandMessage<K> {
    let command = Command {
        id: CommandId(uuid(1)),
        user: UserId(uuid(2)),
        fingerprint: Fingerprint(uuid(3)),
        deadline: at(5000),
        trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        kind,
    };
    CommandMessage {
        id: MessageId(uuid(4)),
        reply_to: Some(IngressId(uuid(5))),
        commands: vec![command],
    }
}

pub fn reply<O>(outcomes: Vec<O>) -> Reply<O> {
    let message = MessageOutcomes {
        message_id: MessageId(uuid(4)),
        outcomes,
    };
    Reply {
        messages: vec![message],
    }
}

/// Compares one sample with its file.
pub fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, sample: &T) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/{name}.msgpack"));
    if std::env::var_os("ONSALE_FREEZE").is_some() && !file.exists() {
        std::fs::write(&file, encode(sample)).expect("the fixtures folder is writable");
    }
    let frozen = std::fs::read(&file).unwrap_or_else(|e| panic!("{name} is not frozen: {e}"));
    assert_eq!(decode::<T>(&frozen).expect(name), *sample, "{name}");
}
