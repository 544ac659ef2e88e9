//! What follows a commit: replies to those who wait, broadcasts, metrics. Never before it.

use super::core::{Decided, Proposal};
use super::lane::PartitionedLane;
use super::world::Publish;
use onsale_platform::metric;
use onsale_schema::message::{MessageOutcomes, Reply, encode};
use onsale_schema::{IngressId, Lane, Timestamp};
use serde::Serialize;
use std::collections::BTreeMap;

/// Commands whose outcomes go into one reply, at most; keeps a reply well below the server's
/// largest message.
const REPLY_COMMANDS_MAX: usize = 1024;

/// Sends what a proposal makes due that was committed just now.
pub async fn committed<L: PartitionedLane>(
    world: &impl Publish,
    proposal: Proposal<L>,
    now: Timestamp,
) {
    reply_all::<L>(world, proposal.decided).await;
    for payload in L::broadcast(&proposal.changes, now) {
        let subject = L::broadcasts_to(world.subjects(), proposal.partition);
        world.publish(subject, payload).await;
    }
    for subject in L::nudges(&proposal.changes, world.subjects()) {
        world.publish(subject, Vec::new()).await;
    }
    count(L::LANE, &proposal.labels);
    L::count(&proposal.changes);
    if !proposal.dead.is_empty() {
        metrics::counter!(metric::DEAD_LETTERS, "lane" => L::LANE.as_str())
            .increment(proposal.dead.len() as u64);
    }
}

/// Sends outcomes to those who wait for them.
pub(super) async fn reply_all<L: PartitionedLane>(
    world: &impl Publish,
    decided: Vec<Decided<L::Outcome>>,
) {
    let mut replies: BTreeMap<IngressId, Vec<MessageOutcomes<L::Outcome>>> = BTreeMap::new();
    for decided in decided {
        if let Some(ingress) = decided.reply_to {
            replies.entry(ingress).or_default().push(MessageOutcomes {
                message_id: decided.message_id,
                outcomes: decided.outcomes,
            });
        }
    }
    for (ingress, messages) in replies {
        reply(world, ingress, L::LANE, messages).await;
    }
}

/// Sends outcomes to one ingress, many in one message.
pub async fn reply<O: Serialize + Send>(
    world: &impl Publish,
    ingress: IngressId,
    lane: Lane,
    messages: Vec<MessageOutcomes<O>>,
) {
    let subject = world.subjects().reply(ingress, lane);
    let mut part = Vec::new();
    let mut commands = 0;
    for message in messages {
        commands += message.outcomes.len();
        part.push(message);
        if commands >= REPLY_COMMANDS_MAX {
            let messages = std::mem::take(&mut part);
            world
                .publish(subject.clone(), encode(&Reply { messages }))
                .await;
            commands = 0;
        }
    }
    if !part.is_empty() {
        world
            .publish(subject, encode(&Reply { messages: part }))
            .await;
    }
}

/// Counts commands that are decided and durable.
pub fn count(lane: Lane, labels: &[(&'static str, &'static str)]) {
    let mut counts: BTreeMap<(&'static str, &'static str), u64> = BTreeMap::new();
    for label in labels {
        *counts.entry(*label).or_default() += 1;
    }
    for ((kind, outcome), n) in counts {
        metrics::counter!(
            metric::COMMANDS_DECIDED,
            "lane" => lane.as_str(), "kind" => kind, "outcome" => outcome
        )
        .increment(n);
    }
}
