//! Why a gateway did not do what it was asked, in the kinds that need different answers.

use onsale_platform::metric;

/// Why not. No variant carries what the gateway wrote for people: only its code, which is checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Refused for good: nothing moved, and nothing will if the same is asked again.
    #[error("the gateway declined ({code})")]
    Declined {
        /// The gateway's code, at most 64 of `A-Z`, `0-9` and `_`.
        code: String,
    },
    /// The gateway knows no such payment: nothing moved.
    #[error("the gateway knows no such payment")]
    NotFound,
    /// The request may have been received, and there is no answer that can be believed. It may have
    /// been done or still be done: it must be looked up, or repeated with the same idempotency key.
    #[error("the gateway's answer is not known ({reason})")]
    Unknown {
        /// What happened, for the log.
        reason: &'static str,
    },
    /// Certainly not done: nothing was sent, or the gateway said so. May be asked later.
    #[error("the gateway is not available ({reason})")]
    Unavailable {
        /// What happened, for the log.
        reason: &'static str,
    },
    /// Not done, as we asked wrongly or without the right key: somebody has to mend it. May be asked
    /// again when it is mended.
    #[error("the gateway does not take what we ask ({status} {code})")]
    Rejected {
        /// The status of the answer.
        status: u16,
        /// The gateway's code, as of [`Error::Declined`].
        code: String,
    },
}

impl Error {
    /// Whether it is certain that nothing moved by this request.
    #[must_use]
    pub fn nothing_moved(&self) -> bool {
        match self {
            Self::Declined { .. }
            | Self::NotFound
            | Self::Unavailable { .. }
            | Self::Rejected { .. } => true,
            Self::Unknown { .. } => false,
        }
    }

    /// Whether the same may be asked again, with the same key, in the hope for another answer.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unknown { .. } | Self::Unavailable { .. } => true,
            Self::Declined { .. } | Self::NotFound | Self::Rejected { .. } => false,
        }
    }

    /// Whether it is our key that is refused: nothing at all can be asked until somebody mends it.
    #[must_use]
    pub fn is_of_key(&self) -> bool {
        matches!(
            self,
            Self::Rejected {
                status: 401 | 403,
                ..
            }
        )
    }

    /// A word for metrics and stored reasons.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Declined { .. } => "declined",
            Self::NotFound => "not-found",
            Self::Unknown { .. } => "unknown",
            Self::Unavailable { .. } => "unavailable",
            Self::Rejected { .. } if self.is_of_key() => metric::KEY_REFUSED,
            Self::Rejected { .. } => metric::REJECTED,
        }
    }
}
