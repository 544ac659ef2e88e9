//! Entry passes, from the waiting room to the seats and back: who may hold, how often, and what
//! becomes of a place in the room.

use crate::bus::{Bus, command};
use crate::hall::{Hall, PARTITIONS, PATIENCE, open_policy, reservation};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use onsale::seed::Policy;
use onsale_ingress::room::Signer;
use onsale_platform::clock::host_now;
use onsale_schema::admission::{Kind, Outcome, Pass, PolicyChange, Ticketed};
use onsale_schema::status::QueueMode;
use onsale_schema::{Lane, ScheduleId, Timestamp, UserId, partition};
use onsale_testkit::system::TOKEN_SECRET;
use onsale_testkit::{Answer, Api, Buyer, SystemOptions};
use serde_json::{Value, json};
use sha2::{Sha256, Sha512};
use std::time::Duration;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Uses of one pass at once.
const USES: u32 = 100;
/// How long a pass lasts where it is to end soon, in milliseconds: much longer than a request.
const SHORT_MS: i64 = 4000;

/// A date with a waiting room, in a system of two ingresses and two workers.
struct Room {
    hall: Hall,
    schedule: Uuid,
    bus: Bus,
    joined: Vec<Buyer>,
    signer: Signer,
}

impl Room {
    /// People are let in as they come, so many at once.
    async fn open(capacity: u32, pass_ms: i64, policy: Policy) -> Self {
        let options = SystemOptions::default().ingresses(2).workers(2);
        let mut hall = Hall::open_with(options).await;
        let schedule = hall.date_with(USES, policy).await;
        let mut room = Self {
            bus: Bus::connect(&hall).await,
            hall,
            schedule,
            joined: Vec::new(),
            signer: Signer::new(&TOKEN_SECRET.parse().expect("a secret")),
        };
        room.amend(PolicyChange {
            mode: Some(QueueMode::Fifo),
            opens_at: Some(Timestamp::EPOCH),
            capacity: Some(capacity),
            rate_per_second: Some(1000),
            pass_ms: Some(pass_ms),
            ..PolicyChange::default()
        })
        .await;
        room.takes_passes(true).await;
        room
    }

    async fn ask(&mut self, user: UserId, kind: Kind) -> Outcome {
        let no = partition::of_schedule(kind.schedule_id(), PARTITIONS);
        let subject = self.bus.subjects.partition(Lane::Admission, no);
        let sent = self
            .bus
            .send(&subject, vec![command(user, host_now(), kind)])
            .await;
        let id = sent.0;
        let mut outcomes = self.bus.outcomes::<Outcome>(vec![sent]).await;
        outcomes.remove(&id).expect("outcomes").remove(0)
    }

    async fn amend(&mut self, change: PolicyChange) {
        let kind = Kind::Policy {
            schedule_id: ScheduleId(self.schedule),
            change,
        };
        let outcome = self.ask(UserId(Uuid::now_v7()), kind).await;
        assert!(matches!(outcome, Outcome::Policy(_)), "{outcome:?}");
    }

    /// Waits until the owner of the seats knows whether holds take passes.
    async fn takes_passes(&mut self, pass_required: bool) {
        let schedule = self.schedule;
        let sql = format!(
            "SELECT count(*) AS n FROM sale WHERE schedule_id = '{schedule}' AND pass_required"
        );
        self.hall.becomes(&sql, i64::from(pass_required)).await;
    }

    async fn join(&mut self, buyer: &Buyer) {
        let (path, key) = (self.path(), Uuid::now_v7().to_string());
        let answer = self.hall.api.post(buyer, &path, &key, &json!({})).await;
        answer.expect(201);
        self.joined.push(buyer.clone());
    }

    fn path(&self) -> String {
        format!("/schedules/{}/queue", self.schedule)
    }

    /// Everybody asks how far it is, as clients do: a room that nobody asks about stands still when it
    /// gets another owner.
    async fn look(&self) {
        for buyer in &self.joined {
            self.hall.api.get(Some(buyer), &self.path()).await;
        }
    }

