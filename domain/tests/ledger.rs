//! Every outcome of a charge, the order of the checks, and a property test: whatever is charged
//! and paid, transfers sum to zero, no user's balance is negative, and a cause moves points once.

mod common;

use common::{Rng, at_s, command_id, fingerprint, for_seeds, reservation_id, transfer_id, user};
use onsale_domain::ledger::{
    Accounts, Cards, Cause, Changes, Credit, InsufficientPoints, Limits, NewOrder, NewTransfer,
    Price,
};
use onsale_schema::ledger::{CARD_ACCOUNT, CASH_ACCOUNT, Kind, Outcome, Refusal, SALES_ACCOUNT};
use onsale_schema::message::Command;
use onsale_schema::status::{ChargeMethod, TransferKind};
use onsale_schema::{AccountId, Money, PaymentOrderId};
use std::collections::{BTreeMap, HashMap};

const LIMITS: (i64, i64) = (1000, 1500);

fn limits() -> Limits {
    Limits {
        charge_max: Money::won(LIMITS.0),
        balance_cap: Money::won(LIMITS.1),
        cards: Cards::Terminal,
        cash: true,
    }
}

fn with_gateway() -> Limits {
    Limits {
        cards: Cards::Gateway { open_max: 2 },
        ..limits()
    }
}

fn charge(n: u128, user_no: u128, amount: i64) -> Command<Kind> {
    Command {
        id: command_id(n),
        user: user(user_no),
        fingerprint: fingerprint(n),
        deadline: at_s(100),
        trace: None,
        kind: Kind::Charge {
            amount: Money::won(amount),
            method: ChargeMethod::Card,
        },
    }
}

fn account(user_no: u128) -> AccountId {
    AccountId::of_user(user(user_no))
}

fn accounts(balance: i64) -> Accounts {
    let mut accounts = Accounts::default();
    accounts.load(account(1), Money::won(balance));
    accounts
}

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

#[test]
fn a_charge_raises_the_balance_by_a_transfer() {
    for (method, source) in [
        (ChargeMethod::Card, CARD_ACCOUNT),
        (ChargeMethod::Cash, CASH_ACCOUNT),
    ] {
        let mut accounts = accounts(200);
        let mut changes = Changes::default();
        let mut command = charge(1, 1, 300);
        command.kind = Kind::Charge {
            amount: Money::won(300),
            method,
        };
        let outcome = accounts.decide(&command, transfer_id(7), &limits(), at_s(100), &mut changes);
        let charged = Outcome::Charged {
            transfer_id: transfer_id(7),
            balance: Money::won(500),
        };
        assert_eq!(outcome, charged);
        let transfer = NewTransfer {
            transfer_id: transfer_id(7),
            cause: Cause::charge(command_id(1)),
            fingerprint: fingerprint(1),
            kind: TransferKind::Charge,
            debit: source,
            credit: account(1),
            amount: Money::won(300),
            user_balance: Money::won(500),
            at: at_s(100),
        };
        assert_eq!(changes.transfers, [transfer]);
        let balances = BTreeMap::from([(account(1), Money::won(500))]);
        assert_eq!(changes.balances, balances);
    }
}

#[test]
fn each_refusal_in_the_order_of_the_checks() {
    let cap = Refusal::BalanceCapExceeded {
        cap: Money::won(LIMITS.1),
    };
    let cases = [
        // Known, late, too much: the first counts.
        (charge(9, 1, 1001), 101, Refusal::KeyReused),
        (charge(1, 1, 1001), 101, Refusal::CommandExpired),
        (charge(1, 1, 1001), 100, Refusal::AmountInvalid),
        (charge(1, 1, 0), 100, Refusal::AmountInvalid),
        (charge(1, 1, -5), 100, Refusal::AmountInvalid),
        (charge(1, 1, i64::MAX), 100, Refusal::AmountInvalid),
        (charge(1, 1, i64::MIN), 100, Refusal::AmountInvalid),
        (charge(1, 1, 1000), 100, cap),
    ];
    for (command, clock, refusal) in cases {
        let mut accounts = accounts(501);
        accounts.load_transfer(
            Cause::charge(command_id(9)),
            fingerprint(99),
            transfer_id(9),
            Money::won(1),
            user(1),
        );
        let mut changes = Changes::default();
        let outcome = accounts.decide(
            &command,
            transfer_id(1),
            &limits(),
            at_s(clock),
            &mut changes,
        );
        assert_eq!(outcome, refused(refusal), "{command:?}");
        assert!(changes.is_empty());
    }
    // Exactly at the limits.
    let mut accounts = accounts(500);
    let outcome = accounts.decide(
        &charge(1, 1, 1000),
        transfer_id(1),
        &limits(),
        at_s(100),
        &mut Changes::default(),
    );
    assert!(matches!(outcome, Outcome::Charged { .. }));
}

