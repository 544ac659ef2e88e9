//! The draw of a waiting room is a permutation for any number of tickets, the same both ways, the
//! same as the published script's, and favours nobody.

#![allow(clippy::unwrap_used, reason = "a test")]

use onsale_schema::draw::{Digest, Draw, Place, ROUNDS, Secret};
use onsale_schema::{ArrivalNo, ScheduleId, TicketId};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use uuid::Uuid;

/// The n-th of the seeds that are tried, the same each time.
fn seed(n: u64) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(b"a test");
    hasher.update(n.to_be_bytes());
    Digest(hasher.finalize().into())
}

fn is_permutation(order: &[ArrivalNo]) -> bool {
    let mut seen = vec![false; order.len()];
    let first = |arrival: &ArrivalNo| {
        let seen = seen.get_mut(arrival.index());
        seen.is_some_and(|seen| !std::mem::replace(seen, true))
    };
    order.iter().all(first)
}

#[test]
fn any_number_of_tickets_is_put_in_an_order() {
    for size in 0..=1000 {
        let draw = Draw::new(seed(u64::from(size)), size);
        let order = draw.order();
        assert_eq!(order.len(), draw.size() as usize);
        assert!(is_permutation(&order), "{size} tickets");
        // One by one it is the same, both ways.
        let step = if size <= 64 { 1 } else { size as usize / 3 };
        for (place, &arrival) in (0..).map(Place).zip(&order).step_by(step) {
            assert_eq!(draw.arrival(place), Some(arrival));
            assert_eq!(draw.place(arrival), Some(place));
        }
        assert_eq!(draw.place(ArrivalNo(size)), None);
        assert_eq!(draw.arrival(Place(size)), None);
    }
}

#[test]
fn so_is_a_large_number() {
    for size in [65_536, 100_003, 250_000] {
        let draw = Draw::new(seed(u64::from(size)), size);
        let order = draw.order();
        assert!(is_permutation(&order), "{size} tickets");
        for (place, &arrival) in (0..).map(Place).zip(&order).step_by(9973) {
            assert_eq!(draw.arrival(place), Some(arrival));
            assert_eq!(draw.place(arrival), Some(place));
        }
    }
    // The largest, one by one.
    let draw = Draw::new(seed(0), u32::MAX);
    for place in [0, 1, 255, 256, u32::MAX / 2, u32::MAX - 1].map(Place) {
        assert_eq!(draw.place(draw.arrival(place).unwrap()), Some(place));
    }
}

/// By how many of its standard deviations a chi-square exceeds what is expected, by the
/// approximation of Wilson and Hilferty.
fn excess(counts: impl Iterator<Item = u64>, cells: u64, draws: u64) -> f64 {
    let expected = draws as f64 / cells as f64;
    assert!(expected >= 5.0, "too few draws to judge");
    let (mut chi_square, mut seen) = (0.0, 0);
    for count in counts {
        chi_square += (count as f64 - expected).powi(2) / expected;
        seen += 1;
    }
    chi_square += (cells - seen) as f64 * expected;
    let freedom = (cells - 1) as f64;
    let spread = 2.0 / (9.0 * freedom);
    ((chi_square / freedom).cbrt() - (1.0 - spread)) / spread.sqrt()
}

#[test]
fn all_orders_of_few_tickets_are_equally_likely() {
    for size in 2..=6 {
        let orders: u64 = (1..=u64::from(size)).product();
        let draws = orders * 20 + 1000;
        let mut counts: HashMap<Vec<ArrivalNo>, u64> = HashMap::new();
        for n in 0..draws {
            let order = Draw::new(seed(n), size).order();
            *counts.entry(order).or_default() += 1;
        }
        let excess = excess(counts.into_values(), orders, draws);
        println!("{size} tickets: {excess:.2}");
        assert!(excess.abs() < 4.0, "{size} tickets: {excess}");
    }
}

#[test]
fn every_place_is_equally_likely_for_everybody_and_for_two_together() {
    const SIZE: u32 = 1000;
    const DRAWS: u64 = 1200;
    let arrivals = [0, 1, 499, 999].map(ArrivalNo);
    let mut alone = [[0u64; 50]; 4];
    let mut together = [0u64; 100];
    for n in 0..DRAWS {
        let draw = Draw::new(seed(n), SIZE);
        let places = arrivals.map(|arrival| draw.place(arrival).unwrap().0);
        for (counts, place) in alone.iter_mut().zip(places) {
            counts[place as usize / 20] += 1;
        }
        together[(places[0] / 100 * 10 + places[1] / 100) as usize] += 1;
    }
    for counts in alone {
        let excess = excess(counts.into_iter(), 50, DRAWS);
        assert!(excess.abs() < 4.0, "{excess}");
    }
    let excess = excess(together.into_iter(), 100, DRAWS);
    assert!(excess.abs() < 4.0, "{excess}");
}

/// All orders of so many, and where each is in the list.
fn orders(size: usize) -> (Vec<Vec<usize>>, HashMap<Vec<usize>, usize>) {
    let mut all = vec![vec![]];
    for last in 0..size {
        let longer = |order: &Vec<usize>| {
            let order = order.clone();
            (0..=last).map(move |at| {
                let mut order = order.clone();
                order.insert(at, last);
                order
            })
        };
        all = all.iter().flat_map(longer).collect();
    }
    let index = all.iter().cloned().zip(0..).collect();
    (all, index)
}

