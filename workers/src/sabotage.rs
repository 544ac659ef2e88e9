//! Bugs that can be switched on, so that the simulation proves that it would catch them.
//!
//! Without the feature `sabotage`, which only tests turn on, every switch is constant and compiles
//! to nothing. A build for production with the feature is refused.

#[cfg(all(feature = "sabotage", not(debug_assertions)))]
compile_error!("the feature `sabotage` is for tests; it is never part of a release build");

use onsale_schema::CommandId;
use onsale_schema::message::Command;
use onsale_schema::seats::{Kind, Outcome};

/// A bug, each of a kind that such a system could really have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A commit doesn't look whether its owner was deposed (in the simulated store: the fence is a
    /// condition of a statement).
    NoFence,
    /// A retry is a new command.
    NoDedupe,
    /// The cursor moves before the transaction commits (in the simulated store).
    CursorOutsideTransaction,
    /// Answers go out before the commit.
    ReplyBeforeCommit,
    /// A stream that lost applied messages goes on being read by its sequence.
    TailLossIgnored,
    /// A notice counts as done when its stream has it (in the simulated outbox, since the real one
    /// has no statement that could do it).
    NoticeDoneAtAck,
    /// A hold's deadline is compared with its message's time: lag makes ghost holds.
    DeadlineByMessageTime,
    /// A refusal that time can change is remembered for its retries.
    RefusalRemembered,
    /// What was decided by a layout that was replaced meanwhile is stored all the same (in the
    /// simulated store).
    NoLayoutFence,
    /// A command without an outcome counts as expired when the stream's time is past its deadline
    /// (in the simulated ingress).
    ExpiredByStreamTime,
    /// An owner's clock is its host's, corrected by what was last measured (in the simulated
    /// process).
    ClockOfTheHost,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NoFence,
        Self::NoDedupe,
        Self::CursorOutsideTransaction,
        Self::ReplyBeforeCommit,
        Self::TailLossIgnored,
        Self::NoticeDoneAtAck,
        Self::DeadlineByMessageTime,
        Self::RefusalRemembered,
        Self::NoLayoutFence,
        Self::ExpiredByStreamTime,
        Self::ClockOfTheHost,
    ];
}

#[cfg(not(feature = "sabotage"))]
mod switch {
    //! Everything is off.

    use super::{Bug, Command, CommandId, Kind, Outcome};

    /// Whether this bug is switched on: never.
    #[inline]
    #[must_use]
    pub const fn is(_: Bug) -> bool {
        false
    }

    /// The refusal that the command got before: not remembered.
    #[inline]
    #[must_use]
    pub const fn remembered(_: CommandId) -> Option<Outcome> {
        None
    }

    /// Remembers nothing.
    #[inline]
    pub const fn remember(_: &Command<Kind>, _: &Outcome) {}

    /// The command.
    #[inline]
    #[must_use]
    pub fn unknown(command: &Command<Kind>) -> Command<Kind> {
        command.clone()
    }
}

#[cfg(feature = "sabotage")]
mod switch {
    //! What runs on one thread has the bug that was set for it.

    use super::{Bug, Command, CommandId, Kind, Outcome};
    use std::cell::{Cell, RefCell};
    use std::collections::HashMap;

    thread_local! {
        static ACTIVE: Cell<Option<Bug>> = const { Cell::new(None) };
        static REFUSALS: RefCell<HashMap<CommandId, Outcome>> = RefCell::default();
    }

    /// Switches one bug on, or all off.
    pub fn set(bug: Option<Bug>) {
        ACTIVE.set(bug);
        REFUSALS.with_borrow_mut(HashMap::clear);
    }

    /// Whether this bug is switched on.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        ACTIVE.get() == Some(bug)
    }

    /// The refusal that the command got before.
    #[must_use]
    pub fn remembered(command: CommandId) -> Option<Outcome> {
        REFUSALS.with_borrow(|refusals| refusals.get(&command).cloned())
    }

    /// Remembers the refusal of a hold.
    pub fn remember(command: &Command<Kind>, outcome: &Outcome) {
        if is(Bug::RefusalRemembered)
            && let (Kind::Hold { .. } | Kind::HoldBest { .. }, Outcome::Refused(_)) =
                (&command.kind, outcome)
        {
            let refusal = outcome.clone();
            REFUSALS.with_borrow_mut(|refusals| refusals.insert(command.id, refusal));
        }
    }

    /// The command, as if its key had never been used.
    #[must_use]
    pub fn unknown(command: &Command<Kind>) -> Command<Kind> {
        let mut command = command.clone();
        if let Kind::Hold { reservation_id, .. } | Kind::HoldBest { reservation_id, .. } =
            command.kind
        {
            command.id = CommandId(reservation_id.0);
        }
        command
    }
}

pub use switch::*;
