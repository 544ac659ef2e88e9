//! What follows for a charge by card from what was learned of it.

use onsale_domain::settlement::charge::{BALANCE_CAP_EXCEEDED, Step, World, capture_until, step};
use onsale_domain::settlement::order::{GATEWAY_UNAVAILABLE, Learned, PAYMENT_DECLINED, SECURE_MS};
use onsale_schema::Timestamp;
use onsale_schema::status::OrderStatus;

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

const LEARNED: [Learned; 7] = [
    Learned::Nothing,
    Learned::Captured,
    Learned::Declined,
    Learned::NotCaptured,
    Learned::Odd,
    Learned::Unknown,
    Learned::Unavailable,
];

#[test]
fn each_status_goes_on_as_the_table_says() {
    use Learned as L;
    use OrderStatus as S;
    let open = World {
        settles_at: NOW.plus_ms(1),
        is_over_cap: false,
    };
    let over = World {
        is_over_cap: true,
        ..open
    };
    let settled = World {
        settles_at: NOW,
        ..open
    };
    for (status, world, learned, expected) in [
        (S::Capturing, open, L::Captured, Step::Captured),
        (
            S::Capturing,
            open,
            L::Declined,
            Step::Fail(PAYMENT_DECLINED),
        ),
        (S::Capturing, open, L::Unknown, Step::Doubt),
        (S::Capturing, open, L::Unavailable, Step::Wait),
        (S::Capturing, settled, L::Unavailable, Step::Wait),
        (S::Capturing, open, L::Nothing, Step::Wait),
        (S::Capturing, open, L::Odd, Step::Puzzle),
        (S::Unknown, open, L::NotCaptured, Step::Wait),
        (
            S::Unknown,
            settled,
            L::NotCaptured,
            Step::Fail(GATEWAY_UNAVAILABLE),
        ),
        (S::Unknown, settled, L::Unknown, Step::Doubt),
        (S::Unknown, settled, L::Captured, Step::Captured),
        (S::Unknown, open, L::Declined, Step::Fail(PAYMENT_DECLINED)),
        (S::Captured, settled, L::Nothing, Step::Credit),
        (S::Captured, over, L::Nothing, Step::Refund),
        // What was given up, and was captured nevertheless.
        (S::Failed, settled, L::Captured, Step::Captured),
        (S::Failed, settled, L::NotCaptured, Step::Rest),
        (S::Failed, settled, L::Unavailable, Step::Wait),
        (S::Failed, settled, L::Odd, Step::Puzzle),
        (S::Paid, over, L::Captured, Step::Rest),
        (S::Refunding, open, L::Captured, Step::Rest),
        (S::Refunded, open, L::Captured, Step::Rest),
        (S::Paid, over, L::Odd, Step::Puzzle),
        (S::Refunding, open, L::Odd, Step::Puzzle),
        (S::Refunded, open, L::Unavailable, Step::Wait),
        (S::Paid, open, L::Nothing, Step::Rest),
    ] {
        let made = step(status, &world, learned, NOW);
        assert_eq!(made, expected, "{status:?} {world:?} {learned:?}");
    }
    assert_eq!(capture_until(NOW), NOW.plus_ms(SECURE_MS));
    assert_eq!(BALANCE_CAP_EXCEEDED, "balance-cap-exceeded");
}

/// All that there is: 10 states, 7 words of the gateway, both sides of either bound.
#[test]
fn nothing_fails_that_may_be_captured_and_nothing_captured_is_lost() {
    for status in OrderStatus::ALL {
        for learned in LEARNED {
            for (is_over_cap, ms) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
                let world = World {
                    settles_at: NOW.plus_ms(ms),
                    is_over_cap,
                };
                let made = step(status, &world, learned, NOW);
                let case = format!("{status:?} {world:?} {learned:?} {made:?}");
                let is_asked = matches!(status, OrderStatus::Capturing | OrderStatus::Unknown);
                match made {
                    Step::Fail(_) => {
                        let is_certain = learned == Learned::Declined
                            || learned == Learned::NotCaptured && world.settles_at <= NOW;
                        assert!(is_asked && is_certain, "{case}");
                    }
                    Step::Credit => {
                        assert!(status == OrderStatus::Captured && !is_over_cap, "{case}");
                    }
                    Step::Refund => {
                        assert!(status == OrderStatus::Captured && is_over_cap, "{case}");
                    }
                    Step::Doubt => assert!(is_asked, "{case}"),
                    Step::Puzzle => assert_eq!(learned, Learned::Odd, "{case}"),
                    Step::Captured => assert_eq!(learned, Learned::Captured, "{case}"),
                    Step::Wait | Step::Rest => {}
                }
                // Captured leads on from wherever a capture may be heard of.
                if learned == Learned::Captured && (is_asked || status == OrderStatus::Failed) {
                    assert_eq!(made, Step::Captured, "{case}");
                }
                // An order that is asked for never rests.
                assert!(!(is_asked && made == Step::Rest), "{case}");
            }
        }
    }
}
