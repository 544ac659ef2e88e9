//! Temporary folders that go away with their process, however it ends.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Reads what to wait for (process ids) and what else to remove (paths) until its standard input
/// ends, which the kernel sees to when the parent is gone; then waits for the processes, at most
/// half a minute, and removes the folders.
const JANITOR: &str = r#"
pids=
while IFS= read -r line; do
    case $line in
        /*) set -- "$@" "$line" ;;
        *) pids="$pids $line" ;;
    esac
done
tries=0
for pid in $pids; do
    while [ -d "/proc/$pid" ] && [ $tries -lt 300 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
done
rm -rf -- "$@"
"#;

/// A temporary folder. Dropping it removes it; so does the end of the process, also by kill -9.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    janitor: Child,
    lifeline: Option<ChildStdin>,
}

impl Scratch {
    /// Makes a folder in the system's place for temporary files, whose name starts with `name`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(name: &str) -> io::Result<Self> {
        let path =
            nix::unistd::mkdtemp(&std::env::temp_dir().join(format!("onsale-{name}-XXXXXX")))?;
        // Another account may have to pass through it, see `place`.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711))?;
        let mut janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            // Out of reach of Ctrl-C: it has to outlive us for a moment.
            .process_group(0)
            .spawn()?;
        let lifeline = janitor.stdin.take();
        Ok(Self {
            path,
            janitor,
            lifeline,
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has the folder stay until this process has ended, too.
    ///
    /// # Errors
    /// When the janitor has been killed.
    pub fn outlive(&mut self, pid: u32) -> io::Result<()> {
        self.tell(&pid.to_string())
    }

    /// Has another folder removed as well.
    ///
    /// # Errors
    /// When the janitor has been killed.
    pub fn also_remove(&mut self, folder: &Path) -> io::Result<()> {
        self.tell(&folder.display().to_string())
    }

    fn tell(&mut self, line: &str) -> io::Result<()> {
        match &mut self.lifeline {
            Some(lifeline) => writeln!(lifeline, "{line}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        drop(self.janitor.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_away_with_all_that_is_in_it() {
        let mut scratch = Scratch::new("scratch").unwrap();
        let other = Scratch::new("other").unwrap();
        let also = other.path().join("also");
        fs::create_dir(&also).unwrap();
        fs::write(scratch.path().join("file"), "x").unwrap();
        scratch.also_remove(&also).unwrap();
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists() && !also.exists() && other.path().exists());
    }
}
