//! The ledger against a naive model: whatever is charged, paid and refunded, in whatever batches, again,
//! late, with keys that were used, or over the limits, each answer is the one that a plain retelling of the
//! rules gives, and what is written is what the retelling has in its books.

mod common;

use common::{
    Rng, at_s, cancellation_id, command_id, fingerprint, for_seeds, is_replay, reservation_id,
    transfer_id, user,
};
use onsale_domain::ledger::{Accounts, Cards, Cause, Changes, Limits, NewTransfer, Price, Refund};
use onsale_schema::ledger::{CASH_ACCOUNT, Kind, Outcome, Refusal, SALES_ACCOUNT};
use onsale_schema::message::Command;
use onsale_schema::status::ChargeMethod;
use onsale_schema::{AccountId, Money, TransferId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};

const CHARGE_MAX: i64 = 500;
const BALANCE_CAP: i64 = 1200;
const DEADLINE_S: i64 = 50;
const USERS: i64 = 3;
const BATCHES: usize = 8;
const PER_BATCH: usize = 8;

/// What somebody may ask of the ledger, in the model's words. A command belongs to a user: its number
/// says to which.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Charge {
        command: u128,
        body: u128,
        amount: i64,
        now_s: i64,
    },
    Pay {
        reservation: u128,
        amount: i64,
    },
    Refund {
        reservation: u128,
        cancellation: u128,
        amount: i64,
    },
}

impl Asked {
    fn random(rng: &mut Rng) -> Self {
        let mut small = |low, high| u128::try_from(rng.range(low, high)).expect("not negative");
        let (command, body, reservation) = (small(1, 40), small(1, 10), small(1001, 1020));
        let cancellation = small(2001, 2040);
        if rng.percent(35) {
            return Self::Pay {
                reservation,
                amount: rng.range(1, 700),
            };
        }
        if rng.percent(30) {
            return Self::Refund {
                reservation,
                cancellation,
                amount: rng.range(1, 500),
            };
        }
        // The same number asks for the same, unless its key is used for something else.
        let base = i64::try_from(command).expect("small") * 29 % 560 - 20;
        let (body, amount) = match body {
            1 => (2, base + 7),
            _ => (1, base),
        };
        Self::Charge {
            command,
            body,
            amount,
            now_s: rng.range(DEADLINE_S - 9, DEADLINE_S + 1),
        }
    }

    fn user_no(self) -> u128 {
        let (Self::Charge { command: n, .. }
        | Self::Pay { reservation: n, .. }
        | Self::Refund { reservation: n, .. }) = self;
        n % u128::try_from(USERS).expect("few") + 1
    }
}

/// The answer, in the model's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Charged { transfer: TransferId, balance: i64 },
    KeyReused,
    Late,
    AmountInvalid,
    OverCap,
    Paid,
    TooPoor,
    Refunded,
}

/// Sums, kept by hand.
#[derive(Default)]
struct Model {
    balances: BTreeMap<u128, i64>,
    /// By command: the body and what was answered.
    charges: BTreeMap<u128, (u128, Told)>,
    /// By reservation: what is left of the price.
    paid: BTreeMap<u128, i64>,
    /// From whom or to whom points went, and which account is the other side, by cause.
    moved: BTreeMap<Cause, (u128, i64, AccountId)>,
}

impl Model {
    /// Whether settlement asks the ledger for that: it pays a reservation once, and gives back, once for
    /// each cancellation, what is left of its price.
    fn is_due(&self, asked: Asked) -> bool {
        match asked {
            Asked::Charge { .. } => true,
            Asked::Pay { reservation, .. } => !self.paid.contains_key(&reservation),
            Asked::Refund {
                reservation,
                cancellation,
                amount,
            } => {
                let cause = Cause::cancellation(cancellation_id(cancellation));
                let left = self.paid.get(&reservation);
                left.is_some_and(|left| *left >= amount) && !self.moved.contains_key(&cause)
            }
        }
    }

    /// What of a user's points came back, which no cap binds.
    fn refunded(&self, user_no: u128) -> i64 {
        let moved = self.moved.values();
        moved
            .filter(|(whose, amount, side)| {
                *whose == user_no && *amount > 0 && *side == SALES_ACCOUNT
            })
            .map(|(_, amount, _)| amount)
            .sum()
    }

