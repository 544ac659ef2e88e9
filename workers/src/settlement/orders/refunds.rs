//! Gives money back through the gateway, each refund once. What to do next is
//! [`onsale_domain::settlement::refund`]'s to say. What can't be given back, and what went back twice or
//! has perhaps, is left for somebody to see to: in the refund's row, and loudly.
//!
//! It must never ask for what the gateway may have made, or somebody in its own pages: whoever takes up a
//! refund looks the payment up first, and so does who is refused. That is a call more for each refund.
//! What is given back by hand between the look-up and the refund is still seen afterwards only.

mod store;

pub(super) use store::refund_list;

use super::store::Limits;
use super::{Driver, Steps, insist};
use crate::gateway::{Cancel, Error, IdempotencyKey, Payment, PaymentKey};
use crate::settlement::store::written_off;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use onsale_domain::settlement::kept::rest;
use onsale_domain::settlement::refund::{
    Entry, Learned, Ours, Step, compare, found, is_guess, is_to_compare, key, step,
};
use onsale_platform::{db, metric, tx};
use onsale_schema::Money;
use onsale_schema::status::RefundCompare;
use std::time::Duration;
use store::Claimed;
use tokio::time::Instant;

/// Why, for the gateway's records.
const REASON: &str = "cancelled";

/// What came of taking up a refund.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    /// What follows.
    step: Step,
    /// Whether something was asked of which nobody knows what came.
    is_in_doubt: bool,
    /// What the gateway said when it did not do what it was asked.
    why: Option<String>,
    /// Whether somebody has to compare what was given back by hand with what is said to be paid by
    /// other means, or with the refund itself.
    is_to_compare: bool,
}

impl End {
    /// Why somebody has to compare something, now that the refund has come to this.
    fn compare(&self) -> Option<RefundCompare> {
        compare(self.step, self.is_to_compare)
    }
}

/// Takes refunds that are due.
pub(super) fn take(driver: Driver, most: usize) -> BoxFuture<'static, Result<Steps, db::Error>> {
    async move {
        let Limits {
            refund_lease_ms: lease_ms,
            request_ms,
            ..
        } = driver.limits;
        // Somebody else may have it, and a person may be told of it, when the lease is over: by then
        // nothing of ours may be on its way.
        let ask_for = u64::try_from(lease_ms - request_ms).unwrap_or_default();
        let ask_until = Instant::now() + Duration::from_millis(ask_for);
        let due = store::refund_claim(&driver.ctx.pool, most, lease_ms).await?;
        let steps = due.into_iter().map(|claimed| {
            let driver = driver.clone();
            async move { give_back(&driver, claimed, ask_until).await }.boxed()
        });
        Ok(steps.collect())
    }
    .boxed()
}

async fn give_back(driver: &Driver, claimed: Claimed, ask_until: Instant) -> Result<(), db::Error> {
    let end = go_on(driver, &claimed, ask_until).await?;
    let roll = rand::random();
    let write = || {
        let (claimed, end) = (claimed.clone(), end.clone());
        tx::run(&driver.ctx.pool, move |conn| {
            let (claimed, end) = (claimed.clone(), end.clone());
            async move { store::apply(conn, &claimed, &end, roll).await }.boxed()
        })
    };
    if insist(write).await? {
        tell(&claimed, &end);
    }
    Ok(())
}

/// Asks the gateway until it is clear what to write. After a while it asks for nothing more.
async fn go_on(driver: &Driver, claimed: &Claimed, ask_until: Instant) -> Result<End, db::Error> {
    let state = claimed.state();
    let mut learned = Learned::Nothing;
    let mut end = End {
        step: Step::Wait,
        is_in_doubt: false,
        why: None,
        is_to_compare: false,
    };
    loop {
        end.step = match step(&state, learned) {
            Step::Ask if Instant::now() >= ask_until => Step::Wait,
            next => next,
        };
        match end.step {
            Step::LookUp => learned = look_up(driver, claimed, &mut end).await?,
            Step::Ask => {
                let error = ask(driver, claimed).await.err();
                learned = match &error {
                    None => Learned::Made,
                    Some(Error::Declined { .. } | Error::NotFound) => {
                        match look_up(driver, claimed, &mut end).await? {
                            Learned::NotMade | Learned::Differs => Learned::Refused,
                            made_or_not_known => made_or_not_known,
                        }
                    }
                    Some(Error::Unknown { .. }) => Learned::Unknown,
                    Some(Error::Unavailable { .. }) => Learned::Unavailable,
                    Some(error @ Error::Rejected { .. }) => {
                        tracing::error!(%error, refund = %claimed.refund_id, "not refunded");
                        Learned::Unavailable
                    }
                };
                end.is_in_doubt = learned == Learned::Unknown;
                end.why = error.as_ref().map(Error::to_string);
            }
            Step::Wait | Step::Done { .. } | Step::Resolved | Step::Stuck { .. } | Step::Rest => {
                return Ok(end);
            }
        }
    }
}

