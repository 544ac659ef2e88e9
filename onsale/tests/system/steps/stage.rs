//! Brings orders through a stage: each to where it is to die, or to its end; there all workers are
//! killed, and others take over.

use super::cases::{self, Befalls, Case, Path};
use super::sale::{PRICE, Sale, Wish};
use super::stops::{Fault, Seen, Stops};
use crate::hall::{Hall, PATIENCE};
use crate::shop::with_gateway;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use onsale::seed::Layout;
use onsale_schema::Money;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How often it is looked at how far the orders are.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After so long nobody is waited for who may be dead.
const LEASE: Duration = Duration::from_secs(1);
/// Seats of a row.
const ROW: u32 = 100;

pub struct Stage {
    /// Which one, from 1.
    pub no: u32,
    /// Whether its workers were killed.
    is_after: bool,
    pub hall: Hall,
    pub stops: Stops,
    pub date: Uuid,
    pub sales: Vec<Sale>,
}

/// The date and the seat of each case that wants one, whose price is what its gateway goes by: one date
/// for all, but for those whose whole show is cancelled.
async fn places(hall: &mut Hall, cases: &[Case]) -> (Uuid, Vec<Option<(Uuid, String)>>) {
    let is_shared = |case: &&Case| !case.path.is_charge() && case.path != Path::Shown;
    let shared: Vec<&Case> = cases.iter().filter(is_shared).collect();
    let date = date(hall, &shared).await;
    let (mut free, mut places) = (0.., Vec::with_capacity(cases.len()));
    for case in cases {
        places.push(if is_shared(&case) {
            let seat: u32 = free.next().expect("endless");
            Some((date, format!("A-{}-{}", seat / ROW + 1, seat % ROW + 1)))
        } else if case.path == Path::Shown {
            let own = self::date(hall, &[case]).await;
            Some((own, "A-1-1".to_owned()))
        } else {
            None
        });
    }
    (date, places)
}

/// A date with a seat for each of these.
async fn date(hall: &mut Hall, cases: &[&Case]) -> Uuid {
    let seats = u32::try_from(cases.len()).expect("few");
    let mut layout = Layout::plain(seats, 0);
    for (seat, case) in layout.seats.iter_mut().zip(cases) {
        seat.price = Money::won(PRICE + case.code);
        seat.grade = format!("G{}", case.code);
    }
    hall.date_of(&layout).await
}

pub fn buyers<'a>(sales: impl IntoIterator<Item = &'a Sale>) -> Vec<Uuid> {
    let sales = sales.into_iter();
    sales.map(|sale| sale.buyer.user_id).collect()
}

impl Stage {
    /// All are ordered; nothing is captured.
    pub async fn begin() -> Self {
        let options = with_gateway()
            .workers(2)
            // One of them may have all who wait in hand, each with a connection.
            .setting("ONSALE_DB_POOL", 24)
            // What its silence follows is done by then, however slow the machine is.
            .setting("ONSALE_GATEWAY_TIMEOUT_MS", 2000)
            // What is silent is asked again: a breaker that opens would only take time.
            .setting("ONSALE_GATEWAY_BREAKER_FAILURES", 10_000);
        let mut hall = Hall::open_with(options).await;
        let cases = cases::all();
        let (date, places) = places(&mut hall, &cases).await;
        let ordering: Vec<_> = (cases.into_iter().zip(places))
            .map(|(case, place)| Sale::begin(&hall, case, place))
            .collect();
        let sales: Vec<Sale> = stream::iter(ordering).buffered(8).collect().await;
        let stops = Stops::install(&hall, &buyers(&sales)).await;
        Self {
            no: 0,
            is_after: false,
            hall,
            stops,
            date,
            sales,
        }
    }

    /// Those that this is so of.
    pub fn those(&self, is_so: impl Fn(Path) -> bool) -> Vec<Sale> {
        let sales = self.sales.iter().filter(|sale| is_so(sale.case.path));
        sales.cloned().collect()
    }

