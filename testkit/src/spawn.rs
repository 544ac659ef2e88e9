//! Children that can't outlive us, however we end.
//!
//! The kernel sends a child its parent-death signal also when the parent is killed with -9, where
//! no destructor runs. Asking for that signal between fork and exec would need `unsafe`, so
//! `setpriv` (util-linux) asks for it and then becomes the program. Two traps are handled here:
//! the signal goes out when the *thread* that forked ends, so that all forks are made by one
//! thread that lives as long as the process; and a parent that dies before `setpriv` has asked
//! would go unnoticed, so that a line of shell compares the parent before it becomes the program.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
pub use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};

use crate::place::Account;

/// Lets this process, and the children that it starts from now on, open as many files and
/// connections as the machine allows: a shell often allows only 1,024.
///
/// # Errors
/// When the kernel refuses.
pub fn allow_many_files() -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// How a child is tied to this process.
#[derive(Debug, Clone, Copy)]
pub struct Tie<'a> {
    /// What the child gets when we are gone.
    pub death_signal: Signal,
    /// The account that the child runs as, when it is not ours.
    pub account: Option<&'a Account>,
    /// Whether the child is out of reach of the terminal's Ctrl-C, so that *we* decide in which
    /// order things stop.
    pub own_group: bool,
}

impl<'a> Tie<'a> {
    /// A child of our own account in a process group of its own.
    #[must_use]
    pub fn new(death_signal: Signal) -> Self {
        Self {
            death_signal,
            account: None,
            own_group: true,
        }
    }

    /// The same, run by another account.
    #[must_use]
    pub fn run_by(self, account: Option<&'a Account>) -> Self {
        Self { account, ..self }
    }

    /// A command for `program` under this tie; arguments, environment and streams are the
    /// caller's to add. It must be started by [`spawn`], by nothing else.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(account) = self.account {
            account.setpriv_args(&mut command);
        }
        let name = self.death_signal.as_str();
        command.args(["--pdeathsig", name.strip_prefix("SIG").unwrap_or(name)]);
        command.args([
            "--",
            "sh",
            "-c",
            r#"[ "$PPID" = "$0" ] || exit 75; exec "$@""#,
        ]);
        command.arg(std::process::id().to_string()).arg(program);
        if self.own_group {
            command.process_group(0);
        }
        command
    }
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    /// True once the process has been reaped, when its number may already be somebody else's.
    reaped: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Child {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Sends a signal; false when the child has ended.
    pub fn signal(&self, signal: Signal) -> bool {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        !*reaped && nix::sys::signal::kill(self.pid, signal).is_ok()
    }

    /// How the child ended, if it did.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until the child has ended. Cancel safe.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await;
        status
            .expect("the reaping thread sends the status before it ends")
            .expect("waited until there is a status")
    }

    /// Sends `signal`, and kills the child when it has not ended `grace` later.
    pub async fn stop(&self, signal: Signal, grace: Duration) -> ExitStatus {
        self.signal(signal);
        match tokio::time::timeout(grace, self.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.signal(Signal::SIGKILL);
                self.wait().await
            }
        }
    }

    /// Waits at most `limit` without a runtime, for destructors.
    pub(crate) fn wait_blocking(&self, limit: Duration) {
        let step = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        while self.exit_status().is_none() && waited < limit {
            std::thread::sleep(step);
            waited += step;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

type Order = (Command, oneshot::Sender<io::Result<std::process::Child>>);

/// The one thread that forks.
fn spawner() -> &'static mpsc::Sender<Order> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("spawn".to_owned())
            .spawn(move || {
                // The sender is a static, so this ends with the process and not before.
                for (mut command, reply) in inbox {
                    if let Err(Ok(mut orphan)) = reply.send(command.spawn()) {
                        // Nobody waits for it any more: it must not stay.
                        drop(orphan.kill());
                        drop(orphan.wait());
                    }
                }
            })
            .expect("a process that can't start a thread can't start servers either");
        orders
    })
}

/// Starts a command made by [`Tie::command`].
///
/// # Errors
/// When the program could not be started.
pub async fn spawn(command: Command) -> io::Result<Child> {
    let (reply, answer) = oneshot::channel();
    let gone = |_| io::Error::other("the spawning thread is gone");
    spawner().send((command, reply)).map_err(|_| gone(()))?;
    let mut child = answer.await.map_err(|_| gone(()))??;

    let pid = Pid::from_raw(i32::try_from(child.id()).expect("Linux process ids are positive i32"));
    let reaped = Arc::new(Mutex::new(false));
    let (exited, exit) = watch::channel(None);
    let reaper = Arc::clone(&reaped);
    std::thread::Builder::new()
        .name(format!("reap-{pid}"))
        .spawn(move || {
            // First only look: while the process is a zombie its number can't be given away, and
            // the flag is set before it is reaped.
            let look = || waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            while look() == Err(Errno::EINTR) {}
            let mut reaped = reaper.lock().unwrap_or_else(PoisonError::into_inner);
            *reaped = true;
            let status = child.wait().unwrap_or_default();
            drop(reaped);
            exited.send_replace(Some(status));
        })?;
    Ok(Child { pid, reaped, exit })
}
