//! The comparison: what follows from secret, tickets and word, and what was published.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};

use anyhow::{Context, bail};
use onsale_schema::draw::{Digest, Draw, Secret, unhex};
use onsale_schema::{ArrivalNo, TicketId};
use serde_json::{Value, json};

use super::bar::Bar;
use super::published::Published;

/// What somebody wrote down before it could be changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noted {
    pub commitment: Option<Digest>,
    pub digest: Option<Digest>,
}

/// A ticket that somebody asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Number(ArrivalNo),
    Id(TicketId),
}

impl Wanted {
    pub fn read(text: &str) -> Result<Self, String> {
        let number = text.parse().map(|no| Self::Number(ArrivalNo(no)));
        let id = || text.parse().map(Self::Id);
        let neither = |_| "neither a number nor the id of a ticket".to_owned();
        number.or_else(|_| id()).map_err(neither)
    }
}

/// Where a ticket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    ticket_id: TicketId,
    arrival_no: ArrivalNo,
    /// From 1, as its owner is told.
    position: u32,
    of: u32,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ticket {} (number {} in the order of arrival) has position {} of {}",
            self.ticket_id, self.arrival_no.0, self.position, self.of
        )
    }
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    is_right: bool,
    /// What it means if it is not.
    otherwise: &'static str,
}

/// What came out.
pub struct Verdict {
    draw: Published,
    tickets: Vec<TicketId>,
    checks: Vec<Check>,
    /// By the seed that was computed.
    order: Draw,
}

impl Verdict {
    /// Recomputes everything and compares.
    pub fn of(draw: Published, tickets: Vec<TicketId>, noted: Noted) -> anyhow::Result<Self> {
        let secret = draw.secret.context("the draw has no secret")?;
        let secret = Secret(secret.0);
        let digest = digest(&draw, &tickets);
        let beacon = unhex(draw.beacon.as_deref().unwrap_or_default());
        let beacon = beacon.context("the beacon's word is not hexadecimal")?;
        let seed = secret.seed(digest, &beacon);
        let size = u32::try_from(tickets.len()).context("too many tickets")?;
        let distinct: HashSet<&TicketId> = tickets.iter().collect();
        let check = |name, is_right, otherwise| Check {
            name,
            is_right,
            otherwise,
        };
        let mut checks = vec![
            check(
                "commitment",
                secret.commitment() == draw.commitment,
                "the secret is not the one whose hash was published before the opening",
            ),
            check(
                "tickets",
                draw.size == Some(size) && distinct.len() == tickets.len(),
                "the list of tickets is not as long as it was said to be, or has one twice",
            ),
            check(
                "digest",
                draw.digest == Some(digest),
                "the tickets are not those whose digest was published when the lobby was closed",
            ),
            check(
                "beacon",
                draw.beacon.is_some() == draw.beacon_name.is_some(),
                "a beacon was named and did not speak, or spoke and was not named",
            ),
            check(
                "seed",
                draw.seed == Some(seed),
                "the seed does not follow from secret, tickets and beacon",
            ),
        ];
        if let Some(noted) = noted.commitment {
            checks.push(check(
                "noted commitment",
                noted == draw.commitment,
                "the commitment is another one than was noted",
            ));
        }
        if let Some(noted) = noted.digest {
            checks.push(check(
                "noted digest",
                Some(noted) == draw.digest,
                "the digest is another one than was noted",
            ));
        }
        Ok(Self {
            order: Draw::new(seed, size),
            draw,
            tickets,
            checks,
        })
    }

    /// Whether everything fits.
    pub fn is_right(&self) -> bool {
        self.wrong().is_none()
    }

