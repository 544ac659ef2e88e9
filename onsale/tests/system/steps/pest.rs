//! Asks for the same again and again while it is on its way: the driver's rows are taken from whoever
//! has them in hand, commands come again under their keys, and so do the gateway's notifications.

use super::cases::{Befalls, Path};
use super::sale::Sale;
use super::stops::of_buyers;
use crate::hall::{Hall, PATIENCE};
use crate::notifications::{Notification, notify};
use diesel::sql_types::Uuid as SqlUuid;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use futures_util::future::join_all;
use onsale_testkit::Api;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The shortest pause. It grows to four times as much and begins anew, so that a step which takes
/// longer than a pause is made at some time.
const PAUSE: Duration = Duration::from_millis(100);

type Sales = Arc<Mutex<Vec<Sale>>>;

pub struct Pest {
    sales: Sales,
    stop: CancellationToken,
    running: JoinSet<()>,
}

impl Pest {
    pub async fn start(hall: &Hall) -> Self {
        let (sales, stop) = (Sales::default(), CancellationToken::new());
        let (api, conn) = (hall.api.clone(), hall.connect().await);
        let running = JoinSet::from_iter([run(api, conn, Arc::clone(&sales), stop.clone())]);
        Self {
            sales,
            stop,
            running,
        }
    }

    /// Bothers those of these that are to be repeated.
    pub fn begin(&self, sales: &[Sale]) {
        let sales = sales
            .iter()
            .filter(|sale| sale.case.befalls == Befalls::Repetition);
        let mut known = self.sales.lock().expect("no panic");
        known.extend(sales.cloned());
    }

    pub async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.running.join_all());
        ended.await.expect("it stops");
    }
}

#[derive(QueryableByName)]
struct OrderRow {
    #[diesel(sql_type = SqlUuid)]
    user_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    order_id: Uuid,
}

async fn run(api: Api, mut conn: AsyncPgConnection, sales: Sales, stop: CancellationToken) {
    for round in 0_u32.. {
        let sales = sales.lock().expect("no panic").clone();
        let buyers: Vec<Uuid> = sales.iter().map(|sale| sale.buyer.user_id).collect();
        let these = of_buyers(&buyers);
        take_away(&mut conn, &these).await;
        let sql = format!("SELECT user_id, order_id FROM payment_order WHERE {these}");
        let orders: Vec<OrderRow> = sql_query(&sql).load(&mut conn).await.expect(&sql);
        let orders = orders.into_iter().map(|row| (row.user_id, row.order_id));
        let orders: HashMap<Uuid, Uuid> = orders.collect();
        let all = sales.iter().map(|sale| {
            let order = orders.get(&sale.buyer.user_id).copied();
            bother(&api, sale, order, round)
        });
        join_all(all).await;
        let pause = tokio::time::sleep(PAUSE * (round % 4 + 1));
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// What somebody has in hand is due for others. A row that is being written is left alone.
async fn take_away(conn: &mut AsyncPgConnection, these: &str) {
    let sql = format!(
        "UPDATE payment_order SET next_at = clock_timestamp()
         WHERE order_id IN (SELECT order_id FROM payment_order WHERE {these}
                            FOR NO KEY UPDATE SKIP LOCKED);
         UPDATE refund SET next_at = clock_timestamp()
         WHERE refund_id IN (SELECT refund_id FROM refund
                             WHERE {these} AND status IN ('PENDING', 'RESOLVING')
                             FOR NO KEY UPDATE SKIP LOCKED)"
    );
    conn.batch_execute(&sql).await.expect(&sql);
}

/// The same commands and a notification once more; what comes of that is seen in the end.
async fn bother(api: &Api, sale: &Sale, order: Option<Uuid>, round: u32) {
    let wish = match round % 2 {
        0 => sale.buy(),
        _ => sale.wish(),
    };
    let answer = wish.ask(api).await;
    let is_refused = answer.status == 404 || answer.status == 422;
    let is_over = answer.status == 422 && sale.case.path == Path::OverCap;
    assert!(!is_refused || is_over, "{:?} {answer:?}", sale.case);
    if let Some(order) = order {
        // Each comes four times.
        let event = format!("again-{order}-{}", round / 4);
        notify(api, &Notification::of(&event, order)).await;
    }
}
