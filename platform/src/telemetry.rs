//! Logs and metrics of a process.

use crate::config::{LogFormat, Telemetry};
use crate::metric;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Whatever the filter says: the client of Postgres tells the parameters of every statement there,
/// and some are secrets that are stored as they are. The statements themselves are told elsewhere.
const WITHOUT_PARAMETERS: &str = "tokio_postgres::query=info";

/// Why telemetry can't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter is malformed.
    #[error("the log filter is malformed")]
    Filter(#[from] ParseError),
    /// The metrics endpoint can't listen.
    #[error("the metrics endpoint can't start")]
    Metrics(#[from] BuildError),
}

/// Starts logging to standard error and, if asked, the metrics endpoint. Call once, in `main`,
/// inside the runtime.
///
/// # Errors
/// When the filter is malformed or the metrics address is taken.
pub fn init(settings: &Telemetry) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&settings.log)?.add_directive(WITHOUT_PARAMETERS.parse()?);
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    if let Some(addr) = settings.metrics_addr {
        let mut builder = PrometheusBuilder::new()
            .with_http_listener(addr)
            .set_buckets(metric::LATENCY_BUCKETS)?;
        for (names, buckets) in [
            (metric::SIZES, metric::SIZE_BUCKETS),
            (metric::SLOW, metric::SLOW_BUCKETS),
        ] {
            for name in names {
                let matcher = Matcher::Full((*name).to_owned());
                builder = builder.set_buckets_for_metric(matcher, buckets)?;
            }
        }
        builder.install()?;
        metric::describe();
    }
    Ok(())
}
