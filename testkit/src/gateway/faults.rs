//! What can be made to go wrong: by the amount, for who can only pay, and by switches, for tests.
//! Faults of an amount befall the first request of a payment of each kind, so that a repetition
//! shows whether it is done once; those of a switch befall the next so many, or all.

use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::time::Duration;

/// What the last three digits of an amount do; usual prices end in 000.
pub const AMOUNT_CODES: &[(i64, &str)] = &[
    (1, "the card company declines"),
    (2, "captured, but never answered (the first time)"),
    (3, "never answered, and not captured (the first time)"),
    (4, "500, and not captured (the first time)"),
    (5, "500, but captured (the first time)"),
    (6, "answered, and captured, 3 s late (the first time)"),
    (7, "each webhook comes three times"),
    (8, "each webhook comes 3 s late"),
    (
        9,
        "the webhook of the capture comes after that of the next event, or 5 s late",
    ),
    (10, "no webhook comes"),
    (11, "503 to the first two refunds, and nothing refunded"),
    (12, "refunds are declined"),
    (13, "refunded, but never answered (the first time)"),
    (14, "503, and not captured (the first two times)"),
    (15, "captured, but the connection is cut (the first time)"),
    (
        16,
        "captured, but never answered (the first time); two look-ups fail, too",
    ),
    (17, "refunded, but the connection is cut (the first time)"),
];
/// Payments of which it is remembered what has befallen them; older ones may be befallen again.
const SEEN_MAX: usize = 100_000;
/// How late what is late by its amount is.
const SLOW: Duration = Duration::from_secs(3);

/// How often something befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Times {
    /// The next so many.
    Next(u32),
    /// All of them.
    All(All),
}

/// All, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum All {
    /// All.
    #[serde(rename = "all")]
    All,
}

impl Times {
    /// All of them.
    pub const ALL: Self = Self::All(All::All);

    /// Whether this one is befallen; counts it.
    fn take(&mut self) -> bool {
        match self {
            Self::All(_) => true,
            Self::Next(0) => false,
            Self::Next(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// Switches; those that are not named in a change stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Switches {
    /// Captures declined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decline: Option<Times>,
    /// Captures that are made but never answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_after_capture: Option<Times>,
    /// Captures that are neither made nor answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_before_capture: Option<Times>,
    /// Requests with the secret key, look-ups too, answered with 500; nothing is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Times>,
    /// The same with 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<Times>,
    /// Refunds that are answered with 503; nothing is refunded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund_failure: Option<Times>,
    /// Refunds that are declined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund_decline: Option<Times>,
    /// Refunds that are made but never answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_after_refund: Option<Times>,
    /// Requests whose idempotency key is neither known nor kept, as if it had been forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forget_keys: Option<Times>,
    /// How long a request that changes something waits before it is looked at, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_ms: Option<u32>,
    /// How often each webhook is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_copies: Option<u32>,
    /// How late webhooks are sent, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_webhooks_ms: Option<u32>,
    /// Whether the webhook of a capture waits for another one to be sent before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder_webhooks: Option<bool>,
    /// Webhooks that are never sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lose_webhooks: Option<Times>,
    /// Whether a look-up by order shows the latest attempt to agree to it, whichever was captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub show_latest: Option<bool>,
}

impl Switches {
    fn change(&mut self, to: Self) {
        let Self {
            decline,
            timeout_after_capture,
            timeout_before_capture,
            error,
            unavailable,
            refund_failure,
            refund_decline,
            timeout_after_refund,
            forget_keys,
            slow_ms,
            webhook_copies,
            late_webhooks_ms,
            reorder_webhooks,
            lose_webhooks,
            show_latest,
        } = to;
        self.decline = decline.or(self.decline);
        self.timeout_after_capture = timeout_after_capture.or(self.timeout_after_capture);
        self.timeout_before_capture = timeout_before_capture.or(self.timeout_before_capture);
        self.error = error.or(self.error);
        self.unavailable = unavailable.or(self.unavailable);
        self.refund_failure = refund_failure.or(self.refund_failure);
        self.refund_decline = refund_decline.or(self.refund_decline);
        self.timeout_after_refund = timeout_after_refund.or(self.timeout_after_refund);
        self.forget_keys = forget_keys.or(self.forget_keys);
        self.slow_ms = slow_ms.or(self.slow_ms);
        self.webhook_copies = webhook_copies.or(self.webhook_copies);
        self.late_webhooks_ms = late_webhooks_ms.or(self.late_webhooks_ms);
        self.reorder_webhooks = reorder_webhooks.or(self.reorder_webhooks);
        self.lose_webhooks = lose_webhooks.or(self.lose_webhooks);
        self.show_latest = show_latest.or(self.show_latest);
    }
}

fn take(times: &mut Option<Times>) -> bool {
    times.as_mut().is_some_and(Times::take)
}

/// What befalls one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub slow: Duration,
    /// In place of doing anything.
    pub before: Option<Instead>,
    pub declined: bool,
    pub forgets_key: bool,
    /// In place of the answer.
    pub after: Option<Instead>,
}

/// What comes in place of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    Silence,
    Failure,
    Unavailable,
    /// The connection ends in the middle of an answer.
    Cut,
}

/// What befalls one webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub copies: u32,
    pub delay: Duration,
    pub waits_for_another: bool,
    pub lost: bool,
}

