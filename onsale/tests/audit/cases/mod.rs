//! What is planted, by what it breaks.

mod admission;
mod money;
mod once;
mod seats;

/// What to plant, what should be reported, by a name for the panic.
pub type Case = (&'static str, &'static str, &'static [&'static str]);

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [seats::CASES, admission::CASES, money::CASES, once::CASES]
        .into_iter()
        .flatten()
}
