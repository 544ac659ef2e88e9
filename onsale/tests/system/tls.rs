//! TLS to both servers: what is refused instead of going on in plain text. The journey is made over
//! it, too.

use std::net::SocketAddr;
use std::path::Path;

use onsale_platform::config::{database_with_ca, nats_with_ca};
use onsale_platform::{address, db, nats};
use onsale_testkit::tls::{Authority, PostgresTls};
use onsale_testkit::{NatsOptions, Scratch, TestDb, TestNats, links};

/// Why a connection to Postgres is refused; none when it is not.
async fn postgres_refusal(url: &str) -> Option<String> {
    db::connect(url).await.err().map(|error| error.to_string())
}

async fn nats_refusal(url: &str) -> Option<String> {
    nats::connect(url, "test")
        .await
        .err()
        .map(|error| error.to_string())
}

fn at(addr: SocketAddr, url: &str) -> String {
    let url = links::to(addr, url);
    address::with_parameter(&url, "sslmode", "verify-full")
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_refused_unless_it_proves_who_it_is() {
    let scratch = Scratch::new("tls").expect("a folder");
    let ours = Authority::make(&scratch.path().join("ours")).expect("an authority");
    let other = Authority::make(&scratch.path().join("other")).expect("an authority");
    let db = TestDb::create().await.expect("a database");
    let upstream = links::address(db.url()).expect("an address");
    let front = async |host: &str| {
        let pem = ours.issue(host).expect("a certificate");
        PostgresTls::start(upstream, &pem).await.expect("a front")
    };
    let (right, elsewhere) = (front("127.0.0.1").await, front("elsewhere.example").await);

    let by = |addr, ca: &Path| database_with_ca(&at(addr, db.url()), Some(ca));
    assert_eq!(postgres_refusal(&by(right.addr(), ours.file())).await, None);
    for (url, part) in [
        (by(right.addr(), other.file()), "UnknownIssuer"),
        // The system's authorities don't know it either.
        (at(right.addr(), db.url()), "certificate"),
        (by(elsewhere.addr(), ours.file()), "not valid for name"),
        // A server in plain text, which is what the pinned Postgres is.
        (by(upstream, ours.file()), "does not support TLS"),
    ] {
        let why = postgres_refusal(&url).await.expect("a refusal");
        assert!(why.contains(part), "{why}");
    }
    // Who does not ask for it gets nowhere either: nothing was tried in plain text above.
    let plain = links::to(right.addr(), db.url());
    assert!(postgres_refusal(&plain).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_refused_unless_it_proves_who_it_is() {
    let scratch = Scratch::new("tls").expect("a folder");
    let ours = Authority::make(&scratch.path().join("ours")).expect("an authority");
    let other = Authority::make(&scratch.path().join("other")).expect("an authority");
    let server = async |host: Option<&str>| {
        let tls = host.map(|host| ours.issue(host).expect("a certificate"));
        let adjust = |options| NatsOptions { tls, ..options };
        TestNats::start_with(adjust).await.expect("a server")
    };
    let right = server(Some("127.0.0.1")).await;
    let elsewhere = server(Some("elsewhere.example")).await;
    let plain = server(None).await;

    let by = |url: &str, ca: &Path| nats_with_ca(url, Some(ca));
    assert_eq!(nats_refusal(&by(&right.url(), ours.file())).await, None);
    let asked = plain.url().replace("nats://", "tls://");
    for (url, part) in [
        (by(&right.url(), other.file()), "UnknownIssuer"),
        (right.url(), "certificate"),
        (by(&elsewhere.url(), ours.file()), "not valid for name"),
        (by(&asked, ours.file()), "does not speak TLS"),
    ] {
        let why = nats_refusal(&url).await.expect("a refusal");
        assert!(why.contains(part), "{why}");
    }
}
