//! Asks for the same again and again while it is on its way: the driver's rows are taken from whoever
//! has them in hand, commands come again under their keys, and so do the gateway's notifications.

use super::Sale;
use super::cases::{Befalls, Path};
use crate::hall::{Hall, PATIENCE};
use crate::notifications::{Notification, notify};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use futures_util::future::join_all;
use onsale_testkit::Api;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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
    pub fn begin(&self, sales: &[Sale], on: impl Fn(Path) -> bool) {
        let sales = sales
            .iter()
            .filter(|sale| sale.case.befalls == Befalls::Repetition && on(sale.case.path));
        let mut known = self.sales.lock().expect("no panic");
        known.extend(sales.cloned());
    }

    pub async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.running.join_all());
        ended.await.expect("it stops");
    }
}

async fn run(api: Api, mut conn: AsyncPgConnection, sales: Sales, stop: CancellationToken) {
    for round in 0_u32.. {
        let sales = sales.lock().expect("no panic").clone();
        take_away(&mut conn, &sales).await;
        join_all(sales.iter().map(|sale| bother(&api, sale, round))).await;
        let pause = tokio::time::sleep(PAUSE * (round % 4 + 1));
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// What somebody has in hand is due for others. A row that is being written is left alone.
async fn take_away(conn: &mut AsyncPgConnection, sales: &[Sale]) {
    let ids: Vec<String> = sales
        .iter()
        .map(|sale| format!("'{}'", sale.order.id))
        .collect();
    let these = format!("order_id = ANY(ARRAY[{}]::uuid[])", ids.join(", "));
    let sql = format!(
        "UPDATE payment_order SET next_at = clock_timestamp()
         WHERE order_id IN (SELECT order_id FROM payment_order WHERE {these}
                            FOR NO KEY UPDATE SKIP LOCKED);
         UPDATE refund SET next_at = clock_timestamp()
         WHERE refund_id IN (SELECT refund_id FROM refund WHERE {these} AND status = 'PENDING'
                             FOR NO KEY UPDATE SKIP LOCKED)"
    );
    conn.batch_execute(&sql).await.expect(&sql);
}

/// The same commands and a notification once more; what comes of that is seen in the end.
async fn bother(api: &Api, sale: &Sale, round: u32) {
    let path = format!("{}/confirm", sale.order.path());
    let body = sale.order.confirmation();
    let request = api.post_request(&sale.buyer, &path, &sale.key, &body);
    let answer = api.send(request.header("prefer", "respond-async")).await;
    assert!(answer.status != 422 && answer.status != 404, "{answer:?}");
    // Each comes four times.
    let event = format!("again-{}-{}", sale.order.id, round / 4);
    notify(api, &Notification::of(&event, sale.order.id)).await;
    let is_sold = sale.case.path == Path::Cancelled && round % 2 == 1;
    if is_sold {
        let (path, key) = (sale.cancel_path(), sale.cancel_key());
        let request = api.post_request(&sale.buyer, &path, &key, &json!({}));
        let answer = api.send(request.header("prefer", "respond-async")).await;
        assert!(answer.status != 422 && answer.status != 404, "{answer:?}");
    }
}
