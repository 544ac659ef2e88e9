//! One simulated history: its seed, its virtual time, what may happen in it, and its trace. The
//! parts of the outside hang off it; everything runs on one thread, so a part's lock is only ever
//! taken alone.

use crate::database::Database;
use crate::people::People;
use crate::process::Processes;
use crate::rng::Rng;
use crate::stream::Stream;
use onsale_schema::Timestamp;
use onsale_schema::invariant::Invariant;
use onsale_workers::runtime::core::CLOCK_SKEW_MAX_MS;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

/// When every history begins.
pub const BASE: Timestamp = Timestamp(1_800_000_000_000_000);

/// Something that must never be so.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The invariant's id, or a promise's name.
    pub name: String,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)
    }
}

impl Violation {
    pub fn of(invariant: Invariant, text: impl Into<String>) -> Self {
        Self {
            name: invariant.id().to_owned(),
            text: text.into(),
        }
    }

    /// Of what is promised besides the invariants of the tables.
    pub fn promise(name: &str, text: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            text: text.into(),
        }
    }
}

/// What may happen in a history. Each seed leaves some of it out, so that rare combinations come
/// up undisturbed by the others.
#[derive(Clone, Debug)]
pub struct Plan {
    pub partitions: u16,
    pub workers: usize,
    pub schedules: u16,
    pub seats: i32,
    pub places: i32,
    pub users: i64,
    pub hold_ms: i64,
    pub seats_per_user: u32,
    pub batch_commands: usize,
    /// How long faults happen and clients ask for new things.
    pub chaos_ms: u64,
    /// Between two faults, on average; 0 for none.
    pub fault_every_ms: i64,
    /// Which kinds of faults happen: bits by their number.
    pub fault_kinds: u64,
    /// Of 10,000 legs to Postgres, those on which the connection breaks.
    pub resets: i64,
    /// Percent of messages that are published late, by up to some seconds.
    pub late: i64,
    /// Percent of messages that are held up on their way to a reader.
    pub held_up: i64,
    /// Percent of messages that are published twice.
    pub duplicates: i64,
    /// Percent of replies that are lost.
    pub lost_replies: i64,
    /// Percent of clients that ask for a 202 and look what became of their command.
    pub async_clients: i64,
    /// Percent of answers that are slow.
    pub slow: i64,
    /// Whether NATS restarts in a blink while readers open.
    pub blips: bool,
}

impl Plan {
    fn new(rng: &mut Rng) -> Self {
        let mut maybe = |percent, low, high| {
            if rng.percent(percent) {
                rng.range(low, high)
            } else {
                0
            }
        };
        let resets = maybe(40, 5, 80);
        let late = maybe(50, 1, 15);
        let duplicates = maybe(50, 2, 25);
        let lost_replies = maybe(40, 2, 30);
        let async_clients = maybe(40, 5, 40);
        let slow = maybe(50, 1, 6);
        let fault_every_ms = maybe(90, 300, 1800);
        let blips = maybe(15, 1, 1) > 0;
        let held_up = maybe(40, 1, 30);
        Self {
            partitions: u16::try_from(rng.range(1, 3)).expect("small"),
            workers: usize::try_from(rng.range(1, 3)).expect("small"),
            schedules: u16::try_from(rng.range(1, 4)).expect("small"),
            seats: i32::try_from(rng.range(3, 8)).expect("small"),
            places: i32::try_from(rng.range(2, 4)).expect("small"),
            users: rng.range(2, 5),
            hold_ms: rng.range(8, 35) * 100,
            seats_per_user: u32::try_from(rng.range(2, 5)).expect("small"),
            batch_commands: usize::try_from(*rng.pick(&[1, 4, 64]).expect("some")).expect("small"),
            chaos_ms: u64::try_from(rng.range(2, 9) * 1000).expect("positive"),
            fault_every_ms,
            fault_kinds: rng.next(),
            resets,
            late,
            held_up,
            duplicates,
            lost_replies,
            async_clients,
            slow,
            blips,
        }
    }
}

#[derive(Default)]
struct Trace {
    /// Lines are made only when somebody wants to read them.
    lines: Option<Vec<String>>,
    hasher: DefaultHasher,
    seen: BTreeMap<&'static str, u64>,
    first: Option<Violation>,
}

/// One history.
pub struct Sim {
    pub plan: Plan,
    start: Instant,
    rng: Mutex<Rng>,
    trace: Mutex<Trace>,
    tasks: Mutex<JoinSet<()>>,
    pub database: Mutex<Database>,
    pub stream: Mutex<Stream>,
    pub processes: Mutex<Processes>,
    pub people: Mutex<People>,
    /// A transaction or session ended.
    pub database_changed: Notify,
    /// Something is new on the stream, or about it.
    pub stream_changed: Notify,
    /// An answer came.
    pub answered: Notify,
    /// Ownership may have changed.
    pub nudged: Notify,
    /// Something is broken; the history is over.
    pub broken: Notify,
    /// No more faults.
    calm: Mutex<bool>,
    /// The most that an owner's clock may be wrong by the errors of measurements.
    clock_error: Mutex<Duration>,
}

