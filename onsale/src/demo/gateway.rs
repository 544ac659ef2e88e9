//! The demo's chapter of money that isn't points: seats that are paid through the payment gateway and
//! given up again, one by one. The buyer agrees to it at the simulated gateway, as a page of a shop
//! would have it; of a gateway that moves money the demo could not do that, and must not.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use onsale_schema::{Money, PaymentOrderId};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Client;
use super::hall::{self, Choice};
use super::story::{Story, grouped};
use super::{Held, MAP_LIMIT, RACES, Reservation, hold, key, seen, until};
use crate::seed::catalogue;

/// Seats that are bought, and given up again.
const SEATS: usize = 2;
/// How long the gateway may take for an answer of its own.
const GATEWAY_LIMIT: Duration = Duration::from_secs(10);
/// How long an order may be on its way, and a refund: a gateway that is slow is asked again.
const WAY_LIMIT: Duration = Duration::from_secs(30);

/// What an order is made as, and looked up as.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    order_id: PaymentOrderId,
    amount: Money,
    status: String,
}

/// `POST …/cancellation`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cancelled {
    refunded: Money,
    fee: Money,
    refund: Option<Refund>,
}

#[derive(Debug, Deserialize)]
struct Refund {
    method: String,
    status: String,
}

/// Plays it, where there is a gateway.
///
/// # Errors
/// When something is off, with what it is.
pub async fn play(buyer: &Client, gateway: Option<&str>, story: &mut Story) -> anyhow::Result<()> {
    let Some(gateway) = gateway else {
        story.show("no payment gateway: name a simulated one (--gateway-url) to pay through it");
        return Ok(());
    };
    let (held, choice) = hold_some(buyer, story).await?;
    pay(buyer, gateway, &held, story).await?;
    seen(buyer, catalogue::CLUB, &choice, 'S').await?;
    for seat in &choice.seats {
        give_up(buyer, &held, &seat.label, seat.price, story).await?;
    }
    let given_up: Reservation = reservation(buyer, &held).await?;
    ensure!(
        given_up.status == "CANCELLED",
        "all its seats are given up, and the reservation is {}",
        given_up.status
    );
    // Whoever plays at the same time may have them already.
    let complaint = format!("the map still shows {} as sold", choice.labels().join(", "));
    until(MAP_LIMIT, &complaint, async || {
        let map = hall::map(buyer, catalogue::CLUB).await?;
        Ok((!choice.all_are(&map, 'S')).then_some(()))
    })
    .await?;
    story.tell("the map shows them on sale again");
    Ok(())
}

async fn hold_some(buyer: &Client, story: &mut Story) -> anyhow::Result<(Reservation, Choice)> {
    let layout = hall::layout(buyer, catalogue::CLUB).await?;
    for _ in 0..RACES {
        let map = hall::map(buyer, catalogue::CLUB).await?;
        let choice = layout.at_the_back(&map, SEATS);
        let choice = choice.context("the club is sold out")?;
        match hold(buyer, catalogue::CLUB, &choice.labels()).await? {
            Held::Yes(held) => {
                let (labels, total) = (choice.labels().join(", "), grouped(held.total));
                story.tell(format!("held {labels} in the club, {total} won in all"));
                return Ok((held, choice));
            }
            Held::SeatTaken => {}
            Held::LimitReached => bail!("the buyer has all the seats of the club one may have"),
        }
    }
    bail!("somebody else was quicker {RACES} times; try again when it is quieter")
}

