//! Frozen samples: what an older process wrote must be read by this one for as long as it may lie
//! on a stream or in a table.
//!
//! To freeze a new kind, add it to `samples` and run with `ONSALE_FREEZE=1`, which writes the
//! missing files and never changes one that is there.

#[path = "frozen/mod.rs"]
mod frozen;

use frozen::{at, check, message, reply, uuid};
use onsale_schema::message::{Lag, Revocation, decode, encode};
use onsale_schema::seats::{
    self, Fact, Facts, Hold, MapBroadcast, MapChange, Policy, PolicyChange,
};
use onsale_schema::status::{
    ChargeMethod, ClaimState, PaymentMethod, RefundStatus, ReservationStatus, SaleState,
};
use onsale_schema::{
    BlockId, CancellationId, CommandId, Lane, Money, NoticeId, PartitionNo, PaymentId,
    PaymentOrderId, RefundId, ReservationId, ScheduleId, SeatNo, SessionId, TransferId, UserId,
    ledger, settlement,
};
use serde::Serialize;

fn hold() -> Hold {
    Hold {
        reservation_id: ReservationId(uuid(6)),
        schedule_id: ScheduleId(uuid(7)),
        seats: vec![SeatNo(0), SeatNo(49_999)],
        total: Money::won(264_000),
        held_at: at(0),
        expires_at: at(300_000),
    }
}

fn policy() -> Policy {
    Policy {
        state: SaleState::Paused,
        booking_opens_at: at(0),
        booking_closes_at: at(1000),
        hold_ms: 300_000,
        seats_per_user: 4,
        extensions_max: 0,
        hold_total_ms: 0,
        prevents_orphans: false,
        release_jitter_ms: 0,
        cancelled: false,
    }
}

/// The first form had no terms.
fn policy_with_terms() -> Policy {
    Policy {
        extensions_max: 2,
        hold_total_ms: 900_000,
        prevents_orphans: true,
        release_jitter_ms: 30_000,
        ..policy()
    }
}

#[test]
fn seats_commands() {
    let (reservation_id, schedule_id) = (ReservationId(uuid(6)), ScheduleId(uuid(7)));
    let kinds = [
        seats::Kind::Hold {
            reservation_id,
            schedule_id,
            seats: vec![SeatNo(3), SeatNo(4)],
            places: vec![],
            layout_no: None,
            pass: None,
        },
        seats::Kind::HoldBest {
            reservation_id,
            schedule_id,
            count: 3,
            section: Some("A".into()),
            grade: Some("VIP".into()),
            max_price: Some(Money::won(99_000)),
            layout_no: Some(2),
            pass: None,
        },
        seats::Kind::Release {
            reservation_id,
            schedule_id,
        },
        seats::Kind::Extend {
            reservation_id,
            schedule_id,
        },
        seats::Kind::Expire {
            reservation_id,
            schedule_id,
            expires_at: at(300_000),
        },
        seats::Kind::Paid {
            notice_id: NoticeId(uuid(8)),
            reservation_id,
            schedule_id,
        },
        seats::Kind::PaidAll {
            notice_id: NoticeId(uuid(8)),
            reservation_ids: vec![reservation_id, ReservationId(uuid(26))],
            schedule_id,
        },
        seats::Kind::Policy {
            schedule_id,
            change: PolicyChange {
                state: Some(SaleState::Paused),
                booking_opens_at: Some(at(0)),
                booking_closes_at: Some(at(1000)),
                hold_ms: Some(300_000),
                seats_per_user: Some(4),
                ..PolicyChange::default()
            },
        },
    ];
    for kind in kinds {
        check(&format!("seats-{}", kind.name()), &message(kind));
    }
    // The first form of a hold said no layout.
    let hold = seats::Kind::Hold {
        reservation_id,
        schedule_id,
        seats: vec![SeatNo(3), SeatNo(4)],
        places: vec![],
        layout_no: Some(2),
        pass: None,
    };
    check("seats-hold-layout", &message(hold));
    let mixed = seats::Kind::Hold {
        reservation_id,
        schedule_id,
        seats: vec![SeatNo(3)],
        places: vec![seats::Places {
            section: "FLOOR".into(),
            count: 2,
        }],
        layout_no: Some(2),
        pass: None,
    };
    check("seats-hold-places", &message(mixed));
    let any = seats::Kind::HoldBest {
        reservation_id,
        schedule_id,
        count: 1,
        section: None,
        grade: None,
        max_price: None,
        layout_no: None,
        pass: None,
    };
    check("seats-hold-best-any", &message(any));
    let unchanged = seats::Kind::Policy {
        schedule_id,
        change: PolicyChange::default(),
    };
    check("seats-policy-empty", &message(unchanged));
    let terms = seats::Kind::Policy {
        schedule_id,
        change: PolicyChange {
            extensions_max: Some(2),
            hold_total_ms: Some(900_000),
            prevents_orphans: Some(true),
            release_jitter_ms: Some(30_000),
            ..PolicyChange::default()
        },
    };
    check("seats-policy-terms", &message(terms));
    let cancelled = seats::Kind::Policy {
        schedule_id,
        change: PolicyChange {
            cancelled: true,
            ..PolicyChange::default()
        },
    };
    check("seats-policy-cancelled", &message(cancelled));
    let policy = Policy {
        state: SaleState::Closed,
        cancelled: true,
        ..policy_with_terms()
    };
    let outcomes = vec![seats::Outcome::Policy(policy)];
    check("seats-reply-policy-cancelled", &reply(outcomes));
}

