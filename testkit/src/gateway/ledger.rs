//! What the gateway knows and decides. No clock, no file, no network: a decision is a line of the
//! book, and applying the lines in their order makes what is known.

use super::errors::{Answer, Refusal};
use onsale_schema::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// A line of the book: what became true, together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// A payment as it is from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<Payment>,
    /// Money that moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<Transaction>,
    /// What is answered whenever the same is asked with the same key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Remembered>,
    /// What somebody has to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// The webhook that needs no more telling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payment {
    pub payment_key: String,
    pub order_id: String,
    pub status: Status,
    pub amount: i64,
    pub balance: i64,
    pub requested_at: Timestamp,
    pub approved_at: Option<Timestamp>,
    pub cancels: Vec<Cancel>,
}

/// What a payment is, as it was last written. That a checkout has expired is not written: it follows
/// from its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    InProgress,
    Done,
    Canceled,
    PartialCanceled,
    Aborted,
    Expired,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cancel {
    pub transaction_key: String,
    pub cancel_amount: i64,
    pub cancel_reason: String,
    pub canceled_at: Timestamp,
    pub cancel_status: String,
}

/// A movement of money; the gateway's book as merchants see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    pub transaction_key: String,
    pub payment_key: String,
    pub order_id: String,
    pub status: Status,
    pub transaction_at: Timestamp,
    pub currency: String,
    pub amount: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Path and key.
    pub name: String,
    /// The request's body.
    pub asked: Value,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    pub id: String,
    pub body: Value,
    /// What behaviours by amount go by.
    pub amount: i64,
    pub is_capture: bool,
}

/// A request that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub path: String,
    pub idempotency_key: Option<String>,
    pub asked: Value,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Confirm {
        payment_key: String,
        order_id: String,
        amount: i64,
        declined: bool,
    },
    /// Of a card on file.
    Charge {
        order_id: String,
        amount: i64,
        declined: bool,
    },
    Cancel {
        payment_key: String,
        /// All that is left without it.
        amount: Option<i64>,
        reason: String,
        declined: bool,
    },
}

impl Wish {
    /// By what it is remembered.
    pub fn name(&self) -> Option<String> {
        let key = self.idempotency_key.as_ref()?;
        Some(format!("{} {key}", self.path))
    }
}

/// What the decisions need from outside.
#[derive(Clone, Debug)]
pub struct Moment {
    pub now: Timestamp,
    /// An id that nobody has.
    pub fresh: String,
    pub checkout_ttl_ms: i64,
}

/// All that is known.
#[derive(Debug, Default)]
pub struct Ledger {
    payments: HashMap<String, Payment>,
    by_order: HashMap<String, Vec<String>>,
    answers: HashMap<String, Remembered>,
    transactions: Vec<Transaction>,
    /// Webhooks that are not told yet.
    open: BTreeMap<String, Webhook>,
}

impl Ledger {
    pub fn apply(&mut self, line: &Line) {
        if let Some(payment) = &line.payment {
            let known = self
                .payments
                .insert(payment.payment_key.clone(), payment.clone());
            if known.is_none() {
                let keys = self.by_order.entry(payment.order_id.clone()).or_default();
                keys.push(payment.payment_key.clone());
            }
        }
        self.transactions.extend(line.transaction.clone());
        if let Some(answer) = &line.answer {
            self.answers.insert(answer.name.clone(), answer.clone());
        }
        if let Some(webhook) = &line.webhook {
            self.open.insert(webhook.id.clone(), webhook.clone());
        }
        if let Some(told) = &line.told {
            self.open.remove(told);
        }
    }

    pub fn open_webhooks(&self) -> Vec<Webhook> {
        self.open.values().cloned().collect()
    }

    /// A payment as it is at this moment.
    pub fn payment(&self, key: &str, moment: &Moment) -> Option<Payment> {
        let mut payment = self.payments.get(key)?.clone();
        let until = payment.requested_at.plus_ms(moment.checkout_ttl_ms);
        if payment.status == Status::InProgress && until <= moment.now {
            payment.status = Status::Expired;
        }
        Some(payment)
    }

    /// The payment of an order: the captured one, or the latest.
    pub fn payment_of_order(&self, order_id: &str, moment: &Moment) -> Option<Payment> {
        let keys = self.by_order.get(order_id)?;
        let mut all = keys.iter().filter_map(|key| self.payment(key, moment));
        all.find(Payment::is_captured)
            .or_else(|| self.latest_of_order(order_id, moment))
    }

