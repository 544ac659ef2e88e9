//! Signed tickets and entry passes: what a client shows in `Queue-Ticket` and `Queue-Pass`; and access
//! codes, with which it joins.
//!
//! They say who somebody is in line, so that any ingress can answer without asking anybody. Each has a
//! key of its own, so that neither is taken for the other, nor for any other token of ours; there is
//! one algorithm, and nothing in the text chooses another. Whether a pass is good, and for whom, is
//! judged by [`Pass::check`] alone; how often a code was used, by the owner of the room.

use crate::config::Secrets;
use crate::token::Seal;
use onsale_schema::admission::{Code, Pass, Ticketed};
use onsale_schema::status::AccessGrant;
use onsale_schema::{AccessCodeId, ArrivalNo, Generation, ScheduleId, TicketId, Timestamp, UserId};
use uuid::Uuid;

const TICKET_PURPOSE: &[u8] = b"onsale queue ticket";
const PASS_PURPOSE: &[u8] = b"onsale queue pass";
const CODE_PURPOSE: &[u8] = b"onsale access code";
const VERSION: u8 = 1;
/// The version of a guest's ticket, and of a pass for one.
const GUEST_VERSION: u8 = 2;
/// The version of a guest's ticket that says which of the guests' it is.
const NUMBERED_VERSION: u8 = 3;
/// So much higher is the version of whatever says of which generation it is, at its end: all but those of
/// the first.
const RESTORED: u8 = 3;
const GENERATION_BYTES: usize = 8;
/// What a code grants.
const VIP: u8 = 0;
const PRESALE: u8 = 1;
const TICKET_BYTES: usize = 1 + 3 * 16 + 4;
const NUMBERED_BYTES: usize = TICKET_BYTES + 4;
const PASS_BYTES: usize = TICKET_BYTES + 8 + 4;
const CODE_BYTES: usize = 1 + 2 * 16 + 1 + 4 + 2 * 8;

/// Signs and reads tickets, passes and codes.
#[derive(Clone)]
pub struct Signer {
    tickets: Seal,
    passes: Seal,
    codes: Seal,
}

impl Signer {
    /// Signs by the first secret, and reads what was signed by any of them.
    #[must_use]
    pub fn new(secrets: &Secrets) -> Self {
        Self {
            tickets: Seal::new(secrets, TICKET_PURPOSE),
            passes: Seal::new(secrets, PASS_PURPOSE),
            codes: Seal::new(secrets, CODE_PURPOSE),
        }
    }

    /// The ticket as text for a header.
    #[must_use]
    pub fn sign_ticket(&self, ticket: &Ticketed) -> String {
        let mut bytes = ticket_bytes(ticket);
        if let Some(no) = ticket.guest_no.filter(|_| ticket.is_guest) {
            bytes[0] = NUMBERED_VERSION;
            bytes.extend_from_slice(&no.to_be_bytes());
        }
        self.tickets.seal(with_generation(bytes, ticket.generation))
    }

    /// The ticket, if we signed it.
    #[must_use]
    pub fn read_ticket(&self, text: &str) -> Option<Ticketed> {
        if let Some((bytes, generation)) = open(&self.tickets, text, TICKET_BYTES) {
            return read_ticket(bytes.first_chunk()?, generation);
        }
        let (mut bytes, generation) = open(&self.tickets, text, NUMBERED_BYTES)?;
        if bytes[0] != NUMBERED_VERSION {
            return None;
        }
        bytes[0] = GUEST_VERSION;
        let (ticket, no) = bytes.split_first_chunk()?;
        Some(Ticketed {
            guest_no: Some(u32::from_be_bytes(no.try_into().ok()?)),
            ..read_ticket(ticket, generation)?
        })
    }

    /// The pass as text for a header.
    #[must_use]
    pub fn sign_pass(&self, pass: &Pass) -> String {
        let mut bytes = ticket_bytes(&pass.ticket);
        bytes.extend_from_slice(&pass.expires_at.micros().to_be_bytes());
        bytes.extend_from_slice(&pass.holds_max.to_be_bytes());
        debug_assert_eq!(bytes.len(), PASS_BYTES);
        let generation = pass.ticket.generation;
        self.passes.seal(with_generation(bytes, generation))
    }

    /// The pass, if we signed it; it may be old, or somebody else's.
    #[must_use]
    pub fn read_pass(&self, text: &str) -> Option<Pass> {
        let (bytes, generation) = open(&self.passes, text, PASS_BYTES)?;
        let (ticket, rest) = bytes.split_first_chunk()?;
        let (expires_at, holds_max) = rest.split_first_chunk()?;
        Some(Pass {
            ticket: read_ticket(ticket, generation)?,
            expires_at: Timestamp::from_micros(i64::from_be_bytes(*expires_at)),
            holds_max: u32::from_be_bytes(holds_max.try_into().ok()?),
        })
    }

