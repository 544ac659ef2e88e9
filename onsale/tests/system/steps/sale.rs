//! One order on its way, and what its buyer asks for, or who administers.

use super::cases::{Case, Path};
use super::taken;
use crate::cards::CHARGES;
use crate::hall::Hall;
use crate::shop::{Order, won};
use onsale_testkit::{Answer, Api, Buyer};
use serde_json::{Value, json};
use uuid::Uuid;

/// What a seat costs, and points by card, but for the digits that the gateway goes by; in won.
pub const PRICE: i64 = 10_000;

/// One order of somebody's who has no other: it is known by its buyer.
#[derive(Clone, Debug)]
pub struct Sale {
    pub case: Case,
    pub buyer: Buyer,
    pub amount: i64,
    pub what: What,
    /// Its refund, once it is left to a person.
    pub task: Option<Uuid>,
    /// Who sees to what has to be seen to.
    admin: Buyer,
}

/// What is to be had for the money.
#[derive(Clone, Debug)]
pub enum What {
    Seat {
        date: Uuid,
        label: String,
        order: Order,
    },
    Points,
}

/// Something that is asked for: as often as one likes, and under one key.
#[derive(Clone, Debug)]
pub struct Wish {
    by: Buyer,
    path: String,
    key: String,
    body: Value,
}

impl Wish {
    /// Asks, and does not wait for what comes of it.
    pub async fn ask(&self, api: &Api) -> Answer {
        let request = api.post_request(&self.by, &self.path, &self.key, &self.body);
        api.send(request.header("prefer", "respond-async")).await
    }

    /// Asks, and waits, also if it is told to come back later.
    pub async fn insist(&self, api: &Api) -> Answer {
        taken(async || api.post(&self.by, &self.path, &self.key, &self.body).await).await
    }

    /// The same under another key.
    pub fn anew(mut self) -> Self {
        self.key.push_str("-2");
        self
    }
}

impl Sale {
    /// A seat that is held, ordered and agreed to; or points, of which there is no order yet.
    pub async fn begin(hall: &Hall, case: Case, place: Option<(Uuid, String)>) -> Self {
        let buyer = hall.buyer();
        let what = match place {
            Some((date, label)) => {
                let order = hall.order(&buyer, date, &[&label]).await;
                What::Seat { date, label, order }
            }
            None => What::Points,
        };
        Self {
            case,
            buyer,
            amount: PRICE + case.code,
            what,
            task: None,
            admin: hall.admin(),
        }
    }

    /// The order of its seat.
    pub fn order(&self) -> &Order {
        match &self.what {
            What::Seat { order, .. } => order,
            What::Points => panic!("{:?} has no seat", self.case),
        }
    }

    fn wish_of(&self, by: &Buyer, what: &str, path: String, body: Value) -> Wish {
        Wish {
            by: by.clone(),
            path,
            key: format!("{what}-{}", self.buyer.user_id),
            body,
        }
    }

    /// Has it captured.
    pub fn buy(&self) -> Wish {
        let (path, body) = match &self.what {
            What::Seat { order, .. } => (format!("{}/confirm", order.path()), order.confirmation()),
            What::Points => {
                let body = json!({ "amount": won(self.amount), "method": "CARD" });
                (CHARGES.to_owned(), body)
            }
        };
        self.wish_of(&self.buyer, "buy", path, body)
    }

    /// Has its sale cancelled.
    pub fn cancel(&self) -> Wish {
        let path = format!("/reservations/{}/cancellation", self.order().reservation);
        self.wish_of(&self.buyer, "cancel", path, json!({}))
    }

    fn attend(&self, how: &str, body: Value) -> Wish {
        let refund = self.task.expect("a task");
        let path = format!("/admin/tasks/{refund}/{how}");
        self.wish_of(&self.admin, how, path, body)
    }

    /// Has its whole show cancelled.
    fn cancel_show(&self) -> Wish {
        let What::Seat { date, .. } = &self.what else {
            panic!("{:?} has no seat", self.case)
        };
        let path = format!("/admin/schedules/{date}/cancellation");
        self.wish_of(&self.admin, "show", path, json!({ "reason": "Storm" }))
    }

    /// Says what came of comparing.
    pub fn compare(&self) -> Wish {
        self.attend("comparison", json!({ "note": "One and the same" }))
    }

    /// What is asked for in its stage.
    pub fn wish(&self) -> Wish {
        match self.case.path {
            Path::Sold | Path::Doubted | Path::Declined | Path::Reheld | Path::Gone => self.buy(),
            Path::Charged | Path::ChargeDoubted | Path::ChargeDeclined | Path::OverCap => {
                self.buy()
            }
            Path::Cancelled | Path::Refused | Path::Odd => self.cancel(),
            Path::Shown => self.cancel_show(),
            Path::Retried => self.attend("retry", json!({})),
            Path::Resolved | Path::Compared => {
                self.attend("resolution", json!({ "note": "Bank transfer" }))
            }
        }
    }
}
