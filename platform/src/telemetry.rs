//! Logs and metrics of a process.

use crate::config::{LogFormat, Telemetry};
use crate::metric;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterFn, ParseError, filter_fn};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// The client of Postgres tells the parameters of every statement there, and some are secrets that are
/// stored as they are. The statements themselves are told elsewhere.
const PARAMETERS: &str = "tokio_postgres::query";

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

/// Whether something may be told, whatever the filter says: no directive of any kind, for a target, a
/// span or a field, can ask for what this leaves out.
fn may_be_told(metadata: &Metadata<'_>) -> bool {
    let is_of_parameters = metadata
        .target()
        .strip_prefix(PARAMETERS)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    !is_of_parameters || *metadata.level() <= Level::INFO
}

/// What the filter asks for, less what may not be told.
fn filtered<L>(filter: EnvFilter, lines: L) -> impl Subscriber + Send + Sync
where
    L: Layer<Layered<EnvFilter, Layered<FilterFn, Registry>>> + Send + Sync,
{
    tracing_subscriber::registry()
        .with(filter_fn(may_be_told as fn(&Metadata<'_>) -> bool))
        .with(filter)
        .with(lines)
}

/// Starts logging to standard error and, if asked, the metrics endpoint. Call once, in `main`,
/// inside the runtime.
///
/// # Errors
/// When the filter is malformed or the metrics address is taken.
pub fn init(settings: &Telemetry) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&settings.log)?;
    let lines = fmt::layer().with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => filtered(filter, lines).init(),
        LogFormat::Json => filtered(filter, lines.json()).init(),
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
        metric::begin();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is told while the filter is this.
    fn told(filter: &str) -> String {
        let lines = Lines::default();
        let into = lines.clone();
        let layer = fmt::layer().with_writer(move || into.clone());
        let logs = filtered(EnvFilter::try_new(filter).unwrap(), layer);
        tracing::subscriber::with_default(logs, || {
            let _entered = tracing::info_span!("request", user = 1).entered();
            tracing::debug!(target: "tokio_postgres::query", "executing with s3cret");
            tracing::debug!(target: "tokio_postgres::query::deeper", "executing with s3cret");
            tracing::debug!(target: "tokio_postgres::prepare", "preparing");
            tracing::info!(target: "tokio_postgres::query", "a notice");
        });
        let told = lines.0.lock().unwrap().clone();
        String::from_utf8(told).unwrap()
    }

    #[test]
    fn no_directive_has_parameters_told() {
        for filter in [
            "trace",
            "tokio_postgres=trace",
            "tokio_postgres::query=trace,tokio_postgres::prepare=debug",
            "tokio_postgres::query::deeper=trace,tokio_postgres=debug",
            "[request]=trace",
            "[{user=1}]=trace",
            "[request{user=1}]=debug",
            "info,tokio_postgres[request]=trace,tokio_postgres::prepare=debug",
            "info,tokio_postgres::query[request]=trace,tokio_postgres::prepare=debug",
        ] {
            let told = told(filter);
            assert!(!told.contains("s3cret"), "{filter}: {told}");
            // It does ask for what is as low.
            assert!(told.contains("preparing"), "{filter}: {told}");
        }
        assert!(told("info").contains("a notice"));
    }
}
