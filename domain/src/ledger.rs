//! What a charge does, and how points move: the accounts of one batch, locked and loaded, and the
//! transfers between them.
//!
//! A balance is a consequence of transfers and never set by itself; no user's balance is ever
//! negative. Payments move points by the same [`Accounts`], so that a batch can't spend twice.

use onsale_schema::ledger::{CARD_ACCOUNT, CASH_ACCOUNT, Kind, Outcome, Refusal, SALES_ACCOUNT};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::status::{ChargeMethod, TransferKind};
use onsale_schema::{
    AccountId, CancellationId, CommandId, Money, PaymentOrderId, ReservationId, Timestamp,
    TransferId, UserId,
};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// What the operator allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most points in one charge.
    pub charge_max: Money,
    /// The highest balance after a charge. It never binds a refund.
    pub balance_cap: Money,
    /// How a charge by card is made.
    pub cards: Cards,
    /// Whether a charge in cash is made: at once, since a desk has taken the money.
    pub cash: bool,
}

/// Who asks the card for the money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cards {
    /// A terminal that is none of ours has taken the money already: the points are there at once.
    Terminal,
    /// The payment gateway: an order is made, and the points come when it is captured.
    Gateway {
        /// Orders that one user may have at the gateway at once. Each may lift the balance up to its
        /// cap, and what is over that is captured only to be given back.
        open_max: u32,
    },
    /// Nobody, so that points must not be had by this: they would be for nothing.
    Refused,
}

/// Where the points of a charge come from.
enum Source {
    /// An account of ours, at once.
    Account(AccountId),
    /// The card, once the gateway has captured it.
    Gateway { open_max: u32 },
}

/// Why points moved; each cause moves them once (L2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cause(pub Uuid);

impl Cause {
    /// A charge: by its command.
    #[must_use]
    pub fn charge(command: CommandId) -> Self {
        Self(command.0)
    }

    /// A charge by card, through the gateway: by its order, so that what is captured once is charged
    /// once.
    #[must_use]
    pub fn order(order: PaymentOrderId) -> Self {
        Self(order.0)
    }

    /// A payment: by what is paid and not by the command, so that no two commands, whatever their
    /// keys, can charge one reservation twice.
    #[must_use]
    pub fn payment(reservation: ReservationId) -> Self {
        Self(reservation.0)
    }

    /// A refund of points: by what was cancelled, so that it goes back once.
    #[must_use]
    pub fn cancellation(cancellation: CancellationId) -> Self {
        Self(cancellation.0)
    }
}

/// The locked accounts of one batch: their balances, and the charges that were made or ordered before
/// by the batch's commands. Those are to be read when the accounts are locked, not earlier: the same
/// command may be in another consumer's batch.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    balances: HashMap<AccountId, Money>,
    charges: HashMap<Cause, Charge>,
    orders: HashMap<CommandId, Ordered>,
    /// Charges by card that are neither points yet nor known to have failed.
    open: HashMap<UserId, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Ordered {
    fingerprint: Fingerprint,
    order_id: PaymentOrderId,
    user: UserId,
}

#[derive(Clone, Copy, Debug)]
struct Charge {
    fingerprint: Fingerprint,
    transfer_id: TransferId,
    user_balance: Money,
    user: UserId,
}

/// What a batch of ledger decisions writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows to insert.
    pub transfers: Vec<NewTransfer>,
    /// The balance after the batch of each user account that it changed.
    pub balances: BTreeMap<AccountId, Money>,
    /// Orders to insert: what the gateway is to capture.
    pub orders: Vec<NewOrder>,
}

impl Changes {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transfers.is_empty() && self.balances.is_empty() && self.orders.is_empty()
    }
}

/// A transfer to insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTransfer {
    /// Its id.
    pub transfer_id: TransferId,
    /// Unique.
    pub cause: Cause,
    /// What the command asked, as a digest.
    pub fingerprint: Fingerprint,
    /// Why.
    pub kind: TransferKind,
    /// Whose balance it lowers.
    pub debit: AccountId,
    /// Whose balance it raises.
    pub credit: AccountId,
    /// More than nothing.
    pub amount: Money,
    /// The user's balance after it.
    pub user_balance: Money,
    /// When.
    pub at: Timestamp,
}

/// A charge by card to have captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOrder {
    /// Its id, and that of the transfer that it ends as.
    pub order_id: PaymentOrderId,
    /// Whose card, and whose points.
    pub user_id: UserId,
    /// The command.
    pub command_id: CommandId,
    /// What it asked, as a digest.
    pub fingerprint: Fingerprint,
    /// More than nothing.
    pub amount: Money,
    /// When.
    pub at: Timestamp,
}

/// The account has less than the amount. Nothing was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too few points")]
pub struct InsufficientPoints;

impl Accounts {
    /// Adds a locked user account; one that has no row yet has a balance of zero.
    ///
    /// # Panics
    /// When it is negative, or loaded already.
    pub fn load(&mut self, account: AccountId, balance: Money) {
        assert!(balance >= Money::ZERO, "L1: {account} has {balance}");
        let twice = self.balances.insert(account, balance);
        assert!(twice.is_none(), "{account} is locked once");
    }

