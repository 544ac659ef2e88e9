//! The signed token of a 202: all that is needed to look up a command's outcome later, at any
//! ingress, without other state.

use crate::config::{Secret, Secrets};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use onsale_schema::{Lane, MessageId, PartitionNo, ScheduleId, Timestamp, UserId};
use sha2::Sha256;
use uuid::Uuid;

/// What the signing key is for, so that it signs nothing else.
const PURPOSE: &[u8] = b"onsale command token";
const VERSION: u8 = 2;
const HEAD_BYTES: usize = 14;
const BODY_BYTES: usize = HEAD_BYTES + 3 * 16;
const MAC_BYTES: usize = 16;

/// What was asked, as far as its answer needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Seats of a schedule, whose layout names them.
    Hold(ScheduleId),
    /// To give a hold back.
    Release,
    /// Points.
    Charge,
    /// To pay.
    Payment,
    /// Other rules for a schedule.
    Policy(ScheduleId),
    /// What the system asks of itself.
    Notice,
    /// Seats of a schedule off sale.
    Block(ScheduleId),
    /// Seats of a schedule on sale again.
    Unblock(ScheduleId),
    /// More time for a hold.
    Extension,
    /// To cancel what was paid.
    Cancellation,
    /// To see to a refund that is stuck.
    Task,
    /// Anything else of a waiting room.
    Room,
    /// Other rules for the waiting room of a schedule.
    QueuePolicy(ScheduleId),
    /// About the beacon of the draw of a schedule.
    Beacon(ScheduleId),
    /// To get in line.
    Join,
}

impl Asked {
    /// The lane that decides.
    #[must_use]
    pub fn lane(self) -> Lane {
        match self {
            Self::Hold(_)
            | Self::Release
            | Self::Extension
            | Self::Policy(_)
            | Self::Notice
            | Self::Block(_)
            | Self::Unblock(_) => Lane::Seats,
            Self::Room | Self::QueuePolicy(_) | Self::Beacon(_) | Self::Join => Lane::Admission,
            Self::Charge => Lane::Ledger,
            Self::Payment | Self::Cancellation | Self::Task => Lane::Settlement,
        }
    }
}

/// Where the outcome of a command will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandToken {
    /// Who asked, and may ask what became of it.
    pub user: UserId,
    /// What it is.
    pub asked: Asked,
    /// The partition; none on lanes of competing consumers.
    pub partition: Option<PartitionNo>,
    /// The message that carries it.
    pub message_id: MessageId,
    /// Its index in the message.
    pub index: u16,
    /// When it is refused, unless it was decided before.
    pub deadline: Timestamp,
}

/// Signs and reads tokens.
#[derive(Clone)]
pub struct Signer(Seal);

impl Signer {
    /// Signs with a key of its own, derived from the first secret, and reads what was signed under
    /// any of them.
    #[must_use]
    pub fn new(secrets: &Secrets) -> Self {
        Self(Seal::new(secrets, PURPOSE))
    }

    /// The token as text for a URL.
    #[must_use]
    pub fn sign(&self, token: &CommandToken) -> String {
        let mut bytes = Vec::with_capacity(BODY_BYTES + MAC_BYTES);
        bytes.push(VERSION);
        // The nil id is none.
        let (asked, schedule) = match token.asked {
            Asked::Hold(schedule) => (0, schedule.0),
            Asked::Release => (1, Uuid::nil()),
            Asked::Charge => (2, Uuid::nil()),
            Asked::Payment => (3, Uuid::nil()),
            Asked::Policy(schedule) => (4, schedule.0),
            Asked::Notice => (5, Uuid::nil()),
            Asked::Block(schedule) => (6, schedule.0),
            Asked::Unblock(schedule) => (7, schedule.0),
            Asked::Extension => (8, Uuid::nil()),
            Asked::Cancellation => (9, Uuid::nil()),
            Asked::Task => (10, Uuid::nil()),
            Asked::Room => (11, Uuid::nil()),
            Asked::QueuePolicy(schedule) => (12, schedule.0),
            Asked::Beacon(schedule) => (13, schedule.0),
            Asked::Join => (14, Uuid::nil()),
        };
        bytes.push(asked);
        // 0 is none; there are at most 1024 partitions.
        let partition = token.partition.map_or(0, |partition| partition.0 + 1);
        bytes.extend_from_slice(&partition.to_be_bytes());
        bytes.extend_from_slice(&token.index.to_be_bytes());
        bytes.extend_from_slice(&token.deadline.micros().to_be_bytes());
        bytes.extend_from_slice(token.user.0.as_bytes());
        bytes.extend_from_slice(token.message_id.0.as_bytes());
        bytes.extend_from_slice(schedule.as_bytes());
        debug_assert_eq!(bytes.len(), BODY_BYTES);
        self.0.seal(bytes)
    }

    /// The token, if we signed it.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<CommandToken> {
        let body = self.0.open(text, BODY_BYTES)?;
        let (head, ids) = body.split_at_checked(HEAD_BYTES)?;
        let [version, asked, p0, p1, i0, i1, deadline @ ..] = head else {
            return None;
        };
        if *version != VERSION {
            return None;
        }
        let (user, ids) = ids.split_at_checked(16)?;
        let (message_id, schedule) = ids.split_at_checked(16)?;
        let schedule = ScheduleId(Uuid::from_slice(schedule).ok()?);
        Some(CommandToken {
            user: UserId(Uuid::from_slice(user).ok()?),
            asked: match asked {
                0 => Asked::Hold(schedule),
                1 => Asked::Release,
                2 => Asked::Charge,
                3 => Asked::Payment,
                4 => Asked::Policy(schedule),
                5 => Asked::Notice,
                6 => Asked::Block(schedule),
                7 => Asked::Unblock(schedule),
                8 => Asked::Extension,
                9 => Asked::Cancellation,
                10 => Asked::Task,
                11 => Asked::Room,
                12 => Asked::QueuePolicy(schedule),
                13 => Asked::Beacon(schedule),
                14 => Asked::Join,
                _ => return None,
            },
            partition: u16::from_be_bytes([*p0, *p1])
                .checked_sub(1)
                .map(PartitionNo),
            message_id: MessageId(Uuid::from_slice(message_id).ok()?),
            index: u16::from_be_bytes([*i0, *i1]),
            deadline: Timestamp::from_micros(i64::from_be_bytes(deadline.try_into().ok()?)),
        })
    }
}

