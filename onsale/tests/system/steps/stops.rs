//! Stops a saga at a step of an order's, or has the step fail, by triggers in the test's own database:
//! the processes are those of production and know nothing of it. An order is known by its buyer, who
//! has no other: so it is before it is made, too.
//!
//! A step is the change of a row to a status. Its trigger runs before the change does, in the
//! transaction that makes it, so that who is killed while it waits there dies just before the commit.

use crate::hall::Hall;
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use onsale_schema::ledger::CARD_ACCOUNT;
use std::collections::HashMap;
use uuid::Uuid;

/// The first half of the keys that whoever is stopped waits for.
const LOCKS: i32 = 6001;
/// So often a step fails that fails.
const FAILURES: i64 = 2;
/// Who is stopped waits until the end of such a period, in milliseconds. All who are to die must wait at
/// one moment, and none may wait for longer than its connection lives, which is 5 s: so all give up at
/// once, and are back at once for most of the next period.
const PERIOD_MS: i64 = 4000;

/// What befalls a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It waits, just before its commit, until [`Stops::release`]. At the end of each period
    /// ([`PERIOD_MS`]) it gives up, as its session does that has waited for a lock, and is tried again.
    /// The lease of its row does not end meanwhile: another would come to another step.
    Wait,
    /// It is committed, and the row is not due: as if whoever made it had died right after, with its
    /// lease still running.
    Park,
    /// Another transaction is in the way, [`FAILURES`] times.
    Contended,
    /// The database refuses.
    Refused,
    /// The connection is lost in the middle of the transaction.
    Disconnected,
}

impl Fault {
    fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "WAIT",
            Self::Park => "PARK",
            Self::Contended => "CONTENDED",
            Self::Refused => "REFUSED",
            Self::Disconnected => "DISCONNECTED",
        }
    }
}

/// How far a buyer's order is.
#[derive(Clone, Debug, QueryableByName)]
pub struct Seen {
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub order_id: Option<Uuid>,
    /// Empty as long as it is not made.
    #[diesel(sql_type = Text)]
    pub status: String,
    #[diesel(sql_type = BigInt)]
    pub captured: i64,
    #[diesel(sql_type = BigInt)]
    pub refunded: i64,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    pub refund_id: Option<Uuid>,
    /// The status of its refund; empty without one.
    #[diesel(sql_type = Text)]
    pub refund: String,
    /// Payments of it that are made, and those that failed.
    #[diesel(sql_type = BigInt)]
    pub sales: i64,
    #[diesel(sql_type = BigInt)]
    pub failures: i64,
    /// Seats that it has.
    #[diesel(sql_type = BigInt)]
    pub seats: i64,
    /// Times that its money became points.
    #[diesel(sql_type = BigInt)]
    pub credits: i64,
    /// Whether the owner of its seats has heard the notice that it waits for.
    #[diesel(sql_type = Bool)]
    pub is_told: bool,
    /// Whether somebody has compared its refund with what was paid by other means.
    #[diesel(sql_type = Bool)]
    pub is_compared: bool,
    /// Whether its payment is not what was ordered.
    #[diesel(sql_type = Bool)]
    pub is_odd: bool,
    /// Whether its show is cancelled to the end.
    #[diesel(sql_type = Bool)]
    pub is_show_over: bool,
    /// Whether somebody waits to make a step of it.
    #[diesel(sql_type = Bool)]
    pub waits: bool,
    /// Whether a step of it has failed, if one is to fail.
    #[diesel(sql_type = Bool)]
    pub has_failed: bool,
}