    /// Adds a charge that one of the batch's commands made before.
    pub fn load_transfer(
        &mut self,
        cause: Cause,
        fingerprint: Fingerprint,
        transfer_id: TransferId,
        user_balance: Money,
        user: UserId,
    ) {
        let charge = Charge {
            fingerprint,
            transfer_id,
            user_balance,
            user,
        };
        let twice = self.charges.insert(cause, charge);
        assert!(twice.is_none(), "L2: {cause:?}");
    }

    /// Adds an order that one of the batch's commands made before.
    pub fn load_order(
        &mut self,
        command: CommandId,
        fingerprint: Fingerprint,
        order_id: PaymentOrderId,
        user: UserId,
    ) {
        let ordered = Ordered {
            fingerprint,
            order_id,
            user,
        };
        let twice = self.orders.insert(command, ordered);
        assert!(twice.is_none(), "I1: {command}");
    }

    /// Adds how many charges by card a user has at the gateway; none without it.
    pub fn load_open(&mut self, user: UserId, count: u32) {
        let twice = self.open.insert(user, count);
        assert!(
            twice.is_none(),
            "the open charges of {user} are counted once"
        );
    }

    /// Decides one charge, applies it and appends what must be written. The checks in their order:
    /// duplicate, deadline, method, amount, cap, what is open. What waits for the gateway does not count against the cap
    /// yet: that is looked at once more when the money is there.
    ///
    /// # Panics
    /// When the user's account was not loaded.
    pub fn decide(
        &mut self,
        command: &Command<Kind>,
        transfer_id: TransferId,
        limits: &Limits,
        clock: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        let Kind::Charge { amount, method } = &command.kind;
        if let Some(outcome) = self.known(command) {
            return outcome;
        }
        if clock > command.deadline {
            return Outcome::Refused(Refusal::CommandExpired);
        }
        let source = match (method, limits.cards) {
            (ChargeMethod::Card, Cards::Gateway { open_max }) => Source::Gateway { open_max },
            (ChargeMethod::Card, Cards::Terminal) => Source::Account(CARD_ACCOUNT),
            (ChargeMethod::Card, Cards::Refused) => {
                return Outcome::Refused(Refusal::CardsNotConfigured);
            }
            (ChargeMethod::Cash, Cards::Terminal | Cards::Gateway { .. } | Cards::Refused) => {
                if !limits.cash {
                    return Outcome::Refused(Refusal::CashNotConfigured);
                }
                Source::Account(CASH_ACCOUNT)
            }
        };
        if !amount.is_positive() || *amount > limits.charge_max {
            return Outcome::Refused(Refusal::AmountInvalid);
        }
        if self.is_over(command.user, *amount, limits.balance_cap) {
            return Outcome::Refused(Refusal::BalanceCapExceeded {
                cap: limits.balance_cap,
            });
        }
        let debit = match source {
            Source::Account(account) => account,
            Source::Gateway { open_max } => {
                if self.open.get(&command.user).is_some_and(|&n| n >= open_max) {
                    return Outcome::Refused(Refusal::TooManyOpenCharges { limit: open_max });
                }
                let order_id = PaymentOrderId::of_charge(transfer_id);
                return self.order(command, order_id, *amount, clock, changes);
            }
        };
        let credit = Credit {
            transfer_id,
            cause: Cause::charge(command.id),
            debit,
            payee: command.user,
            amount: *amount,
            fingerprint: command.fingerprint,
            at: clock,
        };
        let balance = self.credit(credit, changes);
        self.load_transfer(
            credit.cause,
            command.fingerprint,
            transfer_id,
            balance,
            command.user,
        );
        Outcome::Charged {
            transfer_id,
            balance,
        }
    }

    /// What the same command was answered before.
    fn known(&self, command: &Command<Kind>) -> Option<Outcome> {
        let is_same = |print, user| print == command.fingerprint && user == command.user;
        let charged = self.charges.get(&Cause::charge(command.id)).map(|known| {
            let outcome = Outcome::Charged {
                transfer_id: known.transfer_id,
                balance: known.user_balance,
            };
            (is_same(known.fingerprint, known.user), outcome)
        });
        let ordered = || {
            let known = self.orders.get(&command.id)?;
            let order_id = known.order_id;
            let outcome = Outcome::Ordered { order_id };
            Some((is_same(known.fingerprint, known.user), outcome))
        };
        let (is_same, outcome) = charged.or_else(ordered)?;
        Some(if is_same {
            outcome
        } else {
            Outcome::Refused(Refusal::KeyReused)
        })
    }

    /// Has the gateway asked for the money.
    fn order(
        &mut self,
        command: &Command<Kind>,
        order_id: PaymentOrderId,
        amount: Money,
        at: Timestamp,
        changes: &mut Changes,
    ) -> Outcome {
        changes.orders.push(NewOrder {
            order_id,
            user_id: command.user,
            command_id: command.id,
            fingerprint: command.fingerprint,
            amount,
            at,
        });
        self.load_order(command.id, command.fingerprint, order_id, command.user);
        *self.open.entry(command.user).or_default() += 1;
        Outcome::Ordered { order_id }
    }

