//! Facts as other systems see them: JSON, made from the MessagePack of any topic.
//!
//! Whoever publishes or shows facts need not know them: a newer worker has kinds that this program
//! has never heard of, and other topics have other types. So the shape follows from names alone, as
//! everywhere over HTTP: `camelCase`, a time (`at`, `…_at`) is RFC 3339, money ([`MONEY`]) is an
//! object, an id is its text, and a kind is the member `type` of its object. A test holds this
//! against the types of this crate.

use crate::message;
use crate::money::Money;
use crate::settlement;
use crate::time::Timestamp;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};
use std::fmt;
use utoipa::ToSchema;
use uuid::Uuid;

/// The topic of facts about the seats of a schedule.
pub const SEATS: &str = "seats";

/// All topics.
pub const TOPICS: [&str; 2] = [SEATS, settlement::TOPIC];

/// The names under which facts have money.
pub const MONEY: [&str; 8] = [
    "amount", "balance", "captured", "fee", "paid", "price", "refunded", "total",
];
/// The most webhook subscribers: each may be served at the same time as all others.
pub const SUBSCRIBERS_MAX: usize = 100;
/// So many attempts of a webhook subscriber are shown.
pub const ATTEMPTS_SHOWN: usize = 20;
/// The deepest nesting that is read.
const DEPTH_MAX: u8 = 32;

/// A fact's name over all topics: also its message's id on the stream, and its webhook's id. Whoever
/// gets one twice knows it by this.
#[must_use]
pub fn id(topic: &str, aggregate: Uuid, seq: i64) -> String {
    format!("{topic}-{aggregate}-{seq}")
}

/// Topic, aggregate and sequence of such an id.
#[must_use]
pub fn parts_of(id: &str) -> Option<(&str, Uuid, i64)> {
    let (topic, rest) = id.split_once('-')?;
    let (aggregate, seq) = rest.rsplit_once('-')?;
    Some((topic, aggregate.parse().ok()?, seq.parse().ok()?))
}

/// The aggregate's sequence in such an id.
#[must_use]
pub fn seq_of(id: &str) -> Option<i64> {
    id.rsplit_once('-')?.1.parse().ok()
}

/// What a webhook subscriber gets: the facts of one batch and aggregate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// See [`id`]; the same each time that it is sent.
    pub id: String,
    /// What the facts are about.
    #[serde(rename = "type")]
    pub topic: String,
    /// Of whom they are: of a schedule, for seats.
    pub aggregate_id: Uuid,
    /// Numbers the aggregate's facts without a gap.
    pub aggregate_seq: i64,
    /// Numbers what this subscriber gets; the same each time that it is sent. A number that is never
    /// sent says that facts were lost to it, because it was away for too long.
    pub sequence: i64,
    /// When they were written.
    pub occurred_at: Timestamp,
    /// The facts.
    pub data: Value,
}

/// An attempt to deliver something to a webhook subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = WebhookAttempt)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// What was sent.
    #[schema(example = "seats-01980f5e-7c1a-7d3b-9f60-2b8a4c1d7e55-12")]
    pub id: String,
    /// Its number for this subscriber.
    pub sequence: i64,
    /// When.
    pub at: Timestamp,
    /// Which attempt it was, from 1.
    pub attempt: i32,
    /// How long it took, in milliseconds.
    pub duration_ms: i64,
    /// What it was answered with, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub status: Option<u16>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub error: Option<String>,
}

/// The JSON of a fact's MessagePack.
///
/// # Errors
/// When the bytes are no MessagePack with named fields, or nested too deeply.
pub fn to_json(payload: &[u8]) -> Result<Value, message::DecodeError> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(payload);
    let seed = Reading {
        meaning: Meaning::Plain,
        depth: DEPTH_MAX,
    };
    Ok(seed.deserialize(&mut deserializer)?)
}

/// What a number under a name is.
#[derive(Clone, Copy)]
enum Meaning {
    Plain,
    Time,
    Money,
}

impl Meaning {
    fn of(name: &str) -> Self {
        if name == "at" || name.ends_with("_at") {
            Self::Time
        } else if MONEY.contains(&name) {
            Self::Money
        } else {
            Self::Plain
        }
    }
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Reading {
    meaning: Meaning,
    depth: u8,
}

impl Reading {
    fn deeper<E: serde::de::Error>(self, meaning: Meaning) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        let depth = depth.ok_or_else(|| E::custom("nested too deeply"))?;
        Ok(Self { meaning, depth })
    }
}

