//! What a waiting room of a million tickets costs its owner: to draw, to join, to open, to tick, to
//! load, and in memory. `cargo bench -p onsale-domain --bench admission` prints it; of
//! what is repeated, the best or the median, as others may use the machine.

use onsale_domain::admission::{Changes, Policy, Room, RoomRow, StoredTicket, Times};
use onsale_schema::admission::{Kind, Line};
use onsale_schema::draw::{Digest, Draw, Place, Secret};
use onsale_schema::message::{Command, Fingerprint};
use onsale_schema::status::{QueueMode, TicketStatus};
use onsale_schema::{ArrivalNo, CommandId, ScheduleId, TicketId, Timestamp, UserId};
use std::hint::black_box;
use std::time::{Duration, Instant};
use uuid::Uuid;

const TICKETS: u32 = 1_000_000;

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    said(what, started.elapsed());
    result
}

fn said(what: &str, took: Duration) {
    println!("{what:<58} {:>12.1} µs", took.as_secs_f64() * 1e6);
}

fn id(no: u32) -> Uuid {
    // As random as ours are.
    Uuid::new_v5(&Uuid::nil(), &no.to_be_bytes())
}

fn join(no: u32, schedule_id: ScheduleId, deadline: Timestamp) -> Command<Kind> {
    Command {
        id: CommandId(id(no)),
        user: UserId(id(no)),
        fingerprint: Fingerprint(id(no)),
        deadline,
        trace: None,
        kind: Kind::Join {
            schedule_id,
            code: None,
        },
    }
}

fn draws() {
    let draw = timed("draw: prepare a million", || {
        Draw::new(Digest([7; 32]), black_box(TICKETS))
    });
    let each = |what, work: &dyn Fn(u32)| {
        const SOME: u32 = 100;
        let mut best = Duration::MAX;
        for from in (0..SOME * 100).step_by(SOME as usize) {
            let started = Instant::now();
            (from..from + SOME).for_each(work);
            best = best.min(started.elapsed() / SOME);
        }
        said(what, best);
    };
    each("draw: the place of one ticket", &|no| {
        black_box(draw.place(ArrivalNo(no)));
    });
    each("draw: the ticket of one place", &|place| {
        black_box(draw.arrival(Place(place)));
    });
    timed(
        "draw: all of a million (a table, as the audit does)",
        || black_box(draw.order()),
    );
}

fn main() {
    draws();
    let start = Timestamp::from_micros(1_790_000_000_000_000);
    let schedule_id = ScheduleId(Uuid::from_u128(1));
    let policy = Policy {
        capacity: 100_000,
        rate_per_second: 1000,
        ..Policy::new(QueueMode::Draw, start.plus_ms(3_600_000))
    };
    let row = RoomRow::new(schedule_id, policy);
    let secret = Secret([9; 32]);
    let mut room = Room::load(row, secret, []);
    let times = |at: Timestamp| Times {
        business: at,
        clock: at,
    };
    let commands: Vec<_> = (0..TICKETS)
        .map(|no| join(no, schedule_id, start.plus_ms(60_000)))
        .collect();
    let before = resident();
    let mut best = Duration::MAX;
    for batch in commands.chunks(4096) {
        let started = Instant::now();
        let mut changes = Changes::default();
        for command in batch {
            black_box(room.decide(command, times(start), &mut changes));
        }
        room.seal(start, &mut changes);
        best = best.min(started.elapsed() / u32::try_from(batch.len()).unwrap_or(1));
    }
    said("room: join, of a million", best);
    let bytes = resident().saturating_sub(before) / TICKETS as usize;
    println!("{:<58} {bytes:>12} bytes", "room: a ticket in memory");

    let opening = start.plus_ms(3_600_000 + 2000);
    let mut changes = Changes::default();
    timed(
        "room: the tick that opens, draws and admits the first",
        || room.tick(opening, opening, &mut changes),
    );
    room.seal(opening, &mut changes);
    let mut ticks = Vec::new();
    const TICKS: i64 = 500;
    for tick in 1..=TICKS {
        let now = opening.plus_ms(tick * 200);
        let mut changes = Changes::default();
        let started = Instant::now();
        room.tick(now, now, &mut changes);
        room.seal(now, &mut changes);
        ticks.push(started.elapsed());
    }
    ticks.sort_unstable();
    said(
        "room: a tick that admits 200 of a drawn line, median",
        ticks[ticks.len() / 2],
    );
    let row = room.row().clone();
    println!("{:<58} {:>12}", "room: admitted", row.admissions);
    let idle = opening.plus_ms(TICKS * 200);
    timed(
        "room: a tick that only looks 200 places further along",
        || room.tick(idle, idle, &mut Changes::default()),
    );

    // As after a takeover: nobody is loaded as admitted, which is no matter here.
    let stored = |no| StoredTicket {
        ticket_id: TicketId(id(no)),
        user_id: UserId(id(no)),
        fingerprint: Fingerprint(id(no)),
        status: TicketStatus::Waiting,
        slot: None,
        access_code_id: None,
    };
    let all: Vec<_> = (0..TICKETS).map(stored).collect();
    let line = Line::behind(row.lobby.as_ref().expect("it is open")).expect("it is drawn");
    timed("line: the whole order, as a load needs it", || {
        black_box(line.before(row.front).count())
    });
    timed("room: load from a million rows", || {
        black_box(Room::load(row, secret, all))
    });
}

/// Memory of this process, in bytes, where the system tells.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    kilobytes.and_then(|n| n.parse::<usize>().ok()).unwrap_or(0) * 1024
}
