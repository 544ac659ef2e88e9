//! Asks a server that somebody else runs, over HTTP/1.1: one request on a connection of its own, with
//! a bound on its time and on the size of the answer. It says which failures certainly left nothing
//! behind and which may have: a shared connection could not tell, and would send again by itself.
//!
//! It follows no redirect, uses no proxy, and logs nothing of what it sends.

use crate::dial::{self, Place, Stream, Tls};
use crate::outward::is_public;
use crate::tls;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Why a server was not called that is not where it may be asked over plain HTTP.
const IN_THE_CLEAR: &str = "http:// is not allowed to that address";

pub use hyper::Request;

/// Where a server is: `https://host[:port][/path]`, or `http://…`, which [`Server::new`] takes on
/// this machine only unless told otherwise, since secrets are sent there.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Place);

/// No such address. It is not repeated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be https://host[:port][/path] or http://…, without user, password or query")]
pub struct InvalidAddress;

/// To whom one may speak without TLS, so that everybody on the way can read secrets and change
/// answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// To this machine, where nobody is on the way.
    Loopback,
    /// Unsafe: to whatever has no public address. Only for development.
    PrivateNetwork,
}

impl PlainHttp {
    fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Loopback => address.is_loopback(),
            Self::PrivateNetwork => !is_public(address),
        }
    }
}

/// Why a server can't be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// Secrets would be sent in the clear.
    #[error("http:// is for this machine only; elsewhere it must be https://")]
    Plain,
    /// Nobody can be trusted.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let mut place: Place = text.parse().map_err(|_| InvalidAddress)?;
        if place.path.contains('?') {
            return Err(InvalidAddress);
        }
        place.path.truncate(place.path.trim_end_matches('/').len());
        Ok(Self(place))
    }
}

impl Address {
    /// Whether what is sent there can be read by nobody else: by TLS, or because it is this machine.
    #[must_use]
    pub fn is_confidential(&self) -> bool {
        self.0.is_tls || is_loopback(&self.0.host)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.0.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.0.authority(), self.0.path)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was sent.
    NotSent(&'static str),
    /// It was sent, at least in part, and there is no whole answer: it may have been received.
    NotAnswered(&'static str),
}

/// An answer, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Bytes,
}

/// A server that is asked.
#[derive(Clone)]
pub struct Server {
    place: Place,
    host: HeaderValue,
    tls: Tls,
    plain: PlainHttp,
    answer_bytes_max: usize,
}

impl Server {
    /// Prepares to ask. With TLS the server is verified by the authorities of a PEM file, or by those
    /// of the system without one.
    ///
    /// # Errors
    /// When there is no authority to trust, or it would be asked in the clear and may not.
    pub fn new(
        address: Address,
        ca: Option<&Path>,
        plain: PlainHttp,
        answer_bytes_max: usize,
    ) -> Result<Self, Unfit> {
        if plain == PlainHttp::Loopback && !address.is_confidential() {
            return Err(Unfit::Plain);
        }
        let Address(place) = address;
        let tls = match place.is_tls {
            true if place.server_name().is_none() => {
                return Err(tls::Error::System("the host has no name to verify".into()).into());
            }
            true => Ok(dial::connector(ca)?),
            false => Err("not asked for".to_owned()),
        };
        let host = HeaderValue::from_str(&place.authority());
        Ok(Self {
            host: host.expect("an authority of an address has only visible characters"),
            place,
            tls,
            plain,
            answer_bytes_max,
        })
    }

    /// A path on the server, below that of its address.
    #[must_use]
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.place.path)
    }

    /// Asks once, for at most `limit`, connecting and reading the answer included. The request names
    /// a path ([`Self::path`]), no host.
    ///
    /// # Errors
    /// When there is no whole answer in time, or one that is too large.
    pub async fn ask(
        &self,
        mut request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let deadline = Instant::now() + limit;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let stream = timeout_at(deadline, Box::pin(self.connect())).await;
        let stream = stream.map_err(|_| Failure::NotSent("connecting took too long"))??;
        let exchange = exchange(stream, request, self.answer_bytes_max);
        let answer = timeout_at(deadline, Box::pin(exchange)).await;
        answer.map_err(|_| Failure::NotAnswered("no answer in time"))?
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        let may = |address| self.place.is_tls || self.plain.allows(address);
        let dialled = dial::dial(&self.place, &self.tls, may).await;
        dialled.map_err(|failure| match failure {
            dial::Failure::Unresolved | dial::Failure::Connect(_) => {
                Failure::NotSent("no connection")
            }
            dial::Failure::Forbidden => Failure::NotSent(IN_THE_CLEAR),
            dial::Failure::Tls(_) => Failure::NotSent("the TLS handshake failed"),
        })
    }
}

