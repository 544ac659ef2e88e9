//! HTTP to addresses that somebody else has named: POSTs a body, reads a status.
//!
//! Such an address must not reach what only we can reach (the metadata service of a cloud, a database
//! on a private network), so the name is resolved here, private addresses are left out unless a
//! setting allows them, and the connection is made to what was looked at: a name that resolves to
//! another address a moment later gains nothing. Redirects are not followed, a proxy of the
//! environment is not used, and no more of an answer is read than a bound. https is verified.
//!
//! Nothing here logs an address: its path may be a secret.

use crate::dial::{self, Place, Stream, Tls};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, Version, header};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;
use tokio::task::JoinSet;

pub use crate::dial::Invalid;
pub use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// The longest address, in bytes.
pub const URL_BYTES_MAX: usize = 2000;
/// How long a connection may take to be made, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// So much of an answer is read, in bytes; a connection whose answer is longer is closed.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Where to, as somebody wrote it. It is shown without its path and query.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(Place);

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.host, self.0.port)
    }
}

impl FromStr for Target {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() > URL_BYTES_MAX {
            return Err(Invalid::Malformed);
        }
        text.parse().map(Self)
    }
}

impl Target {
    /// Whether it says by itself that it is no public address: neither one nor a name that the public
    /// internet could know. A name may resolve to a private one all the same; that is looked at when it
    /// is called.
    #[must_use]
    pub fn is_private(&self) -> bool {
        let host = &self.0.host;
        match host.parse() {
            Ok(address) => !is_public(address),
            Err(_) => !is_public_name(host),
        }
    }
}

/// Names that end so are no names of the public internet.
const PRIVATE_ENDINGS: [&str; 8] = [
    "localhost",
    "local",
    "localdomain",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
];

/// Whether the public internet could know a name: it has a dot, and its end is that of a domain, which
/// no way to write an address is.
fn is_public_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(fits)
    };
    let Some((_, end)) = name.rsplit_once('.') else {
        return false;
    };
    let begins = end.starts_with(|first: char| first.is_ascii_alphabetic());
    begins && !PRIVATE_ENDINGS.contains(&end) && name.split('.').all(is_label)
}

/// Whether an address is one of the public internet: not of this host, of a private network, of a
/// link, of many at once, reserved, or a way to write one of these.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        // Shared by carriers; assignments of protocols; benchmarks.
        || (a == 100 && (64..128).contains(&b))
        || (a, b, c) == (192, 0, 0)
        // A way to IPv6, given up.
        || (a, b, c) == (192, 88, 99)
        || (a == 198 && (b == 18 || b == 19));
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let [.., high, low] = parts;
    let last_v4 = Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match parts {
        // ::ffff:a.b.c.d and 64:ff9b::a.b.c.d are IPv4.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => is_public_v4(last_v4),
        [0x2002, high, low, ..] => {
            is_public_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
        }
        // Teredo and its neighbours, documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] => false,
        // Only these are given out; ::, ::1, fc00::/7, fe80::/10 and ff00::/8 are not among them.
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

/// Why nothing is known to have been received. It says nothing of the address but its kind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All of the name's addresses are private.
    #[error("the address is private")]
    Private,
    /// The name has no address.
    #[error("the name can't be resolved")]
    Unresolved,
    /// Nobody is there.
    #[error("can't connect: {0}")]
    Connect(String),
    /// Who is there is not who it should be, or does not speak TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// It speaks no HTTP, or went in the middle of it.
    #[error("HTTP: {0}")]
    Http(String),
    /// It took too long.
    #[error("no answer in time")]
    Timeout,
}

impl From<dial::Failure> for Error {
    fn from(failure: dial::Failure) -> Self {
        match failure {
            dial::Failure::Unresolved => Self::Unresolved,
            dial::Failure::Forbidden => Self::Private,
            dial::Failure::Connect(kind) => Self::Connect(kind.to_string()),
            dial::Failure::Tls(why) => Self::Tls(why),
        }
    }
}

/// Who is called, and how.
#[derive(Clone)]
pub struct Caller {
    tls: Tls,
    allows_private: bool,
}

