//! The metrics of our processes before and after a run: where the time goes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use onsale_platform::metric;
use onsale_schema::Lane;
use serde_json::{Value, json};

/// Sums of all series, by name of the series without its labels. Those of one lane alone, where a
/// metric has lanes.
#[derive(Clone, Debug)]
pub struct Scraped {
    own: String,
    sums: BTreeMap<String, f64>,
}

impl Scraped {
    fn new(lane: Lane) -> Self {
        Self {
            own: format!("lane=\"{lane}\""),
            sums: BTreeMap::new(),
        }
    }

    /// Reads the metrics of processes.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn read(endpoints: &[SocketAddr], lane: Lane) -> anyhow::Result<Self> {
        let mut sums = Self::new(lane);
        for text in texts(endpoints).await? {
            sums.add(&text);
        }
        Ok(sums)
    }

    /// Adds what is written in Prometheus' text format.
    fn add(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            if labels.contains("lane=\"") && !labels.contains(&self.own) {
                continue;
            }
            if let Ok(value) = value.parse::<f64>() {
                *self.sums.entry(name.to_owned()).or_default() += value;
            }
        }
    }

    fn delta(&self, before: &Self, name: &str, suffix: &str) -> f64 {
        let key = format!("{name}{suffix}");
        let of = |scraped: &Self| scraped.sums.get(&key).copied().unwrap_or(0.0);
        of(self) - of(before)
    }

    /// What happened since `before`, over `elapsed`: how large messages and transactions were and
    /// how long they took.
    #[must_use]
    pub fn since(&self, before: &Self, elapsed: Duration) -> Value {
        let count = |name| self.delta(before, name, "_count");
        let sum = |name| self.delta(before, name, "_sum");
        let mean = |name| ratio(sum(name), count(name));
        let busy = |name| ratio(sum(name), elapsed.as_secs_f64());
        json!({
            "messages": count(metric::INGRESS_BATCH),
            "commandsPerMessage": mean(metric::INGRESS_BATCH),
            "pubackMeanMs": mean(metric::INGRESS_PUBACK) * 1e3,
            "messageAgeMeanMs": mean(metric::PARTITION_AGE) * 1e3,
            "commits": count(metric::COMMIT_DURATION),
            "commitMeanMs": mean(metric::COMMIT_DURATION) * 1e3,
            "commandsPerCommit": mean(metric::COMMIT_COMMANDS),
            "partitionsPerCommit": mean(metric::COMMIT_PARTITIONS),
            "committerBusy": busy(metric::COMMIT_DURATION),
            "commitRetries": self.delta(before, metric::COMMIT_RETRIES, ""),
            "deadLetters": self.delta(before, metric::DEAD_LETTERS, ""),
            "httpMeanMs": mean(metric::HTTP_DURATION) * 1e3,
        })
    }
}

/// What each process tells, in Prometheus' text format.
///
/// # Errors
/// When one does not answer.
pub async fn texts(endpoints: &[SocketAddr]) -> anyhow::Result<Vec<String>> {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .no_proxy()
        .build()?;
    let mut texts = Vec::with_capacity(endpoints.len());
    for addr in endpoints {
        let url = format!("http://{addr}/metrics");
        let failed = || format!("reading {url}");
        let answer = client.get(&url).send().await.with_context(failed)?;
        texts.push(answer.text().await.with_context(failed)?);
    }
    Ok(texts)
}

fn ratio(sum: f64, of: f64) -> f64 {
    if of > 0.0 { sum / of } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
# TYPE onsale_commit_duration_seconds histogram
onsale_commit_duration_seconds_bucket{lane=\"seats\",le=\"0.001\"} 1
onsale_commit_duration_seconds_sum{lane=\"seats\"} 1.0
onsale_commit_duration_seconds_count{lane=\"seats\"} 10
onsale_commit_duration_seconds_sum{lane=\"ledger\"} 7.0
";
    const AFTER: &str = "\
onsale_commit_duration_seconds_sum{lane=\"seats\"} 1.5
onsale_commit_duration_seconds_count{lane=\"seats\"} 110
onsale_commit_duration_seconds_sum{lane=\"ledger\"} 9.0
";

    #[test]
    fn means_are_of_what_came_between() {
        let scraped = |text| {
            let mut scraped = Scraped::new(Lane::Seats);
            scraped.add(text);
            scraped
        };
        let since = scraped(AFTER).since(&scraped(BEFORE), Duration::from_secs(1));
        assert_eq!(since["commits"], 100.0);
        assert_eq!(since["commitMeanMs"], 5.0);
        assert_eq!(since["committerBusy"], 0.5);
        assert_eq!(since["httpMeanMs"], 0.0);
    }
}
