//! Diesel's view of the tables. A test holds it against the migrations.
#![allow(missing_docs, reason = "the migrations document the columns")]

diesel::table! {
    system (singleton) {
        singleton -> Bool, partitions -> Integer, created_at -> Timestamptz, generation -> BigInt,
    }
}
diesel::table! {
    worker (worker_id) {
        worker_id -> Uuid, life_key -> Integer, lanes -> Array<Text>, started_at -> Timestamptz,
        heartbeat_at -> Timestamptz, leaving -> Bool,
    }
}
diesel::table! {
    partition (lane, partition_no) {
        lane -> Text, partition_no -> Integer, owner -> Nullable<Uuid>, epoch -> BigInt,
        commit_no -> BigInt, incarnation -> Integer, applied_seq -> BigInt,
        applied_at -> Timestamptz, decided_at -> Timestamptz,
    }
}
diesel::table! {
    outcome (lane, partition_no, incarnation, seq) {
        lane -> Text, partition_no -> Integer, incarnation -> Integer, seq -> BigInt,
        epoch -> BigInt, commit_no -> BigInt, message_id -> Uuid, outcomes -> Binary,
        decided_at -> Timestamptz,
    }
}
diesel::table! {
    dead_letter (lane, partition_no, incarnation, seq, command_index) {
        lane -> Text, partition_no -> Integer, incarnation -> Integer, seq -> BigInt,
        command_index -> Integer, payload -> Binary, error -> Text, at -> Timestamptz,
        dead_letter_id -> Uuid, retries -> Integer, retried_at -> Nullable<Timestamptz>,
        retried_by -> Nullable<Uuid>,
    }
}
diesel::table! {
    notice (notice_id) {
        notice_id -> Uuid, lane -> Text, schedule_id -> Uuid, payload -> Binary,
        created_at -> Timestamptz, done_at -> Nullable<Timestamptz>,
    }
}
diesel::table! {
    outbox (topic, aggregate_id, seq) {
        topic -> Text, aggregate_id -> Uuid, seq -> BigInt, payload -> Binary,
        created_at -> Timestamptz, published_at -> Nullable<Timestamptz>,
        feed_no -> Nullable<BigInt>, refused -> Nullable<Text>,
    }
}
diesel::table! {
    fact_feed (singleton) {
        singleton -> Bool, last_no -> BigInt, purged_no -> BigInt,
        stream_created -> Nullable<Text>, stream_seq -> BigInt,
        put_back_no -> Nullable<BigInt>, put_back_at -> Nullable<Timestamptz>,
    }
}
diesel::table! {
    webhook (webhook_id) {
        webhook_id -> Uuid, url -> Text, topics -> Nullable<Array<Text>>, fingerprint -> Uuid,
        created_at -> Timestamptz, created_by -> Uuid, secret -> Binary,
        previous_secret -> Nullable<Binary>, previous_secret_until -> Nullable<Timestamptz>,
        rotation_id -> Nullable<Uuid>, state -> Text, cursor_no -> BigInt, sequence -> BigInt,
        attempts -> Integer, failing_since -> Nullable<Timestamptz>, next_at -> Timestamptz,
        delivered_at -> Nullable<Timestamptz>, missed_at -> Nullable<Timestamptz>,
        recent -> Text, generation -> BigInt, earlier_rotations -> Array<Uuid>,
        rotation_print -> Nullable<Uuid>,
    }
}
diesel::table! {
    app_user (user_id) {
        user_id -> Uuid, email -> Text, name -> Text, password_hash -> Text, role -> Text,
        created_at -> Timestamptz,
    }
}
diesel::table! {
    session (session_id) {
        session_id -> Uuid, user_id -> Uuid, refresh_digest -> Binary, created_at -> Timestamptz,
        expires_at -> Timestamptz, revoked_at -> Nullable<Timestamptz>,
        family_digest -> Nullable<Binary>, previous_digest -> Nullable<Binary>,
        renewed_at -> Nullable<Timestamptz>,
    }
}
diesel::table! {
    stream_token (digest) {
        digest -> Binary, user_id -> Uuid, session_id -> Uuid, expires_at -> Timestamptz,
    }
}
diesel::table! {
    concert (concert_id) {
        concert_id -> Uuid, title -> Text, artist -> Text, venue -> Text, description -> Text,
        starts_on -> Date, ends_on -> Date, fingerprint -> Nullable<Uuid>,
    }
}
diesel::table! {
    schedule (schedule_id) {
        schedule_id -> Uuid, concert_id -> Uuid, starts_at -> Timestamptz, layout_hash -> Text,
        fingerprint -> Nullable<Uuid>, cancellation_rules -> Jsonb,
    }
}
diesel::table! {
    seat (schedule_id, seat_no) {
        schedule_id -> Uuid, seat_no -> Integer, section -> Text, row_name -> Text,
        seat_number -> Integer, grade -> Text, price -> Numeric, x -> Float, y -> Float,
    }
}
diesel::table! {
    sale (schedule_id) {
        schedule_id -> Uuid, state -> Text, booking_opens_at -> Timestamptz,
        booking_closes_at -> Timestamptz, hold_ms -> BigInt, seats_per_user -> Integer,
        map_version -> BigInt, layout_no -> BigInt, extensions_max -> Integer,
        hold_total_ms -> BigInt, prevents_orphans -> Bool, release_jitter_ms -> BigInt,
        release_seed -> Uuid, cancelled -> Bool, pass_required_since -> Nullable<Timestamptz>,
        pass_required -> Bool, room_version -> BigInt,
    }
}
diesel::table! {
    reservation (reservation_id) {
        reservation_id -> Uuid, schedule_id -> Uuid, user_id -> Uuid, command_id -> Uuid,
        fingerprint -> Uuid, seat_nos -> Array<Integer>, total -> Numeric, seat_limit -> Integer,
        status -> Text, held_at -> Timestamptz, expires_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>, release_at -> Nullable<Timestamptz>,
        first_expires_at -> Nullable<Timestamptz>, ends_as -> Nullable<Text>,
        extended_by -> Nullable<Array<Uuid>>, given_back_by -> Nullable<Uuid>,
        cancelled_seat_nos -> Nullable<Array<Integer>>, paying_order -> Nullable<Uuid>,
        rehold_order -> Nullable<Uuid>, ticket_id -> Nullable<Uuid>,
    }
}
diesel::table! {
    seat_claim (schedule_id, seat_no) {
        schedule_id -> Uuid, seat_no -> Integer, reservation_id -> Nullable<Uuid>, state -> Text,
    }
}
diesel::table! {
    seat_block (command_id) {
        command_id -> Uuid, schedule_id -> Uuid, block_id -> Uuid, lifts -> Bool,
        seat_nos -> Array<Integer>, user_id -> Uuid, reason -> Nullable<Text>, fingerprint -> Uuid,
        at -> Timestamptz,
    }
}
diesel::table! {
    payment_facts (schedule_id) { schedule_id -> Uuid, last_seq -> BigInt, }
}
diesel::table! {
    account (account_id) { account_id -> Uuid, balance -> Nullable<Numeric>, }
}
diesel::table! {
    transfer (transfer_id) {
        transfer_id -> Uuid, cause -> Uuid, fingerprint -> Uuid, kind -> Text, debit -> Uuid,
        credit -> Uuid, amount -> Numeric, user_balance -> Numeric, at -> Timestamptz,
    }
}
diesel::table! {
    payment (payment_id) {
        payment_id -> Uuid, reservation_id -> Uuid, user_id -> Uuid, command_id -> Uuid,
        fingerprint -> Uuid, method -> Text, amount -> Numeric, status -> Text,
        fail_code -> Nullable<Text>, transfer_id -> Nullable<Uuid>, at -> Timestamptz,
        order_id -> Nullable<Uuid>, refunded -> Numeric,
    }
}
diesel::table! {
    payment_order (order_id) {
        order_id -> Uuid, reservation_id -> Nullable<Uuid>, schedule_id -> Nullable<Uuid>,
        user_id -> Uuid, command_id -> Uuid, fingerprint -> Uuid, amount -> Numeric, status -> Text,
        step_no -> Integer, attempts -> Integer, next_at -> Nullable<Timestamptz>,
        payment_key -> Nullable<Text>, confirm_command_id -> Nullable<Uuid>,
        confirm_fingerprint -> Nullable<Uuid>, notice_id -> Nullable<Uuid>,
        rehold_id -> Nullable<Uuid>, fail_code -> Nullable<Text>, captured -> Numeric,
        refunded -> Numeric, created_at -> Timestamptz, updated_at -> Timestamptz,
        confirmed_at -> Nullable<Timestamptz>, odd_at -> Nullable<Timestamptz>,
        may_be_back -> Bool,
    }
}
diesel::table! {
    payment_order_key (command_id) {
        command_id -> Uuid, order_id -> Uuid, at -> Timestamptz,
    }
}
diesel::table! {
    cancellation (cancellation_id) {
        cancellation_id -> Uuid, reservation_id -> Uuid, schedule_id -> Uuid, command_id -> Uuid,
        fingerprint -> Uuid, user_id -> Uuid, seat_nos -> Array<Integer>, price -> Numeric,
        fee -> Numeric, refunded -> Numeric, at -> Timestamptz, of_show -> Bool,
    }
}
diesel::table! {
    show_cancellation (schedule_id) {
        schedule_id -> Uuid, command_id -> Uuid, fingerprint -> Uuid, user_id -> Uuid,
        reason -> Text, started_at -> Timestamptz, finished_at -> Nullable<Timestamptz>,
        next_at -> Nullable<Timestamptz>, done -> BigInt, refunded -> Numeric,
        after_at -> Nullable<Timestamptz>, after_id -> Nullable<Uuid>, pass_is_last -> Bool,
        pass_at -> Timestamptz,
    }
}
diesel::table! {
    show_aside (reservation_id) {
        reservation_id -> Uuid, schedule_id -> Uuid, attempts -> Integer, error -> Text,
        set_aside_at -> Timestamptz, next_at -> Timestamptz,
    }
}
diesel::table! {
    gateway_event (event_id) { event_id -> Text, at -> Timestamptz, }
}
diesel::table! {
    refund (refund_id) {
        refund_id -> Uuid, key -> Uuid, user_id -> Uuid, payment_id -> Nullable<Uuid>,
        order_id -> Nullable<Uuid>, method -> Text, amount -> Numeric, status -> Text,
        step_no -> Integer, attempts -> Integer, next_at -> Nullable<Timestamptz>,
        last_error -> Nullable<Text>, transfer_id -> Nullable<Uuid>, created_at -> Timestamptz,
        done_at -> Nullable<Timestamptz>, stuck_at -> Nullable<Timestamptz>,
        settles_at -> Nullable<Timestamptz>, key_no -> Integer, compare -> Nullable<Text>,
        compare_at -> Nullable<Timestamptz>, compared_at -> Nullable<Timestamptz>,
    }
}
diesel::table! {
    refund_action (command_id) {
        command_id -> Uuid, fingerprint -> Uuid, refund_id -> Uuid, kind -> Text, user_id -> Uuid,
        note -> Nullable<Text>, at -> Timestamptz,
    }
}
diesel::table! {
    write_off (command_id) {
        command_id -> Uuid, fingerprint -> Uuid, order_id -> Uuid, amounts -> Array<Numeric>, user_id -> Uuid,
        note -> Text, at -> Timestamptz,
    }
}
diesel::table! {
    waiting_room (schedule_id) {
        schedule_id -> Uuid, secret -> Binary, commitment -> Binary, mode -> Text, paused -> Bool,
        opens_at -> Timestamptz, capacity -> Integer, rate_per_second -> Integer,
        pass_ms -> BigInt, presence_ms -> BigInt, holds_per_pass -> Integer,
        beacon_name -> Nullable<Text>, version -> BigInt, arrivals -> Integer, digest -> Binary,
        closed_at -> Nullable<Timestamptz>, lobby_size -> Nullable<Integer>,
        lobby_digest -> Nullable<Binary>, beacon -> Nullable<Binary>,
        lobby_order -> Nullable<Text>, seed -> Nullable<Binary>, revealed -> Nullable<Binary>,
        front -> Integer, admissions -> Integer, rate_used -> Timestamptz, latest -> Timestamptz,
        guest_front -> Integer, holds_per_pass_before -> Integer, cancelled -> Bool,
    }
}
diesel::table! {
    ticket (ticket_id) {
        ticket_id -> Uuid, schedule_id -> Uuid, arrival_no -> Integer, user_id -> Uuid,
        fingerprint -> Uuid, status -> Text, joined_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>, admission_no -> Nullable<Integer>,
        admitted_at -> Nullable<Timestamptz>, place -> Nullable<Integer>,
        active_before -> Nullable<Integer>, capacity -> Nullable<Integer>,
        was_passed -> Nullable<Bool>, pass_until -> Nullable<Timestamptz>,
        holds -> Nullable<Jsonb>, access_code_id -> Nullable<Uuid>,
    }
}
diesel::table! {
    access_code (access_code_id) {
        access_code_id -> Uuid, schedule_id -> Uuid, fingerprint -> Uuid, label -> Text,
        granted -> Text, uses -> Integer, valid_from -> Timestamptz, valid_until -> Timestamptz, made_by -> Uuid,
        made_at -> Timestamptz, revoked_at -> Nullable<Timestamptz>, used -> Integer,
    }
}

diesel::joinable!(schedule -> concert (concert_id));
diesel::joinable!(sale -> schedule (schedule_id));
diesel::joinable!(session -> app_user (user_id));
diesel::joinable!(waiting_room -> schedule (schedule_id));
diesel::allow_tables_to_appear_in_same_query!(
    concert,
    schedule,
    sale,
    seat,
    seat_claim,
    waiting_room
);
diesel::allow_tables_to_appear_in_same_query!(session, app_user);
diesel::allow_tables_to_appear_in_same_query!(reservation, payment);