    /// What does not fit first.
    pub fn wrong(&self) -> Option<&'static str> {
        let wrong = self.checks.iter().find(|check| !check.is_right);
        wrong.map(|check| check.otherwise)
    }

    /// Where a ticket stands.
    pub fn ticket(&self, wanted: &Wanted) -> anyhow::Result<Standing> {
        let at = match wanted {
            Wanted::Number(no) => Some(no.index()),
            Wanted::Id(id) => self.tickets.iter().position(|ticket| ticket == id),
        };
        let found = at.and_then(|at| {
            let arrival_no = ArrivalNo(u32::try_from(at).ok()?);
            Some((*self.tickets.get(at)?, arrival_no))
        });
        let Some((ticket_id, arrival_no)) = found else {
            bail!("that ticket was not in the lobby: it came later, and stands behind all of them");
        };
        let place = self.order.place(arrival_no);
        Ok(Standing {
            ticket_id,
            arrival_no,
            position: place.context("the draw orders it")?.0 + 1,
            of: self.order.size(),
        })
    }

    /// All tickets in the drawn order.
    fn drawn(&self) -> impl Iterator<Item = TicketId> {
        let order = self.order.order().into_iter();
        order.filter_map(|no| self.tickets.get(no.index()).copied())
    }

    /// Prints them.
    pub fn write_order(&self, to: impl Write) -> io::Result<()> {
        let mut to = io::BufWriter::new(to);
        for ticket in self.drawn() {
            writeln!(to, "{ticket}")?;
        }
        to.flush()
    }

    /// One object, see the command's help.
    pub fn json(&self, ticket: Option<Standing>) -> Value {
        let checks = self.checks.iter();
        let checks: Vec<Value> = checks
            .map(|check| json!({ "name": check.name, "ok": check.is_right }))
            .collect();
        let mut object = json!({
            "ok": self.is_right(),
            "scheduleId": self.draw.schedule_id,
            "closedAt": self.draw.closed_at,
            "size": self.order.size(),
            "commitment": self.draw.commitment,
            "beaconName": self.draw.beacon_name,
            "beacon": self.draw.beacon,
            "checks": checks,
        });
        if let Some(wrong) = self.wrong() {
            object["wrong"] = json!(wrong);
        }
        if let Some(ticket) = ticket {
            object["ticket"] = json!({
                "ticketId": ticket.ticket_id,
                "arrivalNo": ticket.arrival_no,
                "position": ticket.position,
            });
        }
        object
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tickets", self.order.size())?;
        if let Some(at) = self.draw.closed_at {
            write!(f, ", in a lobby that was closed at {at}")?;
        }
        match &self.draw.beacon_name {
            Some(name) => {
                let word = self.draw.beacon.as_deref().unwrap_or_default();
                writeln!(f, "; the beacon is: {name}")?;
                writeln!(
                    f,
                    "  its word: {word} (hexadecimal); left to you: that the source has said it, after that"
                )?;
            }
            None => writeln!(f, "; no beacon, so whoever knew the secret is trusted")?,
        }
        for check in &self.checks {
            let word = if check.is_right {
                "fits"
            } else {
                "DOES NOT FIT"
            };
            writeln!(f, "  {:<17} {word}", check.name)?;
        }
        Ok(())
    }
}

