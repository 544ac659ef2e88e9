//! The gateway's book on the disk: a file that only grows, a line of JSON for each change. Nothing is
//! answered before all that the answer could rest on has reached the disk; many changes share one
//! `fdatasync`. What a kill cut off in the middle of a line was never answered, and is removed.

use super::ledger::{Ledger, Line};
use super::{Error, io_failed};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::watch;

const FILE: &str = "book.jsonl";
/// Lines that wait to be written; who has more waits.
const QUEUE_MAX: usize = 4096;

/// The open book.
#[derive(Debug)]
pub struct Book {
    inner: Mutex<Inner>,
    /// How many lines of this run are on the disk.
    durable: watch::Receiver<u64>,
}

#[derive(Debug)]
struct Inner {
    ledger: Ledger,
    lines: u64,
    queue: SyncSender<Vec<u8>>,
}

/// The disk does not take any more: nothing more can be promised.
#[derive(Debug)]
pub struct Closed;

impl Book {
    /// Opens the book of a folder, or begins one. The thread writes it and ends with it.
    pub fn open(dir: &Path) -> Result<(Self, JoinHandle<()>), Error> {
        fs::create_dir_all(dir).map_err(io_failed(format!("creating {}", dir.display())))?;
        let path = dir.join(FILE);
        let opening = || io_failed(format!("opening {}", path.display()));
        let opened = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path);
        let mut file = opened.map_err(opening())?;
        file.try_lock()
            .map_err(|error| opening()(std::io::Error::from(error)))?;
        let ledger = read(&mut file, &path)?;
        // The file's name is to be there after a power cut, too.
        let folder = File::open(dir).and_then(|folder| folder.sync_all());
        folder.map_err(opening())?;
        let (queue, lines) = sync_channel(QUEUE_MAX);
        let (written, durable) = watch::channel(0);
        let writer = std::thread::Builder::new()
            .name("book".to_owned())
            .spawn(move || write(file, &lines, &written))
            .map_err(opening())?;
        let book = Self {
            inner: Mutex::new(Inner {
                ledger,
                lines: 0,
                queue,
            }),
            durable,
        };
        Ok((book, writer))
    }

    /// Looks, decides and writes, as one step; returns when it is on the disk, and so is all that was
    /// looked at.
    pub async fn change<T>(
        &self,
        decide: impl FnOnce(&Ledger) -> (Option<Line>, T),
    ) -> Result<T, Closed> {
        let (done, upto) = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let (line, done) = decide(&inner.ledger);
            if let Some(line) = line {
                let mut bytes = serde_json::to_vec(&line).map_err(|_| Closed)?;
                bytes.push(b'\n');
                inner.queue.send(bytes).map_err(|_| Closed)?;
                inner.ledger.apply(&line);
                inner.lines += 1;
            }
            (done, inner.lines)
        };
        let mut durable = self.durable.clone();
        let reached = durable.wait_for(|written| *written >= upto).await;
        reached.map_err(|_| Closed)?;
        Ok(done)
    }

    /// Looks only.
    pub async fn look<T>(&self, look: impl FnOnce(&Ledger) -> T) -> Result<T, Closed> {
        self.change(|ledger| (None, look(ledger))).await
    }

    /// Waits until the disk takes no more.
    pub async fn closed(&self) {
        let mut durable = self.durable.clone();
        while durable.changed().await.is_ok() {}
    }
}

fn write(mut file: File, queue: &Receiver<Vec<u8>>, written: &watch::Sender<u64>) {
    let mut lines = 0;
    while let Ok(mut bytes) = queue.recv() {
        lines += 1;
        while let Ok(more) = queue.try_recv() {
            bytes.extend(more);
            lines += 1;
        }
        if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
            tracing::error!(%error, "the book can't be written");
            return;
        }
        written.send_replace(lines);
    }
}

/// Reads all lines; cuts off one that has no end.
fn read(file: &mut File, path: &Path) -> Result<Ledger, Error> {
    let reading = || io_failed(format!("reading {}", path.display()));
    let mut ledger = Ledger::default();
    let mut reader = BufReader::new(&mut *file);
    let (mut bytes, mut good, mut number) = (Vec::new(), 0_u64, 0);
    loop {
        bytes.clear();
        let count = reader.read_until(b'\n', &mut bytes).map_err(reading())?;
        if count == 0 || bytes.last() != Some(&b'\n') {
            break;
        }
        number += 1;
        let line: Line = serde_json::from_slice(&bytes).map_err(|_| Error::Book {
            path: path.to_owned(),
            line: number,
        })?;
        ledger.apply(&line);
        good += bytes.len() as u64;
    }
    drop(reader);
    file.set_len(good).map_err(reading())?;
    file.seek(SeekFrom::End(0)).map_err(reading())?;
    Ok(ledger)
}
