//! The data of one Postgres on disk: made whole or not at all, with its password beside it, and
//! taken over from whatever a former run has left.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio::time::Instant;

use super::{ROLE, SERVER, STOP_LIMIT};
use crate::place::{Account, Place};
use crate::server::{self, Error, Log, POLL, io_error};
use crate::spawn::{self, Signal, Tie};

/// The first Postgres whose own C.UTF-8 does not depend on the system's.
const BUILTIN_LOCALE_SINCE: u32 = 17;

pub(super) fn path(place: &Place) -> PathBuf {
    place.dir.join("data")
}

/// The password that belongs to the data, made with it.
pub(super) fn password(place: &Place) -> Result<String, Error> {
    let path = place.dir.join("password");
    let failed = || format!("keeping the password in {}", path.display());
    if let Ok(password) = fs::read_to_string(&path)
        && !password.trim().is_empty()
    {
        return Ok(password.trim().to_owned());
    }
    let password = format!("{:032x}", rand::random::<u128>());
    let aside = place.dir.join("password.new");
    drop(fs::remove_file(&aside));
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .map_err(io_error(failed()))?;
    std::io::Write::write_all(&mut file, password.as_bytes()).map_err(io_error(failed()))?;
    Account::own(place.account.as_ref(), &aside, 0o600)?;
    fs::rename(&aside, &path).map_err(io_error(failed()))?;
    Ok(password)
}

/// Makes new data, aside first, so that an interrupted run leaves nothing half made.
pub(super) async fn init(place: &Place, version: u32) -> Result<(), Error> {
    let data = path(place);
    if data.join("PG_VERSION").exists() {
        return Ok(());
    }
    let aside = place.dir.join("data.new");
    remove_interrupted(&aside).await?;
    let (log, log_file) = Log::open(&place.dir.join("initdb.log"))?;
    let tie = Tie::new(Signal::SIGKILL).run_by(place.account.as_ref());
    let mut command = tie.command(place.bin.join("initdb"));
    command
        .arg("--pgdata")
        .arg(&aside)
        .arg("--username")
        .arg(ROLE);
    command
        .arg("--pwfile")
        .arg(place.dir.join("password"))
        .arg("--auth=scram-sha-256");
    command.args([
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--lc-messages=C",
        "--no-instructions",
    ]);
    if version >= BUILTIN_LOCALE_SINCE {
        command.args(["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]);
    }
    plain_environment(&mut command);
    let errors = log_file.try_clone().map_err(io_error("sharing a log"))?;
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log_file)
        .stderr(errors);
    let child = spawn::spawn(command)
        .await
        .map_err(io_error("starting initdb"))?;
    let status = child.wait().await;
    if !status.success() {
        let reason = format!("initdb ended with {status}");
        return Err(Error::Start {
            server: SERVER,
            reason,
            log_tail: log.tail(),
        });
    }
    fs::rename(&aside, &data).map_err(io_error(format!("creating {}", data.display())))
}

/// Removes what an interrupted initdb has left. A child of it may still be writing for a moment.
async fn remove_interrupted(aside: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + STOP_LIMIT;
    while let Err(error) = fs::remove_dir_all(aside) {
        match error.kind() {
            ErrorKind::NotFound => break,
            ErrorKind::DirectoryNotEmpty if Instant::now() < deadline => {}
            _ => return Err(io_error(format!("removing {}", aside.display()))(error)),
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

pub(super) fn check_version(place: &Place, running: u32) -> Result<(), Error> {
    let path = path(place).join("PG_VERSION");
    let found =
        fs::read_to_string(&path).map_err(io_error(format!("reading {}", path.display())))?;
    if found.trim() == running.to_string() {
        return Ok(());
    }
    Err(Error::DataVersion {
        dir: place.dir.clone(),
        found: found.trim().to_owned(),
        running,
    })
}

/// Waits for a leftover server, and takes away a pid file that names somebody else: Postgres
/// itself would refuse to start while any process of the same user has that number.
pub(super) async fn settle(place: &Place) -> Result<(), Error> {
    let data = path(place);
    let pid_file = data.join("postmaster.pid");
    let Some(pid) = server::pid_in(&pid_file) else {
        return Ok(());
    };
    let real = data
        .canonicalize()
        .map_err(io_error(format!("reading {}", data.display())))?;
    let works_here = |pid: u32| {
        server::program_of(pid).as_deref() == Some("postgres")
            && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == real)
    };
    server::until_leftover_is_gone(SERVER, pid, &place.dir, works_here, STOP_LIMIT).await?;
    match fs::remove_file(&pid_file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(io_error(format!("removing {}", pid_file.display()))(error))
        }
        _ => Ok(()),
    }
}

/// The caller's environment could redirect Postgres (PGPORT, PGDATA) or break its locale.
pub(super) fn plain_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C");
}
