//! Runs one history: chaos, healing, quiet.

use crate::people::Ingress;
use crate::process::Process;
use crate::sim::{Report, Sim, Violation};
use crate::{checks, faults, neighbours};
use std::cell::RefCell;
use std::sync::{Arc, Once};
use std::time::Duration;

/// Ingresses of a history.
const INGRESSES: usize = 2;
/// How long it may take until all is quiet after the last fault, in virtual time.
const QUIET_MAX: Duration = Duration::from_secs(40);

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of histories are violations, also in tasks, where the runtime survives them.
pub fn record_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if tokio::runtime::Handle::try_current().is_ok() {
                PANIC.set(Some(info.to_string()));
            } else {
                hook(info);
            }
        }));
    });
}

/// Runs the history of a seed.
pub fn run(seed: u64, readable: bool) -> Report {
    PANIC.set(None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing");
    runtime.block_on(async {
        let sim = Sim::new(seed, readable);
        tokio::select! {
            biased;
            () = sim.broken.notified() => {}
            () = live(&sim) => {}
        }
        sim.report()
    })
}

async fn live(sim: &Arc<Sim>) {
    for _ in 0..sim.plan.workers {
        Process::start(sim);
    }
    for _ in 0..INGRESSES {
        Ingress::start(sim);
    }
    sim.spawn(neighbours::outbox(sim.clone()));
    sim.spawn(neighbours::sweeper(sim.clone()));
    sim.spawn(neighbours::administrator(sim.clone()));
    sim.spawn(faults::run(sim.clone()));
    let chaos = Duration::from_millis(sim.plan.chaos_ms);
    while sim.elapsed() < chaos {
        tokio::time::sleep(Duration::from_millis(500)).await;
        look(sim);
    }
    faults::heal(sim).await;
    let calm_since = sim.elapsed();
    while let Some(what) = checks::unfinished(sim, INGRESSES) {
        look(sim);
        if sim.elapsed() - calm_since > QUIET_MAX {
            sim.fail(what);
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    checks::at_the_end(sim);
}

fn look(sim: &Sim) {
    if let Some(panic) = PANIC.take() {
        sim.fail(Violation::promise("no panic", panic));
    }
    checks::now(sim);
}
