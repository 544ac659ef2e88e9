//! How often passwords may be tried, and accounts made.
//!
//! Three bounds, the first two for each other: an *address* may try so often, whatever the accounts;
//! an *account* may be tried so often from one address; and ten times as often from all addresses
//! together, which is what many machines get who guess one password.
//!
//! A bound on an account lets anybody keep its owner out by guessing wrong. So the last bound does not
//! count for an address from which its owner has signed in lately: there only the owner's own tries
//! count. An owner at a new address may have to wait while somebody guesses, seconds at a time, and
//! nothing outlasts the guessing: no account is ever locked.
//!
//! All this is looked at before anybody asks whether the account exists, so that a refusal says
//! nothing about it.

use super::gcra::{Buckets, Policy};
use super::refusal;
use crate::address::ClientAddress;
use crate::config;
use crate::problem::Problem;
use metrics::Counter;
use onsale_platform::metric;
use quick_cache::sync::Cache;
use std::net::IpAddr;
use std::time::Duration;

/// Keys that each bound remembers.
const KEYS: usize = 1 << 16;
/// Owners' addresses that are remembered.
const OWNERS: usize = 1 << 16;
/// So many times as much as from one address is let through from all together.
const EVERYWHERE: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// See above.
pub struct SignIns {
    address: Option<Buckets>,
    account_here: Option<Buckets>,
    account: Option<Buckets>,
    /// From where an account's owner has signed in.
    owners: Cache<(Box<str>, IpAddr), ()>,
    refused_address: Counter,
    refused_account: Counter,
}

impl SignIns {
    /// Bounds by `settings`.
    #[must_use]
    pub fn new(settings: &config::Limits) -> Self {
        let buckets = |per_min: u32, burst: u32| {
            (per_min > 0).then(|| Buckets::new(Policy::new(per_min, MINUTE, burst), KEYS))
        };
        let address = (
            settings.sign_in_address_per_min,
            settings.sign_in_address_burst,
        );
        let account = (
            settings.sign_in_account_per_min,
            settings.sign_in_account_burst,
        );
        Self {
            address: buckets(address.0, address.1),
            account_here: buckets(account.0, account.1),
            account: buckets(account.0 * EVERYWHERE, account.1 * EVERYWHERE),
            owners: Cache::new(OWNERS),
            refused_address: metrics::counter!(metric::HTTP_REFUSED, "reason" => "sign-in-address"),
            refused_account: metrics::counter!(metric::HTTP_REFUSED, "reason" => "sign-in-account"),
        }
    }

    /// Lets a sign-up through.
    ///
    /// # Errors
    /// `rate-limited`, with when to come again.
    pub fn admit_sign_up(&self, from: ClientAddress) -> Result<(), Problem> {
        take(
            self.address.as_ref(),
            &from.network(),
            &self.refused_address,
        )
    }

    /// Lets a try at an account's password through, whether there is such an account or not.
    ///
    /// # Errors
    /// `rate-limited`, with when to come again.
    pub fn admit_sign_in(&self, email: &str, from: ClientAddress) -> Result<(), Problem> {
        let network = from.network();
        take(self.address.as_ref(), &network, &self.refused_address)?;
        let here = (email, network);
        take(self.account_here.as_ref(), &here, &self.refused_account)?;
        if self.owners.get(&Here(email, network)).is_some() {
            return Ok(());
        }
        take(self.account.as_ref(), &email, &self.refused_account)
    }

    /// The owner has signed in from there.
    pub fn succeeded(&self, email: &str, from: ClientAddress) {
        self.owners.insert((email.into(), from.network()), ());
    }
}

fn take(
    buckets: Option<&Buckets>,
    key: &impl std::hash::Hash,
    refused: &Counter,
) -> Result<(), Problem> {
    match buckets.map(|buckets| buckets.take(key)) {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(wait)) => {
            refused.increment(1);
            Err(refusal(wait))
        }
    }
}

/// A key of `owners` that is not copied. It hashes as that does: a text as a text, in order.
#[derive(Hash)]
struct Here<'a>(&'a str, IpAddr);

impl quick_cache::Equivalent<(Box<str>, IpAddr)> for Here<'_> {
    fn equivalent(&self, key: &(Box<str>, IpAddr)) -> bool {
        *self.0 == *key.0 && self.1 == key.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    fn sign_ins(address_burst: u32, account_burst: u32) -> SignIns {
        use clap::{Args, FromArgMatches};
        let command = config::Limits::augment_args(clap::Command::new("limits"));
        let settings = config::Limits::from_arg_matches(&command.get_matches_from(["limits"]));
        SignIns::new(&config::Limits {
            sign_in_address_per_min: 1,
            sign_in_address_burst: address_burst,
            sign_in_account_per_min: 1,
            sign_in_account_burst: account_burst,
            ..settings.unwrap()
        })
    }

    fn from(last: u8) -> ClientAddress {
        ClientAddress(IpAddr::from([198, 51, 100, last]))
    }

    #[test]
    fn an_address_may_try_so_many_accounts() {
        let sign_ins = sign_ins(3, 100);
        assert!(sign_ins.admit_sign_in("a", from(1)).is_ok());
        assert!(sign_ins.admit_sign_in("b", from(1)).is_ok());
        assert!(sign_ins.admit_sign_up(from(1)).is_ok());
        let refused = sign_ins.admit_sign_in("c", from(1)).unwrap_err();
        assert_eq!(refused.code(), Code::RateLimited);
        assert!(sign_ins.admit_sign_up(from(1)).is_err());
        assert!(sign_ins.admit_sign_in("c", from(2)).is_ok());
    }

    #[test]
    fn an_account_may_be_tried_so_often_from_one_address_and_from_all() {
        let sign_ins = sign_ins(100, 2);
        let tries = |email: &str, last: u8| {
            let tries = (0..5).filter(|_| sign_ins.admit_sign_in(email, from(last)).is_ok());
            tries.count()
        };
        assert_eq!((tries("a", 1), tries("b", 1)), (2, 2));
        // 20 in all.
        let guessed: usize = (2..50).map(|last| tries("a", last)).sum();
        assert_eq!(guessed, 18);
        assert_eq!(tries("b", 51), 2);
    }

    #[test]
    fn who_guesses_does_not_keep_the_owner_out() {
        let sign_ins = sign_ins(100, 2);
        assert!(sign_ins.admit_sign_in("owner", from(1)).is_ok());
        sign_ins.succeeded("owner", from(1));
        for last in 2..50 {
            while sign_ins.admit_sign_in("owner", from(last)).is_ok() {}
        }
        assert!(sign_ins.admit_sign_in("owner", from(60)).is_err());
        assert!(sign_ins.admit_sign_in("owner", from(1)).is_ok());
        // But the owner's own address is no way to guess without end either.
        assert!(sign_ins.admit_sign_in("owner", from(1)).is_err());
    }
}
