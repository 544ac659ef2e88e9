//! Who can sign in to the demo, and the points they begin with.
//!
//! Users are written by the ingress' code and points by the ledger's: the books of a demo are as
//! clean as any.

use anyhow::{Context, bail};
use diesel_async::AsyncConnection;
use onsale_domain::ledger::{Cards, Limits};
use onsale_ingress::password;
use onsale_ingress::users::store::{self, NewUser};
use onsale_platform::db;
use onsale_schema::ledger::{Kind, Outcome};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::status::{ChargeMethod, Role};
use onsale_schema::{CommandId, Money, Timestamp, UserId};
use onsale_workers::compete::Queue;
use onsale_workers::ledger::Ledger;
use uuid::Uuid;

use crate::running::{Account, Accounts};

/// The password of every demo buyer. Printed in banners: no secret.
pub const BUYER_PASSWORD: &str = "onsale-demo";
/// The password of the demo admin. Printed in banners: no secret.
pub const ADMIN_PASSWORD: &str = "onsale-admin";
/// How many buyers there are.
pub const BUYERS: u32 = 50;
/// The points of each buyer at first, in won: less than three good seats cost, so that a visitor
/// has a reason to charge.
pub const POINTS_WON: i64 = 300_000;

/// Name space of the first charges' command ids (a fixed random UUID).
const CHARGES: Uuid = Uuid::from_u128(0x51f8_7c3e_09d4_4b62_a1c7_e83f_246b_90d5);

struct DemoUser {
    user_id: UserId,
    email: String,
    name: String,
    role: Role,
    password: &'static str,
}

fn users() -> Vec<DemoUser> {
    let fixed = |n: u32| {
        UserId(Uuid::from_u128(
            0x0190_0000_0000_7000_8000_000b_0000_0000 | u128::from(n),
        ))
    };
    let admin = DemoUser {
        user_id: fixed(0),
        email: "admin@example.com".into(),
        name: "Admin".into(),
        role: Role::Admin,
        password: ADMIN_PASSWORD,
    };
    let buyers = (1..=BUYERS).map(|n| DemoUser {
        user_id: fixed(n),
        email: format!("buyer{n:02}@example.com"),
        name: format!("Buyer {n:02}"),
        role: Role::Buyer,
        password: BUYER_PASSWORD,
    });
    std::iter::once(admin).chain(buyers).collect()
}

/// Who can sign in, and how.
#[must_use]
pub fn accounts() -> Accounts {
    let account = |user: DemoUser| Account {
        email: user.email,
        password: user.password.into(),
    };
    let mut users = users().into_iter();
    let admin = users.next().map(account).expect("the admin is the first");
    Accounts {
        admin,
        buyers: users.map(account).collect(),
    }
}

/// Creates those who are not there yet, and charges the buyers who were not charged yet, by the
/// ledger's own code. Returns how many users are new.
///
/// # Errors
/// When the database refuses.
pub async fn create(pool: &db::Pool) -> anyhow::Result<usize> {
    let users = users();
    let missing = users_missing(pool, &users).await?;
    let created = if missing.is_empty() {
        0
    } else {
        store::user_insert_new(pool, &with_hashes(missing).await?).await?
    };
    let buyers = users.iter().filter(|user| user.role == Role::Buyer);
    let charges: Vec<Command<Kind>> = buyers.map(|buyer| charge(buyer.user_id)).collect();
    let mut conn = pool.get().await?;
    let outcomes = conn
        .transaction(async |conn| {
            let points = Money::won(POINTS_WON);
            let ledger = Ledger::new(Limits {
                charge_max: points,
                balance_cap: points,
                cards: Cards::Refused,
                cash: true,
            });
            ledger
                .settle(conn, &charges.iter().collect::<Vec<_>>())
                .await
        })
        .await
        .context("charging the buyers")?;
    let refused = outcomes
        .iter()
        .find(|outcome| !matches!(outcome, Outcome::Charged { .. }));
    match refused {
        None => Ok(created),
        Some(outcome) => bail!("a buyer was not charged: {outcome:?}"),
    }
}

/// The first charge of a buyer. It has the same id in every run, so that it is made once.
fn charge(buyer: UserId) -> Command<Kind> {
    let id = Uuid::new_v5(&CHARGES, buyer.0.as_bytes());
    Command {
        id: CommandId(id),
        user: buyer,
        fingerprint: Fingerprint(id),
        deadline: Timestamp::from_micros(i64::MAX),
        trace: None,
        kind: Kind::Charge {
            amount: Money::won(POINTS_WON),
            method: ChargeMethod::Cash,
        },
    }
}

async fn users_missing<'a>(
    pool: &db::Pool,
    users: &'a [DemoUser],
) -> anyhow::Result<Vec<&'a DemoUser>> {
    let mut missing = Vec::new();
    for user in users {
        if store::user_find(pool, user.user_id).await?.is_none() {
            missing.push(user);
        }
    }
    Ok(missing)
}

/// Hashes once per password, not per user: fifty would take seconds, and these are no secrets.
async fn with_hashes(users: Vec<&DemoUser>) -> anyhow::Result<Vec<NewUser>> {
    let (admin_hash, buyer_hash) =
        tokio::try_join!(password_hash(ADMIN_PASSWORD), password_hash(BUYER_PASSWORD))?;
    let new_user = |user: &DemoUser| NewUser {
        user_id: user.user_id,
        email: user.email.clone(),
        name: user.name.clone(),
        password_hash: match user.role {
            Role::Admin => admin_hash.clone(),
            Role::Buyer => buyer_hash.clone(),
        },
        role: user.role,
    };
    Ok(users.into_iter().map(new_user).collect())
}

pub(super) async fn password_hash(password: &'static str) -> anyhow::Result<String> {
    let hash = tokio::task::spawn_blocking(move || password::hash(password));
    Ok(hash.await.context("hashing a password")??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_enough_buyers_with_names_of_their_own() {
        let accounts = accounts();
        assert_eq!(accounts.admin.email, "admin@example.com");
        assert_eq!(accounts.buyers.len(), 50);
        assert_eq!(accounts.buyers[0].email, "buyer01@example.com");
        assert_eq!(accounts.buyers[49].email, "buyer50@example.com");
    }
}
