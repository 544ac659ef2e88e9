//! Which tickets were heard since the last report: a bit each, so that the many polls of one cost
//! nothing, and a million clients an eighth of a megabyte.

use onsale_schema::ArrivalNo;

/// Tickets that were heard.
#[derive(Debug, Default)]
pub struct Heard {
    words: Vec<u64>,
}

impl Heard {
    /// One was.
    pub fn put(&mut self, no: ArrivalNo) {
        let (word, bit) = (no.index() / 64, no.index() % 64);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << bit;
    }

    /// All of them, by number. From here on nobody was.
    pub fn take(&mut self) -> Vec<ArrivalNo> {
        let mut all = Vec::new();
        for (word, at) in self.words.iter_mut().zip(0_u32..) {
            let mut bits = std::mem::take(word);
            while bits != 0 {
                all.push(ArrivalNo(at * 64 + bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_in_order() {
        let mut heard = Heard::default();
        assert!(heard.take().is_empty());
        for no in [3_999_999, 64, 0, 63, 64, 1, 0] {
            heard.put(ArrivalNo(no));
        }
        let all = [0, 1, 63, 64, 3_999_999].map(ArrivalNo);
        assert_eq!(heard.take(), all);
        assert!(heard.take().is_empty());
        heard.put(ArrivalNo(5));
        assert_eq!(heard.take(), [ArrivalNo(5)]);
    }
}
