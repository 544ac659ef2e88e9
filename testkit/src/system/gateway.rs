//! The simulated payment gateway as a process of a test.

use super::{Process, free_addr};
use crate::server::Error;
use std::net::SocketAddr;
use std::path::Path;

/// The secret key of the gateways of tests.
pub const GATEWAY_SECRET: &str = "test_sk_00112233445566778899aabbccddeeff";
/// What they sign their notifications with.
pub const WEBHOOK_SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

impl Process {
    /// Starts a gateway that keeps its book in a folder and tells a URL what happens; returns when it
    /// serves.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn gateway(dir: &Path, webhook_url: Option<String>) -> Result<Self, Error> {
        let (addr, metrics_addr) = (free_addr()?, free_addr()?);
        let book = dir.join("gateway").display().to_string();
        let mut settings = vec![
            ("ONSALE_GATEWAY_ADDR", addr.to_string()),
            ("ONSALE_METRICS_ADDR", metrics_addr.to_string()),
            ("ONSALE_GATEWAY_DIR", book),
            ("ONSALE_GATEWAY_SECRET", GATEWAY_SECRET.to_owned()),
            ("ONSALE_GATEWAY_WEBHOOK_SECRETS", WEBHOOK_SECRET.to_owned()),
        ];
        settings.extend(webhook_url.map(|url| ("ONSALE_GATEWAY_WEBHOOK_URL", url)));
        let settings = settings
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        let log = dir.join("onsale-gateway.log");
        let (settings, addr) = (settings.collect(), Some(addr));
        let process =
            Self::launch("onsale", &["gateway"], settings, log, metrics_addr, addr).await?;
        process.ready().await?;
        Ok(process)
    }
}

/// The gateway of a system, which tells one of its ingresses.
pub(super) async fn start(dir: &Path, ingress: Option<SocketAddr>) -> Result<Process, Error> {
    let url = ingress.map(|addr| format!("http://{addr}/api/v1/webhooks/payments"));
    Process::gateway(dir, url).await
}

/// What the processes of a system have to know of it.
pub(super) fn settings_for(gateway: &Process, is_ingress: bool) -> Vec<(String, String)> {
    let addr = gateway.http_addr.expect("a gateway has an address");
    let settings = match is_ingress {
        true => vec![("ONSALE_GATEWAY_WEBHOOK_SECRETS", WEBHOOK_SECRET.to_owned())],
        false => vec![
            ("ONSALE_GATEWAY_URL", format!("http://{addr}")),
            ("ONSALE_GATEWAY_SECRET", GATEWAY_SECRET.to_owned()),
            // The simulated one has a card of everybody.
            ("ONSALE_CARDS", "gateway".to_owned()),
        ],
    };
    let settings = settings.into_iter();
    settings
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
