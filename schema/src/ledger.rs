//! What is said about points.

use crate::ids::{AccountId, PaymentOrderId, TransferId};
use crate::money::Money;
use crate::status::ChargeMethod;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Where card charges come from.
pub const CARD_ACCOUNT: AccountId = AccountId(Uuid::from_u128(0xca4d));
/// Where cash charges come from.
pub const CASH_ACCOUNT: AccountId = AccountId(Uuid::from_u128(0xca54));
/// Where payments go to.
pub const SALES_ACCOUNT: AccountId = AccountId(Uuid::from_u128(0x5a1e));

/// A command to the ledger. The command's user owns the account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    /// Buy points.
    Charge {
        /// How many; more than nothing.
        amount: Money,
        /// By what.
        method: ChargeMethod,
    },
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The points are there.
    Charged {
        /// The transfer.
        transfer_id: TransferId,
        /// The balance after it.
        balance: Money,
    },
    /// The gateway is asked for the money: how far that is, says the order. The points come when it is
    /// captured.
    Ordered {
        /// The order.
        order_id: PaymentOrderId,
    },
    /// No, and why. Nothing was changed.
    Refused(Refusal),
    /// It could not be processed and lies among the dead letters.
    DeadLettered,
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Refusal {
    /// Its deadline had passed when it was decided.
    CommandExpired,
    /// The key was used for another request.
    KeyReused,
    /// Not a whole positive amount within the limit of one charge.
    AmountInvalid,
    /// The balance would be over the cap.
    BalanceCapExceeded {
        /// The cap.
        cap: Money,
    },
    /// Nobody asks cards for money here.
    CardsNotConfigured,
    /// Nobody takes cash here.
    CashNotConfigured,
    /// So many charges by card of the user are at the gateway already.
    TooManyOpenCharges {
        /// How many may be.
        limit: u32,
    },
}