#[test]
fn the_same_charge_again_gets_the_same_answer() {
    let mut accounts = accounts(0);
    let mut changes = Changes::default();
    let mut decide = |command: &Command<Kind>, transfer, clock| {
        accounts.decide(
            command,
            transfer_id(transfer),
            &limits(),
            at_s(clock),
            &mut changes,
        )
    };
    let first = decide(&charge(1, 1, 300), 1, 1);
    decide(&charge(2, 1, 300), 2, 2);
    // In the same batch, with another balance now and past the deadline.
    assert_eq!(decide(&charge(1, 1, 300), 3, 101), first);
    let other = Command {
        fingerprint: fingerprint(9),
        ..charge(1, 1, 300)
    };
    assert_eq!(decide(&other, 4, 1), refused(Refusal::KeyReused));
    let stranger = Command {
        user: user(2),
        ..charge(1, 1, 300)
    };
    assert_eq!(decide(&stranger, 5, 1), refused(Refusal::KeyReused));
    assert_eq!(changes.transfers.len(), 2);
    assert_eq!(changes.balances[&account(1)], Money::won(600));

    // In a later batch.
    let mut accounts = self::accounts(600);
    accounts.load_transfer(
        Cause::charge(command_id(1)),
        fingerprint(1),
        transfer_id(1),
        Money::won(300),
        user(1),
    );
    let mut changes = Changes::default();
    let again = accounts.decide(
        &charge(1, 1, 300),
        transfer_id(6),
        &limits(),
        at_s(9),
        &mut changes,
    );
    assert_eq!(again, first);
    assert!(changes.is_empty());
}

#[test]
fn a_card_is_charged_by_the_gateway_if_there_is_one() {
    let order_id = PaymentOrderId::of_charge(transfer_id(7));
    let ordered = Outcome::Ordered { order_id };
    let mut accounts = accounts(200);
    let mut changes = Changes::default();
    let mut decide = |command: &Command<Kind>, transfer| {
        let transfer = transfer_id(transfer);
        accounts.decide(command, transfer, &with_gateway(), at_s(5), &mut changes)
    };
    assert_eq!(decide(&charge(1, 1, 300), 7), ordered);
    // The same again is the same; another body under its key is refused.
    assert_eq!(decide(&charge(1, 1, 300), 8), ordered);
    let mut other = charge(1, 1, 300);
    other.fingerprint = fingerprint(9);
    assert_eq!(decide(&other, 9), refused(Refusal::KeyReused));
    // The limits are those of every charge, by what is on the account.
    assert_eq!(
        decide(&charge(2, 1, 1001), 9),
        refused(Refusal::AmountInvalid)
    );
    let cap = Money::won(LIMITS.1);
    let mut over = charge(3, 1, 1000);
    over.kind = Kind::Charge {
        amount: Money::won(1000),
        method: ChargeMethod::Cash,
    };
    assert!(matches!(decide(&over, 10), Outcome::Charged { .. }));
    let refusal = Refusal::BalanceCapExceeded { cap };
    assert_eq!(decide(&charge(4, 1, 301), 11), refused(refusal));
    assert!(matches!(
        decide(&charge(5, 1, 300), 12),
        Outcome::Ordered { .. }
    ));

    let first = NewOrder {
        order_id,
        user_id: user(1),
        command_id: command_id(1),
        fingerprint: fingerprint(1),
        amount: Money::won(300),
        at: at_s(5),
    };
    assert_eq!(changes.orders.len(), 2);
    assert_eq!(changes.orders[0], first);
    // Nothing moves but the cash.
    assert_eq!(changes.transfers.len(), 1);
    assert_eq!(changes.balances[&account(1)], Money::won(1200));
    // Both fit by what was there; the second no more when its money is.
    assert!(!accounts.is_over(user(1), Money::won(300), cap));
    let credit = Credit {
        transfer_id: order_id.charged_by(),
        cause: Cause::order(order_id),
        debit: CARD_ACCOUNT,
        payee: user(1),
        amount: Money::won(300),
        fingerprint: fingerprint(1),
        at: at_s(6),
    };
    assert_eq!(accounts.credit(credit, &mut changes), cap);
    assert!(accounts.is_over(user(1), Money::won(300), cap));
}

