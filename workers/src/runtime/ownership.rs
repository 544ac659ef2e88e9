//! Who should own which partition: a pure plan from one snapshot, the same in every worker.

use onsale_schema::{Lane, PartitionNo, WorkerId};

/// A worker as the snapshot shows it.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Which.
    pub id: WorkerId,
    /// Since its last heartbeat, in milliseconds.
    pub heartbeat_age_ms: i64,
    /// Since its start, in milliseconds.
    pub uptime_ms: i64,
    /// Whether its life-sign (a session advisory lock) is held.
    pub life_sign: bool,
    /// Whether it is about to go.
    pub leaving: bool,
}

/// A partition as the snapshot shows it.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Which.
    pub no: PartitionNo,
    /// Its owner.
    pub owner: Option<WorkerId>,
    /// Its owner's epoch.
    pub epoch: i64,
}

/// What one worker sees at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Since Postgres started, or since this worker has found it, or NATS, again after losing it, in
    /// milliseconds. A restart frees every life-sign at once, and who hears no commands for a lease
    /// lets it run out: until one lease after that, nobody can be told from the dead.
    pub quiet_ms: i64,
    /// All workers of the lane.
    pub workers: Vec<Worker>,
    /// All partitions of the lane.
    pub partitions: Vec<Partition>,
}

/// What one worker does about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Partitions to take: number, the epoch that was seen, and whether their owner died.
    pub take: Vec<(PartitionNo, i64, Reason)>,
    /// Driven partitions to stop driving: another live worker should have them, or has taken them.
    pub release: Vec<PartitionNo>,
    /// Partitions that are ours by their rows, in this epoch, but not driven: the answer to taking
    /// them, or giving them back, was lost. They must be given back, or nobody would ever have
    /// them.
    pub forgotten: Vec<(PartitionNo, i64)>,
}

/// Why a partition is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody owned it.
    Free,
    /// Its owner's life-sign is gone.
    Killed,
    /// Its owner's lease ran out.
    Hung,
}

impl Reason {
    /// Its name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Killed => "killed",
            Self::Hung => "hung",
        }
    }
}

/// A newcomer counts after this long, so that a crash loop doesn't move partitions about; in
/// milliseconds.
pub const SETTLE_MS: i64 = 500;

/// What `me` should take and release; `driven` says in which epoch it drives a partition.
#[must_use]
pub fn plan(
    lane: Lane,
    me: WorkerId,
    lease_ms: i64,
    snapshot: &Snapshot,
    driven: impl Fn(PartitionNo) -> Option<i64>,
) -> Plan {
    // Until then what has an owner stays where it is.
    let quiet = snapshot.quiet_ms < lease_ms;
    let death = |w: &Worker| match (w.life_sign, w.heartbeat_age_ms < lease_ms) {
        (true, true) => None,
        (false, _) => Some(Reason::Killed),
        (true, false) => Some(Reason::Hung),
    };
    let live: Vec<&Worker> = snapshot
        .workers
        .iter()
        .filter(|w| death(w).is_none() && !w.leaving)
        .collect();
    let settled: Vec<&Worker> = live
        .iter()
        .copied()
        .filter(|w| w.uptime_ms >= SETTLE_MS)
        .collect();
    let candidates = if settled.is_empty() { &live } else { &settled };

    let mut plan = Plan::default();
    for partition in &snapshot.partitions {
        let wanted = candidates
            .iter()
            .map(|w| w.id)
            .max_by_key(|id| score(*id, lane, partition.no));
        let mine = wanted == Some(me);
        let driven = driven(partition.no);
        // The fence holds back what a deposed owner writes; it should also stop to tell its old
        // map. An older epoch in the snapshot is only an older snapshot.
        if driven.is_some_and(|epoch| epoch < partition.epoch) {
            plan.release.push(partition.no);
            continue;
        }
        match partition.owner {
            Some(owner) if owner == me && driven.is_none() => {
                plan.forgotten.push((partition.no, partition.epoch));
            }
            Some(owner) if owner == me => {
                if wanted.is_some() && !mine && !quiet {
                    plan.release.push(partition.no);
                }
            }
            Some(owner) if mine && !quiet => {
                let reason = match snapshot.workers.iter().find(|w| w.id == owner) {
                    Some(worker) => death(worker),
                    None => Some(Reason::Killed),
                };
                if let Some(reason) = reason {
                    plan.take.push((partition.no, partition.epoch, reason));
                }
            }
            None if mine => plan
                .take
                .push((partition.no, partition.epoch, Reason::Free)),
            Some(_) | None => {}
        }
    }
    plan
}