/// If each hash were a throw of dice, how likely every order is can be computed: it is the same but
/// for what a double can't tell.
#[test]
fn with_dice_in_place_of_hashes_the_orders_of_few_are_exactly_alike() {
    for size in 2..=6 {
        let (all, index) = orders(size);
        let mut chances = vec![0.0; all.len()];
        chances[0] = 1.0;
        for _ in 0..ROUNDS {
            let mut next = vec![0.0; all.len()];
            for (order, chance) in all.iter().zip(&chances) {
                for pivot in 0..size {
                    let partner = |at| (pivot + size - at) % size;
                    let pairs: Vec<usize> = (0..size).filter(|&at| partner(at) < at).collect();
                    let share = chance / size as f64 / f64::from(1 << pairs.len());
                    for swaps in 0..1 << pairs.len() {
                        let mut order = order.clone();
                        for (bit, &at) in pairs.iter().enumerate() {
                            if swaps >> bit & 1 == 1 {
                                order.swap(at, partner(at));
                            }
                        }
                        next[index[&order]] += share;
                    }
                }
            }
            chances = next;
        }
        let fair = 1.0 / all.len() as f64;
        let worst = chances.iter().map(|chance| (chance / fair - 1.0).abs());
        let worst = worst.fold(0.0, f64::max);
        println!("{size} tickets: {worst:e}");
        assert!(worst < 1e-10, "{size} tickets: {worst:e}");
    }
}

/// What is public of a draw.
struct Public {
    schedule: ScheduleId,
    secret: Secret,
    beacon: &'static [u8],
    tickets: Vec<TicketId>,
}

impl Public {
    fn new(tickets: u32) -> Self {
        Self {
            schedule: ScheduleId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0007)),
            secret: Secret([0x5a; 32]),
            beacon: b"beacon",
            tickets: (0..tickets)
                .map(|no| TicketId(Uuid::from_u128(u128::from(no) + 1)))
                .collect(),
        }
    }

    fn digest(&self) -> Digest {
        let tickets = (0..).map(ArrivalNo).zip(&self.tickets);
        tickets.fold(Digest::of_room(self.schedule), |digest, (no, id)| {
            digest.with(no, *id)
        })
    }

    fn seed(&self) -> Digest {
        self.secret.seed(self.digest(), self.beacon)
    }

    fn order(&self) -> Vec<TicketId> {
        let size = u32::try_from(self.tickets.len()).unwrap();
        let order = Draw::new(self.seed(), size).order();
        order.iter().map(|no| self.tickets[no.index()]).collect()
    }

    /// What is public, by path: the draw, and its tickets in pages.
    fn answers(&self) -> Vec<(String, String)> {
        let beacon: String = self.beacon.iter().map(|b| format!("{b:02x}")).collect();
        let draw = serde_json::json!({
            "scheduleId": self.schedule,
            "state": "DRAWN",
            "commitment": self.secret.commitment(),
            "digest": self.digest(),
            "beaconName": "a source",
            "closedAt": "2027-03-01T12:00:00.000Z",
            "beacon": beacon,
            "secret": Digest(self.secret.0),
            "seed": self.seed(),
        });
        let mut answers = vec![("/draw".to_owned(), draw.to_string())];
        for from in (0..self.tickets.len().max(1)).step_by(PAGE) {
            let until = self.tickets.len().min(from + PAGE);
            let mut page = serde_json::json!({ "ticketIds": self.tickets[from..until] });
            if until < self.tickets.len() {
                page["next"] = until.into();
            }
            answers.push((format!("/draw/tickets?from={from}"), page.to_string()));
        }
        answers
    }
}

/// Tickets of a page.
const PAGE: usize = 300;

/// Serves these answers, each once, in their order; says where.
fn serve(answers: Vec<(String, String)>) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        for (path, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = String::new();
            let mut lines = BufReader::new(&stream);
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(lines.read_line(&mut head).unwrap(), 0, "{head}");
            }
            assert!(head.starts_with(&format!("GET {path} ")), "{head}");
            let length = body.len();
            let answer = format!("HTTP/1.0 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (at, serving)
}

/// These never change: somebody may check a draw years later.
#[test]
fn a_known_draw_comes_out_as_ever() {
    let public = Public::new(10);
    let order: Vec<u128> = public.order().iter().map(|id| id.0.as_u128()).collect();
    assert_eq!(
        (
            public.secret.commitment().to_string().as_str(),
            public.digest().to_string().as_str(),
            public.seed().to_string().as_str(),
            order.as_slice()
        ),
        (COMMITMENT, DIGEST, SEED, ORDER.as_slice())
    );
}

const COMMITMENT: &str = "60bf07c488aad18fda339df07e4fbc47b4f00be71711936f18d04d352ad01890";
const DIGEST: &str = "df8ebf48ed09de4e716a47e517b59769f00683b36a78aa41d93815be1c69f3f0";
const SEED: &str = "70654a5ee1989583eb20700cfb41a2f06b8b8b80101655f005d7f2f83a2cf955";
const ORDER: [u128; 10] = [3, 8, 6, 2, 1, 9, 4, 5, 10, 7];

/// Skipped where there is no Python.
#[test]
fn the_published_script_comes_to_the_same_order() {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/verify_draw.py");
    for size in [0, 1, 2, 10, 700] {
        let public = Public::new(size);
        if Command::new("python3").arg("--version").output().is_err() {
            println!("skipped: there is no python3");
            return;
        }
        let (at, serving) = serve(public.answers());
        let run = Command::new("python3")
            .arg(&script)
            .arg(format!("{at}/draw"))
            .env("no_proxy", "*")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{run:?}");
        let expected: Vec<String> = public.order().iter().map(ToString::to_string).collect();
        let printed: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(printed, expected, "{size} tickets");
        serving.join().expect("all was asked for");
    }
}