impl Caller {
    /// Verifies by the authorities of a PEM file, or by those of the system; `allows_private` is for
    /// development and for subscribers on one's own network.
    #[must_use]
    pub fn new(ca: Option<&Path>, allows_private: bool) -> Self {
        Self {
            // Without authorities only https fails, with the reason.
            tls: dial::connector(ca).map_err(|error| error.to_string()),
            allows_private,
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// When nobody is there, or nobody who may be called.
    pub async fn connect(&self, target: &Target) -> Result<Connection, Error> {
        let connect = async {
            let may = |address| self.allows_private || is_public(address);
            let stream = dial::dial(&target.0, &self.tls, may).await?;
            Connection::over(target, stream).await
        };
        tokio::time::timeout(CONNECT_TIMEOUT, Box::pin(connect))
            .await
            .unwrap_or(Err(Error::Timeout))
    }
}

/// A connection to one target.
pub struct Connection {
    target: Target,
    sender: SendRequest<Full<Bytes>>,
    /// Moves the bytes; the connection lives as long as this.
    _driver: JoinSet<()>,
}

impl Connection {
    async fn over(target: &Target, stream: Box<dyn Stream>) -> Result<Self, Error> {
        let made = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| Error::Http(error.to_string()))?;
        let driver = JoinSet::from_iter([async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection outward has ended");
            }
        }]);
        Ok(Self {
            target: target.clone(),
            sender,
            _driver: driver,
        })
    }

    /// Whether it can be used for this target.
    #[must_use]
    pub fn is_open_to(&self, target: &Target) -> bool {
        self.target == *target && !self.sender.is_closed()
    }

    /// Posts a body and waits for the status; the caller bounds the time. A connection that was cut
    /// off in the middle must be dropped.
    ///
    /// # Errors
    /// When no answer came: it may have been received all the same.
    pub async fn post(&mut self, headers: HeaderMap, body: Bytes) -> Result<StatusCode, Error> {
        let http = |error: hyper::Error| Error::Http(error.to_string());
        self.sender.ready().await.map_err(http)?;
        let mut request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_11)
            .uri(&self.target.0.path)
            .header(header::HOST, self.target.0.authority())
            .body(Full::new(body))
            .map_err(|error| Error::Http(error.to_string()))?;
        request.headers_mut().extend(headers);
        let answer = self.sender.send_request(request).await.map_err(http)?;
        let status = answer.status();
        // Read to its end, so that the connection can be used again; what is too long is left.
        if let Err(error) = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
        {
            tracing::debug!(%error, "the rest of an answer is not read");
        }
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_with_a_host_and_no_credentials() {
        for fine in [
            "http://example.com",
            "https://example.com:8443/a/b?c=d",
            "http://[2606:4700::1111]:80/x",
            "HTTPS://EXAMPLE.com/",
            "http://example.com?x=1",
        ] {
            assert!(fine.parse::<Target>().is_ok(), "{fine}");
        }
        for (wrong, why) in [
            ("", Invalid::Malformed),
            ("example.com", Invalid::Malformed),
            ("/path", Invalid::Malformed),
            ("ftp://example.com", Invalid::Malformed),
            ("file:///etc/passwd", Invalid::Malformed),
            ("http://", Invalid::Malformed),
            ("http://example.com:port/", Invalid::Malformed),
            ("http://example.com:99999/", Invalid::Malformed),
            ("http://ex ample.com/", Invalid::Malformed),
            ("http://쇼.example/", Invalid::Malformed),
            ("http://user:secret@example.com/", Invalid::Credentials),
            ("https://user@example.com/", Invalid::Credentials),
        ] {
            assert_eq!(wrong.parse::<Target>(), Err(why), "{wrong}");
        }
        let long = format!("http://example.com/{}", "x".repeat(URL_BYTES_MAX));
        assert_eq!(long.parse::<Target>(), Err(Invalid::Malformed));
        let secret: Target = "https://example.com/hooks/s3cret?token=x".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "example.com:443");
        let query: Target = "http://example.com?x=1".parse().unwrap();
        assert_eq!(query.0.path, "/?x=1");
    }

    #[test]
    fn what_only_we_can_reach_is_private() {
        for private in [
            "127.0.0.1",
            "127.8.8.8",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "192.0.0.8",
            "192.88.99.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:0:1::1",
            "2001:db8::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        let is_private = |url: &str| url.parse::<Target>().unwrap().is_private();
        for url in [
            "http://localhost/",
            "http://LOCALHOST.:80/",
            "http://a.localhost/",
            "http://127.0.0.1:9/",
            "http://[::1]/",
            "http://postgres/",
            "http://postgres.:5432/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.1/",
            "http://127.1/",
            "http://0177.0.0.1/",
            "http://metadata.google.internal/",
            "http://printer.LOCAL/",
            "http://box.lan/",
            "http://a..example.com/",
        ] {
            assert!(is_private(url), "{url}");
        }
        for url in [
            "http://example.com/",
            "http://EXAMPLE.com.:8080/",
            "http://a.b-c.xn--3e0b707e/",
            "http://_hook.example.org/",
            "http://1.1.1.1/",
        ] {
            assert!(!is_private(url), "{url}");
        }
    }

    #[tokio::test]
    async fn a_private_address_is_not_called_however_it_is_written() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let caller = Caller::new(None, false);
        // Numbers are addresses to a resolver, in every form.
        for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1"] {
            let target: Target = format!("http://{host}:{port}/").parse().unwrap();
            let refused = caller.connect(&target).await.err();
            assert!(
                matches!(refused, Some(Error::Private | Error::Unresolved)),
                "{host}: {refused:?}"
            );
        }
        let target: Target = format!("http://127.0.0.1:{port}/").parse().unwrap();
        assert!(Caller::new(None, true).connect(&target).await.is_ok());
    }
}
