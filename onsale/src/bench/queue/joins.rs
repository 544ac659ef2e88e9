//! Joins over HTTP, each by a user of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use onsale_schema::{ScheduleId, UserId};
use uuid::Uuid;

use super::super::case::post;
use super::super::load::{Generator, Script};
use super::super::progress::Progress;
use super::super::run::{Track, play};
use super::polls::SCRIPT;

/// So many of many tickets are a step that is told.
const STEP: u32 = 250_000;

/// Has so many users join a room, at all ingresses in turns; how long it took, without the time in
/// which requests were prepared. They have no accounts: nobody looks for one while a token is good.
///
/// # Errors
/// When a server does not accept, or not everybody was given a ticket.
pub async fn all(
    track: &mut Track,
    connections: usize,
    schedule: ScheduleId,
    tickets: u32,
    progress: &Progress,
) -> anyhow::Result<Duration> {
    let addrs = track.rig.pipelines();
    let mut generator = Generator::connect_to(&addrs, connections).context("connecting")?;
    let (mut joined, mut took) = (0, Duration::ZERO);
    while joined < tickets {
        let count = (tickets - joined).min(SCRIPT as u32);
        let tokens = (0..count).map(|_| track.grounds.sign_in(UserId(Uuid::now_v7())).token);
        let script = script(addrs[0], schedule, tokens);
        let (back, came) = play(generator, script).await?;
        ensure!(
            came.failed == 0 && came.status(201) == u64::from(count),
            "of {count} joins came {:?} and {} without an answer; for instance {:?}",
            came.statuses,
            came.failed,
            came.samples
        );
        generator = back;
        took += came.elapsed;
        joined += count;
        if joined % STEP == 0 && joined < tickets {
            progress.say(format!("{joined} have joined"));
        }
    }
    Ok(took)
}

/// A join of each of these.
pub fn script(
    addr: SocketAddr,
    schedule: ScheduleId,
    tokens: impl Iterator<Item = String>,
) -> Script {
    let path = format!("/api/v1/schedules/{schedule}/queue");
    let mut script = Script::default();
    for token in tokens {
        script.push(|out| post(out, addr, &path, (&token, "the-only-join"), "null"));
    }
    script
}
