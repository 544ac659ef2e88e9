//! What the demo has on sale: artists and places that don't exist, one date for each case that a
//! visitor wants to see.

use chrono::{DateTime, Days, NaiveDate, Utc};
use onsale_schema::status::SaleState;
use onsale_schema::{ConcertId, ScheduleId, Timestamp};
use uuid::Uuid;

use super::layout::Layout;
use super::schedule::{NewConcert, NewSchedule, Policy};

/// The concert in the hall.
pub const HALL_CONCERT: ConcertId = ConcertId(fixed(0x01));
const STADIUM_CONCERT: ConcertId = ConcertId(fixed(0x02));
const CLUB_CONCERT: ConcertId = ConcertId(fixed(0x03));
const PAST_CONCERT: ConcertId = ConcertId(fixed(0x04));

/// 1,000 seats, on sale.
pub const HALL: ScheduleId = ScheduleId(fixed(0x10));
/// 1,000 seats, not yet on sale.
pub const HALL_LATER: ScheduleId = ScheduleId(fixed(0x11));
/// 50,000 seats, on sale.
pub const STADIUM: ScheduleId = ScheduleId(fixed(0x12));
/// 100 seats, on sale, with holds of [`CLUB_HOLD_MS`].
pub const CLUB: ScheduleId = ScheduleId(fixed(0x14));
/// 100 seats, booking is over.
pub const CLOSED: ScheduleId = ScheduleId(fixed(0x15));

/// How long a hold lasts, in milliseconds, where nothing else is said.
pub const HOLD_MS: i64 = 5 * 60 * 1000;
/// How long a hold lasts in the club, in milliseconds: short, so that one can be seen to lapse.
pub const CLUB_HOLD_MS: i64 = 5 * 1000;
/// The most live seats of one user.
pub const SEATS_PER_USER: i32 = 4;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// The same ids in every installation, so that links to the demo can be copied.
const fn fixed(n: u8) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | n as u128)
}

/// The venues' layouts, built once.
pub struct Layouts {
    /// 1,000 seats.
    pub hall: Layout,
    /// 50,000 seats.
    pub stadium: Layout,
    /// 100 seats.
    pub club: Layout,
}

impl Layouts {
    /// Builds them.
    #[must_use]
    pub fn build() -> Self {
        Self {
            hall: Layout::hall(),
            stadium: Layout::stadium(),
            club: Layout::club(),
        }
    }
}

/// The concerts, as of `now`.
#[must_use]
pub fn concerts(now: Timestamp) -> [NewConcert<'static>; 4] {
    [
        NewConcert {
            concert_id: HALL_CONCERT,
            title: "별이 지는 밤 — First Light",
            artist: "새벽의 온도 (Temperature of Dawn)",
            venue: "온세일 홀 (Onsale Hall)",
            description: "두 번째 정규 앨범의 모든 곡을 현악 사중주와 함께. \
                          The whole second album, with a string quartet.",
            starts_on: day(now, 60),
            ends_on: day(now, 67),
        },
        NewConcert {
            concert_id: STADIUM_CONCERT,
            title: "Paper Lanterns: A Hundred Thousand Lights",
            artist: "Paper Lanterns (종이등불)",
            venue: "강변 스타디움 (Riverside Stadium)",
            description: "One night, one stadium, no support act. 단 하루, 오직 종이등불.",
            starts_on: day(now, 90),
            ends_on: day(now, 90),
        },
        NewConcert {
            concert_id: CLUB_CONCERT,
            title: "벨벳 하버의 작은 밤 (A Small Night)",
            artist: "Velvet Harbor (벨벳 하버)",
            venue: "클럽 등대 (Club Lighthouse)",
            description: "백 석, 마이크 하나. A hundred seats and one microphone; holds last five \
                          seconds.",
            starts_on: day(now, 30),
            ends_on: day(now, 30),
        },
        NewConcert {
            concert_id: PAST_CONCERT,
            title: "달빛유랑단 겨울 이야기",
            artist: "달빛유랑단 (The Moonlight Wanderers)",
            venue: "클럽 등대 (Club Lighthouse)",
            description: "예매가 끝났습니다. Booking is over.",
            starts_on: day(now, 3),
            ends_on: day(now, 3),
        },
    ]
}

/// Their dates, as of `now`.
#[must_use]
pub fn schedules(now: Timestamp, layouts: &Layouts) -> [(&'static str, NewSchedule<'_>); 5] {
    let open = Policy {
        state: SaleState::Open,
        booking_opens_at: now.plus_ms(-DAY_MS),
        booking_closes_at: now.plus_ms(5 * 365 * DAY_MS),
        hold_ms: HOLD_MS,
        seats_per_user: SEATS_PER_USER,
    };
    let date = |schedule_id, concert_id, days, layout, policy| NewSchedule {
        schedule_id,
        concert_id,
        starts_at: evening(now, days),
        layout,
        policy,
    };
    let later = Policy {
        booking_opens_at: now.plus_ms(365 * DAY_MS),
        ..open
    };
    let short = Policy {
        hold_ms: CLUB_HOLD_MS,
        ..open
    };
    let over = Policy {
        booking_opens_at: now.plus_ms(-30 * DAY_MS),
        booking_closes_at: now.plus_ms(-DAY_MS),
        ..open
    };
    [
        (
            "a hall of 1,000 seats",
            date(HALL, HALL_CONCERT, 60, &layouts.hall, open),
        ),
        (
            "the hall again, not on sale yet",
            date(HALL_LATER, HALL_CONCERT, 67, &layouts.hall, later),
        ),
        (
            "a club of 100 seats, with short holds",
            date(CLUB, CLUB_CONCERT, 30, &layouts.club, short),
        ),
        (
            "the club, booking over",
            date(CLOSED, PAST_CONCERT, 3, &layouts.club, over),
        ),
        (
            "a stadium of 50,000 seats",
            date(STADIUM, STADIUM_CONCERT, 90, &layouts.stadium, open),
        ),
    ]
}

fn day(now: Timestamp, days: u64) -> NaiveDate {
    DateTime::<Utc>::from(now).date_naive() + Days::new(days)
}

/// Seven in the evening in Seoul, which is ten in the morning UTC.
fn evening(now: Timestamp, days: u64) -> Timestamp {
    let at = day(now, days)
        .and_hms_opt(10, 0, 0)
        .expect("ten o'clock is a time");
    at.and_utc().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_schema::partition::of_schedule;

    #[test]
    fn every_date_has_its_concert_and_the_busy_ones_have_owners_of_their_own() {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        let concerts = concerts(now);
        let layouts = Layouts::build();
        for (_, schedule) in schedules(now, &layouts) {
            let concert = concerts
                .iter()
                .find(|c| c.concert_id == schedule.concert_id)
                .unwrap();
            let date = DateTime::<Utc>::from(schedule.starts_at).date_naive();
            assert!((concert.starts_on..=concert.ends_on).contains(&date));
            assert!(schedule.policy.booking_opens_at < schedule.policy.booking_closes_at);
        }
        let mut partitions = [HALL, STADIUM, CLUB].map(|id| of_schedule(id, 16)).to_vec();
        partitions.sort_unstable();
        partitions.dedup();
        assert_eq!(partitions.len(), 3);
    }
}