    /// The latest payment of an order, be it captured or not.
    pub fn latest_of_order(&self, order_id: &str, moment: &Moment) -> Option<Payment> {
        self.payment(self.by_order.get(order_id)?.last()?, moment)
    }

    /// A page of the book: what is from `since` (inclusive) until `until` (exclusive), after an entry.
    pub fn transactions(
        &self,
        since: Timestamp,
        until: Timestamp,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<Transaction> {
        let begin = after.map_or(Some(0), |key| {
            let at = self
                .transactions
                .iter()
                .position(|one| one.transaction_key == key);
            at.map(|at| at + 1)
        });
        let rest = &self.transactions[begin.unwrap_or(self.transactions.len())..];
        let wanted = rest
            .iter()
            .filter(|one| (since..until).contains(&one.transaction_at));
        wanted.take(limit).cloned().collect()
    }

    /// What the buyer does at the gateway.
    pub fn checkout(&self, order_id: &str, amount: i64, moment: &Moment) -> (Option<Line>, Answer) {
        let of_order = self.payment_of_order(order_id, moment);
        if of_order.is_some_and(|payment| payment.is_captured()) {
            return (None, Answer::error(Refusal::DuplicatedOrder));
        }
        let payment = Payment::new(order_id, amount, moment);
        let answer = Answer::ok(json!({ "paymentKey": payment.payment_key }));
        let line = Line {
            payment: Some(payment),
            ..Line::default()
        };
        (Some(line), answer)
    }

    /// What a wish leads to. The order is: asked before, valid, state.
    pub fn decide(&self, wish: &Wish, moment: &Moment) -> (Option<Line>, Answer) {
        let name = wish.name();
        if let Some(known) = name.as_ref().and_then(|name| self.answers.get(name)) {
            let is_same = known.asked == wish.asked;
            let reused = || Answer::error(Refusal::KeyReused);
            return (
                None,
                if is_same {
                    known.answer.clone()
                } else {
                    reused()
                },
            );
        }
        let done = match &wish.what {
            What::Confirm {
                payment_key,
                order_id,
                amount,
                declined,
            } => self.confirm(payment_key, order_id, *amount, *declined, moment),
            What::Charge {
                order_id,
                amount,
                declined,
            } => self.charge(order_id, *amount, *declined, moment),
            What::Cancel {
                payment_key,
                amount,
                reason,
                declined,
            } => self.cancel(payment_key, *amount, reason, *declined, moment),
        };
        let remembered = |answer: &Answer| {
            name.map(|name| Remembered {
                name,
                asked: wish.asked.clone(),
                answer: answer.clone(),
            })
        };
        match done {
            Ok((mut line, answer)) => {
                line.answer = remembered(&answer);
                (Some(line), answer)
            }
            // Nothing has changed, but whoever asks the same under the same key hears the same.
            Err(refusal) => {
                let answer = Answer::error(refusal);
                let line = remembered(&answer).map(|remembered| Line {
                    answer: Some(remembered),
                    ..Line::default()
                });
                (line, answer)
            }
        }
    }

    fn confirm(
        &self,
        payment_key: &str,
        order_id: &str,
        amount: i64,
        declined: bool,
        moment: &Moment,
    ) -> Result<(Line, Answer), Refusal> {
        let payment = self.payment(payment_key, moment);
        let payment = payment.ok_or(Refusal::NotFoundPayment)?;
        if payment.order_id != order_id {
            return Err(Refusal::OrderMismatch);
        }
        if payment.amount != amount {
            return Err(Refusal::AmountMismatch);
        }
        match payment.status {
            Status::InProgress => {}
            Status::Expired => return Err(Refusal::SessionExpired),
            Status::Aborted => return Err(Refusal::CardDeclined),
            Status::Done | Status::Canceled | Status::PartialCanceled => {
                return Err(Refusal::AlreadyProcessed);
            }
        }
        let of_order = self.payment_of_order(order_id, moment);
        if of_order.is_some_and(|other| other.is_captured()) {
            return Err(Refusal::DuplicatedOrder);
        }
        Ok(payment.captured(declined, moment))
    }

    /// Every customer has a card on file.
    fn charge(
        &self,
        order_id: &str,
        amount: i64,
        declined: bool,
        moment: &Moment,
    ) -> Result<(Line, Answer), Refusal> {
        let of_order = self.payment_of_order(order_id, moment);
        if of_order.is_some_and(|other| other.is_captured()) {
            return Err(Refusal::DuplicatedOrder);
        }
        Ok(Payment::new(order_id, amount, moment).captured(declined, moment))
    }

    fn cancel(
        &self,
        payment_key: &str,
        amount: Option<i64>,
        reason: &str,
        declined: bool,
        moment: &Moment,
    ) -> Result<(Line, Answer), Refusal> {
        let payment = self.payment(payment_key, moment);
        let mut payment = payment.ok_or(Refusal::NotFoundPayment)?;
        match payment.status {
            Status::Done | Status::PartialCanceled => {}
            Status::Canceled => return Err(Refusal::AlreadyCanceled),
            Status::InProgress | Status::Aborted | Status::Expired => {
                return Err(Refusal::NotCancelable);
            }
        }
        let amount = amount.unwrap_or(payment.balance);
        if amount > payment.balance {
            return Err(Refusal::NotCancelableAmount);
        }
        if declined {
            return Err(Refusal::NotCancelable);
        }
        payment.balance -= amount;
        payment.status = match payment.balance {
            0 => Status::Canceled,
            _ => Status::PartialCanceled,
        };
        payment.cancels.push(Cancel {
            transaction_key: moment.fresh.clone(),
            cancel_amount: amount,
            cancel_reason: reason.to_owned(),
            canceled_at: moment.now,
            cancel_status: "DONE".to_owned(),
        });
        let answer = Answer::ok(payment.document());
        let line = Line {
            transaction: Some(payment.transaction(&moment.fresh, amount, moment.now)),
            webhook: Some(payment.webhook(false, moment)),
            payment: Some(payment),
            ..Line::default()
        };
        Ok((line, answer))
    }
}

impl Payment {
    /// One that nobody has captured.
    fn new(order_id: &str, amount: i64, moment: &Moment) -> Self {
        Self {
            payment_key: format!("tgen_{}", moment.fresh),
            order_id: order_id.to_owned(),
            status: Status::InProgress,
            amount,
            balance: 0,
            requested_at: moment.now,
            approved_at: None,
            cancels: Vec::new(),
        }
    }

