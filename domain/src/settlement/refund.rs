//! How a refund through the gateway goes on: from what its row says and what the gateway has said
//! follows what to do next. Whoever drives it only asks and writes.
//!
//! Three rules carry it. Nothing is asked for before the gateway has said, looked up, that it was not
//! given back. Where more was given back than refunds of ours, by somebody in the gateway's own pages,
//! nothing is asked for before a person has said so: the two may be meant for one thing. And nothing is left to a person, nor counts as paid back by other means,
//! while the gateway may have made it: somebody would pay it twice.

use super::kept::exceeds;
use onsale_schema::status::{RefundCompare, RefundStatus};
use onsale_schema::{Money, RefundId};
use uuid::Uuid;

/// From this age on, in hours, a refund is not asked for any longer than a few times, and the gateway
/// is not believed to know its key: gateways forget keys, some of them after a day.
pub const OLD_HOURS: i32 = 23;
/// So often it is asked for at least, also when somebody has it tried again.
const ATTEMPTS_MIN: i32 = 20;

/// What is known of a refund before anything is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// How far it is.
    pub status: RefundStatus,
    /// What was asked of the gateway before; none where nothing was that could have an effect.
    pub asked: Option<Asked>,
    /// Whether it is older than [`OLD_HOURS`].
    pub is_old: bool,
    /// How often it was taken up, this time included, since somebody last had it tried again.
    pub attempts: i32,
    /// Whether somebody has seen to it: had it tried again, or said to have paid it back.
    pub is_seen_to: bool,
}

/// What was asked of the gateway before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whether none of it can be on its way any more.
    pub is_settled: bool,
    /// Whether the refund was old by then.
    pub was_old: bool,
}

impl State {
    fn is_settled(&self) -> bool {
        self.asked.is_none_or(|asked| asked.is_settled)
    }

    fn is_given_up(&self) -> bool {
        self.is_old && self.attempts >= ATTEMPTS_MIN
    }
}

/// What the gateway has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was not asked.
    Nothing,
    /// The money is back: the gateway has made this refund, by its name.
    Made,
    /// The money is back: somebody has given as much back in the gateway's own pages.
    MadeByHand,
    /// A look-up says that it is not back.
    NotMade,
    /// A look-up says that it is not back, but that something is that is no refund of ours.
    Differs,
    /// A look-up says that as much was given back in the gateway's own pages, which another refund that
    /// is on its way may have to itself: as long as that one may be made, nobody can tell.
    Contested,
    /// The gateway refuses it for good, and a look-up says that it is not back either.
    Refused,
    /// It was asked for, and certainly nothing came of that.
    Unavailable,
    /// The money may be back.
    Unknown,
}

/// What to do with a refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look the payment up: was it made?
    LookUp,
    /// Ask for it.
    Ask,
    /// Go on after a pause.
    Wait,
    /// The money is back, through the gateway.
    Done {
        /// Whether it went back by other means as well: somebody says so, and the gateway has made the
        /// refund that was asked of it. What was given back by hand in the gateway's own pages is taken
        /// for the other means; see [`is_to_compare`].
        is_twice: bool,
    },
    /// The money is back, by other means.
    Resolved,
    /// It can't be had, and was not made: somebody has to see to it.
    Stuck {
        /// Whether the gateway has refused it: it may say so again for as long as it knows the key,
        /// so that the next wish needs another one.
        is_refused: bool,
    },
    /// Nothing.
    Rest,
}

/// What to do next.
#[must_use]
pub fn step(state: &State, learned: Learned) -> Step {
    match state.status {
        RefundStatus::Pending => pending(state, learned),
        RefundStatus::Resolving => match learned {
            Learned::Nothing => Step::LookUp,
            Learned::Made => Step::Done { is_twice: true },
            Learned::MadeByHand => Step::Done { is_twice: false },
            Learned::NotMade | Learned::Differs if state.is_settled() => Step::Resolved,
            Learned::NotMade
            | Learned::Differs
            | Learned::Contested
            | Learned::Refused
            | Learned::Unavailable
            | Learned::Unknown => Step::Wait,
        },
        RefundStatus::Done | RefundStatus::Stuck | RefundStatus::Resolved => Step::Rest,
    }
}

fn pending(state: &State, learned: Learned) -> Step {
    // A person has looked at the payment by now, and wants it asked for all the same.
    let learned = match learned {
        Learned::Differs if state.is_seen_to => Learned::NotMade,
        learned => learned,
    };
    match learned {
        Learned::Nothing => Step::LookUp,
        Learned::Made | Learned::MadeByHand => Step::Done { is_twice: false },
        // What is on its way is made once only if the gateway still knows its key.
        Learned::NotMade if !state.is_settled() && state.is_old => Step::Wait,
        // Its last word was none, and nothing came of it.
        Learned::NotMade
            if state.is_given_up()
                && (state.asked).is_some_and(|asked| asked.is_settled && asked.was_old) =>
        {
            Step::Stuck { is_refused: false }
        }
        Learned::NotMade => Step::Ask,
        Learned::Differs if state.is_settled() => Step::Stuck { is_refused: false },
        // The next wish has another key: what is on its way would not be known again.
        Learned::Refused if state.is_settled() => Step::Stuck { is_refused: true },
        Learned::Unavailable if state.is_given_up() && state.is_settled() => {
            Step::Stuck { is_refused: false }
        }
        Learned::Differs
        | Learned::Contested
        | Learned::Refused
        | Learned::Unavailable
        | Learned::Unknown => Step::Wait,
    }
}

