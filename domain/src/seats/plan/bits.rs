//! A set of positions, by a bit each, so that runs of them are found a word at a time.

use std::ops::Range;

const WORD: u32 = u64::BITS;

/// A set of positions from 0 to a fixed end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// All of so many positions.
    #[must_use]
    pub fn all(count: usize) -> Self {
        let whole = count / WORD as usize;
        let mut words = vec![u64::MAX; whole];
        let rest = count % WORD as usize;
        if rest > 0 {
            words.push((1 << rest) - 1);
        }
        Self { words }
    }

    /// Whether a position is in it.
    #[must_use]
    pub fn has(&self, at: u32) -> bool {
        let word = self.words.get((at / WORD) as usize);
        word.is_some_and(|word| word >> (at % WORD) & 1 == 1)
    }

    /// Puts a position in, or takes it out.
    ///
    /// # Panics
    /// When it lies beyond the end.
    pub fn set(&mut self, at: u32, is_in: bool) {
        let word = &mut self.words[(at / WORD) as usize];
        let bit = 1 << (at % WORD);
        if is_in {
            *word |= bit;
        } else {
            *word &= !bit;
        }
    }

    /// The first run of positions within a range.
    #[must_use]
    pub fn run(&self, range: Range<u32>) -> Option<Range<u32>> {
        let start = find(range.clone(), |index| self.word(index))?;
        Some(start..self.end_of_run(start..range.end))
    }

    /// The first run of at least two positions within a range; single ones cost nothing.
    #[must_use]
    pub fn run_of_two(&self, range: Range<u32>) -> Option<Range<u32>> {
        let pairs = |index| {
            let word = self.word(index);
            word & (word >> 1 | self.word(index + 1) << (WORD - 1))
        };
        let start = find(range.start..range.end.saturating_sub(1), pairs)?;
        Some(start..self.end_of_run(start..range.end))
    }

    fn end_of_run(&self, range: Range<u32>) -> u32 {
        find(range.clone(), |index| !self.word(index)).unwrap_or(range.end)
    }

    fn word(&self, index: u32) -> u64 {
        self.words.get(index as usize).copied().unwrap_or(0)
    }
}

/// The first position of a range whose bit is set in these words.
fn find(range: Range<u32>, word: impl Fn(u32) -> u64) -> Option<u32> {
    if range.is_empty() {
        return None;
    }
    let mut index = range.start / WORD;
    let mut bits = word(index) & (u64::MAX << (range.start % WORD));
    while bits == 0 {
        index += 1;
        if index * WORD >= range.end {
            return None;
        }
        bits = word(index);
    }
    let at = index * WORD + bits.trailing_zeros();
    (at < range.end).then_some(at)
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_a_bit_is_missing_or_the_range_ends() {
        for count in [0, 1, 63, 64, 65, 200] {
            let bits = Bits::all(count);
            let end = u32::try_from(count).unwrap();
            assert_eq!(bits.run(0..end), (end > 0).then_some(0..end));
            assert!(!bits.has(end));
        }
        let mut bits = Bits::all(200);
        for at in [0, 63, 64, 130] {
            bits.set(at, false);
        }
        type Next = fn(&Bits, Range<u32>) -> Option<Range<u32>>;
        let all = |next: Next, range: Range<u32>| {
            let (mut from, mut all) = (range.start, Vec::new());
            while let Some(run) = next(&bits, from..range.end) {
                from = run.end;
                all.push(run);
            }
            all
        };
        let runs = |range| all(Bits::run, range);
        let pairs = |range| all(Bits::run_of_two, range);
        assert_eq!(runs(0..200), [1..63, 65..130, 131..200]);
        assert_eq!(runs(10..70), [10..63, 65..70]);
        assert_eq!(runs(63..65), []);
        assert_eq!(pairs(0..200), [1..63, 65..130, 131..200]);
        assert_eq!(pairs(61..67), [61..63, 65..67]);
        for range in [62..66, 62..65, 129..132, 65..66, 7..7] {
            assert_eq!(pairs(range.clone()), [], "{range:?}");
        }
        bits.set(64, true);
        assert_eq!(bits.run(63..66), Some(64..66));
    }
}
