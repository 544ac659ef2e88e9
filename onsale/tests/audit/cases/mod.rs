//! What is planted, by what it breaks.

mod admission;
mod guests;
mod money;
mod once;
mod seats;

/// What to plant, what should be reported, by a name for the panic.
pub type Case = (&'static str, &'static str, &'static [&'static str]);

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Case> {
    let all = [
        seats::CASES,
        admission::CASES,
        guests::CASES,
        money::CASES,
        once::CASES,
    ];
    all.into_iter().flatten()
}