/// Says what came of it, where somebody has to know. The row says so as well: that is not lost.
fn tell(claimed: &Claimed, end: &End) {
    let outcome = match (end.step, end.compare()) {
        (Step::Done { .. } | Step::Resolved, Some(RefundCompare::Twice)) => {
            tracing::error!(refund = %claimed.refund_id, order = %claimed.order_id,
                "the gateway has made a refund that somebody says to have paid back by other means");
            metric::REFUND_TWICE
        }
        (Step::Done { .. } | Step::Resolved, Some(RefundCompare::ByHand)) => {
            tracing::warn!(refund = %claimed.refund_id, order = %claimed.order_id,
                "somebody says to have paid back a refund by other means, or nobody has told of it, and \
                 somebody has given as much back in the gateway's own pages: is that one and the same?");
            metric::REFUND_TO_COMPARE
        }
        (Step::Done { .. }, None) => "done",
        (Step::Resolved, None) => "resolved",
        (Step::Stuck { .. }, _) => {
            tracing::error!(refund = %claimed.refund_id, order = %claimed.order_id,
                "a refund can't be made; somebody has to see to it");
            "stuck"
        }
        (Step::Wait | Step::LookUp | Step::Ask | Step::Rest, _) => return,
    };
    metrics::counter!(metric::REFUNDS, "outcome" => outcome).increment(1);
}

async fn ask(driver: &Driver, claimed: &Claimed) -> Result<(), Error> {
    let payment_key: PaymentKey = claimed.payment_key.parse().map_err(|_| Error::NotFound)?;
    let cancel = Cancel {
        payment_key,
        refund_id: claimed.refund_id,
        amount: claimed.amount,
        reason: REASON,
        idempotency_key: IdempotencyKey(key(claimed.refund_id, claimed.key_no)),
    };
    driver.gateway.cancel(&cancel).await.map(drop)
}

/// Whether the gateway has made it; notes why nobody can tell, or that somebody has to compare.
async fn look_up(driver: &Driver, claimed: &Claimed, end: &mut End) -> Result<Learned, db::Error> {
    let Ok(payment_key) = claimed.payment_key.parse::<PaymentKey>() else {
        // The gateway has never given such a key to anybody.
        return Ok(Learned::NotMade);
    };
    Ok(match driver.gateway.find_by_key(&payment_key).await {
        Ok(payment) => {
            // After the gateway has said what it has given back: the row of a refund is there before
            // it is asked for, so that no name of ours is unknown.
            let mut conn = driver.ctx.pool.get().await?;
            let all = refund_list(&mut conn, claimed.order_id).await?;
            let written_off = written_off(&conn, claimed.order_id).await?;
            drop(conn);
            judge(claimed, &all, &written_off, &payment, end)
        }
        Err(Error::NotFound) => Learned::NotMade,
        Err(error) => {
            if claimed.is_old {
                tracing::error!(%error, refund = %claimed.refund_id,
                    "nobody can tell whether a refund was made: the payment can't be looked up");
            } else {
                tracing::debug!(%error, refund = %claimed.refund_id, "it can't be looked up");
            }
            end.why = Some(format!("it can't be looked up: {error}"));
            Learned::Unknown
        }
    })
}

/// What a payment says about a refund of it; what was written off is none.
fn judge(
    claimed: &Claimed,
    all: &[Ours],
    written_off: &[Money],
    payment: &Payment,
    end: &mut End,
) -> Learned {
    let given: Vec<Entry> = (payment.cancels.iter())
        .map(|cancel| Entry {
            refund_id: cancel.refund_id,
            amount: cancel.amount,
        })
        .collect();
    let back: Money = given.iter().map(|entry| entry.amount).sum();
    let is_sound = payment.order_id.uuid() == Some(claimed.order_id.0)
        && payment.status.is_captured()
        && payment.total - payment.balance == back;
    let (given, _) = rest(all, &given, written_off);
    let learned = match is_sound {
        true => found(claimed.refund_id, all, &given),
        false => Learned::Unknown,
    };
    end.is_to_compare = is_sound
        && (is_to_compare(claimed.refund_id, all, &given)
            || is_guess(&claimed.state(), learned, claimed.amount, payment.balance));
    let why = match learned {
        Learned::Differs => Some("the gateway has given back what is no refund of ours"),
        Learned::Contested => Some("as much was given back by hand, perhaps for another refund"),
        Learned::Nothing
        | Learned::Made
        | Learned::MadeByHand
        | Learned::NotMade
        | Learned::Refused
        | Learned::Unavailable
        | Learned::Unknown => None,
    };
    end.why = why.map(str::to_owned).or(end.why.take());
    if learned == Learned::Unknown {
        tracing::error!(refund = %claimed.refund_id, order = %claimed.order_id,
            status = payment.status.as_str(),
            "the gateway's payment is not the one of a refund, or says of it what can't be");
        end.why = Some(format!(
            "the gateway says of the payment ({}) what can't be",
            payment.status.as_str()
        ));
    }
    learned
}
