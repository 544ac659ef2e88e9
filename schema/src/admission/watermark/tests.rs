use super::*;
use uuid::Uuid;

fn watermark(front: u32, moved: u32, measured_ms: u32) -> Watermark {
    let opens_at = Timestamp::from_micros(1_000_000_000);
    Watermark {
        schedule_id: ScheduleId(Uuid::from_u128(1)),
        from_version: 1,
        version: 1,
        at: opens_at,
        policy: Policy::new(QueueMode::Draw, opens_at),
        arrivals: 1_000_000,
        lobby: Some(Lobby {
            closed_at: opens_at,
            size: 10,
            digest: Digest::default(),
            beacon: None,
            order: Some(Order::Drawn {
                seed: Digest([7; 32]),
            }),
        }),
        front: Place(front),
        window: 1200,
        active: 100,
        guests: 0,
        guest_line: None,
        passed: None,
        moved,
        measured_ms,
        is_sale_stopped: false,
        is_cancelled: false,
        generation: Generation::default(),
        changes: Vec::new(),
    }
}

#[test]
fn a_line_is_the_drawn_lobby_and_then_who_came_later() {
    let line = Line::behind(watermark(0, 0, 0).lobby.as_ref().unwrap()).unwrap();
    for end in [0, 3, 10, 12] {
        let before: Vec<_> = line.before(Place(end)).collect();
        let each: Vec<_> = (0..end).map(|at| line.arrival(Place(at))).collect();
        assert_eq!(before, each);
    }
    for no in 0..20 {
        assert_eq!(line.arrival(line.place(ArrivalNo(no))), ArrivalNo(no));
        assert_eq!(line.place(ArrivalNo(no)).0 < 10, no < 10);
    }
    assert_eq!(line.place(ArrivalNo(15)), Place(15));
}

#[test]
fn a_wait_is_told_as_a_range_that_narrows_with_what_was_measured() {
    let now = Timestamp::from_micros(1_100_000_000);
    let eta = |moved, measured_ms| watermark(100, moved, measured_ms).eta(900);
    assert_eq!(eta(0, 60_000), None);
    assert_eq!(eta(600, 0), None);
    // 10 a second: a minute and a half.
    assert_eq!(
        eta(600, 60_000),
        Some(Eta {
            low_ms: 78_260,
            high_ms: 105_882
        })
    );
    assert_eq!(
        eta(10, 1000),
        Some(Eta {
            low_ms: 54_216,
            high_ms: 264_705
        })
    );
    // Of 600 who are before the line, some may be among those ahead.
    let mut guests = watermark(100, 600, 60_000);
    guests.guests = 600;
    assert_eq!(
        guests.eta(300),
        Some(Eta {
            low_ms: 52_173,
            high_ms: 105_882
        })
    );
    let mut paused = watermark(100, 600, 60_000);
    paused.policy.paused = true;
    assert_eq!(paused.sight(Some(Place(1000)), ArrivalNo(1), now).eta, None);
    let mut unsold = watermark(100, 600, 60_000);
    unsold.is_sale_stopped = true;
    assert_eq!(unsold.eta(900), None);
}

#[test]
fn the_more_guests_there_are_the_later_each_asks_again() {
    let told = |guests: u32| {
        let mut told = watermark(500, 600, 60_000);
        (told.guests, told.policy.rate_per_second) = (guests, 10);
        let now = told.policy.opens_at;
        let sight = told.guest_sight(None, ArrivalNo(7), now.plus_ms(1));
        sight.poll_after_ms
    };
    let all: Vec<u32> = [0, 300, 1000, 100_000].map(told).to_vec();
    assert!(all.is_sorted() && all[0] == all[1], "{all:?}");
    assert!(all[1] <= 3600 && all[2] >= 8000, "{all:?}");
    assert!(all[3] <= 18_000, "they have to be heard: {all:?}");
}

#[test]
fn a_guest_does_not_ask_every_moment_for_hours_before_the_opening() {
    let told = |before_s: i64, active| {
        let mut told = watermark(0, 0, 0);
        (told.guests, told.active, told.policy.presence_ms) = (5, active, 60_000);
        let now = told.policy.opens_at.plus_ms(-before_s * 1000);
        told.guest_sight(None, ArrivalNo(7), now).poll_after_ms
    };
    let lobby = |before_s: i64| {
        let told = watermark(0, 0, 0);
        let now = told.policy.opens_at.plus_ms(-before_s * 1000);
        told.sight(None, ArrivalNo(7), now).poll_after_ms
    };
    for before_s in [7200, 60, 10, 1, 0] {
        // Who is let in first need not wait for its turn to ask.
        assert!(told(before_s, 50) <= lobby(before_s), "{before_s}");
    }
    assert_eq!(told(7200, 50), lobby(7200));
    assert!(told(7200, 50) >= 12_000);
    // In a presale that is full whoever is next asks as often as ever.
    let full = told(7200, 100);
    assert!(full <= 3600 && full == told(-60, 100), "{full}");
}

