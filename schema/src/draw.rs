//! The draw of a waiting room: the agreement between the owner of the line, who admits by it, the
//! ingresses, who tell everybody their place, and whoever recomputes it from what is public.
//!
//! It must never change: what was drawn is checked for as long as anybody likes. `H` is SHA-256, `‖`
//! puts bytes behind each other, integers are big-endian. `deploy/verify_draw.py` is the same in
//! Python.
//!
//! - *Digest* of the tickets: `d₀ = H(schedule id)`, and for each arrival number from 0
//!   `dᵢ₊₁ = H(dᵢ ‖ arrival number (4 bytes) ‖ ticket id)`. Ids are the 16 bytes of their UUID.
//! - *Commitment*: `H(secret)`, of a secret of 32 bytes, published when the lobby opens.
//! - *Seed*: `H("onsale draw 1" ‖ secret ‖ digest ‖ beacon)`; the beacon is what the public source
//!   said that was named in advance, or nothing.
//! - *Order*: the swap-or-not shuffle of the `n` tickets, 128 rounds. In round `r` a ticket that is
//!   at `x` has the partner `x' = (pᵣ − x) mod n`, where `pᵣ` is the first 8 bytes of
//!   `H(seed ‖ r (1 byte))` modulo `n`. With `m = max(x, x')`, both change places if bit `m mod 8` of
//!   byte `⌊m/8⌋ mod 32` of `H(seed ‖ r (1 byte) ‖ ⌊m/256⌋ (4 bytes))` is set. Where a ticket is
//!   after the last round is its place.
//!
//! A round is its own inverse, so that the rounds backwards lead from a place to its arrival number,
//! both ways for any `n`, without a table. The shuffle is by Hoang, Morris and Rogaway, *An
//! Enciphering Scheme Based on a Card Shuffle* (CRYPTO 2012, arXiv 1208.1176), who also bound how far
//! the places of any number of tickets are from uniform; to share a hash among 256 positions is as in
//! the consensus of Ethereum. For one ticket it is plain: each round leaves it where it is or puts it
//! anywhere, with the same probability, so that after 128 rounds its place is uniform but for 2⁻¹²⁸,
//! as far as SHA-256 looks random to who does not know the secret. A Feistel network with cycle
//! walking (Black and Rogaway 2002) would be five times as fast, but on few tickets has no such
//! bound, and with sixteen it makes even permutations only.

use crate::ids::{ArrivalNo, ScheduleId, TicketId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Rounds of the shuffle.
pub const ROUNDS: u8 = 128;
/// What the seed is for, so that the same bytes are no seed of anything else.
const PURPOSE: &[u8] = b"onsale draw 1";
/// Positions that share a hash.
const BLOCK: u32 = 256;

/// Bytes as they are written where a draw is published: two hexadecimal digits each.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that are written so; none for anything else.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

/// 32 bytes that may be seen by anybody; hexadecimal in JSON, bytes in MessagePack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of any bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        hash(&[bytes])
    }

    /// Of a room without tickets.
    #[must_use]
    pub fn of_room(schedule: ScheduleId) -> Self {
        hash(&[schedule.0.as_bytes()])
    }

    /// Of the same tickets and one more.
    #[must_use]
    pub fn with(self, arrival: ArrivalNo, ticket: TicketId) -> Self {
        hash(&[&self.0, &arrival.0.to_be_bytes(), ticket.0.as_bytes()])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("not 64 hexadecimal digits")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;
    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let bytes = unhex(text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(NotADigest)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
            text.parse().map_err(de::Error::custom)
        } else {
            let bytes: serde_bytes::ByteBuf = Deserialize::deserialize(deserializer)?;
            let bytes = <[u8; 32]>::try_from(bytes.into_vec());
            bytes
                .map(Self)
                .map_err(|_| de::Error::custom("not 32 bytes"))
        }
    }
}

/// What nobody may know before the draw. It is never shown by `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// What is published in advance, so that no other secret can be put in its place.
    #[must_use]
    pub fn commitment(&self) -> Digest {
        hash(&[&self.0])
    }

    /// The seed of the draw among the tickets of a digest; `beacon` is empty where none was named.
    #[must_use]
    pub fn seed(&self, tickets: Digest, beacon: &[u8]) -> Digest {
        hash(&[PURPOSE, &self.0, &tickets.0, beacon])
    }
}

/// A place in the line, from 0; given once, never again and never another.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Place(pub u32);

/// The drawn order of the first tickets of a room. It takes half a kilobyte, however many they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    seed: Digest,
    size: u32,
    /// Of each round.
    pivots: Vec<u32>,
}