    /// The access code as text.
    #[must_use]
    pub fn sign_code(&self, code: &Code) -> String {
        let mut bytes = Vec::with_capacity(CODE_BYTES + 16);
        bytes.push(VERSION);
        bytes.extend_from_slice(code.code_id.0.as_bytes());
        bytes.extend_from_slice(code.schedule_id.0.as_bytes());
        bytes.push(match code.grant {
            AccessGrant::Vip => VIP,
            AccessGrant::Presale => PRESALE,
        });
        bytes.extend_from_slice(&code.uses.to_be_bytes());
        bytes.extend_from_slice(&code.from.micros().to_be_bytes());
        bytes.extend_from_slice(&code.until.micros().to_be_bytes());
        debug_assert_eq!(bytes.len(), CODE_BYTES);
        self.codes.seal(bytes)
    }

    /// The access code, if we signed it; it may be old, or for another date.
    #[must_use]
    pub fn read_code(&self, text: &str) -> Option<Code> {
        let bytes = self.codes.open(text, CODE_BYTES)?;
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (id, rest) = rest.split_first_chunk()?;
        let (schedule, rest) = rest.split_first_chunk()?;
        let (grant, rest) = rest.split_first()?;
        let grant = match *grant {
            VIP => AccessGrant::Vip,
            PRESALE => AccessGrant::Presale,
            _ => return None,
        };
        let (uses, rest) = rest.split_first_chunk()?;
        let (from, until) = rest.split_first_chunk()?;
        Some(Code {
            code_id: AccessCodeId(Uuid::from_bytes(*id)),
            schedule_id: ScheduleId(Uuid::from_bytes(*schedule)),
            grant,
            uses: u32::from_be_bytes(*uses),
            from: Timestamp::from_micros(i64::from_be_bytes(*from)),
            until: Timestamp::from_micros(i64::from_be_bytes(until.try_into().ok()?)),
        })
    }
}

/// With the generation at its end, but for the first: so those look as they did before there was another.
fn with_generation(mut bytes: Vec<u8>, generation: Generation) -> Vec<u8> {
    if !generation.is_first() {
        bytes[0] += RESTORED;
        bytes.extend_from_slice(&generation.0.to_be_bytes());
    }
    bytes
}

/// What was sealed, of that length without its generation, and that.
fn open(seal: &Seal, text: &str, body_bytes: usize) -> Option<(Vec<u8>, Generation)> {
    if let Some(bytes) = seal.open(text, body_bytes) {
        return Some((bytes, Generation::default()));
    }
    let mut bytes = seal.open(text, body_bytes + GENERATION_BYTES)?;
    let generation = Generation(i64::from_be_bytes(*bytes.last_chunk()?));
    bytes.truncate(body_bytes);
    bytes[0] = bytes[0].checked_sub(RESTORED)?;
    (!generation.is_first()).then_some((bytes, generation))
}

fn ticket_bytes(ticket: &Ticketed) -> Vec<u8> {
    // Room for a pass of a later generation and the mark.
    let mut bytes = Vec::with_capacity(PASS_BYTES + GENERATION_BYTES + 16);
    bytes.push(match ticket.is_guest {
        true => GUEST_VERSION,
        false => VERSION,
    });
    bytes.extend_from_slice(ticket.user_id.0.as_bytes());
    bytes.extend_from_slice(ticket.schedule_id.0.as_bytes());
    bytes.extend_from_slice(ticket.ticket_id.0.as_bytes());
    bytes.extend_from_slice(&ticket.arrival_no.0.to_be_bytes());
    debug_assert_eq!(bytes.len(), TICKET_BYTES);
    bytes
}

