-- The whole system of the first release. One module writes each table; who, is said above it.

-- platform: facts about this installation.
CREATE TABLE system (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    partitions integer NOT NULL CHECK (partitions BETWEEN 1 AND 1024),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- workers::runtime: one row per start of a worker process; its life-sign is an advisory lock.
CREATE TABLE worker (
    worker_id uuid PRIMARY KEY,
    life_key integer NOT NULL,
    lanes text[] NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- workers::runtime: owner, fence and cursor of each partition. The cursor (incarnation,
-- applied_seq, applied_at) is the acknowledgement that counts.
CREATE TABLE partition (
    lane text NOT NULL,
    partition_no integer NOT NULL CHECK (partition_no >= 0),
    owner uuid,
    epoch bigint NOT NULL DEFAULT 0,
    commit_no bigint NOT NULL DEFAULT 0,
    incarnation integer NOT NULL DEFAULT 0,
    applied_seq bigint NOT NULL DEFAULT 0,
    applied_at timestamptz NOT NULL DEFAULT 'epoch',
    PRIMARY KEY (lane, partition_no)
) WITH (fillfactor = 50);

-- workers::runtime: the outcomes of each message, kept for a day. Competing lanes have
-- partition_no -1.
CREATE TABLE outcome (
    lane text NOT NULL,
    partition_no integer NOT NULL,
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    epoch bigint NOT NULL,
    commit_no bigint NOT NULL,
    message_id uuid NOT NULL,
    outcomes bytea NOT NULL,
    decided_at timestamptz NOT NULL,
    PRIMARY KEY (lane, partition_no, incarnation, seq)
);
CREATE INDEX outcome_message_id ON outcome (message_id);
CREATE INDEX outcome_decided_at ON outcome (decided_at);

-- workers::runtime: what could not be processed.
CREATE TABLE dead_letter (
    lane text NOT NULL,
    partition_no integer NOT NULL,
    incarnation integer NOT NULL,
    seq bigint NOT NULL,
    command_index integer NOT NULL,
    payload bytea NOT NULL,
    error text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (lane, partition_no, incarnation, seq, command_index)
);

-- workers: word from one worker to another, done when the receiver says so in its transaction.
CREATE TABLE notice (
    notice_id uuid PRIMARY KEY,
    lane text NOT NULL,
    schedule_id uuid NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at timestamptz
);
CREATE INDEX notice_open ON notice (created_at) WHERE done_at IS NULL;
CREATE INDEX notice_created_at ON notice (created_at);

-- workers: facts for other systems; one row per batch and aggregate, numbered without a gap.
CREATE TABLE outbox (
    topic text NOT NULL,
    aggregate_id uuid NOT NULL,
    seq bigint NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at timestamptz,
    PRIMARY KEY (topic, aggregate_id, seq)
);
CREATE INDEX outbox_open ON outbox (created_at) WHERE published_at IS NULL;
CREATE INDEX outbox_created_at ON outbox (created_at);

-- ingress: users and their sessions.
CREATE TABLE app_user (
    user_id uuid PRIMARY KEY,
    email text NOT NULL,
    name text NOT NULL,
    password_hash text NOT NULL,
    role text NOT NULL DEFAULT 'buyer' CHECK (role IN ('buyer', 'admin')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX app_user_email ON app_user (lower(email));

CREATE TABLE session (
    session_id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES app_user,
    refresh_digest bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX session_user_id ON session (user_id);
CREATE INDEX session_expires_at ON session (expires_at);

-- Catalogue.
CREATE TABLE concert (
    concert_id uuid PRIMARY KEY,
    title text NOT NULL,
    artist text NOT NULL,
    venue text NOT NULL,
    description text NOT NULL DEFAULT '',
    starts_on date NOT NULL,
    ends_on date NOT NULL,
    CHECK (starts_on <= ends_on)
);

CREATE TABLE schedule (
    schedule_id uuid PRIMARY KEY,
    concert_id uuid NOT NULL REFERENCES concert,
    starts_at timestamptz NOT NULL,
    layout_hash text NOT NULL
);
CREATE INDEX schedule_concert_id ON schedule (concert_id, starts_at);

-- The layout of a schedule; it never changes after the first claim.
CREATE TABLE seat (
    schedule_id uuid NOT NULL REFERENCES schedule,
    seat_no integer NOT NULL CHECK (seat_no >= 0),
    section text NOT NULL,
    row_name text NOT NULL,
    seat_number integer NOT NULL,
    grade text NOT NULL,
    price numeric(12, 0) NOT NULL CHECK (price >= 0),
    x real NOT NULL,
    y real NOT NULL,
    PRIMARY KEY (schedule_id, seat_no),
    UNIQUE (schedule_id, section, row_name, seat_number)
);

-- workers::seats: what the owner of a schedule decides by, and the version of its map.
CREATE TABLE sale (
    schedule_id uuid PRIMARY KEY REFERENCES schedule,
    state text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'PAUSED', 'CLOSED')),
    booking_opens_at timestamptz NOT NULL,
    booking_closes_at timestamptz NOT NULL,
    hold_ms bigint NOT NULL CHECK (hold_ms > 0),
    seats_per_user integer NOT NULL CHECK (seats_per_user > 0),
    map_version bigint NOT NULL DEFAULT 0,
    CHECK (booking_opens_at < booking_closes_at)
) WITH (fillfactor = 50);

-- workers::seats inserts and ends them, workers::settlement makes them PAID. A reservation keeps
-- its seats after it ends: the history of a seat is the history of its reservations. No foreign
-- keys to schedule and user, which are never deleted: each would cost a look-up per hold, and the
-- seats' key below says the same.
CREATE TABLE reservation (
    reservation_id uuid PRIMARY KEY,
    schedule_id uuid NOT NULL,
    user_id uuid NOT NULL,
    command_id uuid NOT NULL,
    fingerprint uuid NOT NULL,
    seat_nos integer[] NOT NULL CHECK (cardinality(seat_nos) > 0),
    total numeric(14, 0) NOT NULL CHECK (total >= 0),
    seat_limit integer NOT NULL,
    status text NOT NULL CHECK (status IN ('HELD', 'PAID', 'EXPIRED', 'RELEASED', 'CANCELLED')),
    held_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    CHECK ((status IN ('HELD', 'PAID')) = (ended_at IS NULL)),
    CHECK (held_at < expires_at)
) WITH (fillfactor = 80);
-- I1: a command has at most one accepted outcome.
CREATE UNIQUE INDEX reservation_command_id ON reservation (command_id);
CREATE INDEX reservation_user_id ON reservation (user_id, held_at);
CREATE INDEX reservation_schedule_id ON reservation (schedule_id, held_at);
CREATE INDEX reservation_due ON reservation (expires_at) WHERE status = 'HELD';

-- workers::seats alone writes it. S1: the primary key makes a double sale impossible even if all
-- code is wrong. S3: a claimed seat is a seat of that schedule.
CREATE TABLE seat_claim (
    schedule_id uuid NOT NULL,
    seat_no integer NOT NULL,
    reservation_id uuid,
    state text NOT NULL CHECK (state IN ('H', 'S', 'B')),
    PRIMARY KEY (schedule_id, seat_no),
    FOREIGN KEY (schedule_id, seat_no) REFERENCES seat (schedule_id, seat_no),
    CHECK ((state = 'B') = (reservation_id IS NULL))
) WITH (fillfactor = 80);

-- workers::ledger and workers::settlement, through one module. A balance is kept for users only.
CREATE TABLE account (
    account_id uuid PRIMARY KEY,
    balance numeric(16, 0) CHECK (balance >= 0)
) WITH (fillfactor = 80);

-- Append-only. A debit lowers, a credit raises the balance of its account.
CREATE TABLE transfer (
    transfer_id uuid PRIMARY KEY,
    cause uuid NOT NULL,
    fingerprint uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('CHARGE', 'PAYMENT')),
    debit uuid NOT NULL REFERENCES account,
    credit uuid NOT NULL REFERENCES account,
    amount numeric(14, 0) NOT NULL CHECK (amount > 0),
    user_balance numeric(16, 0) NOT NULL CHECK (user_balance >= 0),
    at timestamptz NOT NULL,
    CHECK (debit <> credit)
);
-- L2: one transfer per cause.
CREATE UNIQUE INDEX transfer_cause ON transfer (cause);
CREATE INDEX transfer_debit ON transfer (debit, at);
CREATE INDEX transfer_credit ON transfer (credit, at);

CREATE FUNCTION transfer_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'transfers never change' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER transfer_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transfer
    FOR EACH STATEMENT EXECUTE FUNCTION transfer_is_append_only();

INSERT INTO account (account_id) VALUES
    ('00000000-0000-0000-0000-00000000ca4d'),
    ('00000000-0000-0000-0000-00000000ca54'),
    ('00000000-0000-0000-0000-000000005a1e');

-- workers::settlement: attempts to pay, failed ones too.
CREATE TABLE payment (
    payment_id uuid PRIMARY KEY,
    reservation_id uuid NOT NULL REFERENCES reservation,
    user_id uuid NOT NULL,
    command_id uuid NOT NULL,
    fingerprint uuid NOT NULL,
    method text NOT NULL CHECK (method IN ('POINTS')),
    amount numeric(14, 0) NOT NULL,
    status text NOT NULL CHECK (status IN ('PAID', 'FAILED')),
    fail_code text,
    transfer_id uuid REFERENCES transfer,
    at timestamptz NOT NULL,
    CHECK ((status = 'FAILED') = (fail_code IS NOT NULL)),
    CHECK (status = 'FAILED' OR amount = 0 OR transfer_id IS NOT NULL)
);
-- P1 and I1.
CREATE UNIQUE INDEX payment_live ON payment (reservation_id) WHERE status = 'PAID';
CREATE UNIQUE INDEX payment_command_id ON payment (command_id) WHERE status = 'PAID';
CREATE INDEX payment_user_id ON payment (user_id, at);
