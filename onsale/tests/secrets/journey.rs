//! A buyer's way, with all the mistakes that one can make with secrets on it. What is answered is kept,
//! but for the tokens that are handed over; these are secrets from then on.

use std::collections::VecDeque;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

use crate::canary::Canaries;

/// What hands over a secret says so by its name.
const HANDED_OVER: [&str; 6] = [
    "accessToken",
    "refreshToken",
    "streamToken",
    "secret",
    "ticket",
    "pass",
];
/// How long something may take that is done behind an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks one ingress, and keeps what it says.
pub struct Asker<'a> {
    client: Client,
    api: String,
    canaries: &'a mut Canaries,
    /// The secrets of webhook subscribers, as they are stored.
    pub webhooks: Canaries,
    /// All answers, each with what was asked.
    pub told: Vec<String>,
}

struct Session {
    access: String,
    refresh: String,
}

impl<'a> Asker<'a> {
    pub fn new(api: &str, canaries: &'a mut Canaries) -> Self {
        let client = Client::builder().no_proxy().build().unwrap();
        Self {
            client,
            api: format!("{api}/api/v1"),
            canaries,
            webhooks: Canaries::default(),
            told: Vec::new(),
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let key = Uuid::now_v7().to_string();
        let request = self.client.request(method, format!("{}{path}", self.api));
        request.header("idempotency-key", key)
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).json(body)
    }

    /// The answer's body, after checking its status.
    async fn ask(&mut self, what: &str, status: u16, request: RequestBuilder) -> Value {
        let answer = request.send().await.unwrap();
        let mut told = head(what, &answer);
        let found = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        let mut kept = text;
        for name in HANDED_OVER {
            if let Some(token) = body[name].as_str() {
                kept = kept.replace(token, "(handed over)");
                self.keep_secret(name, token);
            }
        }
        told.push_str(&kept);
        assert_eq!(found, status, "{told}");
        self.told.push(told);
        body
    }

    fn keep_secret(&mut self, what: &str, token: &str) {
        if let Some(digits) = token.strip_prefix("whsec_") {
            // It signs with the bytes, which Postgres keeps.
            let bytes = STANDARD.decode(digits).unwrap();
            self.canaries.add(what, digits);
            self.webhooks
                .add_bytes("the bytes of a webhook's secret", &bytes);
            return;
        }
        match token.rsplit_once('.') {
            // The rest of an access token is no secret without its signature.
            Some((_, signature)) => self.canaries.add(what, signature),
            None => {
                // Both parts of a refresh token are random.
                self.canaries.add(what, token);
                self.canaries.add(what, &token[token.len() / 2..]);
            }
        }
    }

    async fn sign_in(&mut self, email: &str, password: &str) -> Session {
        let body = json!({ "email": email, "password": password });
        let session = self
            .ask("sign in", 201, self.post("/sessions", &body))
            .await;
        session_of(&session)
    }

    /// Whether a hold of this seat goes through; what stands in the way is told, too.
    pub async fn tries_to_hold(&mut self, access: &str, schedule: &str, seat: &str) -> bool {
        let body = json!({ "scheduleId": schedule, "seats": [seat] });
        let request = self.post("/reservations", &body).bearer_auth(access);
        let Ok(answer) = request.send().await else {
            return false;
        };
        let told = head("hold", &answer);
        let held = answer.status() == 201;
        self.told.push(told + &answer.text().await.unwrap());
        held
    }

    /// Somebody who wants facts over HTTP, gets another secret, and does not take what comes: its
    /// address and what somebody who administers asks with.
    pub async fn subscribes(&mut self, email: &str, password: &str) -> (String, String) {
        let admin = self.sign_in(email, password).await.access;
        // An ingress: it knows no such route, and hears signatures as any receiver does.
        let url = format!("{}/no/such/receiver", self.api);
        let new = self.post("/admin/webhooks", &json!({ "url": url }));
        let made = self.ask("subscribe", 201, new.bearer_auth(&admin)).await;
        assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
        let path = format!("/admin/webhooks/{}", made["webhookId"].as_str().unwrap());
        let rotation = self.post(&format!("{path}/secret"), &json!({}));
        let other = self.ask("rotate", 200, rotation.bearer_auth(&admin)).await;
        assert_ne!(other["secret"], made["secret"]);
        for path in ["/admin/webhooks", &path] {
            let look = self.request(Method::GET, path).bearer_auth(&admin);
            self.ask("look", 200, look).await;
        }
        (admin, path)
    }