impl<'de> DeserializeSeed<'de> for Reading {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with named fields")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        let shown = match self.meaning {
            Meaning::Plain => return Ok(value.into()),
            Meaning::Time => serde_json::to_value(Timestamp::from_micros(value)),
            Meaning::Money => serde_json::to_value(Money::won(value)),
        };
        shown.map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        match i64::try_from(value) {
            Ok(signed) => self.visit_i64(signed),
            Err(_) => Ok(value.into()),
        }
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    /// An id; other bytes are shown as a list of numbers.
    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(match Uuid::from_slice(value) {
            Ok(id) => id.to_string().into(),
            Err(_) => value.into(),
        })
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let each = self.deeper(self.meaning)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(each)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(self.deeper(Meaning::of(&name))?)?;
            object.insert(camel_case(&name), value);
        }
        Ok(tagged(object))
    }
}

/// A kind is a map with one member, whose name begins as no field's does.
fn tagged(mut object: Map<String, Value>) -> Value {
    let only = object.keys().next().filter(|_| object.len() == 1).cloned();
    let kind = only.filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase()));
    let Some(kind) = kind else {
        return Value::Object(object);
    };
    let mut tagged = Map::new();
    match object.remove(&kind) {
        Some(Value::Object(fields)) => tagged.extend(fields),
        Some(value) => {
            tagged.insert("value".to_owned(), value);
        }
        None => {}
    }
    tagged.insert("type".to_owned(), kind.into());
    Value::Object(tagged)
}

fn camel_case(name: &str) -> String {
    let mut shown = String::with_capacity(name.len());
    let mut is_next_upper = false;
    for c in name.chars() {
        if c == '_' {
            is_next_upper = true;
        } else if std::mem::take(&mut is_next_upper) {
            shown.push(c.to_ascii_uppercase());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::encode;
    use crate::seats::{Fact, Facts, Hold};
    use crate::status::ReservationStatus;
    use crate::{CommandId, ReservationId, ScheduleId, SeatNo, UserId};

    fn uuid(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    #[test]
    fn facts_look_as_their_types_do_over_http() {
        let at = Timestamp::from_micros(1_790_000_000_000_000);
        let hold = Hold {
            reservation_id: ReservationId(uuid(1)),
            schedule_id: ScheduleId(uuid(2)),
            seats: vec![SeatNo(3), SeatNo(400)],
            total: Money::won(99_000),
            held_at: at,
            expires_at: at.plus_ms(300_000),
        };
        let facts = Facts {
            schedule_id: ScheduleId(uuid(2)),
            version: 7,
            facts: vec![
                Fact::Held {
                    user_id: UserId(uuid(4)),
                    command_id: CommandId(uuid(5)),
                    hold,
                },
                Fact::Ended {
                    reservation_id: ReservationId(uuid(1)),
                    status: ReservationStatus::Expired,
                    at,
                },
            ],
        };
        let shown = to_json(&encode(&facts)).unwrap();
        assert_eq!(
            shown,
            serde_json::json!({
                "scheduleId": uuid(2), "version": 7,
                "facts": [
                    { "type": "Held", "userId": uuid(4), "commandId": uuid(5), "hold": {
                        "reservationId": uuid(1), "scheduleId": uuid(2), "seats": [3, 400],
                        "total": { "amount": 99_000, "currency": "KRW" },
                        "heldAt": "2026-09-21T14:13:20.000Z",
                        "expiresAt": "2026-09-21T14:18:20.000Z",
                    } },
                    { "type": "Ended", "reservationId": uuid(1), "status": "EXPIRED",
                      "at": "2026-09-21T14:13:20.000Z" },
                ],
            })
        );
        // And no member of a type has a name that this page does not know: times and money look as
        // serde has them for people.
        let typed = serde_json::to_value(&facts).unwrap();
        let held = &typed["facts"][0]["Held"]["hold"];
        let ours = &shown["facts"][0]["hold"];
        assert_eq!(held["total"], ours["total"]);
        assert_eq!(held["held_at"], ours["heldAt"]);
    }

    #[test]
    fn what_is_no_message_or_too_deep_is_refused() {
        assert!(to_json(b"\xc1").is_err());
        assert!(to_json(&[]).is_err());
        let deep = vec![0x91; 10_000];
        assert!(to_json(&deep).is_err());
    }

    #[test]
    fn an_id_says_its_sequence() {
        let id = id(SEATS, uuid(1), 42);
        assert_eq!(id, "seats-00000000-0000-0000-0000-000000000001-42");
        assert_eq!(seq_of(&id), Some(42));
        assert_eq!(seq_of("x"), None);
        assert_eq!(parts_of(&id), Some((SEATS, uuid(1), 42)));
        for wrong in [
            "x",
            "seats-1",
            "seats-x-1",
            "seats-00000000-0000-0000-0000-000000000001-x",
        ] {
            assert_eq!(parts_of(wrong), None, "{wrong}");
        }
    }
}