    /// Waits until a query's number is this one, while everybody asks.
    async fn number_becomes(&mut self, sql: &str, expected: i64) {
        let reached = async {
            while self.hall.number(sql).await != expected {
                self.look().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "not {expected}: {sql}");
    }

    /// Waits until a ticket of a buyer is in a state.
    async fn becomes(&mut self, buyer: &Buyer, status: &str) {
        let sql = format!(
            "SELECT count(*) AS n FROM ticket WHERE user_id = '{}' AND status = '{status}'",
            buyer.user_id
        );
        self.number_becomes(&sql, 1).await;
    }

    /// The pass of a buyer, once that is admitted.
    async fn pass(&mut self, buyer: &Buyer) -> Pass {
        let path = self.path();
        let find = async {
            loop {
                let answer = self.hall.api.get(Some(buyer), &path).await.expect(200);
                if let Some(pass) = answer.body["pass"].as_str() {
                    return self.signer.read_pass(pass).expect("a pass of ours");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let pass = tokio::time::timeout(PATIENCE, find).await;
        pass.expect("admitted in time")
    }

    async fn entered(&mut self, buyer: &Buyer) -> Pass {
        self.join(buyer).await;
        self.pass(buyer).await
    }

    fn sign(&self, pass: Pass) -> String {
        self.signer.sign_pass(&pass)
    }

    fn request(&self, seat: u32) -> Value {
        json!({ "scheduleId": self.schedule, "seats": [format!("A-1-{seat}")] })
    }

    /// Holds a seat with a pass, or with none.
    async fn hold(&self, by: &Buyer, seat: u32, pass: Option<&str>) -> Answer {
        let key = Uuid::now_v7().to_string();
        hold(&self.hall.api, by, &key, &self.request(seat), pass).await
    }
}

pub async fn hold(api: &Api, by: &Buyer, key: &str, body: &Value, pass: Option<&str>) -> Answer {
    let mut request = api.post_request(by, "/reservations", key, body);
    if let Some(pass) = pass {
        request = request.header("queue-pass", pass);
    }
    api.send(request).await
}

fn generous() -> Policy {
    Policy {
        seats_per_user: 100,
        ..open_policy()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_allows_one_hold_makes_one_of_a_hundred() {
    let mut room = Room::open(1, 600_000, generous()).await;
    let buyer = room.hall.buyer();
    let pass = Pass {
        holds_max: 1,
        ..room.entered(&buyer).await
    };
    let pass = room.sign(pass);
    let apis = [0, 1].map(|ingress| Api::new(room.hall.system.url(ingress)));
    let mut uses = JoinSet::new();
    for seat in 1..=USES {
        let api = apis[seat as usize % 2].clone();
        let (buyer, pass, body) = (buyer.clone(), pass.clone(), room.request(seat));
        uses.spawn(async move {
            let key = Uuid::now_v7().to_string();
            hold(&api, &buyer, &key, &body, Some(&pass)).await
        });
    }
    let answers = uses.join_all().await;
    let (held, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(held.len(), 1, "{held:?}");
    for answer in refused {
        answer.expect_problem(403, "queue-pass-used-up");
    }
    let rows = "SELECT count(*) AS n FROM reservation";
    assert_eq!(room.hall.number(rows).await, 1);

    // Giving it back makes no other, nor does a new owner.
    let id = reservation(&held[0].body);
    let path = format!("/reservations/{id}");
    room.hall.api.delete(&buyer, &path).await.expect(204);
    for worker in &mut room.hall.system.workers {
        worker.kill9().await;
        worker.restart().await.expect("a worker");
    }
    let answer = room.hold(&buyer, 1, Some(&pass)).await;
    answer.expect_problem(403, "queue-pass-used-up");
    room.hall.assert_sound().await;
}

/// Texts that are no pass of ours, made from one that is.
fn forged(pass: &str, ticket: String) -> Vec<(&'static str, String)> {
    let bytes = BASE64.decode(pass).expect("base64");
    let (body, _) = bytes.split_at(bytes.len() - 16);
    let key: Vec<u8> = (0..TOKEN_SECRET.len() / 2)
        .map(|at| u8::from_str_radix(&TOKEN_SECRET[at * 2..at * 2 + 2], 16).expect("hexadecimal"))
        .collect();
    let with = |mac: &[u8]| BASE64.encode([body, &mac[..16]].concat());
    let sha256 = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
    let sha512 = Hmac::<Sha512>::new_from_slice(&key).expect("a key");
    let mut edited = bytes.clone();
    // It would be good for longer.
    edited[60] ^= 1;
    let claims = BASE64.encode(json!({ "sub": "me", "exp": 4_000_000_000_u64 }).to_string());
    let header = BASE64.encode(json!({ "alg": "none", "typ": "pass" }).to_string());
    vec![
        ("an edited pass", BASE64.encode(edited)),
        ("a pass without a mark", BASE64.encode(body)),
        (
            "a pass under another key",
            with(&sha256.chain_update(body).finalize().into_bytes()),
        ),
        (
            "a pass by another algorithm",
            with(&sha512.chain_update(body).finalize().into_bytes()),
        ),
        (
            "a token that says that it has none",
            format!("{header}.{claims}."),
        ),
        ("a ticket", ticket),
        ("nothing", String::new()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_is_good_for_its_user_date_and_time_alone() {
    let mut room = Room::open(10, 600_000, open_policy()).await;
    let (buyer, other) = (room.hall.buyer(), room.hall.buyer());
    let pass = room.entered(&buyer).await;
    let ours = room.sign(pass);
    let theirs = room.entered(&other).await;
    let theirs = room.sign(theirs);
    room.hold(&buyer, 1, None)
        .await
        .expect_problem(403, "queue-pass-required");
    let elsewhere = Pass {
        ticket: Ticketed {
            schedule_id: ScheduleId(Uuid::now_v7()),
            ..pass.ticket
        },
        ..pass
    };
    let mut wrong = forged(&ours, room.signer.sign_ticket(&pass.ticket));
    wrong.push(("another user's pass", theirs.clone()));
    wrong.push(("a pass of another date", room.sign(elsewhere)));
    wrong.push(("an access token", buyer.token.clone()));
    for (what, text) in wrong {
        let answer = room.hold(&buyer, 1, Some(&text)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (403, "queue-pass-invalid"),
            "{what}"
        );
    }
    let body = room.request(1);
    let twice = room
        .hall
        .api
        .post_request(&buyer, "/reservations", "two-passes", &body);
    let twice = twice
        .header("queue-pass", &ours)
        .header("queue-pass", &ours);
    let answer = room.hall.api.send(twice).await;
    answer.expect_problem(403, "queue-pass-invalid");
    let old = Pass {
        expires_at: host_now().plus_ms(-1000),
        ..pass
    };
    let old = room.sign(old);
    room.hold(&buyer, 1, Some(&old))
        .await
        .expect_problem(403, "queue-pass-expired");
    let none = room.sign(Pass {
        holds_max: 0,
        ..pass
    });
    room.hold(&buyer, 1, Some(&none))
        .await
        .expect_problem(403, "queue-pass-used-up");
    // There is no other way in, and no field that opens one.
    for body in [
        json!({ "scheduleId": room.schedule, "seats": ["A-1-1"], "queuePass": ours }),
        json!({ "scheduleId": room.schedule, "seats": ["A-1-1"], "bypass": true }),
    ] {
        let answer = hold(&room.hall.api, &buyer, "no-other-way", &body, Some(&ours)).await;
        answer.expect_problem(422, "validation-failed");
    }
    let rows = "SELECT count(*) AS n FROM reservation";
    assert_eq!(room.hall.number(rows).await, 0, "nothing came of any of it");

    // A retry is the same request, whatever pass it shows of its user's.
    let other_ingress = Api::new(room.hall.system.url(1));
    let first = hold(
        &room.hall.api,
        &buyer,
        "one-and-the-same",
        &body,
        Some(&ours),
    )
    .await;
    let first = reservation(&first.expect(201).body);
    for shown in [Some(&ours), Some(&old), Some(&none), None] {
        let shown = shown.map(String::as_str);
        let again = hold(&other_ingress, &buyer, "one-and-the-same", &body, shown).await;
        assert_eq!(reservation(&again.expect(201).body), first);
    }
    // The best that are free are held no other way.
    let best = json!({ "scheduleId": room.schedule, "bestAvailable": { "count": 1 } });
    let answer = hold(&other_ingress, &other, "best-of-all", &best, None).await;
    answer.expect_problem(403, "queue-pass-required");
    hold(&other_ingress, &other, "the-best", &best, Some(&theirs))
        .await
        .expect(201);
    room.hall.assert_sound().await;
}

/// A moment at which a pass would have ended long ago, but for its hold.
fn is_long_over(buyer: &Buyer) -> String {
    format!(
        "SELECT count(*) AS n FROM ticket WHERE user_id = '{}' \
         AND pass_until + interval '3 s' < clock_timestamp()",
        buyer.user_id
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_keeps_its_place_in_the_room_until_it_is_paid() {
    let mut room = Room::open(1, SHORT_MS, open_policy()).await;
    let (first, next) = (room.hall.buyer(), room.hall.buyer());
    let pass = room.entered(&first).await;
    room.join(&next).await;
    let answer = room.hold(&first, 1, Some(&room.sign(pass))).await;
    let id = reservation(&answer.expect(201).body);
    room.amend(PolicyChange {
        pass_ms: Some(600_000),
        ..PolicyChange::default()
    })
    .await;
    room.number_becomes(&is_long_over(&first), 1).await;
    room.becomes(&first, "ADMITTED").await;
    room.becomes(&next, "WAITING").await;

    room.hall.api.charge(&first, 100_000).await.expect(201);
    room.hall.api.pay(&first, id).await.expect(201);
    room.becomes(&first, "DONE").await;
    room.becomes(&next, "ADMITTED").await;
    let pass = room.pass(&next).await;
    let answer = room.hold(&next, 2, Some(&room.sign(pass))).await;
    answer.expect(201);
    room.hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_lapses_gives_its_place_in_the_room_to_the_next() {
    let policy = Policy {
        hold_ms: 10_000,
        ..open_policy()
    };
    let mut room = Room::open(1, SHORT_MS, policy).await;
    let (first, next) = (room.hall.buyer(), room.hall.buyer());
    let pass = room.entered(&first).await;
    room.join(&next).await;
    let answer = room.hold(&first, 1, Some(&room.sign(pass))).await;
    answer.expect(201);
    room.number_becomes(&is_long_over(&first), 1).await;
    room.becomes(&first, "ADMITTED").await;
    room.becomes(&first, "EXPIRED").await;
    room.becomes(&next, "ADMITTED").await;
    let early = "SELECT count(*) AS n FROM ticket JOIN reservation USING (ticket_id) \
                 WHERE ticket.ended_at < expires_at";
    assert_eq!(room.hall.number(early).await, 0, "not before the hold did");
    room.hall.assert_sound().await;
}

/// A pass that is good by its time is not, when its ticket has ended.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_or_has_paid_lets_the_next_in_and_holds_no_more() {
    let mut room = Room::open(1, 600_000, open_policy()).await;
    let buyers = room.hall.buyers(3);
    let mut passes = Vec::new();
    for (nth, buyer) in buyers.iter().enumerate() {
        let pass = room.entered(buyer).await;
        passes.push(room.sign(pass));
        match nth {
            0 => {
                let kind = Kind::Leave {
                    schedule_id: ScheduleId(room.schedule),
                    ticket_id: None,
                };
                let outcome = room.ask(UserId(buyer.user_id), kind).await;
                assert!(matches!(outcome, Outcome::Left { .. }), "{outcome:?}");
            }
            1 => {
                let answer = room.hold(buyer, 1, Some(&passes[1])).await;
                let id = reservation(&answer.expect(201).body);
                room.hall.api.charge(buyer, 100_000).await.expect(201);
                room.hall.api.pay(buyer, id).await.expect(201);
            }
            _ => {}
        }
    }
    let open = "SELECT count(*) AS n FROM notice WHERE done_at IS NULL";
    room.hall.becomes(open, 0).await;
    for _ in 0..2 {
        for (buyer, pass) in buyers.iter().zip(&passes).take(2) {
            let answer = room.hold(buyer, 2, Some(pass)).await;
            answer.expect_problem(403, "queue-pass-expired");
        }
        // The next owner knows it as well.
        for worker in &mut room.hall.system.workers {
            worker.kill9().await;
            worker.restart().await.expect("a worker");
        }
    }
    room.hold(&buyers[2], 2, Some(&passes[2])).await.expect(201);
    room.hall.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_turned_off_and_on() {
    let mut room = Room::open(10, 600_000, open_policy()).await;
    let buyer = room.hall.buyer();
    let turn = |mode| PolicyChange {
        mode: Some(mode),
        ..PolicyChange::default()
    };
    room.hold(&buyer, 1, None)
        .await
        .expect_problem(403, "queue-pass-required");
    room.amend(turn(QueueMode::Off)).await;
    room.takes_passes(false).await;
    room.hold(&buyer, 1, None).await.expect(201);
    for mode in [QueueMode::Open, QueueMode::Fifo, QueueMode::Draw] {
        room.amend(turn(mode)).await;
        room.takes_passes(true).await;
        room.hold(&buyer, 2, None)
            .await
            .expect_problem(403, "queue-pass-required");
    }
    let pass = room.entered(&buyer).await;
    let pass = room.sign(pass);
    room.hold(&buyer, 2, Some(&pass)).await.expect(201);
    room.hall.assert_sound().await;
}
