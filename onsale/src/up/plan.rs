//! What `onsale up` is going to start, and whether this machine can: decided before anything runs,
//! so that all that is in the way is said at once.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::statvfs::statvfs;
use onsale_testkit::ports;
use tokio::time::Instant;

use super::Args;

const API_PORT: u16 = 8080;
const GATEWAY_PORT: u16 = 8090;
const METRICS_PORT: u16 = 9601;
const NATS_PORT: u16 = 4222;
/// Not Postgres' own 5432, which a Postgres of the machine is likely to have.
const POSTGRES_PORT: u16 = 5433;
/// WAL, streams and logs of a while.
const DISK_MIN_MB: u64 = 1024;
/// How long ports may stay taken by what a killed run has left.
const PORTS_LIMIT: Duration = Duration::from_secs(3);

/// The ports of one system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of Postgres; `None` when another server is used, or any free one.
    pub postgres: Option<u16>,
    /// Of nats-server; `None` when another server is used, or any free one.
    pub nats: Option<u16>,
    /// Of the simulated payment gateway; `None` when there is none.
    pub gateway: Option<u16>,
    /// Of the ingresses.
    pub api: Vec<u16>,
    /// Of the metrics of the ingresses, then of the workers.
    pub metrics: Vec<u16>,
}

impl Plan {
    /// Chooses the ports.
    ///
    /// # Errors
    /// When a default one is taken, naming all that are.
    pub async fn make(args: &Args) -> anyhow::Result<Self> {
        let (ingresses, workers) = (usize::from(args.ingresses), usize::from(args.workers));
        if args.random_ports {
            let free = std::iter::repeat_with(ports::free).take(2 * ingresses + workers + 1);
            let mut free: Vec<u16> = free
                .collect::<io::Result<_>>()
                .context("looking for free ports")?;
            let gateway = free.pop().filter(|_| !args.no_gateway);
            let metrics = free.split_off(ingresses);
            return Ok(Self {
                postgres: None,
                nats: None,
                gateway,
                api: free,
                metrics,
            });
        }
        let mut plan = Self::default_ports(ingresses, workers);
        if args.database_url.is_some() {
            plan.postgres = None;
        }
        if args.no_gateway {
            plan.gateway = None;
        }
        if args.nats_url.is_some() {
            plan.nats = None;
        }
        let deadline = Instant::now() + PORTS_LIMIT;
        loop {
            let taken = plan.taken();
            if taken.is_empty() {
                return Ok(plan);
            }
            if Instant::now() >= deadline {
                bail!("{}", complaint(&taken));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn default_ports(ingresses: usize, workers: usize) -> Self {
        Self {
            postgres: Some(POSTGRES_PORT),
            nats: Some(NATS_PORT),
            gateway: Some(GATEWAY_PORT),
            api: (API_PORT..).take(ingresses).collect(),
            metrics: (METRICS_PORT..).take(ingresses + workers).collect(),
        }
    }

    fn taken(&self) -> Vec<(&'static str, u16)> {
        let all = [
            ("the API", self.api.as_slice()),
            ("metrics", self.metrics.as_slice()),
            ("the payment gateway", self.gateway.as_slice()),
            ("NATS", self.nats.as_slice()),
            ("Postgres", self.postgres.as_slice()),
        ];
        let each = all
            .into_iter()
            .flat_map(|(what, ports)| ports.iter().map(move |port| (what, *port)));
        each.filter(|(_, port)| !ports::is_free(*port)).collect()
    }
}

/// Those of the default ports that are taken, each with what it would be for.
#[must_use]
pub fn default_ports_taken() -> Vec<(&'static str, u16)> {
    Plan::default_ports(1, 1).taken()
}

fn complaint(taken: &[(&str, u16)]) -> String {
    let list = taken
        .iter()
        .map(|(what, port)| format!("port {port} (for {what}) is taken; "));
    let filter: Vec<String> = taken
        .iter()
        .map(|(_, port)| format!("sport = :{port}"))
        .collect();
    format!(
        "{}stop what uses it (`ss -ltnp '{}'` shows it), or add --random-ports (make up \
         ARGS=--random-ports)",
        list.collect::<String>(),
        filter.join(" or ")
    )
}

/// Megabytes that are free where a directory lies.
///
/// # Errors
/// When the file system does not say.
pub fn free_disk_mb(dir: &Path) -> anyhow::Result<u64> {
    let stat =
        statvfs(dir).with_context(|| format!("asking for the free space at {}", dir.display()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()) / (1024 * 1024))
}

/// Refuses to start where data would soon have no room.
///
/// # Errors
/// When there is too little space.
pub fn check_disk(dir: &Path) -> anyhow::Result<u64> {
    let free_mb = free_disk_mb(dir)?;
    if free_mb < DISK_MIN_MB {
        bail!(
            "only {free_mb} MB are free at {}, {DISK_MIN_MB} MB are needed; free some, or use --data-dir",
            dir.display()
        );
    }
    Ok(free_mb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_taken_port_is_named_with_the_way_out() {
        let text = complaint(&[("the API", 8080), ("NATS", 4222)]);
        for part in [
            "8080 (for the API)",
            "4222 (for NATS)",
            "--random-ports",
            "sport = :8080 or sport = :4222",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