#[test]
fn a_card_is_refused_where_nobody_asks_it() {
    let limits = Limits {
        cards: Cards::Refused,
        ..limits()
    };
    let mut accounts = accounts(0);
    let order_id = PaymentOrderId::of_charge(transfer_id(7));
    accounts.load_order(command_id(9), fingerprint(9), order_id, user(1));
    let mut changes = Changes::default();
    let mut decide = |command: &Command<Kind>, clock| {
        accounts.decide(command, transfer_id(8), &limits, at_s(clock), &mut changes)
    };
    // Known, late, by card, too much: the first counts.
    assert_eq!(
        decide(&charge(9, 1, 1001), 101),
        Outcome::Ordered { order_id }
    );
    let refusal = Refusal::CommandExpired;
    assert_eq!(decide(&charge(1, 1, 1001), 101), refused(refusal));
    let refusal = Refusal::CardsNotConfigured;
    assert_eq!(decide(&charge(1, 1, 1001), 100), refused(refusal.clone()));
    assert_eq!(decide(&charge(1, 1, 100), 100), refused(refusal));
    let mut cash = charge(2, 1, 100);
    cash.kind = Kind::Charge {
        amount: Money::won(100),
        method: ChargeMethod::Cash,
    };
    assert!(matches!(decide(&cash, 100), Outcome::Charged { .. }));
    assert!(changes.orders.is_empty());
}

#[test]
fn cash_is_refused_where_nobody_takes_it() {
    let mut accounts = accounts(0);
    let mut changes = Changes::default();
    let cash = |id, amount| {
        let mut command = charge(id, 1, amount);
        command.kind = Kind::Charge {
            amount: Money::won(amount),
            method: ChargeMethod::Cash,
        };
        command
    };
    let mut decide = |command: &Command<Kind>, is_taken| {
        let limits = Limits {
            cash: is_taken,
            ..limits()
        };
        let id = transfer_id(command.id.0.as_u128());
        accounts.decide(command, id, &limits, at_s(5), &mut changes)
    };
    let refusal = Refusal::CashNotConfigured;
    assert_eq!(decide(&cash(1, 1001), false), refused(refusal));
    assert!(matches!(
        decide(&cash(2, 100), true),
        Outcome::Charged { .. }
    ));
    // What was taken while it was taken is told again; a card is no cash.
    assert!(matches!(
        decide(&cash(2, 100), false),
        Outcome::Charged { .. }
    ));
    assert!(matches!(
        decide(&charge(3, 1, 100), false),
        Outcome::Charged { .. }
    ));
}

#[test]
fn only_so_many_charges_of_a_user_are_at_the_gateway_at_once() {
    let too_many = refused(Refusal::TooManyOpenCharges { limit: 2 });
    let is_ordered = |outcome: &Outcome| matches!(outcome, Outcome::Ordered { .. });
    let mut accounts = accounts(0);
    accounts.load(account(2), Money::ZERO);
    // One of an earlier batch.
    accounts.load_open(user(1), 1);
    let mut changes = Changes::default();
    let mut decide = |command: &Command<Kind>, transfer| {
        let transfer = transfer_id(transfer);
        accounts.decide(command, transfer, &with_gateway(), at_s(5), &mut changes)
    };
    assert!(is_ordered(&decide(&charge(1, 1, 100), 1)));
    assert_eq!(decide(&charge(2, 1, 100), 2), too_many);
    // What is known is told again; the amount is looked at before.
    assert!(is_ordered(&decide(&charge(1, 1, 100), 3)));
    assert_eq!(
        decide(&charge(3, 1, 1001), 4),
        refused(Refusal::AmountInvalid)
    );
    // Cash waits for nobody, and another user has done nothing.
    let mut cash = charge(4, 1, 100);
    cash.kind = Kind::Charge {
        amount: Money::won(100),
        method: ChargeMethod::Cash,
    };
    assert!(matches!(decide(&cash, 5), Outcome::Charged { .. }));
    assert!(is_ordered(&decide(&charge(5, 2, 100), 6)));
    assert!(is_ordered(&decide(&charge(6, 2, 100), 7)));
    assert_eq!(decide(&charge(7, 2, 100), 8), too_many);
    assert_eq!(changes.orders.len(), 3);
}

#[test]
fn an_order_of_an_earlier_batch_is_known() {
    let order_id = PaymentOrderId::of_charge(transfer_id(7));
    for limits in [limits(), with_gateway()] {
        let mut accounts = accounts(0);
        accounts.load_order(command_id(1), fingerprint(1), order_id, user(1));
        let mut changes = Changes::default();
        let mut decide = |command: &Command<Kind>| {
            accounts.decide(command, transfer_id(8), &limits, at_s(101), &mut changes)
        };
        // Also past its deadline, and where there is no gateway any more.
        assert_eq!(decide(&charge(1, 1, 300)), Outcome::Ordered { order_id });
        let stranger = Command {
            user: user(2),
            ..charge(1, 1, 300)
        };
        assert_eq!(decide(&stranger), refused(Refusal::KeyReused));
        assert!(changes.is_empty());
    }
}

