//! Delivers facts to webhook subscribers: signed, in order per subscriber, at least once, until a
//! subscriber that fails for too long is dead.
//!
//! The source is the outbox table, not the events stream. A stream may lose its tail or be made anew,
//! and what was published counts as published: a subscriber's cursor into it would then stand for
//! other messages, and facts would be lost without a word. In Postgres a fact, its number and the
//! cursor are one database, restored together, and a repeated publication is the same row: so a
//! subscriber's sequence has no duplicates and no gaps that are not real. The number is given under a
//! lock, after the publication ([`super::facts`]), so that nothing appears behind a cursor. A restore from
//! a backup that is older than what was told sets them back: then `onsale restored` moves them on, so that no
//! subscriber takes what is new for a repetition (`deploy/README.md`).
//!
//! Cursor and sequence are written after a delivery: a crash between the two delivers again, the same
//! fact under the same id and sequence. They are written only over the values that were read, so that
//! a replica that has lost the lock and does not know it can't move a subscriber back; and what was
//! found out about an address or a secret that was changed meanwhile is not written at all.
//!
//! Whoever holds the outbox's lock serves all: a task per subscriber that has something to get and is
//! not in a pause. There are at most [`SUBSCRIBERS_MAX`], so nobody waits for somebody else's
//! endpoint. Nothing here may log an address, a secret or a fact.

mod attempts;
mod serve;
pub(super) mod store;

use crate::compete::patience::Patience;
use crate::context::Context;
use onsale_platform::db;
use onsale_platform::outward::Caller;
use onsale_schema::WebhookId;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::time::Duration;
use store::Whom;
use tokio::sync::Notify;
use tokio::task::{self, JoinSet};
use tokio::time::Instant;

pub use onsale_schema::facts::SUBSCRIBERS_MAX;

/// How often it looks who is due, when nothing wakes it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The shortest pause between two looks.
const LOOK_GAP: Duration = Duration::from_millis(20);
/// How often those who have everything are moved to the end of the feed.
const ADVANCE_EVERY: Duration = Duration::from_secs(1);

/// Those who are being served. Dropping it ends that.
#[derive(Default)]
struct Crew {
    tasks: JoinSet<Result<(), db::Error>>,
    busy: HashSet<WebhookId>,
    by_task: HashMap<task::Id, WebhookId>,
}

impl Crew {
    fn serve(&mut self, ctx: &Context, caller: &Caller, id: WebhookId) {
        if self.busy.len() < SUBSCRIBERS_MAX && self.busy.insert(id) {
            let serving = serve::run(ctx.clone(), caller.clone(), id);
            let handle = self.tasks.spawn(serving);
            self.by_task.insert(handle.id(), id);
        }
    }

    /// Waits for the end of one; for ever if nobody is served.
    async fn ended(&mut self) -> Result<(), db::Error> {
        let (task, served) = match self.tasks.join_next_with_id().await {
            None => return std::future::pending().await,
            Some(Ok((task, served))) => (task, served),
            Some(Err(panicked)) => {
                tracing::error!(error = %panicked, "a delivery to a webhook subscriber panicked");
                (panicked.id(), Ok(()))
            }
        };
        if let Some(id) = self.by_task.remove(&task) {
            self.busy.remove(&id);
        }
        served
    }
}

/// Delivers for ever; `numbered` says that there may be something.
pub async fn run(ctx: &Context, numbered: &Notify) -> Infallible {
    let settings = &ctx.config.webhooks;
    let caller = Caller::new(settings.ca.as_deref(), settings.common.private_targets);
    let mut patience = Patience::new("webhooks");
    let mut crew = Crew::default();
    let mut advanced = Instant::now();
    loop {
        let looked = look(ctx, &caller, &mut crew, &mut advanced).await;
        match looked {
            Ok(()) => patience.healed(),
            Err(error) => patience.wait(error).await,
        }
        tokio::time::sleep(LOOK_GAP).await;
        let served = tokio::select! {
            () = numbered.notified() => Ok(()),
            served = crew.ended() => served,
            () = tokio::time::sleep(LOOK_EVERY) => Ok(()),
        };
        if let Err(error) = served {
            patience.wait(error).await;
        }
    }
}

async fn look(
    ctx: &Context,
    caller: &Caller,
    crew: &mut Crew,
    advanced: &mut Instant,
) -> Result<(), db::Error> {
    for subscriber in store::webhook_list_standing(&ctx.pool).await? {
        if subscriber.is_due {
            crew.serve(ctx, caller, subscriber.webhook_id);
        }
    }
    if advanced.elapsed() > ADVANCE_EVERY {
        store::webhook_advance_idle(&ctx.pool, Whom::Active).await?;
        *advanced = Instant::now();
    }
    Ok(())
}
