//! Each fault of the proxy does what it says, seen from both ends of a connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use onsale_testkit::proxy::{Direction, Fault, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// No wait takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must happen before it counts as not happening.
const SILENCE: Duration = Duration::from_millis(200);

/// A server that sends everything back, behind a proxy.
struct Echo {
    proxy: Proxy,
    /// How each of its connections ended: at the end of what the client sent, or by an error.
    ends: mpsc::UnboundedReceiver<std::io::Result<()>>,
    _serving: JoinSet<()>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let upstream = listener.local_addr().expect("an address");
        let (sender, ends) = mpsc::unbounded_channel();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let sender = sender.clone();
                connections.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let echoed = tokio::io::copy(&mut read, &mut write).await;
                    // The other direction stays open: it is the client's to end.
                    sender.send(echoed.map(drop)).ok();
                    std::future::pending::<()>().await;
                });
            }
        });
        Self {
            proxy: Proxy::start(upstream).await.expect("a proxy"),
            ends,
            _serving: serving,
        }
    }

    async fn connect(&self) -> TcpStream {
        connect(self.proxy.addr()).await
    }

    /// How the next connection to end has ended.
    async fn end(&mut self) -> std::io::Result<()> {
        let end = timeout(PATIENCE, self.ends.recv()).await;
        end.expect("a connection ends").expect("it serves")
    }
}

async fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.expect("a connection")
}

async fn echoed(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.expect("sent");
    assert_eq!(read(stream, text.len()).await, text);
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let read = timeout(PATIENCE, stream.read_exact(&mut bytes)).await;
    read.expect("in time").expect("all bytes");
    bytes
}

async fn assert_silent(stream: &mut TcpStream) {
    let read = timeout(SILENCE, stream.read_u8()).await;
    assert!(read.is_err(), "{read:?}");
}

/// Reads to the end, which must be a reset; returns what came before it.
async fn until_reset(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let error = end.expect("in time").expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    bytes
}

#[tokio::test]
async fn passes_all_bytes_and_the_end_of_each_direction() {
    let mut echo = Echo::start().await;
    let mut stream = echo.connect().await;
    let much: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut reading, mut writing) = stream.split();
    let mut back = vec![0; much.len()];
    let (sent, received) = tokio::join!(
        writing.write_all(&much),
        timeout(PATIENCE, reading.read_exact(&mut back))
    );
    sent.unwrap();
    received.expect("in time").unwrap();
    assert!(back == much);
    writing.shutdown().await.unwrap();
    echo.end().await.expect("no error");
}