#[test]
fn blocks() {
    use seats::Outcome;
    let (block_id, schedule_id) = (BlockId(uuid(12)), ScheduleId(uuid(7)));
    let (user_id, command_id) = (UserId(uuid(2)), CommandId(uuid(1)));
    let seats = vec![SeatNo(3), SeatNo(49_999)];
    let block = seats::Kind::Block {
        block_id,
        schedule_id,
        seats: seats.clone(),
        reason: "a camera stands there".into(),
        layout_no: Some(2),
    };
    check("seats-block", &message(block));
    let unblock = |seats, reason| seats::Kind::Unblock {
        block_id,
        schedule_id,
        seats,
        reason,
    };
    check("seats-unblock", &message(unblock(None, None)));
    let some = unblock(Some(seats.clone()), Some("it is gone".into()));
    check("seats-unblock-some", &message(some));
    let outcomes = vec![
        Outcome::Blocked { block_id },
        Outcome::Unblocked {
            block_id,
            command_id,
        },
    ];
    check("seats-reply-blocks", &reply(outcomes));
    let lifted = |reason| Fact::Unblocked {
        user_id,
        command_id,
        block_id,
        seats: seats.clone(),
        reason,
        at: at(1000),
    };
    let blocked = Fact::Blocked {
        user_id,
        command_id,
        block_id,
        seats: seats.clone(),
        reason: "a camera stands there".into(),
        at: at(0),
    };
    let facts = Facts {
        schedule_id,
        version: 12,
        facts: vec![blocked, lifted(None), lifted(Some("it is gone".into()))],
    };
    check("seats-facts-blocks", &facts);
}

/// What settlement tells the owner of seats besides that a hold is paid.
#[test]
fn notices_of_settlement() {
    use seats::{Outcome, Refusal};
    let (reservation_id, schedule_id) = (ReservationId(uuid(6)), ScheduleId(uuid(7)));
    let (notice_id, order_id) = (NoticeId(uuid(8)), PaymentOrderId(uuid(13)));
    let (user_id, lapsed_id) = (UserId(uuid(2)), ReservationId(uuid(14)));
    let seats = vec![SeatNo(0), SeatNo(49_999)];
    let kinds = [
        seats::Kind::Secure {
            notice_id,
            order_id,
            reservation_id,
            schedule_id,
            until: at(360_000),
        },
        seats::Kind::Unsecure {
            notice_id,
            order_id,
            reservation_id,
            schedule_id,
        },
        seats::Kind::Rehold {
            notice_id,
            order_id,
            reservation_id,
            lapsed_id,
            schedule_id,
            user_id,
            seats: seats.clone(),
            total: Money::won(264_000),
        },
        seats::Kind::Cancelled {
            notice_id,
            reservation_id,
            schedule_id,
            seats: seats.clone(),
            at: at(400_000),
        },
    ];
    for kind in kinds {
        check(&format!("seats-{}", kind.name()), &message(kind));
    }
    let outcomes = vec![Outcome::Refused(Refusal::PaymentInProgress)];
    check("seats-reply-payments", &reply(outcomes));
    let cancelled = Fact::Cancelled {
        reservation_id,
        seats,
        at: at(400_000),
    };
    let reheld = Fact::Reheld {
        user_id,
        order_id,
        lapsed_id,
        hold: Hold {
            expires_at: at(0),
            ..hold()
        },
    };
    let facts = Facts {
        schedule_id,
        version: 12,
        facts: vec![cancelled, reheld],
    };
    check("seats-facts-payments", &facts);
}

