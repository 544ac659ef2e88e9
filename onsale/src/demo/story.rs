//! How the demo tells what it does: a line a step, with the time that the step took.

use std::fmt::Display;
use std::time::Instant;

use onsale_schema::Money;

/// Tells each step with the time that it took.
pub struct Story {
    began: Instant,
    last: Instant,
}

impl Story {
    /// Begins now.
    pub fn begin() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
        }
    }

    /// A step that has just ended, with the time since the last one.
    pub fn tell(&mut self, what: impl Display) {
        let ms = self.last.elapsed().as_secs_f64() * 1000.0;
        println!("  {ms:>7.1} ms  {what}");
        self.last = Instant::now();
    }

    /// A line that belongs to the last step.
    pub fn show(&self, what: impl Display) {
        println!("  {:>10}  {what}", "");
    }

    /// What is told next is timed from now.
    pub fn restart(&mut self) {
        self.last = Instant::now();
    }

    /// Since the beginning.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// An amount as people write it: `99,000`.
pub fn grouped(amount: Money) -> String {
    let digits = amount.to_won().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_grouped() {
        for (amount, text) in [
            (0, "0"),
            (999, "999"),
            (99_000, "99,000"),
            (1_234_567, "1,234,567"),
            (-495_000, "-495,000"),
        ] {
            assert_eq!(grouped(Money::won(amount)), text);
        }
    }
}