#[test]
fn a_guest_is_told_how_many_are_before_it_in_its_own_line() {
    let now = Timestamp::from_micros(1_100_000_000);
    let mut told = watermark(500, 600, 60_000);
    (told.guests, told.guest_line) = (
        50,
        Some(GuestLine {
            front: 40,
            arrivals: 100,
        }),
    );
    let sight = |no| told.guest_sight(no, ArrivalNo(7), now);
    let eta = |low_ms, high_ms| Some(Eta { low_ms, high_ms });
    // Of the 60 from the front on, 10 have left: perhaps of those before it, perhaps of the others.
    for (no, ahead, range) in [
        (99, 59, eta(4260, 5882)),
        (70, 30, eta(1739, 3529)),
        (45, 5, eta(0, 588)),
        (40, 0, eta(0, 0)),
        // Passed over, or let in.
        (3, 0, eta(0, 0)),
    ] {
        let it = sight(Some(no));
        assert_eq!(
            (it.position, it.ahead, it.eta),
            (Some(no + 1), Some(ahead), range)
        );
    }
    // Who was given a ticket before they had numbers.
    let old = sight(None);
    assert_eq!((old.position, old.ahead, old.eta), (None, None, None));
    told.guest_line = None;
    let read = told.guest_sight(Some(3), ArrivalNo(7), now);
    assert_eq!(
        (read.position, read.ahead, read.eta),
        (Some(4), None, None),
        "before its owner has said anything"
    );
}

#[test]
fn the_farther_away_the_later_a_client_asks_again() {
    let now = Timestamp::from_micros(1_100_000_000);
    let told = |ahead: u32| {
        let sight = watermark(500, 600, 60_000).sight(Some(Place(500 + ahead)), ArrivalNo(7), now);
        assert_eq!(sight.ahead, Some(ahead));
        assert_eq!(sight.position, Some(501 + ahead));
        sight.poll_after_ms
    };
    let all: Vec<u32> = [0, 10, 100, 500, 1000, 5000, 100_000, 999_000]
        .map(told)
        .to_vec();
    assert!(all.is_sorted(), "{all:?}");
    assert!(all[0] <= 1200 && *all.last().unwrap() >= 48_000, "{all:?}");
    // Who has to be heard asks in time.
    assert!(all[4] <= 18_000, "{all:?}");
    // Before the front: passed over.
    let passed = watermark(500, 600, 60_000).sight(Some(Place(3)), ArrivalNo(7), now);
    assert_eq!((passed.ahead, passed.position), (Some(0), Some(4)));
    for (place, is_wanted) in [(3, true), (1699, true), (1700, false)] {
        let told = watermark(500, 600, 60_000);
        assert_eq!(told.wants_report(Some(Place(place))), is_wanted);
    }
    assert!(watermark(0, 0, 0).wants_report(None));
    // In the lobby, an hour before the opening.
    let early = Timestamp::from_micros(-2_600_000_000);
    let lobby = watermark(0, 0, 0).sight(None, ArrivalNo(7), early);
    assert_eq!((lobby.ahead, lobby.position, lobby.eta), (None, None, None));
    assert!((12_000..=18_000).contains(&lobby.poll_after_ms));
    // After it, while a beacon is waited for, no more often.
    let late = watermark(0, 0, 0).sight(None, ArrivalNo(7), now);
    assert!((12_000..=18_000).contains(&late.poll_after_ms));
}

/// Whoever is told to come back after the opening does so one after the other: no second of it brings much
/// more than any other.
#[test]
fn a_lobby_does_not_ask_all_at_once_when_it_opens() {
    for arrivals in [1, 5000, 20_000, 1_000_000] {
        let room = Watermark {
            arrivals,
            ..watermark(0, 0, 0)
        };
        let opens_at = room.policy.opens_at;
        // They have asked at any time of the last seconds before it.
        let mut seconds = [0_u64; 60];
        for no in 0..arrivals {
            let before_ms = i64::from(no.wrapping_mul(2_654_435_761) % 15_000);
            let told = room.sight(None, ArrivalNo(no), opens_at.plus_ms(-before_ms));
            let after_ms = i64::from(told.poll_after_ms) - before_ms;
            if let Ok(ms) = usize::try_from(after_ms) {
                seconds[ms / 1000] += 1;
            }
        }
        let most = u64::from(arrivals)
            .div_ceil(8)
            .max(POLLS_AT_OPENING * 3 / 2);
        assert!(seconds.iter().all(|polls| *polls <= most), "{seconds:?}");
        // And in time.
        let last = seconds.iter().rposition(|polls| *polls > 0);
        assert!(last.is_some_and(|last| last < 20), "{seconds:?}");
    }
}