#[test]
fn money_commands() {
    let charge = |method| ledger::Kind::Charge {
        amount: Money::won(50_000),
        method,
    };
    check("ledger-charge-card", &message(charge(ChargeMethod::Card)));
    check("ledger-charge-cash", &message(charge(ChargeMethod::Cash)));
    let pay = settlement::Kind::Pay {
        payment_id: PaymentId(uuid(9)),
        reservation_id: ReservationId(uuid(6)),
        method: PaymentMethod::Points,
    };
    check("settlement-pay", &message(pay));
}

#[test]
fn orders() {
    use settlement::{Kind, Order, Outcome, Refusal};
    let (order_id, reservation_id) = (PaymentOrderId(uuid(16)), ReservationId(uuid(6)));
    let amount = Money::won(154_000);
    let order = Kind::Order {
        order_id,
        reservation_id,
    };
    check("settlement-order", &message(order));
    let confirm = Kind::Confirm {
        order_id,
        payment_key: "tviva20240929".into(),
        amount,
    };
    check("settlement-confirm", &message(confirm));
    let event = Kind::GatewayEvent {
        event_id: "msg_p5jXN8AQM9LWM0D4loKWxJek".into(),
        order_id,
        is_captured: false,
    };
    check("settlement-gateway-event", &message(event));
    let event = Kind::GatewayEvent {
        event_id: "msg_p5jXN8AQM9LWM0D4loKWxJek".into(),
        order_id,
        is_captured: true,
    };
    check("settlement-gateway-event-captured", &message(event));
    let order = Order {
        order_id,
        reservation_id,
        amount,
    };
    let mut outcomes = vec![
        Outcome::Ordered(order.clone()),
        Outcome::Confirmed(order),
        Outcome::Noted,
    ];
    let refused = [
        Refusal::PaymentInProgress,
        Refusal::AmountMismatch,
        Refusal::NothingToPay,
        Refusal::OrderConflict {
            status: onsale_schema::status::OrderStatus::Failed,
        },
        Refusal::PaymentKeyUsed,
    ];
    outcomes.extend(refused.map(Outcome::Refused));
    check("settlement-reply-orders", &reply(outcomes));
    let refused = vec![Outcome::Refused(Refusal::GatewayNotConfigured)];
    check("settlement-reply-gateway", &reply(refused));
}

#[test]
fn tasks() {
    use settlement::{Kind, Outcome, RefundTask, Refusal};
    let refund_id = RefundId(uuid(17));
    check(
        "settlement-retry-refund",
        &message(Kind::RetryRefund { refund_id }),
    );
    let note = "Bank transfer, ref. 4711".to_owned();
    let resolve = Kind::ResolveRefund { refund_id, note };
    check("settlement-resolve-refund", &message(resolve));
    let attended = |status| {
        Outcome::Attended(RefundTask {
            refund_id,
            status,
            at: at(1000),
        })
    };
    let status = RefundStatus::Done;
    let outcomes = vec![
        attended(RefundStatus::Pending),
        attended(RefundStatus::Resolved),
        Outcome::Refused(Refusal::RefundConflict { status }),
    ];
    check("settlement-reply-tasks", &reply(outcomes));
}

