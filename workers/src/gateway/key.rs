//! The names that we and the gateway have for things, so that none is taken for another.

use onsale_schema::UserId;
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The most characters of a key that a gateway gives; the tables' bound.
const KEY_CHARS_MAX: usize = 200;
/// The most characters of an order's name.
const ORDER_CHARS_MAX: usize = 64;
/// The most characters of a customer's name.
const CUSTOMER_CHARS_MAX: usize = 50;

/// Not such a name. It is not repeated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a name that a payment gateway uses")]
pub struct Invalid;

macro_rules! name {
    ($($(#[doc = $doc:literal])* $name:ident($max:expr, $allowed:expr);)*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// As it is written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                let allowed: fn(u8) -> bool = $allowed;
                let fits = (1..=$max).contains(&text.len()) && text.bytes().all(allowed);
                if fits { Ok(Self(text.to_owned())) } else { Err(Invalid) }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

/// What stands in a path and a header as it is.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=')
}

name! {
    /// What the gateway calls a payment. It serves one order.
    PaymentKey(KEY_CHARS_MAX, is_plain);
    /// What the gateway calls an entry of its book.
    TransactionKey(KEY_CHARS_MAX, is_plain);
    /// What the gateway knows an order of ours by: our id of it.
    OrderId(ORDER_CHARS_MAX, is_plain);
    /// What the gateway knows a customer of ours by: our id of the user.
    CustomerKey(CUSTOMER_CHARS_MAX, is_plain);
}

impl From<UserId> for CustomerKey {
    fn from(user: UserId) -> Self {
        Self(user.to_string())
    }
}

impl From<Uuid> for OrderId {
    fn from(id: Uuid) -> Self {
        Self(id.to_string())
    }
}

impl OrderId {
    /// Our id; none when it is no order of ours.
    #[must_use]
    pub fn uuid(&self) -> Option<Uuid> {
        self.0.parse().ok()
    }
}

/// Names a wish to the gateway, so that it grants it once: derived from what it is for, never made up
/// for an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(pub Uuid);

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_can_stand_in_a_path() {
        for good in [
            "tviva20240929",
            "5zJ4xY7m0kODnyRpQWGrN2xqGlNvLrKw",
            "a-b_c=",
        ] {
            assert_eq!(
                good.parse::<PaymentKey>().map(|key| key.0),
                Ok(good.to_owned())
            );
        }
        let long = "x".repeat(KEY_CHARS_MAX + 1);
        for bad in [
            "", "a/b", "a b", "a%2fb", "열쇠", "a?b", "a#b", "a\nb", &long,
        ] {
            assert_eq!(bad.parse::<PaymentKey>(), Err(Invalid), "{bad}");
        }
        // A path would go up by these.
        for bad in [".", ".."] {
            assert_eq!(bad.parse::<PaymentKey>(), Err(Invalid), "{bad}");
        }
    }

    #[test]
    fn an_order_is_known_by_our_id() {
        let id = Uuid::from_u128(7);
        assert_eq!(OrderId::from(id).uuid(), Some(id));
        let other: OrderId = "somebody-elses".parse().unwrap();
        assert_eq!(other.uuid(), None);
    }
}
