//! Times on the command line: commands that look back all take them in the same form.

use chrono::{DateTime, Utc};
use onsale_platform::clock;
use onsale_schema::Timestamp;

/// A time, as `2027-05-01T10:00:00Z`, or how long ago, as `90s`, `10m`, `2h` or `3d`.
///
/// # Errors
/// When it is neither, with what it should be.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(DateTime::<Utc>::from(at).into());
    }
    let wrong =
        || "a time as 2027-05-01T10:00:00Z, or how long ago, as 90s, 10m, 2h or 3d".to_owned();
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let found = units
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)));
    let (count, seconds) = found.ok_or_else(wrong)?;
    let is_number = count.bytes().all(|byte| byte.is_ascii_digit());
    let count: u32 = count.parse().ok().filter(|_| is_number).ok_or_else(wrong)?;
    Ok(clock::host_now().plus_ms(-i64::from(count) * seconds * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_or_some_time_ago() {
        let at = parse("2027-05-01T10:00:00.5+09:00").unwrap();
        assert_eq!(at.to_string(), "2027-05-01T01:00:00.500Z");
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259_200)] {
            let at = parse(text).unwrap();
            let ago_ms = clock::host_now().ms_since(at);
            let expected_ms = seconds * 1000;
            assert!(
                (expected_ms..expected_ms + 5000).contains(&ago_ms),
                "{text}"
            );
        }
        for wrong in ["", "10", "m", "-5m", "10 m", "1w", "yesterday", "분"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