/// The switches, and what has befallen.
#[derive(Debug, Default)]
pub struct Faults {
    switches: Switches,
    seen: HashSet<(String, &'static str, u32)>,
}

impl Faults {
    pub fn switches(&self) -> Switches {
        self.switches.clone()
    }

    pub fn change(&mut self, to: Switches) {
        self.switches.change(to);
    }

    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether this is one of the first so many times for a payment, by its key or its order; counts it.
    fn is_early(&mut self, payment: &str, what: &'static str, times: u32) -> bool {
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        (0..times).any(|nth| self.seen.insert((payment.to_owned(), what, nth)))
    }

    /// What befalls a look-up that has found a payment: first a 500, then the connection is cut.
    pub fn of_found(&mut self, payment_key: &str, amount: i64) -> Option<Instead> {
        if amount % 1000 != 16 {
            return None;
        }
        if self.is_early(payment_key, "look-up", 1) {
            return Some(Instead::Failure);
        }
        self.is_early(payment_key, "another look-up", 1)
            .then_some(Instead::Cut)
    }

    /// What befalls a request to look something up.
    pub fn of_look_up(&mut self) -> Option<Instead> {
        if take(&mut self.switches.error) {
            return Some(Instead::Failure);
        }
        take(&mut self.switches.unavailable).then_some(Instead::Unavailable)
    }

    /// Whether a look-up by order shows its latest payment rather than the captured one.
    pub fn shows_latest(&self) -> bool {
        self.switches.show_latest.unwrap_or(false)
    }

    /// What befalls a confirmation, by its payment's key, or a charge, by its order.
    pub fn of_capture(&mut self, payment: &str, amount: i64) -> Plan {
        let mut plan = self.of_change();
        match amount % 1000 {
            1 => plan.declined = true,
            2 if self.is_early(payment, "capture", 1) => plan.after = Some(Instead::Silence),
            3 if self.is_early(payment, "capture", 1) => plan.before = Some(Instead::Silence),
            4 if self.is_early(payment, "capture", 1) => plan.before = Some(Instead::Failure),
            5 if self.is_early(payment, "capture", 1) => plan.after = Some(Instead::Failure),
            6 if self.is_early(payment, "capture", 1) => plan.slow += SLOW,
            14 if self.is_early(payment, "capture", 2) => {
                plan.before = Some(Instead::Unavailable);
            }
            15 if self.is_early(payment, "capture", 1) => plan.after = Some(Instead::Cut),
            16 if self.is_early(payment, "capture", 1) => plan.after = Some(Instead::Silence),
            _ => {}
        }
        plan.declined |= take(&mut self.switches.decline);
        if take(&mut self.switches.timeout_before_capture) {
            plan.before = Some(Instead::Silence);
        }
        if take(&mut self.switches.timeout_after_capture) {
            plan.after = Some(Instead::Silence);
        }
        plan
    }

