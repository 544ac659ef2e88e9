//! `onsale verify-draw`: recomputes the draw of a waiting room from nothing but what is public.
//!
//! It must never ask the database or trust a word of the server's: whatever an answer says beside the
//! secret, the tickets and the beacon's word is computed here and compared.

mod bar;
mod check;
mod published;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args as ClapArgs;
use onsale_schema::ScheduleId;
use onsale_schema::draw::Digest;

use crate::target;
use check::{Noted, Verdict, Wanted};
use published::{Source, State};

/// Recomputes the draw of a date's waiting room from what is public, and compares; exit status 1 when
/// something does not fit, or when nothing was drawn yet.
///
/// It asks an ingress over HTTP, as anybody may, for secret, tickets and the beacon's word, and computes
/// everything else: the hash of the secret that was published before anybody came, the digest of the
/// tickets, the seed, the order. Who has noted the hash before the opening, and the digest before the
/// beacon spoke, gives them by --commitment and --digest: then nobody can have replaced them since. The
/// beacon's word is shown, and nobody here can know whether it is the source's: compare it there, and see
/// that it was spoken after the lobby was closed.
#[derive(ClapArgs, Debug)]
pub struct Args {
    /// The date whose waiting room was drawn.
    #[arg(value_name = "SCHEDULE")]
    pub schedule: ScheduleId,

    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    pub api: target::Api,

    /// File with the certificate authorities (PEM) that an `https://` ingress is verified by; those
    /// of the system without it.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// Show where this ticket stands: its id, or its number in the order of arrival, from 0.
    #[arg(long, value_name = "ID|NUMBER", value_parser = Wanted::read)]
    pub ticket: Option<Wanted>,

    /// The commitment as it was noted before the opening.
    #[arg(long, value_name = "HEX")]
    pub commitment: Option<Digest>,

    /// The digest of the tickets as it was noted when the lobby was closed.
    #[arg(long, value_name = "HEX")]
    pub digest: Option<Digest>,

    /// Print the ids of all tickets in the drawn order, one a line, and nothing else.
    #[arg(long, conflicts_with_all = ["json", "ticket"])]
    pub order: bool,

    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// When the ingress can't be asked, nothing was drawn, or the ticket was not in the lobby.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let source = Source::new(&args.api.clone().url()?, args.ca.as_deref(), args.schedule)?;
    let draw = source.draw().await?;
    match draw.state {
        State::Drawn => {}
        State::Lobby => bail!("nothing was drawn yet: the lobby is open"),
        State::Closed => {
            bail!("nothing was drawn yet: the word of the beacon is waited for, or the room is OFF")
        }
        State::Arrival => bail!("nothing was drawn: the order is that of arrival"),
    }
    let tickets = source.tickets(&draw).await?;
    let noted = Noted {
        commitment: args.commitment,
        digest: args.digest,
    };
    let verdict = Verdict::of(draw, tickets, noted)?;
    // What was not drawn so has no order that would mean anything.
    let ticket = match &args.ticket {
        Some(wanted) if verdict.is_right() => Some(verdict.ticket(wanted)?),
        _ => None,
    };
    if args.json {
        println!("{}", verdict.json(ticket));
    } else if args.order && verdict.is_right() {
        verdict.write_order(std::io::stdout().lock())?;
    } else {
        print!("{verdict}");
        if let Some(ticket) = ticket {
            println!("{ticket}");
        }
    }
    if let Some(wrong) = verdict.wrong() {
        eprintln!("onsale: this draw is not what it should be: {wrong}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
