//! A running worker of a test.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Dropping it is what a crash is: its tasks end wherever they are.
pub struct Worker {
    pub stop: CancellationToken,
    pub task: JoinSet<Result<(), onsale_workers::context::Error>>,
}

impl Worker {
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = self.task.join_next().await.expect("one task");
        ended.expect("no panic").expect("a clean end");
    }
}