#[tokio::test]
async fn a_delay_is_paid_once_per_direction_and_not_per_message() {
    let echo = Echo::start().await;
    let mut stream = echo.connect().await;
    let delay = Duration::from_millis(100);
    echo.proxy.set(Fault::Delay(delay));
    let started = Instant::now();
    for _ in 0..20 {
        stream.write_all(b"ping").await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    read(&mut stream, 80).await;
    let took = started.elapsed();
    assert!(took >= 2 * delay, "{took:?}");
    assert!(took < 20 * delay, "{took:?}");
}

#[tokio::test]
async fn a_black_hole_swallows_silently_and_gives_back_when_healed() {
    let echo = Echo::start().await;
    let mut old = echo.connect().await;
    echoed(&mut old, b"before").await;
    echo.proxy.set(Fault::BlackHole);
    let mut new = echo.connect().await;
    old.write_all(b"old").await.unwrap();
    new.write_all(b"new").await.unwrap();
    assert_silent(&mut old).await;
    assert_silent(&mut new).await;
    echo.proxy.set(Fault::Pass);
    assert_eq!(read(&mut old, 3).await, b"old");
    assert_eq!(read(&mut new, 3).await, b"new");
}

#[tokio::test]
async fn what_is_forgotten_stays_silent_while_new_connections_pass() {
    let echo = Echo::start().await;
    let mut old = echo.connect().await;
    echoed(&mut old, b"before").await;
    echo.proxy.set(Fault::Forget);
    old.write_all(b"lost").await.unwrap();
    assert_silent(&mut old).await;
    let mut new = echo.connect().await;
    echoed(&mut new, b"new").await;
    echo.proxy.set(Fault::Pass);
    echoed(&mut new, b"still there").await;
    assert_silent(&mut old).await;
    echo.proxy.set(Fault::Reset);
    until_reset(&mut old).await;
}

#[tokio::test]
async fn a_reset_reaches_both_ends_and_new_connections() {
    let mut echo = Echo::start().await;
    let mut old = echo.connect().await;
    echoed(&mut old, b"before").await;
    echo.proxy.set(Fault::Reset);
    assert!(until_reset(&mut old).await.is_empty());
    let error = echo.end().await.expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(until_reset(&mut echo.connect().await).await.is_empty());
    echo.proxy.set(Fault::Pass);
    echoed(&mut echo.connect().await, b"after").await;
}

#[tokio::test]
async fn a_black_hole_does_not_keep_a_connection_from_being_reset() {
    let echo = Echo::start().await;
    let mut stream = echo.connect().await;
    echoed(&mut stream, b"before").await;
    echo.proxy.set(Fault::BlackHole);
    let mut new = echo.connect().await;
    echo.proxy.set(Fault::Reset);
    until_reset(&mut stream).await;
    until_reset(&mut new).await;
}

#[tokio::test]
async fn half_closed_to_the_client_it_reads_the_end_while_the_server_still_hears_it() {
    let mut echo = Echo::start().await;
    let mut stream = echo.connect().await;
    echoed(&mut stream, b"before").await;
    echo.proxy.set(Fault::HalfClose(Direction::ToClient));
    let mut rest = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert_eq!(end.expect("in time").expect("no error"), 0);
    stream.write_all(b"still heard").await.unwrap();
    stream.shutdown().await.unwrap();
    echo.end().await.expect("the client's own end");
    echo.proxy.set(Fault::Pass);
    echoed(&mut echo.connect().await, b"after").await;
}

#[tokio::test]
async fn half_closed_to_the_server_it_reads_the_end_while_the_client_knows_nothing() {
    let mut echo = Echo::start().await;
    let mut stream = echo.connect().await;
    echoed(&mut stream, b"before").await;
    echo.proxy.set(Fault::HalfClose(Direction::ToServer));
    echo.end().await.expect("an end without an error");
    stream.write_all(b"into the void").await.unwrap();
    assert_silent(&mut stream).await;
    // A closed direction does not open again.
    echo.proxy.set(Fault::Pass);
    stream.write_all(b"into the void").await.unwrap();
    assert_silent(&mut stream).await;
}

#[tokio::test]
async fn cut_after_so_many_bytes_it_delivers_those_and_resets() {
    let mut echo = Echo::start().await;
    for direction in [Direction::ToServer, Direction::ToClient] {
        echo.proxy.set(Fault::Pass);
        let mut old = echo.connect().await;
        echoed(&mut old, b"before").await;
        echo.proxy.set(Fault::CutAfter(direction, 5));
        echoed(&mut old, b"123").await;
        old.write_all(b"4567").await.unwrap();
        let rest = until_reset(&mut old).await;
        // To the server five bytes came through, but their echo may be lost in the reset.
        assert!(b"45".starts_with(&rest[..]), "{rest:?}");
        echo.end().await.expect_err("a reset");
        // Each connection has its own count.
        let mut new = echo.connect().await;
        echoed(&mut new, b"1234").await;
        new.write_all(b"56").await.unwrap();
        until_reset(&mut new).await;
        echo.end().await.expect_err("a reset");
    }
}

#[tokio::test]
async fn dropped_it_ends_with_its_connections() {
    let Echo {
        proxy,
        mut ends,
        _serving,
    } = Echo::start().await;
    let addr = proxy.addr();
    let mut stream = connect(addr).await;
    echoed(&mut stream, b"before").await;
    drop(proxy);
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .expect("in time")
        .ok();
    assert!(rest.is_empty());
    assert!(timeout(PATIENCE, ends.recv()).await.is_ok());
    assert!(TcpStream::connect(addr).await.is_err());
}
