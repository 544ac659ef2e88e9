//! How the same wish is repeated: a little later each time, and never so that a doubt is forgotten.

use super::Error;
use std::time::Duration;

/// The longest first pause; each further one is up to twice as long.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause of all.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How long to wait after so many failures (from 1). `roll` is from 0 to 1, so that those who failed
/// together don't come back together.
#[must_use]
pub fn pause(failures: u32, roll: f64) -> Duration {
    let longest = PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(8));
    let longest = longest.min(PAUSE_MAX);
    longest.mul_f64(0.5 + roll.clamp(0.0, 1.0) / 2.0)
}

/// What is known of a wish after several attempts: once one of them may have been granted, only the
/// gateway's own word on this wish ends the doubt.
#[derive(Debug, Default)]
pub struct Doubt(Option<Error>);

impl Doubt {
    /// What an attempt that failed means for the wish.
    pub fn weigh(&mut self, error: Error) -> Error {
        match error {
            Error::Unknown { .. } => self.0.insert(error).clone(),
            // Of this attempt nothing moved; an earlier one may have been received.
            Error::Unavailable { .. } | Error::Rejected { .. } => self.0.clone().unwrap_or(error),
            Error::Declined { .. } | Error::NotFound => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let most: Vec<_> = (1..8)
            .map(|failures| pause(failures, 1.0).as_millis())
            .collect();
        assert_eq!(most, [200, 400, 800, 1600, 3000, 3000, 3000]);
        assert_eq!(pause(1, 0.0).as_millis(), 100);
        assert_eq!(pause(u32::MAX, 0.0).as_millis(), 1500);
    }

    #[test]
    fn a_doubt_outlives_what_says_nothing_about_it() {
        let unknown = Error::Unknown { reason: "cut" };
        let unavailable = Error::Unavailable { reason: "away" };
        let rejected = Error::Rejected {
            status: 401,
            code: "X".into(),
        };
        let declined = Error::Declined { code: "Y".into() };
        // (what attempts said, what is to be believed)
        for (said, believed) in [
            (vec![&unavailable], &unavailable),
            (vec![&unavailable, &unknown], &unknown),
            (vec![&unknown, &unavailable], &unknown),
            (vec![&unknown, &rejected], &unknown),
            (vec![&unavailable, &rejected], &rejected),
            (vec![&unknown, &declined], &declined),
            (vec![&unknown, &Error::NotFound], &Error::NotFound),
        ] {
            let mut doubt = Doubt::default();
            let last = said
                .iter()
                .map(|error| doubt.weigh((*error).clone()))
                .last();
            assert_eq!(last.as_ref(), Some(believed), "{said:?}");
        }
    }
}