fn read_ticket(bytes: &[u8; TICKET_BYTES], generation: Generation) -> Option<Ticketed> {
    let (&version, rest) = bytes.split_first()?;
    let is_guest = match version {
        VERSION => false,
        GUEST_VERSION => true,
        _ => return None,
    };
    let (user, rest) = rest.split_first_chunk()?;
    let (schedule, rest) = rest.split_first_chunk()?;
    let (ticket, arrival) = rest.split_first_chunk()?;
    Some(Ticketed {
        user_id: UserId(Uuid::from_bytes(*user)),
        schedule_id: ScheduleId(Uuid::from_bytes(*schedule)),
        ticket_id: TicketId(Uuid::from_bytes(*ticket)),
        arrival_no: ArrivalNo(u32::from_be_bytes(arrival.try_into().ok()?)),
        is_guest,
        guest_no: None,
        generation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Asked, CommandToken};
    use onsale_schema::MessageId;

    /// The ticket, a guest's and the pass of these tests, as they were before there were generations.
    const PLAIN: &str = "AQAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAACAAAAAAAAAAAAAAAAAAAAAwA9CP-eiVMi1689D_gTXkOz\
                         NdHi";
    const NUMBERED: &str = "AwAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAACAAAAAAAAAAAAAAAAAAAAAwA9CP8AAAAHPqda-Tn6\
                            ublkyfDfciXfAg";
    const PASS: &str = "AQAAAAAAAAAAAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAACAAAAAAAAAAAAAAAAAAAAAwA9CP8ABgokGB5AAQAAAArQ\
                        DCqnmnVgqVAhF7AGTPc7";

    /// By secrets of one digit each.
    fn secrets(digits: &str) -> Secrets {
        let all: Vec<String> = digits.chars().map(|d| d.to_string().repeat(64)).collect();
        all.join(",").parse().unwrap()
    }

    fn signer(digits: &str) -> Signer {
        Signer::new(&secrets(digits))
    }

    fn ticket() -> Ticketed {
        Ticketed {
            user_id: UserId(Uuid::from_u128(1)),
            schedule_id: ScheduleId(Uuid::from_u128(2)),
            ticket_id: TicketId(Uuid::from_u128(3)),
            arrival_no: ArrivalNo(3_999_999),
            is_guest: false,
            guest_no: None,
            generation: Generation::default(),
        }
    }

    fn pass() -> Pass {
        Pass {
            ticket: ticket(),
            expires_at: Timestamp::from_micros(1_700_000_000_000_001),
            holds_max: 10,
        }
    }

    fn code() -> Code {
        Code {
            code_id: AccessCodeId(Uuid::from_u128(5)),
            schedule_id: ScheduleId(Uuid::from_u128(2)),
            grant: AccessGrant::Presale,
            uses: 7,
            from: Timestamp::from_micros(1_700_000_000_000_001),
            until: Timestamp::from_micros(1_700_000_000_000_002),
        }
    }

    #[test]
    fn codes_and_guests_tickets_are_read_as_they_were_signed_and_not_when_edited() {
        let (old, both, new) = (signer("a"), signer("ba"), signer("b"));
        let text = old.sign_code(&code());
        assert!(is_for_headers(&text));
        assert_eq!(both.read_code(&text), Some(code()));
        assert_eq!(new.read_code(&text), None);
        for at in 0..text.len() {
            let mut edited = text.clone().into_bytes();
            edited[at] = if edited[at] == b'A' { b'B' } else { b'A' };
            let edited = String::from_utf8(edited).unwrap();
            assert_eq!(old.read_code(&edited), None);
        }
        assert_eq!((old.read_ticket(&text), old.read_pass(&text)), (None, None));
        assert_eq!(old.read_code(&old.sign_pass(&pass())), None);
        let guest = Ticketed {
            is_guest: true,
            ..ticket()
        };
        assert_eq!(old.read_ticket(&old.sign_ticket(&guest)), Some(guest));
        let numbered = Ticketed {
            guest_no: Some(99_999),
            ..guest
        };
        let text = old.sign_ticket(&numbered);
        assert!(is_for_headers(&text));
        assert_eq!(both.read_ticket(&text), Some(numbered));
        assert_eq!(new.read_ticket(&text), None);
        for at in 0..text.len() {
            let mut edited = text.clone().into_bytes();
            edited[at] = if edited[at] == b'A' { b'B' } else { b'A' };
            let edited = String::from_utf8(edited).unwrap();
            assert_eq!(old.read_ticket(&edited), None);
        }
        // Which of the guests' it is is no matter of a pass.
        let pass = Pass {
            ticket: numbered,
            ..pass()
        };
        let read = old.read_pass(&old.sign_pass(&pass)).unwrap();
        assert_eq!(read.ticket, guest);
    }

    fn is_for_headers(text: &str) -> bool {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        text.bytes().all(is_plain)
    }

    #[test]
    fn what_was_signed_is_read() {
        let texts = [
            signer("a").sign_ticket(&ticket()),
            signer("a").sign_pass(&pass()),
        ];
        assert!(texts.iter().all(|text| is_for_headers(text)));
        assert_eq!(signer("a").read_ticket(&texts[0]), Some(ticket()));
        assert_eq!(signer("a").read_pass(&texts[1]), Some(pass()));
    }

    /// As they were signed before there were generations, to the letter.
    #[test]
    fn what_was_signed_before_any_restore_is_good_as_it_was() {
        let numbered = Ticketed {
            is_guest: true,
            guest_no: Some(7),
            ..ticket()
        };
        let signer = signer("a");
        for (text, expected) in [
            (signer.sign_ticket(&ticket()), PLAIN),
            (signer.sign_ticket(&numbered), NUMBERED),
            (signer.sign_pass(&pass()), PASS),
        ] {
            assert_eq!(text, expected);
        }
        assert_eq!(signer.read_ticket(PLAIN), Some(ticket()));
        assert_eq!(signer.read_ticket(NUMBERED), Some(numbered));
        assert_eq!(signer.read_pass(PASS), Some(pass()));
    }

    #[test]
    fn what_is_signed_since_a_restore_says_so() {
        let signer = signer("a");
        let guest = Ticketed {
            is_guest: true,
            ..ticket()
        };
        let numbered = Ticketed {
            guest_no: Some(7),
            ..guest
        };
        for ticket in [ticket(), guest, numbered] {
            let mut texts = Vec::new();
            for generation in [0, 1, 1_800_000_000_000_000, i64::MAX, -1] {
                let generation = Generation(generation);
                let ticket = Ticketed {
                    generation,
                    ..ticket
                };
                let text = signer.sign_ticket(&ticket);
                assert!(is_for_headers(&text));
                assert_eq!(signer.read_ticket(&text), Some(ticket));
                assert_eq!(signer.read_pass(&text), None);
                // Nothing at its end can be left away or changed.
                let cut = &text[..text.len() - 11];
                assert_eq!(signer.read_ticket(cut), None);
                let pass = Pass {
                    ticket: Ticketed {
                        guest_no: None,
                        ..ticket
                    },
                    ..pass()
                };
                let shown = signer.sign_pass(&pass);
                assert_eq!(signer.read_pass(&shown), Some(pass));
                texts.extend([text, shown]);
            }
            texts.sort();
            texts.dedup();
            assert_eq!(texts.len(), 10);
        }
        // The first has one form only.
        let mut bytes = ticket_bytes(&ticket());
        bytes[0] += RESTORED;
        bytes.extend_from_slice(&0_i64.to_be_bytes());
        assert_eq!(signer.read_ticket(&signer.tickets.seal(bytes)), None);
    }

    #[test]
    fn a_key_is_replaced_and_what_it_signed_is_read() {
        for (signs, reads, known) in [
            ("a", "ba", true),
            ("ba", "b", true),
            ("a", "b", false),
            ("ba", "a", false),
        ] {
            let (signs, reads) = (signer(signs), signer(reads));
            let read = reads.read_ticket(&signs.sign_ticket(&ticket()));
            assert_eq!(read, known.then(ticket));
            let read = reads.read_pass(&signs.sign_pass(&pass()));
            assert_eq!(read, known.then(pass));
        }
    }

    #[test]
    fn edited_ones_are_refused_whatever_was_edited() {
        let signer = signer("a");
        let texts = [signer.sign_ticket(&ticket()), signer.sign_pass(&pass())];
        for text in &texts {
            for at in 0..text.len() {
                for other in [b'A', b'B', b'!', 0xc3] {
                    let mut edited = text.clone().into_bytes();
                    if std::mem::replace(&mut edited[at], other) == other {
                        continue;
                    }
                    let edited = String::from_utf8_lossy(&edited);
                    assert_eq!(signer.read_ticket(&edited), None);
                    assert_eq!(signer.read_pass(&edited), None);
                }
            }
            for other in ["", "x", "☃", &text[..40], &format!("{text}AAAA")] {
                assert_eq!(signer.read_ticket(other), None);
                assert_eq!(signer.read_pass(other), None);
            }
        }
    }

    #[test]
    fn a_pass_is_no_ticket_nor_the_reverse_nor_any_other_token() {
        let signer = signer("a");
        let ticket_text = signer.sign_ticket(&ticket());
        let pass_text = signer.sign_pass(&pass());
        assert_eq!(signer.read_pass(&ticket_text), None);
        assert_eq!(signer.read_ticket(&pass_text), None);
        // Not even with bytes of the right length.
        let as_pass = signer.passes.seal(ticket_bytes(&ticket()));
        assert_eq!(signer.read_ticket(&as_pass), None);
        let commands = crate::token::Signer::new(&secrets("a"));
        assert_eq!(commands.read(&ticket_text), None);
        assert_eq!(commands.read(&pass_text), None);
        let command = commands.sign(&CommandToken {
            user: ticket().user_id,
            asked: Asked::Room,
            partition: None,
            message_id: MessageId(Uuid::from_u128(4)),
            index: 0,
            deadline: Timestamp::EPOCH,
        });
        assert_eq!(signer.read_ticket(&command), None);
        assert_eq!(signer.read_pass(&command), None);
    }

    #[test]
    fn another_version_is_not_understood() {
        let signer = signer("a");
        let mut bytes = ticket_bytes(&ticket());
        bytes[0] = GUEST_VERSION + 1;
        assert_eq!(signer.read_ticket(&signer.tickets.seal(bytes)), None);
    }
}