const INSTALL: &str = "
CREATE SCHEMA steps;
CREATE TABLE steps.buyer (user_id uuid PRIMARY KEY);
CREATE TABLE steps.fault (
    fault_no integer PRIMARY KEY,
    user_id uuid NOT NULL,
    step text NOT NULL,
    what text NOT NULL,
    UNIQUE (user_id, step)
);
-- What is counted by a sequence survives the failure.
CREATE FUNCTION steps.befall(fault_no integer, what text) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET lock_timeout = '1s' AS $$
BEGIN
    IF what = 'WAIT' THEN
        -- In place of the session's own, for as long as this function runs; none would be without end.
        PERFORM set_config('lock_timeout', (
            {period_ms} - (1000 * extract(epoch FROM clock_timestamp()))::bigint % {period_ms}
        )::text, true);
        PERFORM pg_advisory_xact_lock_shared({locks}, fault_no);
    ELSIF what <> 'PARK' AND nextval('steps.count_' || fault_no) <= {failures} THEN
        IF what = 'CONTENDED' THEN
            RAISE EXCEPTION 'a step is in the way' USING ERRCODE = 'serialization_failure';
        ELSIF what = 'REFUSED' THEN
            RAISE EXCEPTION 'a step is refused';
        END IF;
        PERFORM pg_terminate_backend(pg_backend_pid());
        PERFORM pg_sleep(1);
    END IF;
END $$;
-- A change of a row to a status, whose name follows the first argument, or one that the first one names.
CREATE FUNCTION steps.on_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    f steps.fault;
BEGIN
    SELECT * INTO f FROM steps.fault AS x
    WHERE x.user_id = NEW.user_id
      AND x.step = TG_ARGV[0] || CASE TG_NARGS WHEN 1 THEN NEW.status ELSE '' END;
    IF FOUND THEN
        PERFORM steps.befall(f.fault_no, f.what);
        IF f.what = 'PARK' AND NEW.next_at IS NOT NULL THEN
            NEW.next_at := clock_timestamp() + interval '1 hour';
        END IF;
    END IF;
    RETURN NEW;
END $$;
-- Who takes a row whose step will wait has it for as long as that takes.
CREATE FUNCTION steps.on_claim() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF EXISTS (SELECT FROM steps.fault AS x WHERE x.user_id = NEW.user_id AND x.what = 'WAIT') THEN
        NEW.next_at := clock_timestamp() + interval '1 hour';
    END IF;
    RETURN NEW;
END $$;
-- The owner of the seats has heard what an order waits for. To park the order keeps it from whoever has
-- it in hand, too.
CREATE FUNCTION steps.on_notice() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    f steps.fault;
BEGIN
    SELECT x.* INTO f FROM steps.fault AS x JOIN public.payment_order AS o USING (user_id)
    WHERE o.notice_id = NEW.notice_id AND x.step = 'notice ' || o.status;
    IF FOUND THEN
        PERFORM steps.befall(f.fault_no, f.what);
        IF f.what = 'PARK' THEN
            UPDATE public.payment_order
            SET next_at = clock_timestamp() + interval '1 hour', step_no = step_no + 1
            WHERE notice_id = NEW.notice_id;
        END IF;
    END IF;
    RETURN NEW;
END $$;
-- All is given back of the show of an order.
CREATE FUNCTION steps.on_show() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM steps.befall(x.fault_no, x.what)
    FROM steps.fault AS x JOIN public.payment_order AS o USING (user_id)
    WHERE o.schedule_id = NEW.schedule_id AND x.step = 'show finished';
    RETURN NEW;