/// The lock of one part.
pub fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.try_lock()
        .expect("one thread takes a part's lock once at a time")
}

impl Sim {
    /// The history of a seed, at its beginning. With `readable`, its trace can be read.
    pub fn new(seed: u64, readable: bool) -> Arc<Self> {
        let mut rng = Rng::new(seed);
        let plan = Plan::new(&mut rng);
        let database = Database::new(&plan, &mut rng);
        let trace = Trace {
            lines: readable.then(Vec::new),
            ..Trace::default()
        };
        let sim = Arc::new(Self {
            start: Instant::now(),
            rng: Mutex::new(rng),
            trace: Mutex::new(trace),
            tasks: Mutex::default(),
            database: Mutex::new(database),
            stream: Mutex::new(Stream::new(BASE)),
            processes: Mutex::default(),
            people: Mutex::default(),
            database_changed: Notify::new(),
            stream_changed: Notify::new(),
            answered: Notify::new(),
            nudged: Notify::new(),
            broken: Notify::new(),
            calm: Mutex::new(false),
            clock_error: Mutex::default(),
            plan,
        });
        sim.note("plan", || format!("{:?}", sim.plan));
        sim
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The true time, which Postgres has.
    pub fn now(&self) -> Timestamp {
        let us = i64::try_from(self.elapsed().as_micros()).expect("a short history");
        Timestamp(BASE.0 + us)
    }

    /// Owners' clocks may be wrong by so much.
    pub fn tolerate(&self, error: Duration) {
        let mut most = lock(&self.clock_error);
        *most = error.max(*most);
    }

    /// The latest that business time may be: an owner's clock, or the stream's as far as it is
    /// followed.
    pub fn latest_business(&self) -> Timestamp {
        let error_us = i64::try_from(lock(&self.clock_error).as_micros()).expect("small");
        let stream_us = lock(&self.stream).ahead_us;
        let ahead_us = stream_us.min(CLOCK_SKEW_MAX_MS * 1000 + error_us);
        // Messages of one moment follow each other in microseconds.
        Timestamp(self.now().0 + ahead_us.max(error_us) + 1000)
    }

    pub fn range(&self, low: i64, high: i64) -> i64 {
        lock(&self.rng).range(low, high)
    }

    pub fn percent(&self, percent: i64) -> bool {
        lock(&self.rng).percent(percent)
    }

    pub fn uuid(&self) -> Uuid {
        lock(&self.rng).uuid()
    }

    pub fn pick<T: Clone>(&self, from: &[T]) -> Option<T> {
        lock(&self.rng).pick(from).cloned()
    }

    pub fn millis(&self, low: i64, high: i64) -> Duration {
        Duration::from_millis(self.range(low, high).unsigned_abs())
    }

    pub async fn sleep(&self, low_ms: i64, high_ms: i64) {
        let pause = self.millis(low_ms, high_ms);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    /// How long something takes on its way.
    pub async fn travel(&self) {
        let pause = {
            let mut rng = lock(&self.rng);
            match rng.range(1, 100) {
                1..=50 => 0,
                51..=85 => rng.range(1, 4),
                _ if rng.percent(self.plan.slow) => rng.range(50, 800),
                _ => rng.range(5, 20),
            }
        };
        if pause > 0 {
            tokio::time::sleep(Duration::from_millis(pause.unsigned_abs())).await;
        }
    }

    /// Runs something beside, to the end of the history.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        lock(&self.tasks).spawn(task);
    }

    /// No more faults from now on.
    pub fn calm_down(&self) {
        *lock(&self.calm) = true;
    }

    pub fn is_calm(&self) -> bool {
        *lock(&self.calm)
    }

    /// Takes note of something that happened.
    pub fn note(&self, what: &'static str, more: impl FnOnce() -> String) {
        let at_us = self.elapsed().as_micros();
        let mut trace = lock(&self.trace);
        *trace.seen.entry(what).or_default() += 1;
        (at_us, what).hash(&mut trace.hasher);
        if trace.lines.is_some() {
            drop(trace);
            let line = format!("{:>8.0} {what}: {}", at_us as f64 / 1e3, more());
            let mut trace = lock(&self.trace);
            line.hash(&mut trace.hasher);
            trace.lines.get_or_insert_default().push(line);
        }
    }

    /// The first violation ends the history.
    pub fn fail(&self, violation: Violation) {
        self.note("VIOLATION", || violation.to_string());
        lock(&self.trace).first.get_or_insert(violation);
        self.broken.notify_one();
    }

    /// What is left of a history.
    pub fn report(&self) -> Report {
        let mut trace = lock(&self.trace);
        Report {
            violation: trace.first.clone(),
            lines: trace.lines.take().unwrap_or_default(),
            hash: trace.hasher.finish(),
            seen: std::mem::take(&mut trace.seen),
        }
    }
}

/// What is left of a history.
pub struct Report {
    pub violation: Option<Violation>,
    pub lines: Vec<String>,
    pub hash: u64,
    pub seen: BTreeMap<&'static str, u64>,
}