/// Balances and transfers as the tables have them.
#[derive(Default)]
struct Tables {
    balances: HashMap<AccountId, Money>,
    transfers: Vec<NewTransfer>,
}

impl Tables {
    fn load(&self, causes: &[(Cause, u128)]) -> Accounts {
        let mut accounts = Accounts::default();
        for (account, balance) in &self.balances {
            accounts.load(*account, *balance);
        }
        for (cause, user_no) in causes {
            if let Some(t) = self.transfers.iter().find(|t| t.cause == *cause) {
                accounts.load_transfer(
                    *cause,
                    t.fingerprint,
                    t.transfer_id,
                    t.user_balance,
                    user(*user_no),
                );
            }
        }
        accounts
    }

    fn commit(&mut self, changes: Changes) {
        for transfer in changes.transfers {
            let same = |t: &NewTransfer| t.cause == transfer.cause;
            assert!(!self.transfers.iter().any(same), "L2: {transfer:?}");
            assert!(transfer.amount.is_positive());
            self.transfers.push(transfer);
        }
        self.balances.extend(changes.balances);
    }

    /// L1, from the transfers alone.
    fn check(&self) {
        let mut sums: HashMap<AccountId, Money> = HashMap::new();
        for t in &self.transfers {
            let debit = sums.entry(t.debit).or_default();
            *debit = *debit - t.amount;
            let credit = sums.entry(t.credit).or_default();
            *credit = *credit + t.amount;
            let user_account = match t.kind {
                TransferKind::Charge | TransferKind::Refund => t.credit,
                TransferKind::Payment => t.debit,
            };
            assert_eq!(sums[&user_account], t.user_balance, "{t:?}");
            assert!(t.user_balance >= Money::ZERO);
        }
        assert_eq!(sums.values().copied().sum::<Money>(), Money::ZERO);
        for (account, balance) in &self.balances {
            assert!(*balance >= Money::ZERO && *balance <= Money::won(LIMITS.1));
            assert_eq!(sums.get(account).copied().unwrap_or_default(), *balance);
        }
        let is_ours = |a: &AccountId| [CARD_ACCOUNT, CASH_ACCOUNT, SALES_ACCOUNT].contains(a);
        assert!(!self.balances.keys().any(is_ours));
    }
}

#[test]
fn points_are_conserved() {
    for_seeds(1000, |seed| {
        let mut rng = Rng::new(seed);
        let mut tables = Tables::default();
        for n in 1..=3 {
            tables.balances.insert(account(n), Money::ZERO);
        }
        for _ in 0..6 {
            batch(&mut rng, &mut tables);
            tables.check();
        }
    });
}

/// A batch of charges, new and again, and of payments.
fn batch(rng: &mut Rng, tables: &mut Tables) {
    let mut small = |low, high| u128::try_from(rng.range(low, high)).expect("not negative");
    let asked: Vec<_> = (0..8)
        .map(|_| (small(1, 30), small(1, 3), small(1, 100)))
        .collect();
    // A command id belongs to one user, as it is derived from the user.
    let commands: Vec<_> = asked
        .iter()
        .map(|(n, _, draw)| {
            let amount = i64::try_from(*n).expect("small") * 60 - 100;
            let mut command = charge(*n, n % 3 + 1, amount);
            if *draw > 90 {
                command.fingerprint = fingerprint(1000);
            }
            command
        })
        .collect();
    let mut causes: Vec<_> = commands
        .iter()
        .zip(&asked)
        .map(|(command, (n, ..))| (Cause::charge(command.id), n % 3 + 1))
        .collect();
    causes.sort_unstable();
    causes.dedup();
    let mut accounts = tables.load(&causes);
    let mut changes = Changes::default();
    for (command, (n, payer, _)) in commands.iter().zip(&asked) {
        let transfer = transfer_id(rng.uuid().as_u128());
        let before = changes.clone();
        let outcome = accounts.decide(command, transfer, &limits(), at_s(1), &mut changes);
        if matches!(outcome, Outcome::Refused(_)) {
            assert_eq!(changes, before, "a refusal changes nothing");
        }
        let paid: Vec<_> = changes.transfers.iter().chain(&tables.transfers).collect();
        let reservation = reservation_id(1000 + n);
        if paid.iter().any(|t| t.cause == Cause::payment(reservation)) {
            continue;
        }
        let price = Price {
            transfer_id: transfer_id(rng.uuid().as_u128()),
            reservation_id: reservation,
            payer: user(*payer),
            amount: Money::won(rng.range(1, 900)),
            fingerprint: fingerprint(1),
            at: at_s(1),
        };
        let before = changes.clone();
        if let Err(InsufficientPoints) = accounts.pay(price, &mut changes) {
            assert_eq!(changes, before, "nothing moves");
        }
    }
    tables.commit(changes);
}
