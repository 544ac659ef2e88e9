//! How long a word of an owner takes to reach the ingresses, by what they count themselves.

use std::net::SocketAddr;

use onsale_platform::metric;

use super::super::scrape::texts;

/// What the ingresses have counted so far, each for itself.
#[derive(Clone, Debug)]
pub struct Delays(Vec<Buckets>);

/// Counts of one histogram, each of what was not more than its upper end in seconds, in order.
type Buckets = Vec<(f64, f64)>;

/// What came between two readings. Every bucket is told by its upper end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delay {
    /// Words that came, to all ingresses together.
    pub count: f64,
    /// In milliseconds, at the ingress where it took longest.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
}

impl Delays {
    /// Reads the metrics of the ingresses.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn read(ingresses: &[SocketAddr]) -> anyhow::Result<Self> {
        let texts = texts(ingresses).await?;
        Ok(Self(texts.iter().map(|text| buckets(text)).collect()))
    }

    /// What came since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Delay {
        let pairs = self.0.iter().zip(&before.0);
        let came: Vec<Buckets> = pairs.map(|(now, before)| difference(now, before)).collect();
        let slowest = |percent| {
            let all = came.iter().map(|one| percentile_ms(one, percent));
            all.fold(0.0, f64::max)
        };
        Delay {
            count: came.iter().map(total).sum(),
            p50_ms: slowest(50.0),
            p99_ms: slowest(99.0),
        }
    }
}

fn buckets(text: &str) -> Buckets {
    let series = format!("{}_bucket{{", metric::ROOM_DELAY);
    let lines = text.lines().filter_map(|line| line.strip_prefix(&series));
    let mut buckets: Buckets = lines
        .filter_map(|line| {
            let (labels, count) = line.rsplit_once(' ')?;
            let (_, upper) = labels.split_once("le=\"")?;
            let (upper, _) = upper.split_once('"')?;
            Some((upper.parse().ok()?, count.parse().ok()?))
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets
}

/// Before anything was counted there are no buckets.
fn difference(now: &Buckets, before: &Buckets) -> Buckets {
    let former = |upper: f64| {
        let same = before.iter().find(|(other, _)| *other == upper);
        same.map_or(0.0, |(_, count)| *count)
    };
    let pairs = now.iter();
    pairs
        .map(|(upper, count)| (*upper, count - former(*upper)))
        .collect()
}

fn total(buckets: &Buckets) -> f64 {
    buckets.last().map_or(0.0, |(_, count)| *count)
}

/// The upper end of the bucket that `percent` of all did not exceed; 0 when there are none.
fn percentile_ms(buckets: &Buckets, percent: f64) -> f64 {
    let wanted = total(buckets) * percent / 100.0;
    let found = buckets
        .iter()
        .find(|(_, count)| *count > 0.0 && *count >= wanted);
    found.map_or(0.0, |(upper, _)| upper * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
# TYPE onsale_room_delay_seconds histogram
onsale_room_delay_seconds_bucket{le=\"0.001\"} 10
onsale_room_delay_seconds_bucket{le=\"0.005\"} 10
onsale_room_delay_seconds_bucket{le=\"+Inf\"} 10
onsale_room_delay_seconds_count 10
";
    const AFTER: &str = "\
onsale_room_delay_seconds_bucket{le=\"0.001\"} 108
onsale_room_delay_seconds_bucket{le=\"0.005\"} 110
onsale_room_delay_seconds_bucket{le=\"+Inf\"} 110
onsale_room_delay_seconds_count 110
";

    #[test]
    fn the_slowest_ingress_counts() {
        let (idle, busy) = (Delays(vec![buckets(""); 2]), buckets(BEFORE));
        assert_eq!(
            idle.since(&idle),
            Delay {
                count: 0.0,
                p50_ms: 0.0,
                p99_ms: 0.0
            }
        );
        let before = Delays(vec![Vec::new(), busy]);
        let after = Delays(vec![buckets(BEFORE), buckets(AFTER)]);
        let came = after.since(&before);
        assert_eq!((came.count, came.p50_ms, came.p99_ms), (110.0, 1.0, 5.0));
    }
}
