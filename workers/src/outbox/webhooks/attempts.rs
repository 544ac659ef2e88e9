//! What became of attempts, and when the next one is made. Pure: time and chance are arguments.

use crate::config::Webhooks;
use onsale_platform::outward;
use onsale_schema::Timestamp;
use onsale_schema::facts::{ATTEMPTS_SHOWN, Attempt};
use onsale_schema::status::WebhookState;

/// Why an attempt counts as failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was answered, but not with success.
    #[error("answered with status {0}")]
    Status(u16),
    /// It was not answered.
    #[error(transparent)]
    Call(#[from] outward::Error),
    /// The address or a secret can't be used.
    #[error("{0}")]
    Unusable(&'static str),
}

impl Failure {
    /// The status of the answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) => Some(*status),
            Self::Call(_) | Self::Unusable(_) => None,
        }
    }
}

/// The most characters of why an attempt failed that are remembered: who is called has a say in them.
const TOLD_CHARS_MAX: usize = 300;

/// Why an attempt failed, as it is remembered.
#[must_use]
pub fn told(failure: &Failure) -> String {
    let mut text = failure.to_string();
    if let Some((end, _)) = text.char_indices().nth(TOLD_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// "Gone": the subscriber says that it wants nothing more.
const GONE: u16 = 410;

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it goes on.
    pub state: WebhookState,
    /// Failed attempts of this fact.
    pub attempts: i32,
    /// The first of them.
    pub failing_since: Timestamp,
    /// The pause before the next one, in milliseconds.
    pub pause_ms: i64,
}

/// Judges the failure of an attempt at `now`, after `attempts` that failed since `failing_since`.
/// `chance` is from 0 to 1.
#[must_use]
pub fn judge(
    settings: &Webhooks,
    failure: &Failure,
    attempts: i32,
    failing_since: Option<Timestamp>,
    now: Timestamp,
    chance: f64,
) -> Verdict {
    let attempts = attempts.saturating_add(1);
    let failing_since = failing_since.unwrap_or(now);
    let has_tried_enough = i64::from(attempts) >= i64::from(settings.attempts_max);
    let has_failed_long = now.ms_since(failing_since) >= i64::from(settings.give_up_s) * 1000;
    let is_gone = failure.status() == Some(GONE);
    let state = match has_tried_enough || has_failed_long || is_gone {
        true => WebhookState::Dead,
        false => WebhookState::Active,
    };
    Verdict {
        state,
        attempts,
        failing_since,
        pause_ms: pause_ms(settings, attempts, chance),
    }
}

/// Doubles with each failed attempt up to a bound, less up to a half by chance: so those that failed
/// together don't come again together.
fn pause_ms(settings: &Webhooks, attempts: i32, chance: f64) -> i64 {
    let doublings = u32::try_from(attempts - 1).unwrap_or(0).min(30);
    let longest = i64::from(settings.retry_max_ms);
    let whole = (i64::from(settings.retry_min_ms) << doublings).min(longest);
    let left_out = (whole as f64 / 2.0 * chance.clamp(0.0, 1.0)) as i64;
    whole - left_out
}

/// Adds an attempt to the last ones, as they are stored. What can't be read is forgotten.
#[must_use]
pub fn remembered(recent: &str, attempt: Attempt) -> String {
    let mut all: Vec<Attempt> = serde_json::from_str(recent).unwrap_or_default();
    all.push(attempt);
    let surplus = all.len().saturating_sub(ATTEMPTS_SHOWN);
    all.drain(..surplus);
    serde_json::to_string(&all).unwrap_or_else(|_| "[]".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use clap::Parser;

    fn settings() -> Webhooks {
        let arguments = [
            "test",
            "--database-url=postgres://u@h/d",
            "--webhook-retry-min-ms=1000",
            "--webhook-retry-max-ms=60000",
            "--webhook-attempts-max=20",
            "--webhook-give-up-s=3600",
        ];
        Config::parse_from(arguments).webhooks
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_differ_by_chance() {
        let settings = settings();
        let pauses = |chance| {
            let pause = |attempts| pause_ms(&settings, attempts, chance);
            [1, 2, 3, 6, 7, 100, i32::MAX].map(pause)
        };
        let whole = [1000, 2000, 4000, 32_000, 60_000, 60_000, 60_000];
        assert_eq!(pauses(0.0), whole);
        assert_eq!(pauses(1.0), whole.map(|pause| pause / 2));
        assert_eq!(pauses(0.5)[0], 750);
    }

    #[test]
    fn a_subscriber_dies_by_attempts_by_age_or_by_its_own_word() {
        let settings = settings();
        let at = |s: i64| Timestamp::from_micros(0).plus_ms(s * 1000);
        let status = Failure::Status;
        // (attempts before, failing since, now, status, dead)
        for (attempts, since, now, code, is_dead) in [
            (0, None, 5, 500, false),
            (18, Some(0), 5, 500, false),
            (19, Some(0), 5, 500, true),
            (1, Some(0), 3599, 302, false),
            (1, Some(0), 3600, 404, true),
            (0, None, 5, 410, true),
        ] {
            let since = since.map(at);
            let verdict = judge(&settings, &status(code), attempts, since, at(now), 0.0);
            assert_eq!(verdict.state == WebhookState::Dead, is_dead, "{verdict:?}");
            assert_eq!(verdict.attempts, attempts + 1);
            assert_eq!(verdict.failing_since, since.unwrap_or(at(now)));
        }
        let silent = Failure::Call(outward::Error::Timeout);
        let verdict = judge(&settings, &silent, 0, None, at(0), 0.0);
        assert_eq!(verdict.state, WebhookState::Active);
    }

    #[test]
    fn a_reason_of_any_length_is_cut() {
        let tls = |text: String| told(&Failure::Call(outward::Error::Tls(text)));
        assert_eq!(tls("no name".into()), "TLS: no name");
        let cut = tls("쇼".repeat(5000));
        assert!(cut.starts_with("TLS: 쇼") && cut.ends_with("쇼…"), "{cut}");
        assert_eq!(cut.chars().count(), TOLD_CHARS_MAX + 1);
    }

    #[test]
    fn only_the_last_attempts_are_remembered() {
        let mut recent = "nonsense".to_owned();
        for sequence in 0..50 {
            let attempt = Attempt {
                id: format!("seats-x-{sequence}"),
                sequence,
                at: Timestamp::EPOCH,
                attempt: 1,
                duration_ms: 3,
                status: Some(204),
                error: None,
            };
            recent = remembered(&recent, attempt);
        }
        let all: Vec<Attempt> = serde_json::from_str(&recent).unwrap();
        assert_eq!(all.len(), ATTEMPTS_SHOWN);
        assert_eq!(all.last().unwrap().sequence, 49);
    }
}
