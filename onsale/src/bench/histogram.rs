//! Latencies, counted in buckets whose width is at most 1/64 of their value: exact enough to compare
//! designs, and recording one costs a few nanoseconds, whatever the number of requests.

use std::time::Duration;

/// Buckets per power of two, as a power of two.
const PRECISION_BITS: u32 = 6;
const PER_OCTAVE: usize = 1 << PRECISION_BITS;
/// Longest latency that is told apart: 2^40 ns, some 18 minutes.
const LONGEST_BITS: u32 = 40;
const BUCKETS: usize = (LONGEST_BITS - PRECISION_BITS + 2) as usize * PER_OCTAVE;

/// Counts of latencies, by bucket.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
            longest_ns: 0,
        }
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.longest_ns = self.longest_ns.max(ns);
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.longest_ns = self.longest_ns.max(other.longest_ns);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The latency, in milliseconds, that `percent` of all did not exceed (the upper end of its
    /// bucket); 0 when there are none.
    #[must_use]
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        let wanted = (self.total as f64 * percent / 100.0).ceil().max(1.0);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen as f64 >= wanted {
                return upper_ns(index).min(self.longest_ns) as f64 / 1e6;
            }
        }
        0.0
    }
}

/// Values below 64 have a bucket each; above, the leading seven bits choose it.
fn bucket(ns: u64) -> usize {
    let ns = ns.min((1 << LONGEST_BITS) - 1);
    if ns < PER_OCTAVE as u64 {
        return ns as usize;
    }
    let shift = ns.ilog2() - PRECISION_BITS;
    (shift as usize) * PER_OCTAVE + (ns >> shift) as usize
}

/// The largest value that falls into a bucket.
fn upper_ns(index: usize) -> u64 {
    let octave = index / PER_OCTAVE;
    if octave <= 1 {
        return index as u64;
    }
    let shift = octave - 1;
    let leading = (index - shift * PER_OCTAVE) as u64;
    ((leading + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_everything_without_gaps() {
        for ns in (0..5000).chain([1 << 20, (1 << 33) + 12345, (1 << 40) - 1]) {
            let index = bucket(ns);
            assert!(ns <= upper_ns(index), "{ns}");
            assert!(index == 0 || ns > upper_ns(index - 1), "{ns}");
            let width = upper_ns(index) - upper_ns(index.saturating_sub(1));
            assert!(width <= 1 + ns / PER_OCTAVE as u64, "{ns}: {width}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn percentiles_are_the_values_within_a_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile_ms(50.0), 0.0);
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        for (percent, ms) in [(50.0, 500.0), (95.0, 950.0), (99.0, 990.0), (100.0, 1000.0)] {
            let told = histogram.percentile_ms(percent);
            assert!((told - ms).abs() <= ms / 60.0, "{percent}: {told}");
        }
        assert_eq!(histogram.count(), 1000);
    }
}