END $$;
CREATE TRIGGER steps BEFORE UPDATE ON payment_order FOR EACH ROW
WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION steps.on_row('');
CREATE TRIGGER steps_insert BEFORE INSERT ON payment_order FOR EACH ROW
EXECUTE FUNCTION steps.on_row('new ');
CREATE TRIGGER steps_insert BEFORE INSERT ON refund FOR EACH ROW
EXECUTE FUNCTION steps.on_row('refund ');
CREATE TRIGGER steps BEFORE UPDATE ON refund FOR EACH ROW
WHEN (NEW.status IS DISTINCT FROM OLD.status) EXECUTE FUNCTION steps.on_row('refund ');
CREATE TRIGGER steps_odd BEFORE UPDATE ON payment_order FOR EACH ROW
WHEN (NEW.odd_at IS NOT NULL AND OLD.odd_at IS NULL) EXECUTE FUNCTION steps.on_row('odd', 'named');
CREATE TRIGGER steps_even BEFORE UPDATE ON payment_order FOR EACH ROW
WHEN (NEW.odd_at IS NULL AND OLD.odd_at IS NOT NULL) EXECUTE FUNCTION steps.on_row('even', 'named');
CREATE TRIGGER steps_compared BEFORE UPDATE ON refund FOR EACH ROW
WHEN (NEW.compared_at IS NOT NULL AND OLD.compared_at IS NULL)
EXECUTE FUNCTION steps.on_row('compared', 'named');
CREATE TRIGGER steps BEFORE UPDATE ON show_cancellation FOR EACH ROW
WHEN (NEW.finished_at IS NOT NULL AND OLD.finished_at IS NULL) EXECUTE FUNCTION steps.on_show();
CREATE TRIGGER steps_claim BEFORE UPDATE ON payment_order FOR EACH ROW
WHEN (NEW.status = OLD.status AND NEW.attempts > OLD.attempts) EXECUTE FUNCTION steps.on_claim();
CREATE TRIGGER steps_claim BEFORE UPDATE ON refund FOR EACH ROW
WHEN (NEW.status = OLD.status AND NEW.attempts > OLD.attempts) EXECUTE FUNCTION steps.on_claim();
CREATE TRIGGER steps BEFORE UPDATE ON notice FOR EACH ROW
WHEN (NEW.done_at IS NOT NULL AND OLD.done_at IS NULL) EXECUTE FUNCTION steps.on_notice();
";

const SEEN: &str = "
SELECT b.user_id, o.order_id, coalesce(o.status, '') AS status,
       coalesce(o.captured, 0)::bigint AS captured, coalesce(o.refunded, 0)::bigint AS refunded,
       r.refund_id, coalesce(r.status, '') AS refund,
       (SELECT count(*) FROM payment AS p
        WHERE p.order_id = o.order_id AND p.status = 'PAID') AS sales,
       (SELECT count(*) FROM payment AS p
        WHERE p.order_id = o.order_id AND p.status = 'FAILED') AS failures,
       (SELECT count(*) FROM seat_claim AS c
        WHERE c.reservation_id IN (o.reservation_id, o.rehold_id) AND c.state = 'S') AS seats,
       (SELECT count(*) FROM transfer AS t
        WHERE t.credit = b.user_id AND t.debit = '{card}') AS credits,
       EXISTS (SELECT FROM notice AS n
               WHERE n.notice_id = o.notice_id AND n.done_at IS NOT NULL) AS is_told,
       r.compared_at IS NOT NULL AS is_compared, o.odd_at IS NOT NULL AS is_odd,
       EXISTS (SELECT FROM show_cancellation AS s
               WHERE s.schedule_id = o.schedule_id AND s.finished_at IS NOT NULL) AS is_show_over,
       EXISTS (SELECT FROM steps.fault AS f JOIN pg_locks AS l ON l.objid = f.fault_no::oid
               WHERE f.user_id = b.user_id AND l.locktype = 'advisory' AND l.classid = {locks}
                 AND NOT l.granted
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
              ) AS waits,
       EXISTS (SELECT FROM steps.fault AS f JOIN pg_sequences AS s
                 ON s.schemaname = 'steps' AND s.sequencename = 'count_' || f.fault_no
               WHERE f.user_id = b.user_id AND s.last_value IS NOT NULL) AS has_failed
FROM steps.buyer AS b LEFT JOIN payment_order AS o USING (user_id)
     LEFT JOIN refund AS r ON r.order_id = o.order_id";

/// The stops of one system. It holds the locks that who is stopped waits for.
pub struct Stops {
    conn: AsyncPgConnection,
    /// How many were set; their numbers are from 1.
    faults: usize,
}

fn filled(sql: &str) -> String {
    sql.replace("{locks}", &LOCKS.to_string())
        .replace("{card}", &CARD_ACCOUNT.to_string())
        .replace("{failures}", &FAILURES.to_string())
        .replace("{period_ms}", &PERIOD_MS.to_string())
}

/// That a row is of one of these.
pub fn of_buyers(buyers: &[Uuid]) -> String {
    let list: Vec<String> = buyers.iter().map(|id| format!("'{id}'")).collect();
    format!("user_id = ANY(ARRAY[{}]::uuid[])", list.join(", "))
}