/// Puts a mark on bytes that nobody else can put there, for one purpose: what is sealed for another is
/// not taken for it.
#[derive(Clone)]
pub(crate) struct Seal {
    signing: Hmac<Sha256>,
    verifying: Vec<Hmac<Sha256>>,
}

impl Seal {
    /// Seals with the key that the first secret has for the purpose, and opens what was sealed with
    /// that of any.
    pub(crate) fn new(secrets: &Secrets, purpose: &[u8]) -> Self {
        Self {
            signing: derived(secrets.signing(), purpose),
            verifying: (secrets.all().iter())
                .map(|secret| derived(secret, purpose))
                .collect(),
        }
    }

    /// The bytes with their mark, as text for a URL or a header.
    pub(crate) fn seal(&self, mut bytes: Vec<u8>) -> String {
        let mac = self.signing.clone().chain_update(&bytes).finalize();
        bytes.extend_from_slice(&mac.into_bytes()[..MAC_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What was sealed, if it is of that length and we sealed it.
    pub(crate) fn open(&self, text: &str, body_bytes: usize) -> Option<Vec<u8>> {
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, mac) = bytes.split_at_checked(body_bytes)?;
        if mac.len() != MAC_BYTES {
            return None;
        }
        self.verifying.iter().find(|key| {
            let sealed = (*key).clone().chain_update(body);
            sealed.verify_truncated_left(mac).is_ok()
        })?;
        bytes.truncate(body_bytes);
        Some(bytes)
    }
}

/// The key that a secret has for a purpose.
pub(crate) fn derived(secret: &Secret, purpose: &[u8]) -> Hmac<Sha256> {
    let keyed =
        |key: &[u8]| Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    let key = keyed(secret.bytes()).chain_update(purpose).finalize();
    keyed(&key.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(digit: &str) -> Signer {
        Signer::new(&digit.repeat(64).parse().unwrap())
    }

    fn token(asked: Asked, partition: Option<PartitionNo>) -> CommandToken {
        CommandToken {
            user: UserId(Uuid::from_u128(1)),
            asked,
            partition,
            message_id: MessageId(Uuid::from_u128(2)),
            index: 255,
            deadline: Timestamp::from_micros(1_700_000_000_000_000),
        }
    }

    #[test]
    fn what_was_signed_is_read() {
        for (asked, partition) in [
            (Asked::Payment, None),
            (Asked::Charge, None),
            (Asked::Cancellation, None),
            (Asked::Release, Some(PartitionNo(0))),
            (Asked::Notice, Some(PartitionNo(7))),
            (Asked::Join, Some(PartitionNo(3))),
            (
                Asked::Block(ScheduleId(Uuid::from_u128(5))),
                Some(PartitionNo(7)),
            ),
            (
                Asked::Unblock(ScheduleId(Uuid::from_u128(6))),
                Some(PartitionNo(7)),
            ),
            (
                Asked::Policy(ScheduleId(Uuid::from_u128(4))),
                Some(PartitionNo(2)),
            ),
            (
                Asked::Hold(ScheduleId(Uuid::from_u128(3))),
                Some(PartitionNo(1023)),
            ),
            (Asked::Room, Some(PartitionNo(1))),
            (
                Asked::QueuePolicy(ScheduleId(Uuid::from_u128(7))),
                Some(PartitionNo(1)),
            ),
            (
                Asked::Beacon(ScheduleId(Uuid::from_u128(8))),
                Some(PartitionNo(1)),
            ),
        ] {
            let token = token(asked, partition);
            let text = signer("a").sign(&token);
            assert!(
                text.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            );
            assert_eq!(signer("a").read(&text), Some(token));
        }
    }

    #[test]
    fn a_key_is_replaced_and_what_it_signed_is_read() {
        let token = token(Asked::Charge, None);
        let secrets = |digits: &str| {
            let all: Vec<String> = digits.chars().map(|d| d.to_string().repeat(64)).collect();
            Signer::new(&all.join(",").parse().unwrap())
        };
        let (old, both, new) = (secrets("a"), secrets("ba"), secrets("b"));
        let (of_old, of_both) = (old.sign(&token), both.sign(&token));
        for (signer, text, known) in [
            (&both, &of_old, true),
            (&both, &of_both, true),
            (&new, &of_both, true),
            (&new, &of_old, false),
            (&old, &of_both, false),
        ] {
            assert_eq!(signer.read(text), known.then_some(token));
        }
    }

    #[test]
    fn anything_else_is_not() {
        let text = signer("a").sign(&token(Asked::Payment, None));
        assert_eq!(signer("b").read(&text), None);
        for at in 0..text.len() {
            let mut edited = text.clone().into_bytes();
            edited[at] = if edited[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(
                signer("a").read(std::str::from_utf8(&edited).unwrap()),
                None
            );
        }
        for garbage in ["", "x", "☃", &text[..40], &format!("{text}AAAA")] {
            assert_eq!(signer("a").read(garbage), None);
        }
    }
}