/// Orders the reservation, agrees to it at the gateway, and has it captured.
async fn pay(
    buyer: &Client,
    gateway: &str,
    held: &Reservation,
    story: &mut Story,
) -> anyhow::Result<()> {
    let body = json!({ "reservationId": held.reservation_id });
    let made = buyer.post("/payment-orders", &key(), &body).await?;
    if made.code() == Some("payment-gateway-unavailable") {
        bail!("the system has no payment gateway, though the demo was told of one at {gateway}");
    }
    let order: Order = made.read(StatusCode::CREATED)?;
    ensure!(
        order.status == "READY" && order.amount == held.total,
        "the hold costs {}, its order is of {} and {}",
        held.total,
        order.amount,
        order.status
    );
    let payment_key = agree(gateway, &order).await?;
    story.tell(format!(
        "ordered, and agreed to pay {} won at the gateway",
        grouped(order.amount)
    ));
    let path = format!("/payment-orders/{}", order.order_id);
    let body = json!({
        "paymentKey": payment_key,
        "amount": { "amount": order.amount.to_won(), "currency": "KRW" },
    });
    let confirmed = buyer
        .post(&format!("{path}/confirm"), &key(), &body)
        .await?;
    confirmed.read::<Value>(StatusCode::OK)?;
    // Its confirmation may have been answered before it ended.
    until(WAY_LIMIT, "the order is not paid", async || {
        let order: Order = buyer.get(&path).await?;
        match order.status.as_str() {
            "PAID" => Ok(Some(())),
            "FAILED" | "REFUNDING" | "REFUNDED" => bail!("the order is {}", order.status),
            _ => Ok(None),
        }
    })
    .await?;
    let paid: Reservation = reservation(buyer, held).await?;
    ensure!(
        paid.status == "PAID",
        "the order is paid, and its reservation is {}",
        paid.status
    );
    story.tell("confirmed, captured and PAID");
    Ok(())
}

/// What the buyer does on the gateway's page; the payment's key.
async fn agree(gateway: &str, order: &Order) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Checkout {
        payment_key: String,
    }
    let http = reqwest::Client::builder()
        .timeout(GATEWAY_LIMIT)
        .no_proxy()
        .build()?;
    let url = format!("{}/v1/checkout", gateway.trim_end_matches('/'));
    let body = json!({ "orderId": order.order_id, "amount": order.amount.to_won() });
    let answer = http.post(&url).json(&body).send().await;
    let answer = answer.with_context(|| format!("nobody answers at the gateway, {gateway}"))?;
    let status = answer.status();
    ensure!(
        status.is_success(),
        "{url} answered {status}; the demo pays at the simulated gateway (`onsale gateway`) only"
    );
    let checkout: Checkout = answer.json().await.context("the gateway's checkout")?;
    Ok(checkout.payment_key)
}

/// Gives one seat up, and waits until its money has come back the way it went.
async fn give_up(
    buyer: &Client,
    held: &Reservation,
    label: &str,
    price: Money,
    story: &mut Story,
) -> anyhow::Result<()> {
    let path = format!("/reservations/{}/cancellation", held.reservation_id);
    let (key, body) = (key(), json!({ "seats": [label] }));
    let complaint = format!("the refund of {label} is not made");
    let cancelled = until(WAY_LIMIT, &complaint, async || {
        // The same wish again is told how far the refund is by then.
        let answer = buyer.post(&path, &key, &body).await?;
        let cancelled: Cancelled = answer.read(StatusCode::OK)?;
        ensure!(
            cancelled.refunded + cancelled.fee == price,
            "{label} cost {price}; {} come back, {} are the fee",
            cancelled.refunded,
            cancelled.fee
        );
        match &cancelled.refund {
            Some(refund) => {
                ensure!(refund.method == "GATEWAY", "a refund by {}", refund.method);
                ensure!(refund.status != "STUCK", "the refund of {label} is stuck");
                Ok((refund.status == "DONE").then_some(cancelled))
            }
            None => bail!("{label} was paid, and nothing comes back"),
        }
    })
    .await?;
    story.tell(format!(
        "gave {label} up: {} won are back, through the gateway",
        grouped(cancelled.refunded)
    ));
    Ok(())
}

async fn reservation(buyer: &Client, held: &Reservation) -> anyhow::Result<Reservation> {
    buyer
        .get(&format!("/reservations/{}", held.reservation_id))
        .await
}