/// Rendezvous hashing: the worker with the highest score owns the partition, so that a worker that
/// comes or goes moves only its own share.
fn score(worker: WorkerId, lane: Lane, partition: PartitionNo) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    worker.0.as_bytes().iter().copied().for_each(&mut mix);
    lane.as_str().bytes().for_each(&mut mix);
    partition.0.to_be_bytes().into_iter().for_each(&mut mix);
    // FNV alone leaves the high bits of similar keys alike (the finalizer is that of SplitMix64).
    hash ^= hash >> 30;
    hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^= hash >> 27;
    hash = hash.wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const LEASE_MS: i64 = 3000;

    fn id(n: u128) -> WorkerId {
        WorkerId(Uuid::from_u128(n))
    }

    fn worker(n: u128) -> Worker {
        Worker {
            id: id(n),
            heartbeat_age_ms: 100,
            uptime_ms: 60_000,
            life_sign: true,
            leaving: false,
        }
    }

    fn snapshot(workers: Vec<Worker>, owner: Option<u128>) -> Snapshot {
        let partitions = (0..64)
            .map(|no| Partition {
                no: PartitionNo(no),
                owner: owner.map(id),
                epoch: 7,
            })
            .collect();
        Snapshot {
            quiet_ms: 60_000,
            workers,
            partitions,
        }
    }

    fn plan_of(n: u128, snapshot: &Snapshot) -> Plan {
        plan(Lane::Seats, id(n), LEASE_MS, snapshot, |_| Some(7))
    }

    #[test]
    fn free_partitions_are_shared_and_each_is_taken_once() {
        let s = snapshot((1..=4).map(worker).collect(), None);
        let mut taken: Vec<_> = (1..=4).flat_map(|n| plan_of(n, &s).take).collect();
        taken.sort_by_key(|(no, ..)| *no);
        assert_eq!(taken.len(), 64);
        assert!(taken.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!((1..=4).all(|n| (6..=28).contains(&plan_of(n, &s).take.len())));
    }

    #[test]
    fn the_dead_lose_their_partitions_at_once_and_the_hung_after_the_lease() {
        for (life_sign, age, expected) in [
            (true, 100, None),
            (true, LEASE_MS - 1, None),
            (true, LEASE_MS, Some(Reason::Hung)),
            (false, 100, Some(Reason::Killed)),
        ] {
            let owner = Worker {
                life_sign,
                heartbeat_age_ms: age,
                ..worker(2)
            };
            let s = snapshot(vec![worker(1), owner], Some(2));
            let take = plan_of(1, &s).take;
            match expected {
                None => assert!(take.is_empty()),
                Some(reason) => {
                    assert_eq!(take.len(), 64);
                    assert!(take.iter().all(|(.., r)| *r == reason));
                }
            }
        }
    }

    #[test]
    fn an_owner_without_a_row_is_dead() {
        let s = snapshot(vec![worker(1)], Some(9));
        assert_eq!(plan_of(1, &s).take.len(), 64);
    }

    #[test]
    fn a_postgres_restart_moves_nothing_for_one_lease() {
        let owner = Worker {
            life_sign: false,
            heartbeat_age_ms: 10_000,
            ..worker(2)
        };
        let mut s = snapshot(vec![worker(1), owner], Some(2));
        s.quiet_ms = LEASE_MS - 1;
        assert_eq!(plan_of(1, &s), Plan::default());
        s.quiet_ms = LEASE_MS;
        assert_eq!(plan_of(1, &s).take.len(), 64);
        // Nor does an owner give anything to a worker, dead for long or alive, meanwhile.
        for life_sign in [false, true] {
            let other = Worker {
                life_sign,
                ..worker(2)
            };
            let mut s = snapshot(vec![worker(1), other], Some(1));
            s.quiet_ms = LEASE_MS - 1;
            assert_eq!(plan_of(1, &s), Plan::default());
        }
    }

    #[test]
    fn what_nobody_owns_is_taken_at_once_also_after_a_postgres_restart() {
        let dead = Worker {
            life_sign: false,
            ..worker(2)
        };
        let mut s = snapshot(vec![worker(1), dead], None);
        s.quiet_ms = 0;
        assert_eq!(plan_of(1, &s).take.len(), 64);
    }

    #[test]
    fn what_is_ours_but_not_driven_is_given_back() {
        let s = snapshot(vec![worker(1), worker(2)], Some(1));
        let plan = plan(Lane::Seats, id(1), LEASE_MS, &s, |no| {
            (no != PartitionNo(5)).then_some(7)
        });
        assert_eq!(plan.forgotten, [(PartitionNo(5), 7)]);
        assert!(!plan.release.contains(&PartitionNo(5)));
    }

    #[test]
    fn what_another_has_taken_is_driven_no_more() {
        let s = snapshot(vec![worker(1), worker(2)], Some(2));
        let driven = |no: PartitionNo| match no.0 {
            3 => Some(6),
            4 => Some(7),
            _ => None,
        };
        let plan = plan(Lane::Seats, id(1), LEASE_MS, &s, driven);
        assert_eq!(plan.release, [PartitionNo(3)]);
    }

    #[test]
    fn who_is_about_to_go_keeps_what_it_has_and_is_given_nothing() {
        let leaving = Worker {
            leaving: true,
            ..worker(2)
        };
        let all = || vec![worker(1), leaving.clone()];
        assert_eq!(plan_of(1, &snapshot(all(), Some(2))), Plan::default());
        assert_eq!(plan_of(1, &snapshot(all(), None)).take.len(), 64);
        assert_eq!(plan_of(1, &snapshot(all(), Some(1))), Plan::default());
        assert_eq!(plan_of(2, &snapshot(all(), None)), Plan::default());
    }

    #[test]
    fn a_newcomer_counts_when_it_has_settled() {
        let newcomer = Worker {
            uptime_ms: SETTLE_MS - 1,
            ..worker(2)
        };
        let mut s = snapshot(vec![worker(1), newcomer], Some(1));
        assert_eq!(plan_of(1, &s), Plan::default());
        s.workers[1].uptime_ms = SETTLE_MS;
        let released = plan_of(1, &s).release.len();
        assert!((16..=48).contains(&released), "{released}");
        // Alone, it needs no settling.
        let alone = Worker {
            uptime_ms: 0,
            ..worker(3)
        };
        assert_eq!(plan_of(3, &snapshot(vec![alone], None)).take.len(), 64);
    }
}