impl Stops {
    /// For the orders of these.
    pub async fn install(hall: &Hall, buyers: &[Uuid]) -> Self {
        let mut conn = hall.connect().await;
        let install = conn.batch_execute(&filled(INSTALL)).await;
        install.expect("the triggers");
        let mut stops = Self { conn, faults: 0 };
        let buyers: Vec<String> = buyers.iter().map(|id| format!("('{id}')")).collect();
        let buyers = buyers.join(", ");
        stops
            .run(&format!("INSERT INTO steps.buyer VALUES {buyers}"))
            .await;
        stops
    }

    async fn run(&mut self, sql: &str) {
        self.conn.batch_execute(sql).await.expect(sql);
    }

    /// From now on this befalls a step of a buyer's order.
    pub async fn set(&mut self, buyer: Uuid, step: &str, fault: Fault) {
        self.faults += 1;
        let number = self.faults;
        let what = fault.as_str();
        self.run(&format!(
            "SELECT pg_advisory_lock({LOCKS}, {number});
             CREATE SEQUENCE steps.count_{number};
             INSERT INTO steps.fault VALUES ({number}, '{buyer}', '{step}', '{what}')"
        ))
        .await;
    }

    /// Lets go of all who wait; nobody waits any more.
    pub async fn release(&mut self) {
        self.run("DELETE FROM steps.fault WHERE what = 'WAIT'; SELECT pg_advisory_unlock_all()")
            .await;
    }

    /// The driver may take what these have parked, or had in hand when they died. A charge is asked for
    /// until a minute after it was made: as if that had been now, however long it was parked.
    pub async fn due(&mut self, buyers: &[Uuid]) {
        let these = of_buyers(buyers);
        self.run(&format!(
            "UPDATE payment_order
             SET next_at = clock_timestamp(),
                 created_at = CASE WHEN reservation_id IS NULL THEN clock_timestamp()
                                   ELSE created_at END
             WHERE {these} AND next_at IS NOT NULL;
             UPDATE refund SET next_at = clock_timestamp(),
                               settles_at = CASE WHEN settles_at IS NOT NULL
                                                 THEN least(settles_at, clock_timestamp()) END
             WHERE {these} AND next_at IS NOT NULL"
        ))
        .await;
    }

    /// Has the driver look at the orders of these again, whatever their status, but for those that are
    /// being written.
    pub async fn look(&mut self, buyers: &[Uuid]) {
        let these = of_buyers(buyers);
        self.run(&format!(
            "UPDATE payment_order SET next_at = clock_timestamp()
             WHERE order_id IN (SELECT order_id FROM payment_order WHERE {these}
                                FOR NO KEY UPDATE SKIP LOCKED)"
        ))
        .await;
    }

    /// As if the leases of those who have these in hand were over, and with them all that they have
    /// asked for, but for what is parked, or is being written.
    pub async fn hurry(&mut self, buyers: &[Uuid]) {
        let these = of_buyers(buyers);
        let soon =
            "next_at > clock_timestamp() AND next_at < clock_timestamp() + interval '30 min'";
        self.run(&format!(
            "UPDATE payment_order SET next_at = clock_timestamp()
             WHERE order_id IN (SELECT order_id FROM payment_order WHERE {these} AND {soon}
                                FOR NO KEY UPDATE SKIP LOCKED);
             UPDATE refund SET next_at = clock_timestamp(),
                               settles_at = least(settles_at, clock_timestamp())
             WHERE refund_id IN (SELECT refund_id FROM refund WHERE {these} AND {soon}
                                 FOR NO KEY UPDATE SKIP LOCKED)"
        ))
        .await;
    }

    /// Has the driver look at every order again, whatever its status.
    pub async fn look_again(&mut self) {
        self.run("UPDATE payment_order SET next_at = clock_timestamp()")
            .await;
    }

    /// How far all orders are, by their buyers, in one snapshot.
    pub async fn seen(&mut self) -> HashMap<Uuid, Seen> {
        let rows: Vec<Seen> = sql_query(filled(SEEN))
            .load(&mut self.conn)
            .await
            .expect("orders");
        rows.into_iter().map(|row| (row.user_id, row)).collect()
    }
}