    /// What the card company says to a capture.
    fn captured(mut self, declined: bool, moment: &Moment) -> (Line, Answer) {
        if declined {
            self.status = Status::Aborted;
            let line = Line {
                webhook: Some(self.webhook(false, moment)),
                payment: Some(self),
                ..Line::default()
            };
            return (line, Answer::error(Refusal::CardDeclined));
        }
        self.status = Status::Done;
        self.balance = self.amount;
        self.approved_at = Some(moment.now);
        let answer = Answer::ok(self.document());
        let line = Line {
            transaction: Some(self.transaction(&moment.fresh, self.amount, moment.now)),
            webhook: Some(self.webhook(true, moment)),
            payment: Some(self),
            ..Line::default()
        };
        (line, answer)
    }

    pub fn is_captured(&self) -> bool {
        match self.status {
            Status::Done | Status::Canceled | Status::PartialCanceled => true,
            Status::InProgress | Status::Aborted | Status::Expired => false,
        }
    }

    /// As merchants see it.
    pub fn document(&self) -> Value {
        let last = self.cancels.last().map(|cancel| &cancel.transaction_key);
        json!({
            "version": "2022-11-16",
            "type": "NORMAL",
            "mId": "onsale",
            "paymentKey": self.payment_key,
            "lastTransactionKey": last,
            "orderId": self.order_id,
            "status": self.status,
            "currency": "KRW",
            "totalAmount": self.amount,
            "balanceAmount": self.balance,
            "requestedAt": self.requested_at,
            "approvedAt": self.approved_at,
            "cancels": (!self.cancels.is_empty()).then_some(&self.cancels),
        })
    }

    fn transaction(&self, key: &str, amount: i64, at: Timestamp) -> Transaction {
        Transaction {
            transaction_key: key.to_owned(),
            payment_key: self.payment_key.clone(),
            order_id: self.order_id.clone(),
            status: self.status,
            transaction_at: at,
            currency: "KRW".to_owned(),
            amount,
        }
    }

    fn webhook(&self, is_capture: bool, moment: &Moment) -> Webhook {
        Webhook {
            id: format!("msg_{}", moment.fresh),
            amount: self.amount,
            is_capture,
            body: json!({
                "eventType": "PAYMENT_STATUS_CHANGED",
                "createdAt": moment.now,
                "data": {
                    "paymentKey": self.payment_key,
                    "orderId": self.order_id,
                    "status": self.status,
                    "totalAmount": self.amount,
                },
            }),
        }
    }
}
