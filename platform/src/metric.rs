//! Every metric: name, unit, meaning, and the buckets of histograms. Declared once, here.
//!
//! Labels: `route`, `method`, `status`, `outcome`, `lane`, `partition`, `kind`, `reason`. Never a
//! user, seat or order.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};
use onsale_schema::Lane;

/// Requests answered, by `route`, `method`, `status`.
pub const HTTP_REQUESTS: &str = "onsale_http_requests_total";
/// Time from a request's head to its answer, in seconds, by `route`, `method`.
pub const HTTP_DURATION: &str = "onsale_http_request_duration_seconds";
/// Requests being worked on.
pub const HTTP_IN_FLIGHT: &str = "onsale_http_requests_in_flight";
/// Connections that are open.
pub const HTTP_CONNECTIONS: &str = "onsale_http_connections";
/// Event streams that are open.
pub const EVENT_STREAMS: &str = "onsale_event_streams";
/// Time from the moment that a seat map's change became true to its being shown by this ingress, in
/// seconds. Of a change that was lost on its way, at most: since the map was last known to be whole.
pub const SEAT_MAP_DELAY: &str = "onsale_seat_map_delay_seconds";
/// Time since the map was known to be whole, in seconds; of the one of which that is longest ago.
pub const SEAT_MAP_AGE: &str = "onsale_seat_map_age_seconds";
/// Seat maps in memory.
pub const SEAT_MAPS: &str = "onsale_seat_maps";
/// Seat maps that were read from Postgres again, as something was missing.
pub const SEAT_MAP_RELOADS: &str = "onsale_seat_map_reloads_total";
/// Waiting rooms in memory: those that clients ask about.
pub const ROOMS: &str = "onsale_rooms";
/// Time since the owner of a waiting room in memory was heard, in seconds; of the one of which that is
/// longest ago.
pub const ROOM_AGE: &str = "onsale_room_age_seconds";
/// Time from the owner's word of how far a line is to its being known at this ingress, in seconds.
pub const ROOM_DELAY: &str = "onsale_room_delay_seconds";
/// Waiting rooms that were read from Postgres again, as something was missing.
pub const ROOM_RELOADS: &str = "onsale_room_reloads_total";
/// Questions how far a ticket is, by `outcome`: the status that was told, or `refused`.
pub const ROOM_POLLS: &str = "onsale_room_polls_total";
/// Tickets that were given, by `outcome` (`new`, `again` of one that its owner had).
pub const ROOM_JOINS: &str = "onsale_room_joins_total";
/// By how much the wait of a ticket that was admitted was outside of the range that it had been told,
/// as a share of the wait; 0 within the range. Of a sample of tickets.
pub const ROOM_FORECAST_ERROR: &str = "onsale_room_forecast_error_ratio";
/// Requests, connections and streams refused or cut off by a limit, by `reason`.
pub const HTTP_REFUSED: &str = "onsale_http_refused_total";
/// Passwords hashed or checked.
pub const PASSWORD_HASHES: &str = "onsale_password_hashes_total";
/// Commands waiting for their outcome at this ingress, by `lane`.
pub const INGRESS_PENDING: &str = "onsale_ingress_commands_pending";
/// Commands published in one message, by `lane`.
pub const INGRESS_BATCH: &str = "onsale_ingress_commands_per_message";
/// Time from publish to PubAck, in seconds, by `lane`.
pub const INGRESS_PUBACK: &str = "onsale_ingress_puback_duration_seconds";
/// Requests refused to keep lag bounded, by `reason`.
pub const INGRESS_SHED: &str = "onsale_ingress_shed_total";
/// Requests whose outcome was still open when their time was up (202), by `lane`.
pub const INGRESS_OPEN: &str = "onsale_ingress_outcome_open_total";

/// Sessions that were ended, by `reason` (`sign-out`, `reuse` of a refresh token).
pub const SESSIONS_REVOKED: &str = "onsale_sessions_revoked_total";