    fn in_stage(&self) -> Vec<Sale> {
        self.those(|path| path.stage() == self.no)
    }

    /// The next stage; who is in it, and what befalls them from now on.
    pub async fn next(&mut self) -> Vec<Sale> {
        (self.no, self.is_after) = (self.no + 1, false);
        let sales = self.in_stage();
        for sale in &sales {
            let Some(fault) = sale.case.fault() else {
                continue;
            };
            let id = sale.buyer.user_id;
            self.stops.set(id, sale.case.step, fault).await;
            if fault == Fault::Park && sale.case.step == "REFUNDING" {
                // Its refund goes on, not its order.
                self.stops.set(id, "refund PENDING", fault).await;
            }
        }
        sales
    }

    /// Has these asked for; nobody waits for what comes of it.
    pub async fn ask(&self, sales: &[Sale], wish: impl Fn(&Sale) -> Wish) {
        let api = &self.hall.api;
        let asking = sales.iter().map(|sale| {
            let wish = wish(sale);
            async move {
                let answer = wish.ask(api).await;
                // It may have ended before; a wish that was not taken is repeated.
                let status = answer.status.as_u16();
                let is_over = status == 422 && sale.case.path == Path::OverCap;
                let is_fine = [200, 201, 202, 402, 410, 503].contains(&status) || is_over;
                assert!(is_fine, "{:?} {answer:?}", sale.case);
            }
        });
        let asking = stream::iter(asking).buffer_unordered(8);
        asking.collect::<()>().await;
    }

    /// What is parked goes on, what was given back by hand is looked at, and all others are asked for.
    async fn start(&mut self, sales: &[Sale]) {
        let is_parked = |sale: &Sale| sale.case.path.parked_at().is_some();
        let (parked, others): (Vec<Sale>, Vec<Sale>) = sales.iter().cloned().partition(is_parked);
        self.stops.due(&buyers(&parked)).await;
        let (odd, others): (Vec<Sale>, Vec<Sale>) =
            (others.into_iter()).partition(|sale| sale.case.path == Path::Odd);
        self.stops.look(&buyers(&odd)).await;
        self.ask(&others, Sale::wish).await;
    }

    /// As clients do that get no answer, and workers after a lease.
    async fn insist(&mut self, open: &[Sale], seen: &HashMap<Uuid, Seen>) {
        let seen = |sale: &Sale| &seen[&sale.buyer.user_id];
        // Nobody takes from the living what they have in hand; that would be another step.
        let is_dead = |sale: &&Sale| self.is_after || seen(sale).has_failed;
        let dead = buyers(open.iter().filter(is_dead));
        self.stops.hurry(&dead).await;
        let those = |is_lost: &dyn Fn(&Sale, &Seen) -> bool| -> Vec<Sale> {
            let lost = |sale: &&Sale| !seen(sale).waits && is_lost(sale, seen(sale));
            open.iter().filter(lost).cloned().collect()
        };
        let unsold = those(&|_, seen| ["", "READY"].contains(&seen.status.as_str()));
        self.ask(&unsold, Sale::buy).await;
        let unheard = those(&|sale, seen| match sale.case.path {
            Path::Cancelled | Path::Refused | Path::Shown => {
                let is_kept = seen.status == "PAID" && seen.refund.is_empty();
                self.no == sale.case.path.stage() && is_kept
            }
            Path::Retried | Path::Resolved | Path::Compared => {
                sale.task.is_some() && seen.refund == "STUCK"
            }
            // Once it is seen to be odd.
            Path::Odd => seen.is_odd && seen.refund.is_empty(),
            Path::Sold | Path::Doubted | Path::Declined | Path::Reheld | Path::Gone => false,
            Path::Charged | Path::ChargeDoubted | Path::ChargeDeclined | Path::OverCap => false,
        });
        self.ask(&unheard, Sale::wish).await;
        let found = those(&|sale, seen| {
            sale.case.path == Path::Compared && seen.refund == "DONE" && !seen.is_compared
        });
        self.ask(&found, Sale::compare).await;
        let unlooked = those(&|sale, seen| {
            let is_odd_yet = seen.is_odd == (seen.refund == "DONE");
            sale.case.path == Path::Odd && sale.case.path.stage() == self.no && is_odd_yet
        });
        self.stops.look(&buyers(&unlooked)).await;
    }

