//! From a signal to a cancelled token: the first asks for a clean end, the second forces it.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Waits for SIGTERM or SIGINT, cancels `token`, then exits the process (status 130) on a second
/// one. Runs until then; spawn it once, in `main`.
///
/// # Errors
/// When the signal handlers can't be installed.
pub async fn on_signal(token: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    for round in 0.. {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if round > 0 {
            std::process::exit(130);
        }
        tracing::info!("stopping; a second signal forces");
        token.cancel();
    }
    Ok(())
}
