//! Those who look what became of a command: what `GET /commands/{token}` does.

use crate::database::Database;
use crate::people::{learn, short};
use crate::sim::{Sim, lock};
use onsale_schema::MessageId;
use onsale_schema::outcome::Missing;
use onsale_schema::seats::Outcome;
use onsale_workers::sabotage::{self, Bug};
use std::sync::Arc;

/// Somebody with the token of a 202.
pub struct Looker {
    sim: Arc<Sim>,
    clock_offset_ms: i64,
    id: MessageId,
    index: usize,
}

impl Looker {
    pub fn new(sim: &Arc<Sim>, clock_offset_ms: i64, id: MessageId, index: usize) -> Self {
        Self {
            sim: sim.clone(),
            clock_offset_ms,
            id,
            index,
        }
    }

    /// One who has asked for a 202 and looks again and again, for longer than others wait.
    pub async fn look_until_answered(self, patience_ms: i64) {
        let until = self.sim.now().plus_ms(patience_ms + 3000);
        while self.sim.now() < until && self.look().await.is_none() {
            self.sim.sleep(10, 150).await;
        }
    }

    /// Looks once.
    pub async fn look(&self) -> Option<Outcome> {
        self.sim.travel().await;
        let (sim, id) = (&self.sim, self.id);
        let outcomes = {
            let database = lock(&sim.database);
            let keys = database.rows.outcomes_of.get(&id);
            let first = keys.and_then(|keys| keys.first());
            let outcomes = first.map(|key| database.rows.outcomes[key].outcomes.clone());
            if !database.is_up || outcomes.is_none() && !self.is_expired(&database) {
                return None;
            }
            outcomes
        };
        match outcomes {
            Some(outcomes) => {
                sim.note("looked up", || short(id.0));
                learn(sim, id, outcomes);
            }
            None => {
                sim.note("expired", || format!("{} {}", short(id.0), self.index));
                lock(&sim.database).ghost.give_up(id, self.index);
                lock(&sim.people).expired.insert((id, self.index));
            }
        }
        lock(&sim.people).answer(id, self.index)
    }

    /// Whether a command that has no outcome is said to have none for good.
    fn is_expired(&self, database: &Database) -> bool {
        let message = database.ghost.message(self.id);
        let command = &message.expect("it was sent").commands[self.index];
        let partition = database.rows.partition_of(command.kind.schedule_id());
        let cursor = database.rows.partitions[usize::from(partition.0)].cursor;
        let decided_at = match sabotage::is(Bug::ExpiredByStreamTime) {
            false => cursor.decided_at,
            true => cursor.at,
        };
        let now = self.sim.now().plus_ms(self.clock_offset_ms);
        Missing::of(command.deadline, Some(decided_at), now) == Missing::Expired
    }
}