    /// Waits until this is so of all of these, in one snapshot.
    pub async fn until(
        &mut self,
        what: &str,
        sales: &[Sale],
        is_so: impl Fn(&Sale, &Seen) -> bool,
    ) {
        let (begun, mut insisted) = (Instant::now(), Instant::now());
        loop {
            let seen = self.stops.seen().await;
            let is_open = |sale: &&Sale| !is_so(sale, &seen[&sale.buyer.user_id]);
            let open: Vec<Sale> = sales.iter().filter(is_open).cloned().collect();
            if open.is_empty() {
                return;
            }
            if begun.elapsed() > PATIENCE {
                let shown =
                    |sale: &Sale| format!("{:?} {:?}", sale.case, seen[&sale.buyer.user_id]);
                let open: Vec<String> = open.iter().map(shown).collect();
                panic!("{what}: {}\n{}", open.join("\n"), self.hall.logs());
            }
            if insisted.elapsed() > LEASE {
                insisted = Instant::now();
                self.insist(&open, &seen).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Starts the sales of the stage, until each is where it is to die, or at its end, and kills all
    /// workers while all who are to die in a step wait there.
    pub async fn go(&mut self) {
        let arrived = |sale: &Sale, seen: &Seen| sale.case.has_arrived(seen, sale.amount);
        let mut sales = self.in_stage();
        sales.sort_by_key(|sale| sale.case.turn());
        for group in sales.chunk_by(|one, next| one.case.turn() == next.case.turn()) {
            self.start(group).await;
            self.until("arriving", group, arrived).await;
            if group[0].case.turn() == 0 {
                self.hall.assert_sound().await;
            }
        }
        sales.retain(|sale| sale.case.befalls == Befalls::KillBefore);
        self.until("dying", &sales, |_, seen| seen.waits).await;
        let workers = self.hall.system.workers.iter();
        join_all(workers.map(|worker| worker.kill9())).await;
        self.is_after = true;
        let seen = self.stops.seen().await;
        for Sale { case, buyer, .. } in sales {
            let seen = &seen[&buyer.user_id];
            assert!(!case.is_made(seen), "{case:?} {seen:?}");
        }
        self.hall.assert_sound().await;
    }

    /// Others take over from who was killed; whoever waited for an answer asks again.
    pub async fn take_over(&mut self) {
        let sales = self.in_stage();
        let is_left =
            |sale: &&Sale| matches!(sale.case.befalls, Befalls::KillBefore | Befalls::KillAfter);
        let left = buyers(sales.iter().filter(is_left));
        self.stops.release().await;
        self.stops.due(&left).await;
        for worker in &mut self.hall.system.workers {
            worker.restart().await.expect("a worker");
        }
        self.hall.system.owned().await.expect("owners");
        let asked: Vec<Sale> = (sales.into_iter())
            .filter(|sale| sale.case.path != Path::Odd)
            .collect();
        self.ask(&asked, Sale::wish).await;
    }

    /// Waits until all of these have ended as they must.
    pub async fn ended(&mut self, is_so: impl Fn(Path) -> bool) {
        let ended = |sale: &Sale, seen: &Seen| sale.case.has_ended(seen, sale.amount);
        let sales = self.those(is_so);
        self.until("ending", &sales, ended).await;
    }

    /// All of the stage.
    pub async fn run(&mut self) {
        self.go().await;
        self.take_over().await;
        self.all_ended().await;
    }

    /// Waits until all of the stage have ended as they must.
    pub async fn all_ended(&mut self) {
        let no = self.no;
        self.ended(|path| path.stage() == no).await;
    }
}