/// Why somebody has to compare what the gateway has given back with what was paid by other means, now
/// that a refund has come to this step; [`is_to_compare`] says the second.
#[must_use]
pub fn compare(step: Step, is_to_compare: bool) -> Option<RefundCompare> {
    match step {
        Step::Done { is_twice: true } => Some(RefundCompare::Twice),
        Step::Done { is_twice: false } | Step::Resolved => {
            is_to_compare.then_some(RefundCompare::ByHand)
        }
        Step::LookUp | Step::Ask | Step::Wait | Step::Stuck { .. } | Step::Rest => None,
    }
}

/// Under which idempotency key it is asked for after so many refusals. The same key as long as it is
/// not known what came of it.
#[must_use]
pub fn key(refund_id: RefundId, refusals: i32) -> Uuid {
    match refusals {
        0 => refund_id.0,
        _ => Uuid::new_v5(&refund_id.0, &refusals.to_be_bytes()),
    }
}

/// A refund of a payment, as our rows have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ours {
    /// Its id.
    pub refund_id: RefundId,
    /// How much.
    pub amount: Money,
    /// How far it is.
    pub status: RefundStatus,
}

/// Money of a payment that the gateway has given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The refund that it names; none where somebody gave it back in the gateway's own pages.
    pub refund_id: Option<RefundId>,
    /// How much.
    pub amount: Money,
}

/// Whether the gateway has made a refund, by all that it has given back of the payment and by all
/// refunds of that: nothing else when it says of itself what can't be.
///
/// What names no refund counts for one of its amount: first for those that are done and that nothing
/// names, and last for those that nobody has seen to; see [`claim`]. That need not be the one that was
/// meant, but what goes back in all is right as long as nothing was paid by other means;
/// [`is_to_compare`] says when somebody has to see to that.
///
/// `all` must be read after the gateway was asked: so that each of our names is known, and what goes on
/// meanwhile makes nothing look like somebody else's.
#[must_use]
pub fn found(refund_id: RefundId, all: &[Ours], given: &[Entry]) -> Learned {
    let Some(own) = all.iter().find(|one| one.refund_id == refund_id) else {
        return Learned::Unknown;
    };
    let mut named = names(given, refund_id);
    match (named.next(), named.next()) {
        (Some(entry), None) if entry.amount == own.amount => return Learned::Made,
        (Some(_), _) => return Learned::Unknown,
        (None, _) => {}
    }
    let (mut before, mut done_before) = (0, 0);
    for one in all.iter().filter(|one| one.amount == own.amount) {
        let comes_first = claim(one).is_some_and(|theirs| Some(theirs) < claim(own));
        if comes_first && names(given, one.refund_id).next().is_none() {
            before += 1;
            done_before += usize::from(one.status == RefundStatus::Done);
        }
    }
    let by_hand = nameless(own.amount, all, given);
    if by_hand > before {
        Learned::MadeByHand
    } else if exceeds(all, given) {
        Learned::Differs
    } else if own.status == RefundStatus::Pending && by_hand > done_before {
        Learned::Contested
    } else {
        Learned::NotMade
    }
}

/// Whether somebody has to compare what was given back in the gateway's own pages with what somebody
/// says to have paid by other means, now that a refund ends: it, or as much of the payment, is said to
/// be paid so, and as much was given back by hand. That may be one and the same, or two refunds, of
/// which the wrong one may be done; nothing but a person can tell.
#[must_use]
pub fn is_to_compare(refund_id: RefundId, all: &[Ours], given: &[Entry]) -> bool {
    let Some(own) = all.iter().find(|one| one.refund_id == refund_id) else {
        return false;
    };
    if own.status == RefundStatus::Resolving {
        return nameless(own.amount, all, given) > 0;
    }
    let is_paid_otherwise = all.iter().any(|one| {
        let is_said = matches!(one.status, RefundStatus::Resolving | RefundStatus::Resolved);
        one.amount == own.amount && is_said
    });
    is_paid_otherwise && found(refund_id, all, given) == Learned::MadeByHand
}

/// Whether nobody but a person can tell that what was given back in the gateway's own pages was meant for
/// this refund: nobody has seen to it, and enough is left of the payment to give as much back once more.
#[must_use]
pub fn is_guess(state: &State, learned: Learned, amount: Money, left: Money) -> bool {
    learned == Learned::MadeByHand && !state.is_seen_to && left >= amount
}

/// Which refund what names none counts for first; none for those that it never counts for.
///
/// Who gives money back by hand tells of that: the refund is tried again, or said to be paid by other
/// means, which the gateway's pages may have been. So what is asked for comes first, since it would be
/// paid twice, and what nobody has told of comes last.
fn claim(one: &Ours) -> Option<(u8, RefundId)> {
    let rank = match one.status {
        RefundStatus::Done => 0,
        RefundStatus::Pending => 1,
        RefundStatus::Resolving => 2,
        RefundStatus::Stuck => 3,
        // The gateway's book has nothing of what was paid by other means.
        RefundStatus::Resolved => return None,
    };
    Some((rank, one.refund_id))
}

pub(super) fn names(given: &[Entry], refund_id: RefundId) -> impl Iterator<Item = &Entry> {
    given
        .iter()
        .filter(move |entry| entry.refund_id == Some(refund_id))
}

/// How many times so much was given back that is no refund of ours by name.
pub(super) fn nameless(amount: Money, all: &[Ours], given: &[Entry]) -> usize {
    given
        .iter()
        .filter(|entry| entry.amount == amount && is_nameless(entry, all))
        .count()
}

/// Whether it is no refund of ours by name.
pub(super) fn is_nameless(entry: &Entry, all: &[Ours]) -> bool {
    !all.iter().any(|one| entry.refund_id == Some(one.refund_id))
}