/// Partitions owned by this worker, by `lane`.
pub const PARTITIONS_OWNED: &str = "onsale_partitions_owned";
/// Epoch of an owned partition, by `lane`, `partition`.
pub const PARTITION_EPOCH: &str = "onsale_partition_epoch";
/// Undecided messages of an owned partition, by `lane`, `partition`.
pub const PARTITION_UNDECIDED: &str = "onsale_partition_undecided_messages";
/// Age of the oldest message of the last batch when it was decided, in seconds, by `lane`.
pub const PARTITION_AGE: &str = "onsale_partition_message_age_seconds";
/// Commands decided and durable, by `lane`, `kind`, `outcome`.
pub const COMMANDS_DECIDED: &str = "onsale_commands_decided_total";
/// Commands in one transaction, by `lane`.
pub const COMMIT_COMMANDS: &str = "onsale_commit_commands";
/// Partitions in one transaction, by `lane`.
pub const COMMIT_PARTITIONS: &str = "onsale_commit_partitions";
/// Time of one transaction, in seconds, by `lane`.
pub const COMMIT_DURATION: &str = "onsale_commit_duration_seconds";
/// Transactions that were not committed as first asked, by `lane`, `reason`.
pub const COMMIT_RETRIES: &str = "onsale_commit_retries_total";
/// Messages and commands that could not be processed, by `lane`.
pub const DEAD_LETTERS: &str = "onsale_dead_letters_total";
/// Commands among them that nobody has tried again.
pub const DEAD_LETTERS_UNTRIED: &str = "onsale_dead_letters_untried";
/// Partitions taken, by `lane`, `reason`.
pub const TAKEOVERS: &str = "onsale_partition_takeovers_total";
/// Ticks of a partition that could not be decided or stored, by `lane`: what time alone changes, as holds that
/// lapse and people who are let in.
pub const TICKS_FAILED: &str = "onsale_ticks_failed_total";
/// Streams that lost their tail (a new incarnation began), by `lane`.
pub const TAIL_LOST: &str = "onsale_stream_tail_lost_total";
/// Messages whose time on the stream was wrong by more than 5 s and was clamped, by `lane`, `reason`
/// ([`AHEAD`], [`BEHIND`]).
pub const CLAMPED: &str = "onsale_stream_time_clamped_total";
/// Of a clock that is ahead of ours.
pub const AHEAD: &str = "ahead";
/// Of a clock that is behind ours.
pub const BEHIND: &str = "behind";

/// People who wait in the rooms that this worker has loaded, by `kind`: `line`, `guests` and `passed`, who
/// were passed over as silent, and not heard since, in either line.
pub const ADMISSION_WAITING: &str = "onsale_admission_waiting";
/// People with a pass, of those rooms.
pub const ADMISSION_ACTIVE: &str = "onsale_admission_active";
/// How many may have a pass in those rooms that let in by that.
pub const ADMISSION_CAPACITY: &str = "onsale_admission_capacity";
/// People who were let in from waiting rooms, durable.
pub const ADMISSIONS: &str = "onsale_admissions_total";
/// For how long one of those rooms has let nobody have a turn though people wait there, a place is free,
/// and nothing holds them up, in seconds; of the one of which that is longest. Hardly more than a second
/// while all is well.
pub const ADMISSION_STALLED: &str = "onsale_admission_stalled_seconds";