    fn ask(&mut self, asked: Asked, transfer: TransferId) -> Told {
        let user_no = asked.user_no();
        let balance = self.balances.entry(user_no).or_default();
        match asked {
            Asked::Charge { command, body, .. } if self.charges.contains_key(&command) => {
                let (first, told) = self.charges[&command];
                if first == body { told } else { Told::KeyReused }
            }
            Asked::Charge { now_s, .. } if now_s > DEADLINE_S => Told::Late,
            Asked::Charge { amount, .. } if !(1..=CHARGE_MAX).contains(&amount) => {
                Told::AmountInvalid
            }
            Asked::Charge { amount, .. } if *balance + amount > BALANCE_CAP => Told::OverCap,
            Asked::Charge {
                command,
                body,
                amount,
                ..
            } => {
                *balance += amount;
                let told = Told::Charged {
                    transfer,
                    balance: *balance,
                };
                self.charges.insert(command, (body, told));
                let cause = Cause::charge(command_id(command));
                self.moved.insert(cause, (user_no, amount, CASH_ACCOUNT));
                told
            }
            Asked::Pay { amount, .. } if *balance < amount => Told::TooPoor,
            Asked::Pay {
                reservation,
                amount,
            } => {
                *balance -= amount;
                self.paid.insert(reservation, amount);
                let cause = Cause::payment(reservation_id(reservation));
                self.moved.insert(cause, (user_no, -amount, SALES_ACCOUNT));
                Told::Paid
            }
            Asked::Refund {
                reservation,
                cancellation,
                amount,
            } => {
                *balance += amount;
                *self.paid.entry(reservation).or_default() -= amount;
                let cause = Cause::cancellation(cancellation_id(cancellation));
                self.moved.insert(cause, (user_no, amount, SALES_ACCOUNT));
                Told::Refunded
            }
        }
    }
}

/// The tables, as the workers write and read them.
#[derive(Default)]
struct Tables {
    balances: BTreeMap<AccountId, Money>,
    transfers: Vec<NewTransfer>,
}

impl Tables {
    /// What a batch locks and loads.
    fn load(&self, batch: &[Asked]) -> Accounts {
        let mut accounts = Accounts::default();
        for n in 1..=u128::try_from(USERS).expect("few") {
            let account = AccountId::of_user(user(n));
            let balance = self.balances.get(&account).copied().unwrap_or_default();
            accounts.load(account, balance);
        }
        let commands: BTreeSet<u128> = batch
            .iter()
            .filter_map(|asked| match asked {
                Asked::Charge { command, .. } => Some(*command),
                Asked::Pay { .. } | Asked::Refund { .. } => None,
            })
            .collect();
        for command in commands {
            let cause = Cause::charge(command_id(command));
            let user_no = command % u128::try_from(USERS).expect("few") + 1;
            if let Some(t) = self.transfers.iter().find(|t| t.cause == cause) {
                let (print, id) = (t.fingerprint, t.transfer_id);
                accounts.load_transfer(cause, print, id, t.user_balance, user(user_no));
            }
        }
        accounts
    }

    fn commit(&mut self, changes: Changes) {
        self.transfers.extend(changes.transfers);
        self.balances.extend(changes.balances);
    }

    /// The books are the model's.
    fn assert_are(&self, model: &Model) {
        assert_eq!(self.transfers.len(), model.moved.len(), "L2");
        for transfer in &self.transfers {
            let (user_no, amount, other) = model.moved[&transfer.cause];
            let account = AccountId::of_user(user(user_no));
            let sides = if amount > 0 {
                (transfer.credit, transfer.debit)
            } else {
                (transfer.debit, transfer.credit)
            };
            assert_eq!(sides, (account, other));
            assert_eq!(transfer.amount.to_won(), amount.abs());
        }
        for (user_no, balance) in &model.balances {
            let account = AccountId::of_user(user(*user_no));
            let kept = self.balances.get(&account).copied().unwrap_or_default();
            let moved = model.moved.values().filter(|(whose, ..)| whose == user_no);
            assert_eq!(kept.to_won(), *balance, "L1");
            let sum: i64 = moved.map(|(_, amount, _)| amount).sum();
            assert_eq!(sum, *balance, "L1");
            let most = BALANCE_CAP + model.refunded(*user_no);
            assert!((0..=most).contains(balance), "L1");
        }
    }
}