    pub fn of_cancel(&mut self, payment_key: &str, amount: i64) -> Plan {
        let mut plan = self.of_change();
        match amount % 1000 {
            11 if self.is_early(payment_key, "cancel", 2) => {
                plan.before = Some(Instead::Unavailable);
            }
            12 => plan.declined = true,
            13 if self.is_early(payment_key, "cancel", 1) => plan.after = Some(Instead::Silence),
            17 if self.is_early(payment_key, "cancel", 1) => plan.after = Some(Instead::Cut),
            _ => {}
        }
        plan.declined |= take(&mut self.switches.refund_decline);
        if take(&mut self.switches.refund_failure) {
            plan.before = Some(Instead::Unavailable);
        }
        if take(&mut self.switches.timeout_after_refund) {
            plan.after = Some(Instead::Silence);
        }
        plan
    }

    fn of_change(&mut self) -> Plan {
        Plan {
            slow: Duration::from_millis(self.switches.slow_ms.unwrap_or(0).into()),
            before: self.of_look_up(),
            forgets_key: take(&mut self.switches.forget_keys),
            ..Plan::default()
        }
    }

    pub fn of_webhook(&mut self, amount: i64, is_capture: bool) -> Delivery {
        let code = amount % 1000;
        let copies = self.switches.webhook_copies.unwrap_or(1).clamp(1, 100);
        let late = Duration::from_millis(self.switches.late_webhooks_ms.unwrap_or(0).into());
        let reorders = code == 9 || self.switches.reorder_webhooks.unwrap_or(false);
        Delivery {
            copies: if code == 7 { copies.max(3) } else { copies },
            delay: if code == 8 { late.max(SLOW) } else { late },
            waits_for_another: reorders && is_capture,
            lost: take(&mut self.switches.lose_webhooks) || code == 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_befalls_the_first_request_of_a_payment() {
        let mut faults = Faults::default();
        assert_eq!(faults.of_capture("a", 12_002).after, Some(Instead::Silence));
        assert_eq!(faults.of_capture("a", 12_002), Plan::default());
        assert_eq!(faults.of_capture("b", 12_002).after, Some(Instead::Silence));
        for _ in 0..2 {
            let plan = faults.of_cancel("a", 12_011);
            assert_eq!(plan.before, Some(Instead::Unavailable));
        }
        assert_eq!(faults.of_cancel("a", 12_011), Plan::default());
        for _ in 0..3 {
            assert!(faults.of_capture("c", 1).declined);
        }
        assert_eq!(faults.of_capture("d", 99_000), Plan::default());
        for befallen in [Some(Instead::Failure), Some(Instead::Cut), None] {
            assert_eq!(faults.of_found("e", 12_016), befallen);
        }
        assert_eq!(faults.of_found("f", 12_000), None);
    }

    #[test]
    fn switches_befall_the_next_or_all() {
        let mut faults = Faults::default();
        let change = r#"{"decline": 2, "timeoutAfterCapture": "all"}"#;
        faults.change(serde_json::from_str(change).unwrap());
        let seen: Vec<_> = (0..3).map(|_| faults.of_capture("a", 1000)).collect();
        let declined: Vec<_> = seen.iter().map(|plan| plan.declined).collect();
        assert_eq!(declined, [true, true, false]);
        assert!(seen.iter().all(|plan| plan.after == Some(Instead::Silence)));
        faults.change(serde_json::from_str(r#"{"timeoutAfterCapture": 0}"#).unwrap());
        assert_eq!(faults.of_capture("a", 1000), Plan::default());
        assert!(serde_json::from_str::<Switches>(r#"{"declines": 1}"#).is_err());
    }
}
