//! What the figures were measured on.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Context;
use onsale_testkit::Tools;
use serde_json::{Value, json};

/// Writes of the probe of the disk.
const PROBES: usize = 64;
/// What one write of WAL is at least.
const PROBE_BYTES: usize = 8192;

/// Describes this machine, the servers and this build.
#[must_use]
pub fn describe(tools: &Tools) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    json!({
        "cores": cores,
        "cpu": value_of("/proc/cpuinfo", "model name"),
        "memoryMb": value_of("/proc/meminfo", "MemTotal")
            .and_then(|kb| kb.split_whitespace().next()?.parse::<u64>().ok())
            .map(|kb| kb / 1024),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease")
            .map(|text| text.trim().to_owned()).ok(),
        "postgres": version(&tools.postgres_bin.join("postgres")),
        "nats": version(&tools.nats_server),
    })
}

/// The commit that is checked out, with a `+` when the tree differs from it; none outside a clone.
#[must_use]
pub fn revision() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let clean = git(&["status", "--porcelain"])?.is_empty();
    Some(if clean { commit } else { commit + "+" })
}

/// The median time, in milliseconds, in which the disk under `dir` takes a write for good: what
/// every commit waits for.
///
/// # Errors
/// When nothing can be written there.
pub fn fdatasync_ms(dir: &Path) -> anyhow::Result<f64> {
    let path = dir.join("fdatasync-probe");
    let failed = || format!("writing {}", path.display());
    let file = fs::File::create(&path).with_context(failed)?;
    let block = [b'x'; PROBE_BYTES];
    // As WAL is: written over, so that the file does not grow.
    file.write_all_at(&vec![0; PROBES * PROBE_BYTES], 0)
        .and_then(|()| file.sync_all())
        .with_context(failed)?;
    let mut times_ms = Vec::with_capacity(PROBES);
    for probe in 0..PROBES {
        let started = Instant::now();
        file.write_all_at(&block, (probe * PROBE_BYTES) as u64)
            .and_then(|()| file.sync_data())
            .with_context(failed)?;
        times_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(&path).with_context(failed)?;
    times_ms.sort_by(f64::total_cmp);
    Ok(times_ms[PROBES / 2])
}

/// What a process has of memory (its resident set), in bytes.
///
/// # Errors
/// When there is no such process.
pub fn memory_bytes(pid: u32) -> anyhow::Result<u64> {
    let resident = value_of(&format!("/proc/{pid}/status"), "VmRSS");
    let kb = resident.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kb.context("reading the memory of a process")? * 1024)
}

/// The value of the first `name: value` line of a file.
fn value_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_takes_some_time() {
        let scratch = onsale_testkit::Scratch::new("probe").unwrap();
        assert!(fdatasync_ms(scratch.path()).unwrap() > 0.0);
    }

    #[test]
    fn this_machine_has_a_name_and_memory() {
        assert!(value_of("/proc/meminfo", "MemTotal").is_some());
        assert!(value_of("/proc/cpuinfo", "no such line").is_none());
        assert!(memory_bytes(std::process::id()).unwrap() > 1024 * 1024);
    }
}
