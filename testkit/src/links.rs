//! The links between the processes of a system and their servers, as proxies that can break each
//! of them.

use std::net::SocketAddr;
use std::ops::Range;

use crate::proxy::Proxy;
use crate::server::{Error, io_error};

/// The links of one process to its servers.
#[derive(Debug)]
pub struct Links {
    /// To NATS.
    pub nats: Proxy,
    /// To Postgres.
    pub postgres: Proxy,
}

impl Links {
    pub(crate) async fn start(nats_url: &str, database_url: &str) -> Result<Self, Error> {
        let start = async |url| {
            let upstream = address(url)?;
            let failed = io_error("starting a proxy");
            Proxy::start(upstream).await.map_err(failed)
        };
        Ok(Self {
            nats: start(nats_url).await?,
            postgres: start(database_url).await?,
        })
    }
}

/// Where the host and port of a URL like `scheme://user:password@host:port/path` stand in it.
fn authority(url: &str) -> Range<usize> {
    let scheme = url.find("://").map_or(0, |at| at + 3);
    let end = url[scheme..]
        .find(['/', '?'])
        .map_or(url.len(), |at| scheme + at);
    let begin = url[scheme..end]
        .rfind('@')
        .map_or(scheme, |at| scheme + at + 1);
    begin..end
}

/// The address in a URL like `scheme://user:password@127.0.0.1:port/path`.
///
/// # Errors
/// When its host is a name.
pub fn address(url: &str) -> Result<SocketAddr, Error> {
    let authority = &url[authority(url)];
    let unfit = |error| Error::Start {
        server: "proxy",
        reason: format!("{authority}: {error}"),
        log_tail: String::new(),
    };
    authority.parse().map_err(unfit)
}

/// The same URL by way of a proxy.
#[must_use]
pub fn by_way_of(proxy: &Proxy, url: &str) -> String {
    to(proxy.addr(), url)
}

/// The same URL with another host and port.
#[must_use]
pub fn to(addr: SocketAddr, url: &str) -> String {
    let mut url = url.to_owned();
    url.replace_range(authority(&url), &addr.to_string());
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_of_a_url() {
        for url in [
            "nats://127.0.0.1:42",
            "postgres://a:b%40@127.0.0.1:42/x",
            "postgres://127.0.0.1:42?sslmode=disable",
        ] {
            assert_eq!(&url[authority(url)], "127.0.0.1:42");
        }
    }
}