    /// Whether a charge would lift a balance over the cap.
    ///
    /// # Panics
    /// When the user's account was not loaded.
    #[must_use]
    pub fn is_over(&self, user: UserId, amount: Money, cap: Money) -> bool {
        self.balance(AccountId::of_user(user)) + amount > cap
    }

    /// Moves what was charged onto an account; its balance after that. Whether the cap allows it was
    /// asked before.
    ///
    /// # Panics
    /// When the payee's account was not loaded, or there is nothing to move.
    pub fn credit(&mut self, credit: Credit, changes: &mut Changes) -> Money {
        assert!(credit.amount.is_positive(), "a transfer moves something");
        let account = AccountId::of_user(credit.payee);
        let balance = self.balance(account) + credit.amount;
        self.set_balance(account, balance, changes);
        changes.transfers.push(NewTransfer {
            transfer_id: credit.transfer_id,
            cause: credit.cause,
            fingerprint: credit.fingerprint,
            kind: TransferKind::Charge,
            debit: credit.debit,
            credit: account,
            amount: credit.amount,
            user_balance: balance,
            at: credit.at,
        });
        balance
    }

    /// Moves a price from its payer to the sales account.
    ///
    /// # Errors
    /// When the payer has less; nothing is moved then.
    ///
    /// # Panics
    /// When the payer's account was not loaded, or there is nothing to pay.
    pub fn pay(&mut self, price: Price, changes: &mut Changes) -> Result<(), InsufficientPoints> {
        assert!(price.amount.is_positive(), "a transfer moves something");
        let account = AccountId::of_user(price.payer);
        let before = self.balance(account);
        if before < price.amount {
            return Err(InsufficientPoints);
        }
        let balance = before - price.amount;
        self.set_balance(account, balance, changes);
        changes.transfers.push(NewTransfer {
            transfer_id: price.transfer_id,
            cause: Cause::payment(price.reservation_id),
            fingerprint: price.fingerprint,
            kind: TransferKind::Payment,
            debit: account,
            credit: SALES_ACCOUNT,
            amount: price.amount,
            user_balance: balance,
            at: price.at,
        });
        Ok(())
    }

    /// Moves money back from the sales account. The cap of balances never binds a refund.
    ///
    /// # Panics
    /// When the payee's account was not loaded, or there is nothing to move.
    pub fn refund(&mut self, refund: Refund, changes: &mut Changes) {
        assert!(refund.amount.is_positive(), "a transfer moves something");
        let account = AccountId::of_user(refund.payee);
        let balance = self.balance(account) + refund.amount;
        self.set_balance(account, balance, changes);
        changes.transfers.push(NewTransfer {
            transfer_id: refund.transfer_id,
            cause: Cause::cancellation(refund.cancellation_id),
            fingerprint: refund.fingerprint,
            kind: TransferKind::Refund,
            debit: SALES_ACCOUNT,
            credit: account,
            amount: refund.amount,
            user_balance: balance,
            at: refund.at,
        });
    }

    fn balance(&self, account: AccountId) -> Money {
        *self
            .balances
            .get(&account)
            .expect("the batch loads the account of each of its users")
    }

    fn set_balance(&mut self, account: AccountId, balance: Money, changes: &mut Changes) {
        assert!(balance >= Money::ZERO, "L1: {account} would have {balance}");
        self.balances.insert(account, balance);
        changes.balances.insert(account, balance);
    }
}

/// Points that were bought.
#[derive(Clone, Copy, Debug)]
pub struct Credit {
    /// The id of its transfer.
    pub transfer_id: TransferId,
    /// Why, once.
    pub cause: Cause,
    /// Where they come from.
    pub debit: AccountId,
    /// By whom.
    pub payee: UserId,
    /// More than nothing.
    pub amount: Money,
    /// What the command asked, as a digest.
    pub fingerprint: Fingerprint,
    /// When.
    pub at: Timestamp,
}

/// A price to pay.
#[derive(Clone, Copy, Debug)]
pub struct Price {
    /// The id of its transfer.
    pub transfer_id: TransferId,
    /// For what.
    pub reservation_id: ReservationId,
    /// By whom.
    pub payer: UserId,
    /// More than nothing.
    pub amount: Money,
    /// What the command asked, as a digest.
    pub fingerprint: Fingerprint,
    /// When.
    pub at: Timestamp,
}

/// Points that go back.
#[derive(Clone, Copy, Debug)]
pub struct Refund {
    /// The id of the transfer.
    pub transfer_id: TransferId,
    /// For what.
    pub cancellation_id: CancellationId,
    /// To whom.
    pub payee: UserId,
    /// More than nothing.
    pub amount: Money,
    /// What the command asked, as a digest.
    pub fingerprint: Fingerprint,
    /// When.
    pub at: Timestamp,
}
