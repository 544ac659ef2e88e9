//! Who is asked without TLS: nobody elsewhere, on either side, unless the operator says that it may be
//! unsafe.

use std::net::{IpAddr, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use onsale_platform::Clock;
use onsale_platform::http::Unfit;
use onsale_testkit::system::GATEWAY_SECRET;
use onsale_testkit::{Scratch, ports};
use onsale_workers::config;
use onsale_workers::gateway::Gateway;
use onsale_workers::gateway::toss::Toss;
use tokio::process::{Child, Command};

const LIMIT: Duration = Duration::from_secs(60);

/// A gateway that listens everywhere.
fn gateway(scratch: &Scratch, port: u16, is_allowed: bool) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onsale"));
    command
        .arg("gateway")
        .env("ONSALE_GATEWAY_ADDR", format!("0.0.0.0:{port}"))
        .env("ONSALE_GATEWAY_DIR", scratch.path().join("book"))
        .env("ONSALE_GATEWAY_SECRET", GATEWAY_SECRET)
        .env("ONSALE_GATEWAY_UNSAFE_PLAIN_HTTP", is_allowed.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().unwrap()
}

/// An address of this machine on its network; none where it has none. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("10.255.255.255:9").ok()?;
    let address = socket.local_addr().unwrap().ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

fn adapter(host: IpAddr, port: u16, is_allowed: bool) -> Result<Option<Toss>, Unfit> {
    Toss::of_settings(&config::Gateway {
        url: Some(format!("http://{host}:{port}").parse().unwrap()),
        secret: Some(GATEWAY_SECRET.parse().unwrap()),
        ca: None,
        unsafe_plain_http: is_allowed,
        timeout_ms: 2000,
        attempts: 1,
        breaker_failures: 1000,
        breaker_open_ms: 200,
    })
}

#[tokio::test]
async fn nobody_is_asked_in_the_clear_unless_that_is_allowed() {
    let scratch = Scratch::new("exposed").unwrap();
    let port = ports::free().unwrap();
    let refused = gateway(&scratch, port, false).wait_with_output();
    let refused = tokio::time::timeout(LIMIT, refused).await.unwrap().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "{error}");
    assert!(error.contains("is not on loopback"), "{error}");

    let Some(host) = own_address() else {
        eprintln!("SKIPPED: this machine has no address but loopback");
        return;
    };
    let refused = adapter(host, port, false).err();
    assert!(matches!(refused, Some(Unfit::Plain)), "{refused:?}");
    let _gateway = gateway(&scratch, port, true);
    let adapter = adapter(host, port, true).unwrap().unwrap();
    let started = Instant::now();
    let now = Clock::default().now();
    while let Err(error) = adapter.transactions(now.plus_ms(-1000), now, None).await {
        assert!(started.elapsed() < LIMIT, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
