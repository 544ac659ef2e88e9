-- workers::admission alone writes both tables: one update of a room and one insert of tickets per
-- batch. A schedule without a row has no waiting room, and never had one.
CREATE TABLE waiting_room (
    schedule_id uuid PRIMARY KEY REFERENCES schedule,
    -- Of the draw. Nobody may read it but the owner, until it has drawn by it.
    secret bytea NOT NULL CHECK (octet_length(secret) = 32),
    commitment bytea NOT NULL GENERATED ALWAYS AS (sha256(secret)) STORED,
    mode text NOT NULL CHECK (mode IN ('OFF', 'FIFO', 'DRAW', 'OPEN')),
    paused boolean NOT NULL,
    opens_at timestamptz NOT NULL,
    capacity integer NOT NULL CHECK (capacity >= 0),
    rate_per_second integer NOT NULL CHECK (rate_per_second > 0),
    pass_ms bigint NOT NULL CHECK (pass_ms > 0),
    presence_ms bigint NOT NULL CHECK (presence_ms > 0),
    holds_per_pass integer NOT NULL CHECK (holds_per_pass > 0),
    beacon_name text,
    -- Counts the commits that changed the room.
    version bigint NOT NULL CHECK (version > 0),
    -- Q1: the next ticket gets this number, so that numbers are dense.
    arrivals integer NOT NULL CHECK (arrivals >= 0),
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    -- The lobby, once it is closed, and its order, once it has one.
    closed_at timestamptz,
    lobby_size integer CHECK (lobby_size BETWEEN 0 AND arrivals),
    lobby_digest bytea CHECK (octet_length(lobby_digest) = 32),
    beacon bytea,
    lobby_order text CHECK (lobby_order IN ('ARRIVAL', 'DRAWN')),
    seed bytea CHECK (octet_length(seed) = 32),
    revealed bytea GENERATED ALWAYS AS (CASE WHEN lobby_order = 'DRAWN' THEN secret END) STORED,
    -- All places before it were admitted, have left or were passed over.
    front integer NOT NULL CHECK (front BETWEEN 0 AND arrivals),
    -- Q2: the next admission gets this number.
    admissions integer NOT NULL CHECK (admissions BETWEEN 0 AND front),
    rate_used timestamptz NOT NULL,
    latest timestamptz NOT NULL,
    CHECK (num_nonnulls(closed_at, lobby_size, lobby_digest) IN (0, 3)),
    CHECK (closed_at IS NOT NULL OR num_nonnulls(beacon, lobby_order) = 0),
    CHECK (beacon IS NULL OR beacon_name IS NOT NULL),
    CHECK ((lobby_order IS NOT DISTINCT FROM 'DRAWN') = (seed IS NOT NULL)),
    -- Nobody is let in before there is an order.
    CHECK (front = 0 OR lobby_order IS NOT NULL)
) WITH (fillfactor = 50);

-- A ticket is written when its owner joins, is admitted, and ends; never by a poll, and not by the
-- draw: who stands where follows from the room's row. No foreign keys: each would cost a look-up per
-- join, and only the owner of the room writes them.
CREATE TABLE ticket (
    -- I1: the id of the command that made it.
    ticket_id uuid PRIMARY KEY,
    schedule_id uuid NOT NULL,
    arrival_no integer NOT NULL CHECK (arrival_no >= 0),
    user_id uuid NOT NULL,
    fingerprint uuid NOT NULL,
    status text NOT NULL CHECK (status IN ('WAITING', 'ADMITTED', 'EXPIRED', 'LEFT', 'DONE')),
    joined_at timestamptz NOT NULL,
    ended_at timestamptz,
    -- How it was admitted, if it was; no capacity where the room was open to everybody.
    admission_no integer CHECK (admission_no >= 0),
    admitted_at timestamptz,
    place integer CHECK (place >= 0),
    active_before integer CHECK (active_before >= 0),
    capacity integer,
    was_passed boolean,
    -- Its pass, without holds; and the holds made with it: [id, until when (µs), whether it is over].
    pass_until timestamptz,
    holds jsonb,
    CHECK ((status IN ('WAITING', 'ADMITTED')) = (ended_at IS NULL)),
    CHECK (CASE status WHEN 'WAITING' THEN admission_no IS NULL
                       WHEN 'LEFT' THEN true
                       ELSE admission_no IS NOT NULL END),
    CHECK (num_nonnulls(admission_no, admitted_at, place, active_before, was_passed, pass_until)
           IN (0, 6)),
    CHECK (admission_no IS NOT NULL OR num_nonnulls(capacity, holds) = 0),
    -- Q2: nobody is admitted while the room is full.
    CONSTRAINT ticket_room CHECK (active_before < capacity)
) WITH (fillfactor = 80);
-- Q1: one number, one ticket; and one live ticket per user.
CREATE UNIQUE INDEX ticket_arrival_no ON ticket (schedule_id, arrival_no);
CREATE UNIQUE INDEX ticket_live ON ticket (schedule_id, user_id)
    WHERE status IN ('WAITING', 'ADMITTED');
-- Q2: one number, one admission.
CREATE UNIQUE INDEX ticket_admission_no ON ticket (schedule_id, admission_no)
    WHERE admission_no IS NOT NULL;
-- What a user had; and which tickets are not simply in line.
CREATE INDEX ticket_ended ON ticket (user_id, schedule_id) WHERE ended_at IS NOT NULL;
CREATE INDEX ticket_not_waiting ON ticket (schedule_id, arrival_no) WHERE status <> 'WAITING';
