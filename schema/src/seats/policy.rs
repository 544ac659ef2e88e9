//! How a date sells, and what its operator may change of that.

use crate::status::SaleState;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// What the operator of a schedule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether it sells at all.
    pub state: SaleState,
    /// First moment of the booking window.
    pub booking_opens_at: Timestamp,
    /// First moment after the booking window.
    pub booking_closes_at: Timestamp,
    /// How long a hold lasts, in milliseconds.
    pub hold_ms: i64,
    /// The most live seats of one user.
    pub seats_per_user: u32,
    /// How often a hold may be extended.
    #[serde(default)]
    pub extensions_max: u32,
    /// How long a hold lasts with all its extensions, in milliseconds.
    #[serde(default)]
    pub hold_total_ms: i64,
    /// Whether seats that are named are refused if that leaves a free seat without a free one
    /// beside it, as long as there are others.
    #[serde(default)]
    pub prevents_orphans: bool,
    /// Seats that were held are on sale again at a random moment within so many milliseconds after
    /// the hold, so that nobody can wait for it.
    #[serde(default)]
    pub release_jitter_ms: i64,
    /// The show is cancelled: it is CLOSED for good.
    #[serde(default, skip_serializing_if = "is_not")]
    pub cancelled: bool,
}

/// Of what is hardly ever so, nothing is written.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_not(flag: &bool) -> bool {
    !flag
}

/// The values of a policy that change; the others stay as they are when it is decided. Values, not
/// steps: a change that comes twice is the same as once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// See [`Policy::state`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SaleState>,
    /// See [`Policy::booking_opens_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booking_opens_at: Option<Timestamp>,
    /// See [`Policy::booking_closes_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booking_closes_at: Option<Timestamp>,
    /// See [`Policy::hold_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<i64>,
    /// See [`Policy::seats_per_user`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seats_per_user: Option<u32>,
    /// See [`Policy::extensions_max`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions_max: Option<u32>,
    /// See [`Policy::hold_total_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_total_ms: Option<i64>,
    /// See [`Policy::prevents_orphans`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prevents_orphans: Option<bool>,
    /// See [`Policy::release_jitter_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_jitter_ms: Option<i64>,
    /// The show is cancelled: the sale closes for good, whatever `state` says, now and later.
    #[serde(default, skip_serializing_if = "is_not")]
    pub cancelled: bool,
}

/// How long a hold may be made to last, in milliseconds.
pub const HOLD_MS: RangeInclusive<i64> = 1..=24 * 3600 * 1000;
/// What the limit of seats per user may be.
pub const SEATS_PER_USER: RangeInclusive<u32> = 1..=100;
/// What the limit of extensions may be.
pub const EXTENSIONS_MAX: RangeInclusive<u32> = 0..=20;
/// How long the seats of a hold may stay off sale after it, in milliseconds.
pub const RELEASE_JITTER_MS: RangeInclusive<i64> = 0..=10 * 60 * 1000;
