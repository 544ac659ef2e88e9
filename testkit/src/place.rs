//! Who runs Postgres, and where its files can live.
//!
//! Postgres refuses to run as root. Started by root, it is dropped to another account, and that
//! account may not be able to enter the folder of the clone (`/root` is closed to others). Then
//! programs and data live below [`ROOTS_OWN`], where it can.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use crate::tools::Tools;

/// Where files go that the other account could not reach in the clone. Only root comes here, so
/// only root can have made it.
pub const ROOTS_OWN: &str = "/var/lib/onsale";

/// The account that runs Postgres in place of root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name, for messages.
    pub name: String,
    uid: u32,
    gid: u32,
}

/// Why Postgres has no place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Root, and nobody to drop to.
    #[error("Postgres can't run as root, and there is neither a user `postgres` nor `nobody`")]
    NoAccount,
    /// The account can't run the machine's own Postgres.
    #[error("Postgres can't run as root, and user {account} can't run {}", .bin.display())]
    ForeignBin {
        /// The account that was tried.
        account: String,
        /// The folder with the programs.
        bin: PathBuf,
    },
    /// Neither the wished folder nor ours can be reached by the account.
    #[error("user {account}, who runs Postgres in place of root, can't reach {}", .path.display())]
    Unreachable {
        /// The account that was tried.
        account: String,
        /// The last folder that was tried.
        path: PathBuf,
    },
    /// The file system said no.
    #[error("{}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Where one Postgres runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The account that runs it, when that is not ours.
    pub account: Option<Account>,
    /// Folder with `postgres` and `initdb`.
    pub bin: PathBuf,
    /// Folder of the data; not always the one that was asked for.
    pub dir: PathBuf,
}

impl Account {
    /// The account for Postgres: ours (`None`), unless we are root.
    ///
    /// # Errors
    /// When we are root and there is nobody else.
    pub fn for_postgres() -> Result<Option<Self>, Error> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let known = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten());
        let user = known.ok_or(Error::NoAccount)?;
        Ok(Some(Self {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        }))
    }

    /// Lets `setpriv` become this account.
    pub(crate) fn setpriv_args(&self, command: &mut Command) {
        command.arg(format!("--reuid={}", self.uid));
        command.arg(format!("--regid={}", self.gid));
        command.arg("--clear-groups");
    }

    /// Whether this account can run a program.
    fn can_run(&self, program: &Path) -> bool {
        self.succeeds(r#"exec "$0" --version"#, program)
    }

    /// Whether this account can work in a folder.
    fn can_use(&self, folder: &Path) -> bool {
        self.succeeds(r#"cd "$0" && [ -w . ]"#, folder)
    }

    /// Tries a line of shell as this account. Always through a shell: `setpriv` itself still has
    /// root's powers when it looks for the program, so that it would find what others can't.
    fn succeeds(&self, script: &str, path: &Path) -> bool {
        let mut command = Command::new("setpriv");
        self.setpriv_args(&mut command);
        command
            .args(["--", "sh", "-c", script])
            .arg(path)
            .current_dir("/");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Gives a file or folder to this account, for it alone.
    pub(crate) fn own(account: Option<&Self>, path: &Path, mode: u32) -> Result<(), Error> {
        let io = |source| Error::Io {
            path: path.to_owned(),
            source,
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io)?;
        match account {
            Some(account) => chown(path, Some(account.uid), Some(account.gid)).map_err(io),
            None => Ok(()),
        }
    }
}

impl Place {
    /// Finds a place for the Postgres whose data is wanted in `dir`, and makes it ready. The same
    /// wish always leads to the same place.
    ///
    /// # Errors
    /// When no place can be made.
    pub fn find(tools: &Tools, dir: &Path) -> Result<Self, Error> {
        let account = Account::for_postgres()?;
        let bin = match &account {
            None => tools.postgres_bin.clone(),
            Some(account) => reachable_bin(tools, account)?,
        };
        let dir = std::path::absolute(dir).map_err(|source| Error::Io {
            path: dir.to_owned(),
            source,
        })?;
        let dir = claim_folder(account.as_ref(), dir)?;
        Ok(Self { account, bin, dir })
    }
}

fn claim_folder(account: Option<&Account>, dir: PathBuf) -> Result<PathBuf, Error> {
    let make = |dir: &Path| {
        fs::create_dir_all(dir).map_err(|source| Error::Io {
            path: dir.to_owned(),
            source,
        })?;
        Account::own(account, dir, 0o700)
    };
    make(&dir)?;
    let Some(account) = account else {
        return Ok(dir);
    };
    if account.can_use(&dir) {
        return Ok(dir);
    }
    // Left empty it would only mislead; should it hold anything, it stays.
    drop(fs::remove_dir(&dir));
    let elsewhere = Path::new(ROOTS_OWN).join(format!(
        "data-{:016x}",
        fnv1a64(dir.as_os_str().as_encoded_bytes())
    ));
    make(&elsewhere)?;
    if account.can_use(&elsewhere) {
        return Ok(elsewhere);
    }
    Err(Error::Unreachable {
        account: account.name.clone(),
        path: elsewhere,
    })
}

fn reachable_bin(tools: &Tools, account: &Account) -> Result<PathBuf, Error> {
    let runs = |bin: &Path| account.can_run(&bin.join("postgres"));
    if runs(&tools.postgres_bin) {
        return Ok(tools.postgres_bin.clone());
    }
    let foreign = || Error::ForeignBin {
        account: account.name.clone(),
        bin: tools.postgres_bin.clone(),
    };
    let tree = tools.postgres_tree.as_ref().ok_or_else(foreign)?;
    let inside = tools
        .postgres_bin
        .strip_prefix(tree)
        .map_err(|_| foreign())?;
    let copy = Path::new(ROOTS_OWN).join(tree.file_name().ok_or_else(foreign)?);
    let bin = copy.join(inside);
    let copied = || -> io::Result<()> {
        fs::create_dir_all(ROOTS_OWN)?;
        fs::set_permissions(ROOTS_OWN, fs::Permissions::from_mode(0o755))?;
        // One at a time, or a late one would replace what an early one already runs.
        let lock = fs::File::create(Path::new(ROOTS_OWN).join("copy.lock"))?;
        lock.lock()?;
        if runs(&bin) {
            return Ok(());
        }
        copy_tree_whole(tree, &copy)
    };
    copied().map_err(|source| Error::Io {
        path: copy.clone(),
        source,
    })?;
    if runs(&bin) {
        return Ok(bin);
    }
    Err(Error::Unreachable {
        account: account.name.clone(),
        path: bin,
    })
}

/// Copies a tree so that it appears whole or not at all; readable by all.
fn copy_tree_whole(from: &Path, to: &Path) -> io::Result<()> {
    let aside = to.with_file_name("copy.new");
    for left in [aside.as_path(), to] {
        if left.exists() {
            fs::remove_dir_all(left)?;
        }
    }
    copy_tree(from, &aside)?;
    fs::rename(&aside, to)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            fs::set_permissions(
                &target,
                fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }),
            )?;
        }
    }
    Ok(())
}

/// FNV-1a, 64 bit: stable over builds, which the standard library's hasher is not.
fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