#[test]
fn cancellations() {
    use settlement::{Cancellation, Fact, Facts, Kind, Outcome, Refund, Refusal};
    let (cancellation_id, reservation_id) = (CancellationId(uuid(15)), ReservationId(uuid(6)));
    let (schedule_id, user_id, seats) = (ScheduleId(uuid(7)), UserId(uuid(2)), vec![SeatNo(3)]);
    let cancel = |seats| Kind::Cancel {
        cancellation_id,
        reservation_id,
        seats,
    };
    check("settlement-cancel", &message(cancel(Some(seats.clone()))));
    check("settlement-cancel-all", &message(cancel(None)));
    let places = Kind::CancelPlaces {
        cancellation_id,
        reservation_id,
        seats: seats.clone(),
        places: vec![seats::Places {
            section: "FLOOR".into(),
            count: 2,
        }],
    };
    check("settlement-cancel-places", &message(places));
    let refund = |method, status| Some(Refund { method, status });
    let cancelled = |refund| {
        Outcome::Cancelled(Cancellation {
            cancellation_id,
            reservation_id,
            schedule_id,
            seats: seats.clone(),
            fee: Money::won(9_900),
            refunded: Money::won(89_100),
            refund,
            at: at(1000),
        })
    };
    let outcomes = vec![
        cancelled(None),
        cancelled(refund(PaymentMethod::Points, RefundStatus::Done)),
        cancelled(refund(PaymentMethod::Gateway, RefundStatus::Pending)),
        cancelled(refund(PaymentMethod::Gateway, RefundStatus::Stuck)),
        Outcome::Refused(Refusal::CancellationClosed),
        Outcome::Refused(Refusal::UnknownSeat),
        Outcome::Refused(Refusal::ShowCancelled),
    ];
    check("settlement-reply-cancellations", &reply(outcomes));
    let facts = vec![
        Fact::Paid {
            reservation_id,
            user_id,
            payment_id: PaymentId(uuid(9)),
            method: PaymentMethod::Gateway,
            amount: Money::won(99_000),
            at: at(0),
        },
        Fact::Cancelled {
            reservation_id,
            user_id,
            cancellation_id,
            by: user_id,
            of_show: false,
            seats,
            is_whole: true,
            fee: Money::won(9_900),
            refunded: Money::won(89_100),
            refund: refund(PaymentMethod::Gateway, RefundStatus::Pending),
            at: at(1000),
        },
        Fact::Refunded {
            reservation_id,
            user_id,
            cancellation_id: Some(cancellation_id),
            amount: Money::won(89_100),
            at: at(2000),
        },
    ];
    let facts = Facts { schedule_id, facts };
    check("settlement-facts", &facts);
}

#[test]
fn outcomes() {
    use seats::{Outcome, Refusal};
    let refused = [
        Refusal::CommandExpired,
        Refusal::KeyReused,
        Refusal::UnknownSchedule,
        Refusal::UnknownSeat,
        Refusal::SaleNotOpen,
        Refusal::SaleClosed,
        Refusal::SeatLimitExceeded { limit: 4 },
        Refusal::SeatUnavailable {
            seats: vec![SeatNo(3)],
            places: vec![],
        },
        Refusal::NotFound,
        Refusal::StateConflict {
            status: ReservationStatus::Paid,
        },
        Refusal::NotDue,
    ];
    let mut outcomes = vec![
        Outcome::Held(hold()),
        Outcome::Released {
            reservation_id: ReservationId(uuid(6)),
        },
        Outcome::Applied,
        Outcome::DeadLettered,
    ];
    outcomes.extend(refused.map(Outcome::Refused));
    check("seats-reply", &reply(outcomes));
    let outcomes = vec![
        Outcome::Policy(policy()),
        Outcome::Refused(Refusal::PolicyInvalid),
        Outcome::Refused(Refusal::LayoutChanged),
    ];
    check("seats-reply-policy", &reply(outcomes));
    let too_few = Outcome::Refused(Refusal::SeatUnavailable {
        seats: vec![],
        places: vec![seats::PlacesLeft {
            section: "FLOOR".into(),
            available: 1,
        }],
    });
    check("seats-reply-places", &reply(vec![too_few]));
    let outcomes = vec![
        Outcome::Policy(policy_with_terms()),
        Outcome::Extended {
            reservation_id: ReservationId(uuid(6)),
            expires_at: at(600_000),
            left: 1,
        },
        Outcome::Refused(Refusal::ExtensionLimitReached),
        Outcome::Refused(Refusal::OrphanSeat {
            seats: vec![SeatNo(1)],
        }),
    ];
    check("seats-reply-terms", &reply(outcomes));

    let charged = ledger::Outcome::Charged {
        transfer_id: TransferId(uuid(10)),
        balance: Money::won(50_000),
    };
    let refused = [
        ledger::Refusal::CommandExpired,
        ledger::Refusal::KeyReused,
        ledger::Refusal::AmountInvalid,
        ledger::Refusal::BalanceCapExceeded {
            cap: Money::won(1_000_000),
        },
    ];
    let mut outcomes = vec![charged, ledger::Outcome::DeadLettered];
    outcomes.extend(refused.map(ledger::Outcome::Refused));
    check("ledger-reply", &reply(outcomes));
    let order_id = PaymentOrderId(uuid(16));
    let ordered = vec![ledger::Outcome::Ordered { order_id }];
    check("ledger-reply-cards", &reply(ordered));
    let too_many = ledger::Refusal::TooManyOpenCharges { limit: 3 };
    let refused = vec![ledger::Outcome::Refused(too_many)];
    check("ledger-reply-open-charges", &reply(refused));
    let refused = ledger::Outcome::Refused(ledger::Refusal::CardsNotConfigured);
    check("ledger-reply-no-cards", &reply(vec![refused]));
    let refused = ledger::Outcome::Refused(ledger::Refusal::CashNotConfigured);
    check("ledger-reply-no-cash", &reply(vec![refused]));

    let paid = settlement::Outcome::Paid(settlement::Payment {
        payment_id: PaymentId(uuid(9)),
        reservation_id: ReservationId(uuid(6)),
        amount: Money::won(264_000),
        paid_at: at(1000),
    });
    let refused = [
        settlement::Refusal::CommandExpired,
        settlement::Refusal::KeyReused,
        settlement::Refusal::NotFound,
        settlement::Refusal::AlreadyPaid,
        settlement::Refusal::HoldExpired,
        settlement::Refusal::StateConflict {
            status: ReservationStatus::Released,
        },
        settlement::Refusal::InsufficientPoints,
    ];
    let mut outcomes = vec![paid, settlement::Outcome::DeadLettered];
    outcomes.extend(refused.map(settlement::Outcome::Refused));
    check("settlement-reply", &reply(outcomes));
}

