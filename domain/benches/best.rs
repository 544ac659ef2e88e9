//! How long the choice of the best seats takes in a hall of 50,000 seats, by how full it is and how
//! the taken seats lie. `cargo bench -p onsale-domain` prints a table; each figure is the median of
//! so many calls.

use onsale_domain::seats::plan::{Bits, Plan, Spot, Wish};
use onsale_schema::Money;
use std::hint::black_box;
use std::time::{Duration, Instant};

const SECTIONS: u32 = 25;
const ROWS: u32 = 50;
const SEATS: u32 = 40;
const CALLS: usize = 2001;

/// A cheap source of numbers, the same each time.
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(end)).unwrap_or(0)
    }
}

/// A hall with its sections, or as one section.
fn hall(is_one: bool) -> Plan {
    let names: Vec<String> = (0..SECTIONS * ROWS).map(|n| n.to_string()).collect();
    let mut spots = Vec::new();
    for section in 0..SECTIONS {
        let (grade, price) = match section / 5 {
            0 => ("VIP", 200_000),
            1 | 2 => ("R", 150_000),
            _ => ("S", 100_000),
        };
        for row in 0..ROWS {
            for number in 1..=SEATS {
                #[allow(clippy::cast_precision_loss, reason = "small numbers")]
                let (x, y) = (
                    (section % 5 * SEATS + number) as f32 - 100.0,
                    (10 + section / 5 * ROWS + row) as f32,
                );
                spots.push(Spot {
                    section: &names[if is_one { 0 } else { section as usize }],
                    row: &names[(if is_one { section * ROWS + row } else { row }) as usize],
                    number: i32::try_from(number).unwrap_or(0),
                    grade,
                    price: Money::won(price),
                    x,
                    y,
                });
            }
        }
    }
    Plan::new(spots)
}

/// So many per cent are taken, in parties of so many beside each other.
fn filled(seats: u32, percent: u32, party: u32) -> Bits {
    let mut free = Bits::all(seats as usize);
    let mut rng = Rng(7);
    let mut taken = 0;
    while taken < seats / 100 * percent {
        let first = rng.below(seats - party);
        for at in first..first + party {
            taken += u32::from(free.has(at));
            free.set(at, false);
        }
    }
    free
}

fn median(mut call: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..CALLS)
        .map(|_| {
            let started = Instant::now();
            call();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[CALLS / 2]
}

fn main() {
    let (plan, undivided) = (hall(false), hall(true));
    let seats = SECTIONS * ROWS * SEATS;
    println!("{seats} seats; microseconds per call, median of {CALLS}\n");
    println!(
        "sold  in parties of  wanted  together or anywhere  VIP only  in one section  undivided hall"
    );
    for (percent, party) in [(0, 1), (50, 2), (90, 1), (90, 2), (90, 4), (99, 1)] {
        let free = filled(seats, percent, party);
        for count in [1, 2, 4, 8] {
            let wish = Wish {
                count,
                ..Wish::default()
            };
            let vip = Wish {
                grade: Some("VIP"),
                ..wish
            };
            let section = Wish {
                section: Some("12"),
                ..wish
            };
            let cases = [
                (&plan, wish),
                (&plan, vip),
                (&plan, section),
                (&undivided, wish),
            ];
            let times = cases.map(|(plan, wish)| {
                let time = median(|| {
                    black_box(plan.best(black_box(&free), black_box(&wish)));
                });
                format!("{:.1}", time.as_secs_f64() * 1e6)
            });
            println!(
                "{percent:>3} %  {party:>13}  {count:>6}  {:>20}  {:>8}  {:>14}  {:>14}",
                times[0], times[1], times[2], times[3]
            );
        }
    }
}
