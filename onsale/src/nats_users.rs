//! `onsale nats-users`: the users of NATS, as its server reads them.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use onsale_platform::nats_users::{self, User};
use onsale_schema::subjects::{InvalidPrefix, Subjects};

/// Prints the users of NATS and their rights, to be included in the configuration of nats-server.
///
/// Passwords are variables of the server's environment, `$ONSALE_NATS_INGRESS_PASSWORD` and so on;
/// their values are passwords or, better, their bcrypt hashes.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Prefix of all subjects and streams of the system; the users' names have it, too.
    #[arg(long, env = "ONSALE_SUBJECT_PREFIX", default_value = "")]
    pub subject_prefix: String,
}

/// Runs the command.
///
/// # Errors
/// When the prefix is none, or standard output is closed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(page(&args.subject_prefix)?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The variable of the server's environment that has a user's password.
#[must_use]
pub fn password_variable(user: User) -> String {
    format!("ONSALE_NATS_{}_PASSWORD", user.as_str().to_uppercase())
}

/// What is printed; `deploy/nats-users.conf` is it.
///
/// # Errors
/// When the prefix is none.
pub fn page(subject_prefix: &str) -> Result<String, InvalidPrefix> {
    let variable = |user| format!("${}", password_variable(user));
    let users = nats_users::authorization(&Subjects::new(subject_prefix)?, variable);
    Ok(format!(
        "# Made by `onsale nats-users`; a test holds it up to date. Include it in nats.conf.\n{users}"
    ))
}
