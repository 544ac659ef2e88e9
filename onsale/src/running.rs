//! A system that `onsale up` runs, as the other commands find it: by its data directory.
//!
//! The directory holds a lock, held exactly as long as the running `up` lives (the kernel releases
//! it however that ends), and a description of what runs, with passwords, for its owner only.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Where a system keeps what it knows, unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = ".onsale";

/// What runs and how to reach it: the object that `onsale up --json` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// Address of the first ingress.
    pub api: String,
    /// Addresses of the metrics of every process of ours.
    pub metrics: Vec<String>,
    /// Address of the nats-server, for its operator.
    pub nats: String,
    /// Address of the database, for its owner.
    pub database: String,
    /// The same for who only reads; none where it has no roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<String>,
    /// Address of the simulated payment gateway; none where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Absolute path of the data directory.
    pub data_dir: PathBuf,
    /// Who can sign in.
    pub accounts: Accounts,
    /// What the demo catalogue has on sale.
    pub demo: Catalogue,
    /// What runs.
    pub processes: Vec<Process>,
}

/// The demo accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// May change the catalogue.
    pub admin: Account,
    /// May buy.
    pub buyers: Vec<Account>,
}

/// One account that can sign in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name.
    pub email: String,
    /// Its password: of a demo account, so no secret.
    pub password: String,
}

/// Where to look first in the demo catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Catalogue {
    /// The concert.
    pub concert_id: String,
    /// Its date in a hall of 1,000 seats.
    pub hall_schedule_id: String,
    /// A date in a stadium of 50,000 seats.
    pub stadium_schedule_id: String,
    /// A date whose waiting room opens soon after the start: a new one each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_schedule_id: Option<String>,
}

/// One process of a running system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What it does: `ingress`, `workers`, `gateway`, `nats` or `postgres`.
    pub role: String,
    /// Its number among those of its role.
    pub index: u32,
    /// Its process id; another one after a restart.
    pub pid: u32,
}

/// The lock of a data directory, held by a running `up`. Dropping it lets the next one in.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    data_dir: PathBuf,
}

impl Lock {
    /// Takes a data directory for this process; `Ok(Err(pid))` when another one has it.
    ///
    /// # Errors
    /// When the directory can't be made or written.
    pub fn take(data_dir: &Path) -> anyhow::Result<Result<Self, u32>> {
        fs::create_dir_all(data_dir).with_context(|| format!("creating {}", data_dir.display()))?;
        let path = lock_file(data_dir);
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path);
        let mut file = opened.with_context(|| format!("opening {}", path.display()))?;
        match try_lock_patiently(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Err(pid_in(&path))),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
        let written = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.with_context(|| format!("writing {}", path.display()))?;
        Ok(Ok(Self {
            _file: file,
            data_dir: data_dir.to_owned(),
        }))
    }

    /// Tells the other commands what runs.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn describe(&self, running: &Running) -> io::Result<()> {
        let path = description_file(&self.data_dir);
        let aside = path.with_extension("new");
        let mut file = private_file(&aside)?;
        file.write_all(&serde_json::to_vec(running)?)?;
        fs::rename(aside, path)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A description without a lock is ignored, so that one which stays does no harm.
        drop(fs::remove_file(description_file(&self.data_dir)));
    }
}

/// The process that runs on a data directory, if any does.
///
/// # Errors
/// When the lock can't be read.
pub fn holder(data_dir: &Path) -> anyhow::Result<Option<u32>> {
    let path = lock_file(data_dir);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    // Shared, so that two who look at once don't take each other for a running system.
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(pid_in(&path))),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("asking {}", path.display()))
        }
    }
}

/// What runs on a data directory; `None` when nothing does, or when it is not ready yet.
///
/// # Errors
/// When it can't be read.
pub fn find(data_dir: &Path) -> anyhow::Result<Option<Running>> {
    if holder(data_dir)?.is_none() {
        return Ok(None);
    }
    let path = description_file(data_dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let running =
        serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(running))
}

/// A new file that only its owner may read.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Whoever asks for the [`holder`] has the lock for an instant, which must not keep an `up` out.
fn try_lock_patiently(file: &File) -> Result<(), TryLockError> {
    const TRIES: u32 = 10;
    for _ in 1..TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
    file.try_lock()
}

fn lock_file(data_dir: &Path) -> PathBuf {
    data_dir.join("up.lock")
}

fn description_file(data_dir: &Path) -> PathBuf {
    data_dir.join("up.json")
}

/// 0 when it is not written yet.
fn pid_in(path: &Path) -> u32 {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use onsale_testkit::Scratch;

    fn running() -> Running {
        let account = Account {
            email: "a@b".into(),
            password: "p".into(),
        };
        Running {
            api: "http://127.0.0.1:8080".into(),
            metrics: vec!["http://127.0.0.1:9601/metrics".into()],
            nats: "nats://127.0.0.1:4222".into(),
            database: "postgres://…".into(),
            reader: None,
            gateway: None,
            data_dir: "/d".into(),
            accounts: Accounts {
                admin: account.clone(),
                buyers: vec![account],
            },
            demo: Catalogue {
                concert_id: "c".into(),
                hall_schedule_id: "h".into(),
                stadium_schedule_id: "s".into(),
                room_schedule_id: None,
            },
            processes: vec![Process {
                role: "ingress".into(),
                index: 0,
                pid: 123,
            }],
        }
    }

    #[test]
    fn a_description_counts_while_its_lock_is_held() {
        let scratch = Scratch::new("running").unwrap();
        let dir = scratch.path().join("data");
        assert_eq!(holder(&dir).unwrap(), None);
        let lock = Lock::take(&dir).unwrap().unwrap();
        assert_eq!(holder(&dir).unwrap(), Some(std::process::id()));
        assert_eq!(Lock::take(&dir).unwrap().unwrap_err(), std::process::id());
        assert_eq!(find(&dir).unwrap(), None);
        lock.describe(&running()).unwrap();
        assert_eq!(find(&dir).unwrap(), Some(running()));
        fs::copy(description_file(&dir), dir.join("kept")).unwrap();
        drop(lock);
        fs::rename(dir.join("kept"), description_file(&dir)).unwrap();
        assert_eq!(
            find(&dir).unwrap(),
            None,
            "without a lock it is only a file"
        );
    }

    #[test]
    fn a_description_of_an_older_version_is_read() {
        let json = serde_json::to_string(&running()).unwrap();
        assert!(!json.contains("reader"));
        assert_eq!(serde_json::from_str::<Running>(&json).unwrap(), running());
    }

    #[test]
    fn the_json_has_the_documented_names() {
        let json = serde_json::to_string(&running()).unwrap();
        assert_eq!(
            json,
            concat!(
                r#"{"api":"http://127.0.0.1:8080","metrics":["http://127.0.0.1:9601/metrics"],"#,
                r#""nats":"nats://127.0.0.1:4222","database":"postgres://…","dataDir":"/d","#,
                r#""accounts":{"admin":{"email":"a@b","password":"p"},"buyers":[{"email":"a@b","password":"p"}]},"#,
                r#""demo":{"concertId":"c","hallScheduleId":"h","stadiumScheduleId":"s"},"#,
                r#""processes":[{"role":"ingress","index":0,"pid":123}]}"#,
            )
        );
    }
}