    /// Waits until something was sent to a subscriber, in vain.
    pub async fn was_called(&mut self, admin: &str, path: &str) {
        let called = tokio::time::timeout(PATIENCE, async {
            loop {
                let look = self.request(Method::GET, path).bearer_auth(admin);
                let one = self.ask("look again", 200, look).await;
                if one["failure"]["attempts"].as_i64() > Some(0) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        called.await.expect("an attempt to deliver a fact");
    }

    /// Waits for a date until there is a pass, and holds a seat with it. Afterwards nobody has to wait.
    pub async fn waits(&mut self, admin: &str, access: &str, schedule: &str, seat: &str) {
        let date = format!("/admin/schedules/{schedule}");
        let room = |asker: &Self, mode| {
            let change = json!({ "queue": { "mode": mode } });
            let request = asker.request(Method::PATCH, &date).json(&change);
            request.bearer_auth(admin)
        };
        self.ask("open a room", 200, room(self, "OPEN")).await;
        let path = format!("/schedules/{schedule}/queue");
        let join = self.request(Method::POST, &path).bearer_auth(access);
        let joined = self.ask("join", 201, join).await;
        let ticket = joined["ticket"].as_str().unwrap();
        let admitted = tokio::time::timeout(PATIENCE, async {
            loop {
                let poll = self.request(Method::GET, &path).bearer_auth(access);
                let poll = poll.header("queue-ticket", ticket);
                let told = self.ask("how far", 200, poll).await;
                if let Some(pass) = told["pass"].as_str() {
                    return pass.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let pass = admitted.await.expect("a pass");
        let body = json!({ "scheduleId": schedule, "seats": [seat] });
        let hold = self.post("/reservations", &body).bearer_auth(access);
        let hold = hold.header("queue-pass", &pass);
        let held = self.ask("hold with a pass", 201, hold).await;
        let path_held = format!("/reservations/{}", held["reservationId"].as_str().unwrap());
        let release = self.request(Method::DELETE, &path_held).bearer_auth(access);
        self.ask("release", 204, release).await;
        // In each other's place, and in an address.
        let swapped = self.request(Method::GET, &path).bearer_auth(access);
        let swapped = swapped.header("queue-ticket", &pass);
        self.ask("a pass as ticket", 403, swapped).await;
        let in_query = self.request(Method::GET, &format!("{path}?pass={pass}"));
        let in_query = in_query.bearer_auth(access);
        self.ask("a pass in the query", 200, in_query).await;
        let events = format!("/schedules/{schedule}/events?queueTicket={ticket}");
        let events = self.request(Method::GET, &events);
        self.ask("a ticket without a token", 401, events).await;
        self.ask("close the room", 200, room(self, "OFF")).await;
    }

    /// Everything; an access token that is still good, and seats that nobody holds.
    pub async fn travel(
        &mut self,
        schedule: &str,
        token_secret: &str,
    ) -> (String, VecDeque<String>) {
        let email = format!("{}@example.com", Uuid::now_v7().simple());
        let password = self.canaries.odd("a password");
        self.passwords(&email, &password).await;
        let session = self.sign_in(&email, &password).await;
        self.access_tokens(&session.access, token_secret).await;
        self.refresh_tokens(session).await;
        let access = self.sign_in(&email, &password).await.access;
        self.stream_tokens(&access, schedule).await;

        let amount = json!({ "amount": 500_000, "currency": "KRW" });
        let body = json!({ "amount": amount, "method": "CARD" });
        let charge = self.post("/users/me/points/charges", &body);
        self.ask("charge", 201, charge.bearer_auth(&access)).await;
        let path = format!("/schedules/{schedule}/layout");
        let layout = self
            .ask("layout", 200, self.request(Method::GET, &path))
            .await;
        let row = &layout["sections"][0]["rows"][0]["seats"];
        let labels = row.as_array().unwrap().iter();
        let mut seats: VecDeque<String> = labels
            .map(|seat| seat["label"].as_str().unwrap().to_owned())
            .collect();
        let body = json!({ "scheduleId": schedule, "seats": [seats.pop_front()] });
        let hold = self.post("/reservations", &body).bearer_auth(&access);
        let held = self.ask("hold", 201, hold).await;
        let body = json!({ "reservationId": held["reservationId"], "method": "POINTS" });
        let pay = self.post("/payments", &body).bearer_auth(&access);
        self.ask("pay", 201, pay).await;
        let later = self.post(
            "/reservations",
            &json!({ "scheduleId": schedule, "seats": [seats.pop_front()] }),
        );
        let later = later.bearer_auth(&access).header("prefer", "respond-async");
        self.ask("hold later", 202, later).await;
        (access, seats)
    }

    async fn passwords(&mut self, email: &str, password: &str) {
        let wrong = self.canaries.odd("a wrong password");
        let person =
            |password: &str| json!({ "email": email, "name": "Kim", "password": password });
        let new = self.post("/users", &person(password));
        self.ask("sign up", 201, new).await;
        let taken = self.post("/users", &person(&wrong));
        self.ask("sign up again", 409, taken).await;
        for (who, email) in [("me", email), ("nobody", "nobody@example.com")] {
            let body = json!({ "email": email, "password": wrong });
            let what = format!("wrong password of {who}");
            self.ask(&what, 401, self.post("/sessions", &body)).await;
        }
        // In all wrong places and shapes.
        let long = wrong.repeat(20);
        let nested = json!({ "email": { "password": wrong }, "password": [wrong] });
        let swapped = json!({ "email": wrong, "name": "Kim", "password": "short" });
        for (what, status, request) in [
            ("too long", 422, self.post("/users", &person(&long))),
            ("nested", 422, self.post("/sessions", &nested)),
            ("swapped", 422, self.post("/users", &swapped)),
            ("a bare string", 422, self.post("/sessions", &json!(wrong))),
        ] {
            self.ask(what, status, request).await;
        }
        let raw = |body: String| self.request(Method::POST, "/sessions").body(body);
        let cut = format!(r#"{{"email":"a@b.example","password":"{wrong}"#);
        let json = |body: &str| {
            let request = raw(body.to_owned());
            request.header("content-type", "application/json")
        };
        let form = raw(format!("email=a&password={wrong}"));
        let form = form.header("content-type", "application/x-www-form-urlencoded");
        let query = format!("/users/me?password={}", &wrong[wrong.len() - 24..]);
        let basic = STANDARD.encode(format!("{email}:{wrong}"));
        let basic = self
            .request(Method::GET, "/users/me")
            .header("authorization", format!("Basic {basic}"));
        for (what, status, request) in [
            ("cut off", 400, json(&cut)),
            ("no JSON", 400, json(&wrong)),
            ("a form", 415, form),
            ("in the query", 401, self.request(Method::GET, &query)),
            ("basic authentication", 401, basic),
        ] {
            self.ask(what, status, request).await;
        }
    }

    async fn access_tokens(&mut self, access: &str, secret: &str) {
        let me =
            |asker: &Self, token: &str| asker.request(Method::GET, "/users/me").bearer_auth(token);
        self.ask("who am I", 200, me(self, access)).await;
        for (what, token) in [
            ("an edited token", edited(access)),
            ("an expired token", expired(access, secret)),
        ] {
            self.keep_secret(what, &token);
            self.ask(what, 401, me(self, &token)).await;
        }
        // In places where it is looked for by people who are in a hurry.
        let path = format!("/commands/{access}");
        let command = self.request(Method::GET, &path).bearer_auth(access);
        self.ask("in the path", 404, command).await;
        let path = format!("/users/me?access_token={access}");
        self.ask("in the query", 401, self.request(Method::GET, &path))
            .await;
    }

    async fn refresh_tokens(&mut self, first: Session) {
        let renewal = |asker: &Self, token: &str| {
            asker.post("/sessions/refresh", &json!({ "refreshToken": token }))
        };
        let second = self.ask("renew", 201, renewal(self, &first.refresh)).await;
        let second = session_of(&second);
        let third = self
            .ask("renew again", 201, renewal(self, &second.refresh))
            .await;
        let third = session_of(&third);
        // A thief: the session ends, and all that belongs to it.
        self.ask("reuse", 401, renewal(self, &first.refresh)).await;
        self.ask("too late", 401, renewal(self, &third.refresh))
            .await;
        let unknown = self.canaries.plain("an unknown refresh token");
        self.ask("unknown", 401, renewal(self, &unknown)).await;
        let me = self.request(Method::GET, "/users/me");
        self.ask("revoked", 401, me.bearer_auth(&third.access))
            .await;
    }

    async fn stream_tokens(&mut self, access: &str, schedule: &str) {
        let made = self.request(Method::POST, "/stream-tokens");
        let made = self
            .ask("stream token", 201, made.bearer_auth(access))
            .await;
        let token = made["streamToken"].as_str().unwrap();
        let path = format!("/schedules/{schedule}/events?token={token}");
        let mut stream = self.request(Method::GET, &path).send().await.unwrap();
        let mut told = head("stream", &stream);
        assert_eq!(stream.status(), 200, "{told}");
        let piece = stream.chunk().await.unwrap().unwrap();
        told.push_str(&String::from_utf8_lossy(&piece));
        self.told.push(told);
        drop(stream);
        self.ask("stream again", 401, self.request(Method::GET, &path))
            .await;
    }
}

fn head(what: &str, answer: &Response) -> String {
    format!("{what}: {} {:?}\n", answer.status(), answer.headers())
}

fn session_of(body: &Value) -> Session {
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    Session {
        access: text("accessToken"),
        refresh: text("refreshToken"),
    }
}

/// Somebody has made themselves an administrator; the signature no longer fits.
fn edited(token: &str) -> String {
    let (header, mut claims, signature) = read(token);
    claims["role"] = json!("admin");
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("{header}.{claims}.{signature}")
}

/// The same token from long ago, signed as the ingress does.
fn expired(token: &str, secret: &str) -> String {
    let (header, mut claims, _) = read(token);
    claims["exp"] = json!(1);
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let digits = secret.as_bytes().chunks(2);
    let key: Vec<u8> = digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect();
    let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    let mac = mac.chain_update(&input).finalize().into_bytes();
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(mac))
}

fn read(token: &str) -> (&str, Value, &str) {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else {
        panic!("three parts: {token}");
    };
    let claims = URL_SAFE_NO_PAD.decode(claims).unwrap();
    (header, serde_json::from_slice(&claims).unwrap(), signature)
}
