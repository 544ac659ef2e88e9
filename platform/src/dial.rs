//! Where an `http://` or `https://` address leads, and a connection there: what both HTTP clients need
//! before they speak. [`crate::http`] asks a server that the operator has named, [`crate::outward`]
//! posts to addresses that somebody else has named; who may be called is for each of them to say.
//!
//! Nothing here logs an address: its path may be a secret.

use crate::tls;
use hyper::Uri;
use hyper::http::uri::Scheme;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// So many addresses of a name are tried.
const ADDRESSES_MAX: usize = 4;

/// Where an address leads.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) is_tls: bool,
    /// Without the brackets of IPv6.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query, with a slash before them.
    pub(crate) path: String,
}

/// Why a text is no address that is called. It is not repeated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not `http://…` or `https://…`, or too long.
    #[error("must be http:// or https:// with a host, in ASCII")]
    Malformed,
    /// It has a user or a password.
    #[error("must have no user and no password")]
    Credentials,
}

impl FromStr for Place {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let uri: Uri = text.parse().map_err(|_| Invalid::Malformed)?;
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(_) | None => return Err(Invalid::Malformed),
        };
        let authority = uri.authority().ok_or(Invalid::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(Invalid::Credentials);
        }
        let host = authority.host();
        // A port that is no number is not seen as one.
        let has_port = authority.as_str().len() > host.len();
        if !text.is_ascii() || host.is_empty() || (has_port && authority.port_u16().is_none()) {
            return Err(Invalid::Malformed);
        }
        let default_port = if is_tls { 443 } else { 80 };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Self {
            is_tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(default_port),
            path: format!("{slash}{path}"),
        })
    }
}

impl Place {
    /// The host as a request names it, with a port if it is not the usual one.
    pub(crate) fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match (self.is_tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// The name that a certificate has to be for; none if the host can't be one.
    pub(crate) fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).ok()
    }
}

/// How a server is verified, or why none can be.
pub(crate) type Tls = Result<TlsConnector, String>;

/// Verifies by the authorities of a PEM file, or by those of the system.
///
/// # Errors
/// When there is no authority to trust.
pub(crate) fn connector(ca: Option<&Path>) -> Result<TlsConnector, tls::Error> {
    Ok(TlsConnector::from(Arc::new(tls::client_config(ca)?)))
}

/// Why there is no connection. Nothing was said over it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The name has no address.
    Unresolved,
    /// None of its addresses may be called.
    Forbidden,
    /// Nobody is there.
    Connect(io::ErrorKind),
    /// Who is there is not who it should be, or does not speak TLS.
    Tls(String),
}

/// A connection, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to a place, at one of the addresses that `may` be called: the connection is made to what
/// was looked at. The caller bounds the time.
pub(crate) async fn dial(
    place: &Place,
    tls: &Tls,
    may: impl Fn(IpAddr) -> bool,
) -> Result<Box<dyn Stream>, Failure> {
    let socket = connect(place, may).await?;
    // A small body must not wait for an acknowledgement.
    let set = socket.set_nodelay(true);
    set.map_err(|error| Failure::Connect(error.kind()))?;
    if !place.is_tls {
        return Ok(Box::new(socket));
    }
    let tls = tls.as_ref().map_err(|why| Failure::Tls(why.clone()))?;
    let name = place.server_name();
    let name = name.ok_or_else(|| Failure::Tls("the host has no name to verify".into()))?;
    match tls.connect(name, socket).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(Failure::Tls(error.to_string())),
    }
}

async fn connect(place: &Place, may: impl Fn(IpAddr) -> bool) -> Result<TcpStream, Failure> {
    let found = tokio::net::lookup_host((place.host.as_str(), place.port)).await;
    let all: Vec<SocketAddr> = found.map_err(|_| Failure::Unresolved)?.collect();
    if all.is_empty() {
        return Err(Failure::Unresolved);
    }
    let allowed = all.into_iter().filter(|address| may(address.ip()));
    let mut failed = Failure::Forbidden;
    for address in allowed.take(ADDRESSES_MAX) {
        match TcpStream::connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = Failure::Connect(error.kind()),
        }
    }
    Err(failed)
}