/// Asks the ledger itself.
fn ask(accounts: &mut Accounts, asked: Asked, id: TransferId, changes: &mut Changes) -> Told {
    let user = user(asked.user_no());
    match asked {
        Asked::Charge {
            command,
            body,
            amount,
            now_s,
        } => {
            let command = Command {
                id: command_id(command),
                user,
                fingerprint: fingerprint(body),
                deadline: at_s(DEADLINE_S),
                trace: None,
                kind: Kind::Charge {
                    amount: Money::won(amount),
                    method: ChargeMethod::Cash,
                },
            };
            let limits = Limits {
                charge_max: Money::won(CHARGE_MAX),
                balance_cap: Money::won(BALANCE_CAP),
                cards: Cards::Terminal,
                cash: true,
            };
            match accounts.decide(&command, id, &limits, at_s(now_s), changes) {
                Outcome::Charged {
                    transfer_id,
                    balance,
                } => Told::Charged {
                    transfer: transfer_id,
                    balance: balance.to_won(),
                },
                Outcome::Refused(Refusal::KeyReused) => Told::KeyReused,
                Outcome::Refused(Refusal::CommandExpired) => Told::Late,
                Outcome::Refused(Refusal::AmountInvalid) => Told::AmountInvalid,
                Outcome::Refused(Refusal::BalanceCapExceeded { .. }) => Told::OverCap,
                Outcome::Refused(
                    Refusal::TooManyOpenCharges { .. }
                    | Refusal::CardsNotConfigured
                    | Refusal::CashNotConfigured,
                )
                | Outcome::Ordered { .. }
                | Outcome::DeadLettered => {
                    unreachable!("nothing is set aside here, and there is no gateway")
                }
            }
        }
        Asked::Pay {
            reservation,
            amount,
        } => {
            let price = Price {
                transfer_id: id,
                reservation_id: reservation_id(reservation),
                payer: user,
                amount: Money::won(amount),
                fingerprint: fingerprint(1),
                at: at_s(1),
            };
            match accounts.pay(price, changes) {
                Ok(()) => Told::Paid,
                Err(_) => Told::TooPoor,
            }
        }
        Asked::Refund {
            cancellation,
            amount,
            ..
        } => {
            let refund = Refund {
                transfer_id: id,
                cancellation_id: cancellation_id(cancellation),
                payee: user,
                amount: Money::won(amount),
                fingerprint: fingerprint(1),
                at: at_s(1),
            };
            accounts.refund(refund, changes);
            Told::Refunded
        }
    }
}

#[test]
fn every_answer_is_that_of_a_naive_model() {
    let (seen, is_lifted) = (RefCell::new(HashSet::new()), Cell::new(false));
    for_seeds(1000, |seed| {
        let mut rng = Rng::new(seed);
        let (mut model, mut tables) = (Model::default(), Tables::default());
        for _ in 0..BATCHES {
            let batch: Vec<Asked> = (0..PER_BATCH).map(|_| Asked::random(&mut rng)).collect();
            let mut accounts = tables.load(&batch);
            let mut changes = Changes::default();
            for asked in batch {
                if !model.is_due(asked) {
                    continue;
                }
                let id = transfer_id(rng.uuid().as_u128());
                let before = changes.clone();
                let expected = model.ask(asked, id);
                let told = ask(&mut accounts, asked, id, &mut changes);
                assert_eq!(told, expected, "{asked:?}");
                let is_new = matches!(told, Told::Paid | Told::Refunded)
                    || matches!(told, Told::Charged { transfer, .. } if transfer == id);
                assert_eq!(changes != before, is_new, "{asked:?}: {told:?}");
                seen.borrow_mut().insert(std::mem::discriminant(&told));
                let is_over = model.balances[&asked.user_no()] > BALANCE_CAP;
                is_lifted.set(is_lifted.get() || is_over);
            }
            tables.commit(changes);
            tables.assert_are(&model);
        }
    });
    if !is_replay() {
        assert_eq!(seen.borrow().len(), 8, "every answer was given");
        assert!(
            is_lifted.get(),
            "a refund has lifted a balance over the cap"
        );
    }
}