/// Expire commands published by the sweeper.
pub const EXPIRY_PUBLISHED: &str = "onsale_expiry_published_total";
/// Time by which holds lapsed late, in seconds.
pub const EXPIRY_DELAY: &str = "onsale_expiry_delay_seconds";
/// Open rows, by `kind` (`notice`, `fact`); of each 100,000 at most.
pub const OUTBOX_OPEN: &str = "onsale_outbox_open";
/// Age of the oldest open row, in seconds, by `kind`.
pub const OUTBOX_OLDEST: &str = "onsale_outbox_oldest_seconds";
/// Time since open rows, webhook subscribers and dead letters were last counted, in seconds: for so long
/// these numbers have been old.
pub const OUTBOX_AGE: &str = "onsale_outbox_counted_age_seconds";
/// Rows published, by `kind`.
pub const OUTBOX_PUBLISHED: &str = "onsale_outbox_published_total";
/// Facts that no stream takes.
pub const FACTS_REFUSED: &str = "onsale_facts_refused_total";
/// Facts that were published once more since the events stream had lost some.
pub const FACTS_PUT_BACK: &str = "onsale_facts_put_back_total";
/// Webhook subscribers, by `kind` (`active`, `dead`).
pub const WEBHOOKS: &str = "onsale_webhooks";
/// Attempts to deliver a fact to a webhook subscriber, by `outcome` (`delivered`, `failed`).
pub const WEBHOOK_DELIVERIES: &str = "onsale_webhook_deliveries_total";
/// Time of such an attempt, in seconds.
pub const WEBHOOK_DURATION: &str = "onsale_webhook_delivery_duration_seconds";
/// Age of the oldest fact that an active subscriber has not got, in seconds.
pub const WEBHOOK_OLDEST: &str = "onsale_webhook_oldest_seconds";
/// Subscribers that were given up.
pub const WEBHOOK_DEATHS: &str = "onsale_webhook_deaths_total";
/// Times that facts were purged before a subscriber got them.
pub const WEBHOOK_MISSED: &str = "onsale_webhook_missed_total";

/// Requests to the payment gateway, by `kind` ([`GATEWAY_KINDS`]) and `outcome` (`done`, `declined`,
/// `not-found`, `unknown`, `unavailable`, [`KEY_REFUSED`], [`REJECTED`]).
pub const GATEWAY_REQUESTS: &str = "onsale_gateway_requests_total";
/// What a payment gateway is asked.
pub const GATEWAY_KINDS: [&str; 5] = ["confirm", "charge", "cancel", "find", "transactions"];
/// The outcome of a request that the gateway refuses for our key, as it will all others.
pub const KEY_REFUSED: &str = "key-refused";
/// The outcome of a request that the gateway refuses for how it is asked.
pub const REJECTED: &str = "rejected";
/// Time of one request to the payment gateway, in seconds, by `kind`.
pub const GATEWAY_DURATION: &str = "onsale_gateway_request_duration_seconds";
/// State of the circuit breaker before the payment gateway: 0 closed, 1 half-open, 2 open.
pub const GATEWAY_BREAKER: &str = "onsale_gateway_breaker_state";
/// Steps of payment orders, by `outcome`: the status that they came to.
pub const ORDERS: &str = "onsale_payment_orders_total";
/// Time from an order's confirmation to its end, in seconds, by `outcome` (`PAID`, `FAILED`,
/// `REFUNDING`).
pub const ORDER_DURATION: &str = "onsale_payment_order_duration_seconds";
/// Age of the oldest order whose end is not known yet, in seconds, by `kind`: `open` for all that are
/// on their way, `unknown` for those that the gateway may have captured.
pub const ORDER_OLDEST: &str = "onsale_payment_order_oldest_seconds";
/// Payment orders that somebody has to see to, by `kind`: `odd` where the gateway's payment is not what
/// was ordered, `in-vain` where one that is not on its way is looked up again and again to no end.
pub const ORDERS_UNCLEAR: &str = "onsale_payment_orders_unclear";
/// Refunds through the gateway that are not made, by `kind` (`pending`, `stuck`).
pub const REFUNDS_OPEN: &str = "onsale_gateway_refunds_open";
/// Age of the oldest of them, in seconds, by `kind`: since it is owed, or since it is stuck.
pub const REFUND_OLDEST: &str = "onsale_gateway_refund_oldest_seconds";
/// Refunds through the gateway that somebody has to compare with what was paid back by other means, by
/// `kind`: `twice` where the money went back twice, `by-hand` where what was given back in the gateway's own
/// pages may be those other means, or the refund itself.
pub const REFUNDS_TO_COMPARE: &str = "onsale_gateway_refunds_to_compare";
/// Time since orders, refunds and reservations that are on their way, or that somebody has to see to, were
/// last counted, in seconds: for so long these numbers have been old.
pub const MONEY_AGE: &str = "onsale_money_counted_age_seconds";
/// Refunds through the gateway that ended, by `outcome` (`done`, `resolved` by other means, `stuck`,
/// [`REFUND_TWICE`], [`REFUND_TO_COMPARE`]). One that is stuck has to be seen to by somebody.
pub const REFUNDS: &str = "onsale_gateway_refunds_total";
/// The outcome of a refund that the gateway has made, and somebody has paid back by other means as well.
pub const REFUND_TWICE: &str = "done-and-resolved";
/// The outcome of a refund that counts as made since somebody has given as much back in the gateway's own
/// pages: instead of it, or besides what somebody says to have paid of the same payment by other means. It may be
/// one and the same, or money that went back twice.
pub const REFUND_TO_COMPARE: &str = "by-hand-and-resolved";

