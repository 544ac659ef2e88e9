//! What the buyers of a crowd are like, and how many there are of each kind.

use rand::Rng as _;
use rand::rngs::StdRng;

/// What a buyer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Waits for its turn, and buys.
    Patient,
    /// Leaves after a while.
    Impatient,
    /// Stops asking.
    Silent,
    /// Tries to get more than others.
    Greedy,
}

/// Parts of a crowd, in any unit.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// Of [`Kind::Patient`].
    pub patient: u16,
    /// Of [`Kind::Impatient`].
    pub impatient: u16,
    /// Of [`Kind::Silent`].
    pub silent: u16,
    /// Of [`Kind::Greedy`].
    pub greedy: u16,
}

impl Shares {
    fn all(self) -> [(Kind, u32); 4] {
        [
            (Kind::Patient, self.patient.into()),
            (Kind::Impatient, self.impatient.into()),
            (Kind::Silent, self.silent.into()),
            (Kind::Greedy, self.greedy.into()),
        ]
    }

    /// All of them.
    pub(super) fn sum(self) -> u32 {
        self.all().iter().map(|(_, share)| share).sum()
    }

    /// One of the kinds, each as often as its share.
    pub(super) fn choose(self, rng: &mut StdRng) -> Kind {
        let mut at = rng.random_range(0..self.sum().max(1));
        for (kind, share) in self.all() {
            if at < share {
                return kind;
            }
            at -= share;
        }
        Kind::Patient
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn a_crowd_has_its_shares() {
        let shares = Shares {
            patient: 70,
            impatient: 15,
            silent: 10,
            greedy: 5,
        };
        let mut rng = StdRng::seed_from_u64(7);
        let chosen: Vec<Kind> = (0..10_000).map(|_| shares.choose(&mut rng)).collect();
        for (kind, share) in shares.all() {
            let count = chosen.iter().filter(|it| **it == kind).count();
            let expected = share as usize * 100;
            assert!(count.abs_diff(expected) < 200, "{kind:?} {count}");
        }
        let only = Shares {
            patient: 0,
            impatient: 0,
            silent: 3,
            greedy: 0,
        };
        assert!((0..100).all(|_| only.choose(&mut rng) == Kind::Silent));
    }
}
