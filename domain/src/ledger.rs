//! What a charge does, and how points move: the accounts of one batch, locked and loaded, and the
//! transfers between them.
//!
//! A balance is a consequence of transfers and never set by itself; no user's balance is ever
//! negative. Payments move points by the same [`Accounts`], so that a batch can't spend twice.

use onsale_schema::ledger::{CARD_ACCOUNT, CASH_ACCOUNT, Kind, Outcome, Refusal, SALES_ACCOUNT};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::status::{ChargeMethod, TransferKind};
use onsale_schema::{
    AccountId, CancellationId, CommandId, Money, ReservationId, Timestamp, TransferId, UserId,
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

/// The locked accounts of one batch: their balances, and the charges that were made before by the
/// batch's commands. Those are to be read when the accounts are locked, not earlier: the same
/// command may be in another consumer's batch.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    balances: HashMap<AccountId, Money>,
    charges: HashMap<Cause, Charge>,
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
}

impl Changes {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transfers.is_empty() && self.balances.is_empty()
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

    /// Decides one charge, applies it and appends what must be written. The checks in their order:
    /// duplicate, deadline, amount, cap.
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
        let cause = Cause::charge(command.id);
        if let Some(known) = self.charges.get(&cause) {
            return if known.fingerprint == command.fingerprint && known.user == command.user {
                Outcome::Charged {
                    transfer_id: known.transfer_id,
                    balance: known.user_balance,
                }
            } else {
                Outcome::Refused(Refusal::KeyReused)
            };
        }
        if clock > command.deadline {
            return Outcome::Refused(Refusal::CommandExpired);
        }
        if !amount.is_positive() || *amount > limits.charge_max {
            return Outcome::Refused(Refusal::AmountInvalid);
        }
        let account = AccountId::of_user(command.user);
        let balance = self.balance(account) + *amount;
        if balance > limits.balance_cap {
            return Outcome::Refused(Refusal::BalanceCapExceeded {
                cap: limits.balance_cap,
            });
        }
        let debit = match method {
            ChargeMethod::Card => CARD_ACCOUNT,
            ChargeMethod::Cash => CASH_ACCOUNT,
        };
        self.set_balance(account, balance, changes);
        changes.transfers.push(NewTransfer {
            transfer_id,
            cause,
            fingerprint: command.fingerprint,
            kind: TransferKind::Charge,
            debit,
            credit: account,
            amount: *amount,
            user_balance: balance,
            at: clock,
        });
        self.load_transfer(
            cause,
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
