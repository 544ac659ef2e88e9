//! What goes wrong, and the end of it.

use crate::process::{Death, Link, Process};
use crate::sim::{Sim, lock};
use std::sync::Arc;
use std::time::Duration;

/// The kinds of faults; a plan has a bit for each.
const KINDS: i64 = 13;

/// Lets things go wrong until the history calms down.
pub async fn run(sim: Arc<Sim>) {
    let every_ms = sim.plan.fault_every_ms;
    if every_ms == 0 || sim.plan.fault_kinds & ((1 << KINDS) - 1) == 0 {
        return;
    }
    loop {
        sim.sleep(every_ms / 4, every_ms * 2).await;
        if sim.is_calm() {
            return;
        }
        let kind = sim.range(0, KINDS - 1);
        if sim.plan.fault_kinds & (1 << kind) != 0 {
            happen(&sim, kind);
        }
    }
}

fn happen(sim: &Arc<Sim>, kind: i64) {
    let processes = Process::running(sim);
    let victim = sim.pick(&processes);
    match (kind, victim) {
        (0, Some(victim)) => {
            // At any step, before or after its effect. Another one comes in its place.
            let steps = u32::try_from(sim.range(0, 25)).expect("small");
            victim.die_in(steps);
            later(sim, 100, 5000, Process::start);
        }
        (1, Some(victim)) => victim.pause(sim.millis(100, 6000)),
        (2, Some(victim)) => victim.cut(Link::Postgres, sim.millis(50, 6000)),
        (3, Some(victim)) => victim.cut(Link::Nats, sim.millis(50, 6000)),
        (4, Some(victim)) => victim.jump(sim.range(-900_000, 900_000) * 1000),
        (5, Some(victim)) => {
            victim.stop();
            later(sim, 0, 3000, Process::start);
        }
        (6, _) if processes.len() < 4 => Process::start(sim),
        (7, _) => restart_postgres(sim),
        (8, _) => restart_nats(sim),
        (9, _) => delete_stream(sim),
        (10, _) => {
            let offset_ms = sim.range(-9000, 9000);
            sim.note("stream clock", || format!("{offset_ms} ms"));
            lock(&sim.stream).jump(offset_ms * 1000);
        }
        (11, _) => age(sim),
        (12, Some(victim)) => victim.suspend(sim.millis(100, 9000)),
        _ => {}
    }
}

fn later(sim: &Arc<Sim>, low_ms: i64, high_ms: i64, then: fn(&Arc<Sim>)) {
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep(low_ms, high_ms).await;
        then(&sim);
    });
}

fn restart_postgres(sim: &Arc<Sim>) {
    sim.note("postgres restart", String::new);
    lock(&sim.database).crash();
    sim.database_changed.notify_waiters();
    later(sim, 100, 2500, start_postgres);
}

fn start_postgres(sim: &Arc<Sim>) {
    let mut database = lock(&sim.database);
    if !database.is_up {
        database.is_up = true;
        database.started_at = sim.now();
    }
}

fn restart_nats(sim: &Arc<Sim>) {
    {
        let mut stream = lock(&sim.stream);
        stream.is_up = false;
        stream.generation += 1;
        let lost = if sim.percent(50) {
            let count = sim.range(1, 12);
            stream.lose_tail(usize::try_from(count).expect("small"))
        } else {
            0
        };
        drop(stream);
        sim.note(
            if lost > 0 {
                "tail lost"
            } else {
                "nats restart"
            },
            || format!("{lost} messages"),
        );
    }
    later(sim, 50, 2500, start_nats);
}

/// Old messages go, as by the limits of a stream, which are far behind the cursors.
fn age(sim: &Arc<Sim>) {
    let applied = {
        let database = lock(&sim.database);
        let cursors = database.rows.partitions.iter().map(|row| row.cursor.seq);
        cursors.min().unwrap_or_default()
    };
    sim.note("aged", || format!("up to {applied}"));
    lock(&sim.stream).age(applied);
}

fn start_nats(sim: &Arc<Sim>) {
    lock(&sim.stream).is_up = true;
    sim.stream_changed.notify_waiters();
}

fn delete_stream(sim: &Arc<Sim>) {
    sim.note("stream deleted", String::new);
    lock(&sim.stream).delete();
    later(sim, 0, 1500, |sim| {
        lock(&sim.stream).exists = true;
        sim.stream_changed.notify_waiters();
    });
}

/// Ends all faults; somebody is there to own the partitions.
pub async fn heal(sim: &Arc<Sim>) {
    sim.note("healing", String::new);
    sim.calm_down();
    for process in Process::running(sim) {
        process.heal();
    }
    start_postgres(sim);
    {
        let mut stream = lock(&sim.stream);
        stream.is_up = true;
        stream.exists = true;
    }
    sim.stream_changed.notify_waiters();
    // What was to be killed or to come may yet do so.
    tokio::time::sleep(Duration::from_secs(1)).await;
    if Process::all(sim).is_empty() {
        Process::start(sim);
    }
    if sim.percent(30) {
        // A last hand-over.
        if let Some(process) = sim.pick(&Process::all(sim)) {
            process.kill(Death::OfProcess);
        }
        Process::start(sim);
    }
}