/// Reservations that were cancelled with their show.
pub const SHOW_CANCELLED: &str = "onsale_show_cancelled_reservations_total";
/// Reservations of cancelled shows that are paid and can't be cancelled. Somebody has to see to them.
pub const SHOW_ASIDE: &str = "onsale_show_reservations_aside";
/// Times that a reservation of a cancelled show could not be cancelled and was set aside.
pub const SHOW_SET_ASIDE: &str = "onsale_show_set_aside_total";

/// Correction of this host's clock to Postgres, in seconds.
pub const CLOCK_OFFSET: &str = "onsale_clock_offset_seconds";
/// Connections to NATS lost.
pub const NATS_DISCONNECTS: &str = "onsale_nats_disconnects_total";

/// Buckets of latencies, in seconds: 0.5 ms to 10 s.
pub const LATENCY_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Buckets of what may take minutes, in seconds: 10 ms to an hour.
pub const SLOW_BUCKETS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
];
/// Buckets of sizes: powers of two.
pub const SIZE_BUCKETS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];

/// The histograms that count sizes.
pub const SIZES: &[&str] = &[INGRESS_BATCH, COMMIT_COMMANDS, COMMIT_PARTITIONS];
/// The histograms of what may take minutes; all others are latencies.
pub const SLOW: &[&str] = &[ORDER_DURATION];

/// Begins at 0 the counters of which an alert looks for a rise, with each label that they can have: there
/// is no rise where the first that is seen of one is 1. Every process does so before it does anything
/// else; a test holds the rules of `deploy/alerts.yml` against this.
pub fn begin() {
    for lane in Lane::ALL.map(Lane::as_str) {
        for name in [DEAD_LETTERS, TAIL_LOST, TICKS_FAILED] {
            counter!(name, "lane" => lane).increment(0);
        }
        for reason in [AHEAD, BEHIND] {
            counter!(CLAMPED, "lane" => lane, "reason" => reason).increment(0);
        }
    }
    counter!(FACTS_PUT_BACK).increment(0);
    for kind in GATEWAY_KINDS {
        for outcome in [KEY_REFUSED, REJECTED] {
            counter!(GATEWAY_REQUESTS, "kind" => kind, "outcome" => outcome).increment(0);
        }
    }
}

