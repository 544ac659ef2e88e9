//! What the tests of the decisions share: short ids, a seeded generator, and the seed in every
//! failure.
#![allow(dead_code, reason = "each test uses a part of it")]

use onsale_domain::settlement::refund::{Entry, Ours};
use onsale_schema::message::Fingerprint;
use onsale_schema::status::RefundStatus;
use onsale_schema::{
    BlockId, CancellationId, CommandId, Money, NoticeId, PaymentId, PaymentOrderId, RefundId,
    ReservationId, ScheduleId, SeatNo, Timestamp, TransferId, UserId,
};
use uuid::Uuid;

macro_rules! short_ids {
    ($($name:ident -> $type:ident;)*) => {$(
        pub fn $name(n: u128) -> $type {
            $type(Uuid::from_u128(n))
        }
    )*};
}

short_ids! {
    user -> UserId;
    command_id -> CommandId;
    fingerprint -> Fingerprint;
    reservation_id -> ReservationId;
    schedule_id -> ScheduleId;
    notice_id -> NoticeId;
    order_id -> PaymentOrderId;
    block_id -> BlockId;
    payment_id -> PaymentId;
    transfer_id -> TransferId;
    refund_id -> RefundId;
    cancellation_id -> CancellationId;
}

/// Seconds since the Unix epoch.
pub fn at_s(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

pub fn seat_nos(seats: &[i32]) -> Vec<SeatNo> {
    seats.iter().copied().map(SeatNo).collect()
}

/// A refund by its number.
pub fn ours(n: u128, won: i64, status: RefundStatus) -> Ours {
    Ours {
        refund_id: refund_id(n),
        amount: Money::won(won),
        status,
    }
}

/// What was given back: by which refund, or by hand.
pub fn entry(named: Option<u128>, won: i64) -> Entry {
    Entry {
        refund_id: named.map(refund_id),
        amount: Money::won(won),
    }
}

/// SplitMix64: the same numbers from the same seed, on every machine and for ever.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn uuid(&mut self) -> Uuid {
        Uuid::from_u128((u128::from(self.next()) << 64) | u128::from(self.next()))
    }

    /// From `low` to `high`, both included.
    pub fn range(&mut self, low: i64, high: i64) -> i64 {
        let count = u64::try_from(high - low + 1).expect("low is not above high");
        low + i64::try_from(self.next() % count).expect("the rest of a small range is small")
    }

    pub fn percent(&mut self, percent: i64) -> bool {
        self.range(1, 100) <= percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let last = i64::try_from(from.len()).expect("a small list") - 1;
        (last >= 0).then(|| &from[usize::try_from(self.range(0, last)).expect("not negative")])
    }
}

const SEED_VAR: &str = "ONSALE_TEST_SEED";

/// Whether one seed is asked for.
pub fn is_replay() -> bool {
    std::env::var_os(SEED_VAR).is_some()
}

/// Runs `test` with seeds 0 to `count`, or with the one in the environment variable
/// `ONSALE_TEST_SEED`. A failure says its seed.
pub fn for_seeds(count: u64, test: impl Fn(u64)) {
    struct SayOnPanic(u64);
    impl Drop for SayOnPanic {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("failed with this seed; replay: ONSALE_TEST_SEED={}", self.0);
            }
        }
    }
    let run = |seed| {
        let _say = SayOnPanic(seed);
        test(seed);
    };
    match std::env::var(SEED_VAR) {
        Ok(seed) => run(seed.parse().expect("ONSALE_TEST_SEED is a number")),
        Err(_) => (0..count).for_each(run),
    }
}