#[test]
fn facts_and_broadcasts() {
    let facts = Facts {
        schedule_id: ScheduleId(uuid(7)),
        version: 12,
        facts: vec![
            Fact::Held {
                user_id: UserId(uuid(2)),
                command_id: CommandId(uuid(1)),
                hold: hold(),
            },
            Fact::Ended {
                reservation_id: ReservationId(uuid(6)),
                status: ReservationStatus::Expired,
                at: at(300_000),
            },
            Fact::Sold {
                reservation_id: ReservationId(uuid(6)),
                at: at(1000),
            },
        ],
    };
    check("seats-facts", &facts);
    let facts = Facts {
        facts: vec![Fact::Policy {
            user_id: UserId(uuid(2)),
            command_id: CommandId(uuid(1)),
            policy: policy(),
            at: at(0),
        }],
        ..facts
    };
    check("seats-facts-policy", &facts);
    let facts = Facts {
        facts: vec![
            Fact::Extended {
                reservation_id: ReservationId(uuid(6)),
                command_id: CommandId(uuid(1)),
                expires_at: at(600_000),
                at: at(2000),
            },
            Fact::GivenBack {
                reservation_id: ReservationId(uuid(6)),
                at: at(3000),
            },
        ],
        ..facts
    };
    check("seats-facts-terms", &facts);
    let change = MapChange {
        schedule_id: ScheduleId(uuid(7)),
        from_version: 11,
        version: 12,
        at: at(0),
        changes: vec![
            (SeatNo(0), Some(ClaimState::Held)),
            (SeatNo(1), Some(ClaimState::Sold)),
            (SeatNo(2), Some(ClaimState::Blocked)),
            (SeatNo(3), None),
        ],
        layout_no: None,
    };
    // The first form said no layout.
    let with_layout = MapChange {
        layout_no: Some(2),
        ..change.clone()
    };
    let broadcast = |change, sent_at| MapBroadcast {
        maps: vec![change],
        sent_at,
    };
    check("map", &broadcast(change, None));
    check("map-layout", &broadcast(with_layout.clone(), None));
    // Later also when it was sent.
    check("map-sent", &broadcast(with_layout, Some(at(5))));
    let lag = |epoch| Lag {
        lane: Lane::Seats,
        partition: PartitionNo(3),
        epoch,
        undecided: 17,
        age_ms: 250,
    };
    // The first form had no epoch.
    check("lag", &lag(0));
    check("lag-epoch", &lag(7));
    let revocation = Revocation {
        session: SessionId(uuid(11)),
        at: at(2000),
    };
    check("session-revoked", &revocation);
}

/// An older process skips what it doesn't know, a newer one fills in what was not said yet.
#[test]
fn changes_are_additive() {
    #[derive(Serialize)]
    struct Newer {
        lane: Lane,
        partition: PartitionNo,
        undecided: u64,
        age_ms: u64,
        something_new: &'static str,
    }
    let newer = Newer {
        lane: Lane::Seats,
        partition: PartitionNo(3),
        undecided: 17,
        age_ms: 250,
        something_new: "x",
    };
    assert_eq!(
        decode::<Lag>(&encode(&newer)).expect("readable").undecided,
        17
    );
}