fn digest(draw: &Published, tickets: &[TicketId]) -> Digest {
    let mut bar = Bar::new("computing", tickets.len());
    let room = Digest::of_room(draw.schedule_id);
    (0..).zip(tickets).fold(room, |digest, (no, ticket)| {
        bar.at(no as usize);
        digest.with(ArrivalNo(no), *ticket)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify_draw::published::State;
    use onsale_schema::ScheduleId;
    use uuid::Uuid;

    /// A draw as it should be.
    fn honest(size: u128, beacon: Option<&str>) -> (Published, Vec<TicketId>) {
        let tickets: Vec<_> = (1..=size).map(|n| TicketId(Uuid::from_u128(n))).collect();
        let secret = Secret([7; 32]);
        let mut draw = Published {
            schedule_id: ScheduleId(Uuid::from_u128(9)),
            state: State::Drawn,
            commitment: secret.commitment(),
            beacon_name: beacon.map(|_| "a source".to_owned()),
            closed_at: None,
            size: u32::try_from(size).ok(),
            digest: None,
            beacon: beacon.map(str::to_owned),
            secret: Some(Digest(secret.0)),
            seed: None,
        };
        let digest = digest(&draw, &tickets);
        draw.digest = Some(digest);
        draw.seed = Some(secret.seed(digest, &unhex(beacon.unwrap_or_default()).unwrap()));
        (draw, tickets)
    }

    /// The names of what does not fit.
    fn wrong((draw, tickets): (Published, Vec<TicketId>), noted: Noted) -> Vec<&'static str> {
        let verdict = Verdict::of(draw, tickets, noted).unwrap();
        let wrong = verdict.checks.iter().filter(|check| !check.is_right);
        wrong.map(|check| check.name).collect()
    }

    #[test]
    fn an_honest_draw_fits_and_orders_everybody() {
        for (size, beacon) in [(0, None), (1, Some("ff")), (300, None), (300, Some("00ff"))] {
            let (draw, tickets) = honest(size, beacon);
            let noted = Noted {
                commitment: Some(draw.commitment),
                digest: draw.digest,
            };
            let verdict = Verdict::of(draw, tickets.clone(), noted).unwrap();
            assert!(verdict.is_right(), "{verdict}");
            for (at, ticket) in verdict.drawn().enumerate() {
                let standing = verdict.ticket(&Wanted::Id(ticket)).unwrap();
                assert_eq!(standing.position as usize, at + 1);
                let number = Wanted::Number(standing.arrival_no);
                assert_eq!(verdict.ticket(&number).unwrap(), standing);
            }
            let mut drawn: Vec<_> = verdict.drawn().collect();
            drawn.sort_unstable();
            assert_eq!(drawn, tickets);
            let behind = Wanted::Number(ArrivalNo(verdict.order.size()));
            assert!(verdict.ticket(&behind).is_err());
        }
    }

    #[test]
    fn each_edit_is_found() {
        type Edit = fn(&mut Published, &mut Vec<TicketId>);
        let other = Digest([1; 32]);
        assert_ne!(other, Digest::default());
        for (edit, expected) in [
            (
                (|draw, _| draw.commitment = Digest([1; 32])) as Edit,
                &["commitment"][..],
            ),
            (
                |draw, _| draw.secret = Some(Digest([1; 32])),
                &["commitment", "seed"],
            ),
            (|draw, _| draw.digest = Some(Digest([1; 32])), &["digest"]),
            (|draw, _| draw.seed = Some(Digest([1; 32])), &["seed"]),
            (|draw, _| draw.seed = None, &["seed"]),
            (|draw, _| draw.beacon = None, &["beacon", "seed"]),
            (|draw, _| draw.beacon = Some("01".to_owned()), &["seed"]),
            (|draw, _| draw.beacon_name = None, &["beacon"]),
            (|_, tickets| tickets.swap(1, 2), &["digest", "seed"]),
            (
                |_, tickets| tickets[1] = tickets[2],
                &["tickets", "digest", "seed"],
            ),
            (
                |_, tickets| tickets.truncate(9),
                &["tickets", "digest", "seed"],
            ),
        ] {
            let (mut draw, mut tickets) = honest(10, Some("ff"));
            edit(&mut draw, &mut tickets);
            assert_eq!(wrong((draw, tickets), Noted::default()), expected);
        }
        let noted = Noted {
            commitment: Some(other),
            digest: Some(other),
        };
        let found = wrong(honest(10, None), noted);
        assert_eq!(found, ["noted commitment", "noted digest"]);
    }

    #[test]
    fn tickets_are_named_by_number_or_id() {
        let id = Uuid::from_u128(5);
        assert_eq!(Wanted::read("17"), Ok(Wanted::Number(ArrivalNo(17))));
        assert_eq!(Wanted::read(&id.to_string()), Ok(Wanted::Id(TicketId(id))));
        for wrong in ["", "-1", "4294967296", "x"] {
            assert!(Wanted::read(wrong).is_err(), "{wrong}");
        }
    }
}