/// Tells the recorder what each metric means.
pub fn describe() {
    describe_counter!(HTTP_REQUESTS, "Requests answered");
    describe_histogram!(
        HTTP_DURATION,
        Unit::Seconds,
        "Time from a request's head to its answer"
    );
    describe_gauge!(HTTP_IN_FLIGHT, "Requests being worked on");
    describe_gauge!(HTTP_CONNECTIONS, "Connections that are open");
    describe_gauge!(EVENT_STREAMS, "Event streams that are open");
    describe_histogram!(
        SEAT_MAP_DELAY,
        Unit::Seconds,
        "Time from a seat map's change to its being shown"
    );
    describe_gauge!(
        SEAT_MAP_AGE,
        Unit::Seconds,
        "Time since every seat map in memory was known to be whole"
    );
    describe_gauge!(SEAT_MAPS, "Seat maps in memory");
    describe_counter!(
        SEAT_MAP_RELOADS,
        "Seat maps that were read again, as something was missing"
    );
    describe_gauge!(ROOMS, "Waiting rooms in memory");
    describe_gauge!(
        ROOM_AGE,
        Unit::Seconds,
        "Time since the owners of all waiting rooms in memory were heard"
    );
    describe_histogram!(
        ROOM_DELAY,
        Unit::Seconds,
        "Time from an owner's word of a line to its being known"
    );
    describe_counter!(
        ROOM_RELOADS,
        "Waiting rooms that were read again, as something was missing"
    );
    describe_counter!(ROOM_POLLS, "Questions how far a ticket is");
    describe_counter!(ROOM_JOINS, "Tickets that were given");
    describe_histogram!(
        ROOM_FORECAST_ERROR,
        "Share of a wait by which the forecast was wrong"
    );
    describe_counter!(
        HTTP_REFUSED,
        "Requests, connections and streams refused or cut off by a limit"
    );
    describe_counter!(PASSWORD_HASHES, "Passwords hashed or checked");
    describe_gauge!(
        INGRESS_PENDING,
        "Commands waiting for their outcome at this ingress"
    );
    describe_histogram!(
        INGRESS_BATCH,
        Unit::Count,
        "Commands published in one message"
    );
    describe_histogram!(INGRESS_PUBACK, Unit::Seconds, "Time from publish to PubAck");
    describe_counter!(INGRESS_SHED, "Requests refused to keep lag bounded");
    describe_counter!(
        INGRESS_OPEN,
        "Requests answered 202 because the outcome was still open"
    );
    describe_counter!(SESSIONS_REVOKED, "Sessions that were ended");
    describe_gauge!(PARTITIONS_OWNED, "Partitions owned by this worker");
    describe_gauge!(PARTITION_EPOCH, "Epoch of an owned partition");
    describe_gauge!(
        PARTITION_UNDECIDED,
        "Undecided messages of an owned partition"
    );
    describe_histogram!(
        PARTITION_AGE,
        Unit::Seconds,
        "Age of the oldest message of a batch"
    );
    describe_counter!(COMMANDS_DECIDED, "Commands decided and durable");
    describe_histogram!(COMMIT_COMMANDS, Unit::Count, "Commands in one transaction");
    describe_histogram!(
        COMMIT_PARTITIONS,
        Unit::Count,
        "Partitions in one transaction"
    );
    describe_histogram!(COMMIT_DURATION, Unit::Seconds, "Time of one transaction");
    describe_counter!(
        COMMIT_RETRIES,
        "Transactions that were not committed as first asked"
    );
    describe_counter!(
        DEAD_LETTERS,
        "Messages and commands that could not be processed"
    );
    describe_gauge!(
        DEAD_LETTERS_UNTRIED,
        "Commands that could not be processed and that nobody has tried again"
    );
    describe_counter!(TAKEOVERS, "Partitions taken");
    describe_counter!(TAIL_LOST, "Streams that lost their tail");
    describe_counter!(CLAMPED, "Messages from a stream's clock that is wrong");
    describe_gauge!(ADMISSION_WAITING, "People who wait in waiting rooms");
    describe_gauge!(ADMISSION_ACTIVE, "People with a pass of a waiting room");
    describe_gauge!(
        ADMISSION_CAPACITY,
        "How many may have a pass in waiting rooms"
    );
    describe_counter!(ADMISSIONS, "People who were let in from waiting rooms");
    describe_gauge!(
        ADMISSION_STALLED,
        Unit::Seconds,
        "Time for which a line stands still that should move"
    );
    describe_counter!(EXPIRY_PUBLISHED, "Expire commands published by the sweeper");
    describe_histogram!(
        EXPIRY_DELAY,
        Unit::Seconds,
        "Time by which holds lapsed late"
    );
    describe_gauge!(OUTBOX_OPEN, "Open notices and facts");
    describe_gauge!(
        OUTBOX_OLDEST,
        Unit::Seconds,
        "Age of the oldest open notice or fact"
    );
    describe_gauge!(
        OUTBOX_AGE,
        Unit::Seconds,
        "Time since open notices and facts, subscribers and dead letters were last counted"
    );
    describe_counter!(OUTBOX_PUBLISHED, "Notices and facts published");
    describe_counter!(
        FACTS_REFUSED,
        "Facts that are too large for the stream and were set aside"
    );
    describe_counter!(
        TICKS_FAILED,
        "Ticks of a partition that could not be decided or stored"
    );
    describe_counter!(
        FACTS_PUT_BACK,
        "Facts that were published once more since the events stream had lost some"
    );
    describe_counter!(GATEWAY_REQUESTS, "Requests to the payment gateway");
    describe_counter!(ORDERS, "Steps of payment orders");
    describe_histogram!(
        ORDER_DURATION,
        Unit::Seconds,
        "Time from an order's confirmation to its end"
    );
    describe_gauge!(
        ORDER_OLDEST,
        Unit::Seconds,
        "Age of the oldest payment order that is on its way, or may have been captured"
    );
    describe_gauge!(ORDERS_UNCLEAR, "Payment orders that somebody has to see to");
    describe_gauge!(
        REFUNDS_OPEN,
        "Refunds through the gateway that are not made"
    );
    describe_gauge!(
        REFUND_OLDEST,
        Unit::Seconds,
        "Age of the oldest refund that is not made"
    );
    describe_gauge!(
        REFUNDS_TO_COMPARE,
        "Refunds that went back twice, or have perhaps, and that somebody has to compare"
    );
    describe_gauge!(
        MONEY_AGE,
        Unit::Seconds,
        "Time since it was last counted what money is on its way or has to be seen to"
    );
    describe_counter!(REFUNDS, "Refunds through the gateway that ended");
    describe_histogram!(
        GATEWAY_DURATION,
        Unit::Seconds,
        "Time of one request to the payment gateway"
    );
    describe_gauge!(
        GATEWAY_BREAKER,
        "State of the circuit breaker before the payment gateway: 0 closed, 1 half-open, 2 open"
    );
    describe_gauge!(WEBHOOKS, "Webhook subscribers");
    describe_counter!(
        WEBHOOK_DELIVERIES,
        "Attempts to deliver a fact to a webhook subscriber"
    );
    describe_histogram!(
        WEBHOOK_DURATION,
        Unit::Seconds,
        "Time of an attempt to deliver a fact"
    );
    describe_gauge!(
        WEBHOOK_OLDEST,
        Unit::Seconds,
        "Age of the oldest fact that an active subscriber has not got"
    );
    describe_counter!(WEBHOOK_DEATHS, "Webhook subscribers that were given up");
    describe_counter!(
        WEBHOOK_MISSED,
        "Times that facts were purged before a subscriber got them"
    );
    describe_counter!(
        SHOW_CANCELLED,
        "Reservations that were cancelled with their show"
    );
    describe_gauge!(
        SHOW_ASIDE,
        "Reservations of cancelled shows that are paid and can't be cancelled"
    );
    describe_counter!(
        SHOW_SET_ASIDE,
        "Times that a reservation of a cancelled show could not be cancelled"
    );
    describe_gauge!(
        CLOCK_OFFSET,
        Unit::Seconds,
        "Correction of this host's clock to Postgres"
    );
    describe_counter!(NATS_DISCONNECTS, "Connections to NATS lost");
}