impl Draw {
    /// The order of `size` tickets under a seed.
    #[must_use]
    pub fn new(seed: Digest, size: u32) -> Self {
        let pivot = |round: u8| {
            let Digest(bytes) = hash(&[&seed.0, &[round]]);
            let first = bytes.first_chunk().expect("a digest has 8 bytes");
            let pivot = u64::from_be_bytes(*first) % u64::from(size.max(1));
            u32::try_from(pivot).expect("less than a size")
        };
        Self {
            seed,
            size,
            pivots: (0..ROUNDS).map(pivot).collect(),
        }
    }

    /// How many tickets it orders.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The place of a ticket; none that it does not order.
    #[must_use]
    pub fn place(&self, arrival: ArrivalNo) -> Option<Place> {
        let at = self.walk(arrival.0, 0..ROUNDS)?;
        Some(Place(at))
    }

    /// The ticket at a place; none behind those that it orders.
    #[must_use]
    pub fn arrival(&self, place: Place) -> Option<ArrivalNo> {
        let at = self.walk(place.0, (0..ROUNDS).rev())?;
        Some(ArrivalNo(at))
    }

    /// All tickets in their order. Takes 4 bytes for each, and for a million some tenths of a second.
    #[must_use]
    pub fn order(&self) -> Vec<ArrivalNo> {
        let n = self.size as usize;
        let mut order: Vec<u32> = (0..self.size).collect();
        for (round, &pivot) in (0..ROUNDS).zip(&self.pivots) {
            let pivot = pivot as usize;
            // The greater of two partners: they add up to the pivot, or to that and n.
            self.swap(&mut order, round, pivot, pivot / 2 + 1..pivot + 1);
            self.swap(&mut order, round, n + pivot, (n + pivot) / 2 + 1..n);
        }
        order.into_iter().map(ArrivalNo).collect()
    }

    /// Swaps, or not, what is at each of these positions with its partner; they add up to `sum`.
    fn swap(&self, order: &mut [u32], round: u8, sum: usize, positions: Range<usize>) {
        let mut from = positions.start;
        while from < positions.end {
            let block = from / BLOCK as usize;
            let end = positions.end.min((block + 1) * BLOCK as usize);
            let Digest(bits) = self.bits(round, u32::try_from(block).unwrap_or(u32::MAX));
            for at in from..end {
                let bit = bits[at % BLOCK as usize / 8] >> (at % 8) & 1;
                // Half of them are swapped, and nobody could guess which: without a branch.
                let mask = u32::from(bit).wrapping_neg();
                let change = (order[at] ^ order[sum - at]) & mask;
                order[at] ^= change;
                order[sum - at] ^= change;
            }
            from = end;
        }
    }

    fn walk(&self, from: u32, rounds: impl Iterator<Item = u8>) -> Option<u32> {
        if from >= self.size {
            return None;
        }
        let at = rounds.fold(from, |at, round| {
            let pivot = self.pivots[usize::from(round)];
            let partner = if at <= pivot {
                pivot - at
            } else {
                self.size - (at - pivot)
            };
            let greater = at.max(partner);
            let Digest(bits) = self.bits(round, greater / BLOCK);
            let byte = bits[(greater % BLOCK / 8) as usize];
            if byte >> (greater % 8) & 1 == 1 {
                partner
            } else {
                at
            }
        });
        Some(at)
    }

    /// What decides in a round about the positions of a block.
    fn bits(&self, round: u8, block: u32) -> Digest {
        hash(&[&self.seed.0, &[round], &block.to_be_bytes()])
    }
}

fn hash(parts: &[&[u8]]) -> Digest {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    Digest(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn digests_are_hexadecimal_in_json_and_bytes_in_messages() {
        let digest = Digest::of_room(ScheduleId(Uuid::from_u128(7)));
        let text = serde_json::to_string(&digest).unwrap();
        assert_eq!(text.len(), 66);
        assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
        let bytes = crate::message::encode(&digest);
        assert_eq!(bytes.len(), 34);
        assert_eq!(crate::message::decode::<Digest>(&bytes).unwrap(), digest);
        for wrong in ["", "0g", &"é".repeat(32), &"0".repeat(63)] {
            assert!(wrong.parse::<Digest>().is_err());
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", Secret([0xab; 32]));
        assert!(!shown.contains("ab") && !shown.contains("171"), "{shown}");
    }

    #[test]
    fn everything_goes_into_the_seed() {
        let (secret, other) = (Secret([1; 32]), Secret([2; 32]));
        let room = Digest::of_room(ScheduleId(Uuid::from_u128(7)));
        let one = room.with(ArrivalNo(0), TicketId(Uuid::from_u128(1)));
        let seeds = [
            secret.seed(room, b""),
            other.seed(room, b""),
            secret.seed(one, b""),
            secret.seed(room, b"x"),
            secret.seed(room.with(ArrivalNo(0), TicketId(Uuid::from_u128(2))), b""),
        ];
        for (at, seed) in seeds.iter().enumerate() {
            assert!(!seeds[..at].contains(seed));
        }
        assert_ne!(secret.commitment(), other.commitment());
    }
}
