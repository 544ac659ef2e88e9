//! What is wrong with what is said about concerts and dates: every member that is, so that a client
//! can mend all at once.

use super::cancellation::WantedRules;
use crate::problem::{FieldError, Problem};
use chrono::{Datelike, NaiveDate};
use onsale_schema::Timestamp;
use onsale_schema::seats::{EXTENSIONS_MAX, HOLD_MS, RELEASE_JITTER_MS, SEATS_PER_USER};

/// The longest title, artist or venue, in characters.
const NAME_CHARS_MAX: usize = 200;
/// The longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 10_000;
/// How long a hold may be made to last, in seconds.
const HOLD_S: std::ops::RangeInclusive<i64> = 1..=*HOLD_MS.end() / 1000;
/// How long the seats of a hold may stay off sale after it, in seconds.
const JITTER_S: std::ops::RangeInclusive<i64> = 0..=*RELEASE_JITTER_MS.end() / 1000;
/// Times that may be set: from 1970 to 9999, in microseconds.
const TIMES_US: std::ops::RangeInclusive<i64> = 0..=253_402_300_799_999_999;

/// What is wrong with members of a body.
#[derive(Default)]
pub(crate) struct Wrong(Vec<FieldError>);

impl Wrong {
    pub fn unless(&mut self, is_right: bool, pointer: &'static str, code: &'static str) {
        if !is_right {
            self.0.push(FieldError::at(pointer, code));
        }
    }

    pub fn time(&mut self, time: Option<Timestamp>, pointer: &'static str) {
        let is_right = time.is_none_or(|time| TIMES_US.contains(&time.micros()));
        self.unless(is_right, pointer, "invalid-value");
    }

    /// A window ends after it begins, as far as both are said.
    pub fn window(&mut self, opens: Option<Timestamp>, closes: Option<Timestamp>) {
        let is_right = opens
            .zip(closes)
            .is_none_or(|(opens, closes)| opens < closes);
        self.unless(is_right, "/bookingClosesAt", "not-after-opening");
    }

    pub fn rules(&mut self, hold_s: Option<i64>, seats_per_user: Option<u32>) {
        let is_right = hold_s.is_none_or(|seconds| HOLD_S.contains(&seconds));
        self.unless(is_right, "/holdSeconds", "invalid-value");
        let is_right = seats_per_user.is_none_or(|seats| SEATS_PER_USER.contains(&seats));
        self.unless(is_right, "/seatsPerUser", "invalid-value");
    }

    pub fn terms(&mut self, extensions: Option<u32>, total_s: Option<i64>, jitter_s: Option<i64>) {
        let is_right = extensions.is_none_or(|times| EXTENSIONS_MAX.contains(&times));
        self.unless(is_right, "/holdExtensionsMax", "invalid-value");
        let is_right = total_s.is_none_or(|seconds| HOLD_S.contains(&seconds));
        self.unless(is_right, "/holdTotalSeconds", "invalid-value");
        let is_right = jitter_s.is_none_or(|seconds| JITTER_S.contains(&seconds));
        self.unless(is_right, "/releaseJitterSeconds", "invalid-value");
    }

    pub fn cancellation(&mut self, rules: Option<&WantedRules>) {
        self.0
            .extend(rules.into_iter().flat_map(WantedRules::errors));
    }

    pub fn name(&mut self, text: Option<&str>, pointer: &'static str) {
        let is_right = text.is_none_or(|text| {
            let text = text.trim();
            (1..=NAME_CHARS_MAX).contains(&text.chars().count())
                && !text.chars().any(char::is_control)
        });
        self.unless(is_right, pointer, "invalid-value");
    }

    pub fn description(&mut self, text: Option<&str>) {
        let is_right = text.is_none_or(|text| {
            text.chars().count() <= DESCRIPTION_CHARS_MAX
                && !text
                    .chars()
                    .any(|c| c.is_control() && !matches!(c, '\n' | '\t'))
        });
        self.unless(is_right, "/description", "invalid-value");
    }

    pub fn dates(&mut self, starts: Option<NaiveDate>, ends: Option<NaiveDate>) {
        let is_known =
            |date: Option<NaiveDate>| date.is_none_or(|date| super::YEARS.contains(&date.year()));
        self.unless(is_known(starts), "/startsOn", "invalid-value");
        self.unless(is_known(ends), "/endsOn", "invalid-value");
        let is_right = starts.zip(ends).is_none_or(|(starts, ends)| starts <= ends);
        self.unless(is_right, "/endsOn", "before-start");
    }

    pub fn check(self) -> Result<(), Problem> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Problem::validation(self.0))
        }
    }
}