async fn exchange(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
    answer_bytes_max: usize,
) -> Result<Answer, Failure> {
    let broken = Failure::NotAnswered("the connection broke");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Failure::NotSent("no HTTP connection"))?;
    let mut connection = pin!(connection);
    let mut answer = pin!(async {
        let response = sender.send_request(request).await.map_err(|_| broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), answer_bytes_max);
        let body = body.collect().await;
        let body = body.map_err(|_| Failure::NotAnswered("the answer is cut off or too large"))?;
        let body = body.to_bytes();
        Ok(Answer { status, body })
    });
    let mut is_open = true;
    loop {
        tokio::select! {
            biased;
            answer = answer.as_mut() => return answer,
            // What was read before the end may be the answer yet.
            _ = connection.as_mut(), if is_open => is_open = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn addresses_are_safe_to_send_secrets_to() {
        let new = |text: &str, plain| Server::new(text.parse().unwrap(), None, plain, 8);
        for (text, is_safe) in [
            ("http://127.0.0.1:8090", true),
            ("http://[::1]:8090", true),
            ("http://localhost:1", true),
            ("http://gateway:8090", false),
            ("http://10.0.0.7", false),
            ("http://localhost.example", false),
        ] {
            let made = new(text, PlainHttp::Loopback);
            assert_eq!(made.is_ok(), is_safe, "{text}");
            assert_eq!(matches!(made, Err(Unfit::Plain)), !is_safe, "{text}");
            assert!(new(text, PlainHttp::PrivateNetwork).is_ok(), "{text}");
        }
    }

    #[test]
    fn addresses_are_those_of_servers() {
        for (text, shown) in [
            (
                "https://api.tosspayments.com",
                Some("https://api.tosspayments.com"),
            ),
            ("https://host:8443/pay/", Some("https://host:8443/pay")),
            ("http://127.0.0.1:8090", Some("http://127.0.0.1:8090")),
            ("http://[::1]:8090", Some("http://[::1]:8090")),
            ("http://localhost:1", Some("http://localhost:1")),
            ("http://api.example", Some("http://api.example")),
            ("https://u:p@host", None),
            ("https://host?x=y", None),
            ("https://host:99999", None),
            ("ftp://127.0.0.1", None),
            ("host", None),
            ("", None),
        ] {
            let found = text.parse::<Address>().map(|address| address.to_string());
            assert_eq!(found.ok().as_deref(), shown, "{text}");
        }
    }

    fn server(address: &str) -> Server {
        Server::new(address.parse().unwrap(), None, PlainHttp::Loopback, 8).unwrap()
    }

    #[tokio::test]
    async fn public_addresses_are_not_called_in_the_clear() {
        for address in ["http://8.8.8.8:9", "http://[2606:4700::1111]:9"] {
            let plain = PlainHttp::PrivateNetwork;
            let server = Server::new(address.parse().unwrap(), None, plain, 8).unwrap();
            let request = Request::get("/").body(Full::default()).unwrap();
            let failed = server.ask(request, Duration::from_secs(60)).await;
            assert_eq!(failed, Err(Failure::NotSent(IN_THE_CLEAR)), "{address}");
        }
        assert!(PlainHttp::PrivateNetwork.allows("172.18.0.5".parse().unwrap()));
        assert!(!PlainHttp::Loopback.allows("172.18.0.5".parse().unwrap()));
        assert!(PlainHttp::Loopback.allows("127.0.0.1".parse().unwrap()));
    }

    /// A server that answers one connection with these bytes, after it has read something.
    async fn ask_one(answer: &'static [u8]) -> Result<Answer, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = server(&address);
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1024];
            let count = stream.read(&mut asked).await.unwrap();
            assert!(count > 0);
            stream.write_all(answer).await.unwrap();
        };
        let request = Request::get(server.path("/x"))
            .body(Full::default())
            .unwrap();
        let limit = Duration::from_millis(if answer.is_empty() { 50 } else { 10_000 });
        let (answer, ()) = tokio::join!(server.ask(request, limit), serving);
        answer
    }

    #[tokio::test]
    async fn what_may_have_been_received_is_told_apart() {
        let whole = b"HTTP/1.1 503 x\r\ncontent-length: 2\r\n\r\nok";
        let answer = ask_one(whole).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (503, &b"ok"[..]));
        let redirect = b"HTTP/1.1 302 x\r\nlocation: /y\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(ask_one(redirect).await.unwrap().status, 302);
        for cut in [
            &b"HTTP/1.1 200 x\r\ncontent-length: 4\r\n\r\nok"[..],
            b"HTTP/1.1 200 x\r\ncontent-length: 9\r\n\r\nttoolarge",
            b"HTTP/1.1 2",
            b"nonsense\r\n\r\n",
        ] {
            let failed = ask_one(cut).await.unwrap_err();
            assert!(matches!(failed, Failure::NotAnswered(_)), "{failed:?}");
        }
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let server = server(&address);
        let request = Request::get("/").body(Full::default()).unwrap();
        let failed = server.ask(request, Duration::from_secs(10)).await;
        assert_eq!(failed, Err(Failure::NotSent("no connection")));
    }
}
