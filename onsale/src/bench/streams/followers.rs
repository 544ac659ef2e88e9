//! Many open event streams on one thread, read just far enough to know which version each has.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use onsale_schema::ScheduleId;

use crate::bench::histogram::Histogram;

/// Read at once.
const READ_BYTES: usize = 16 * 1024;
/// How much of what was read is looked at again with what comes next: an `id` line may be cut.
const TAIL_BYTES: usize = 32;
/// How often it is looked whether the time is up.
const LOOK_EVERY_MS: u16 = 100;
/// How an answer in chunks ends.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Clients, each with a stream of one date.
pub struct Followers {
    epoll: Epoll,
    streams: Vec<Stream>,
}

struct Stream {
    socket: TcpStream,
    /// The end of what was read.
    tail: Vec<u8>,
    /// The last version that was told.
    version: Option<i64>,
    end: Option<End>,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// As HTTP has it.
    Whole,
    Broken,
}

impl Followers {
    /// Opens so many streams, one after the other, and waits until each was told where it is.
    ///
    /// # Errors
    /// When one is refused, or `limit` has passed.
    pub fn open(
        addr: SocketAddr,
        schedule: ScheduleId,
        count: usize,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let request = format!(
            "GET /api/v1/schedules/{schedule}/events HTTP/1.1\r\nHost: {addr}\r\n\
             Accept: text/event-stream\r\n\r\n"
        );
        let mut followers = Self {
            epoll: Epoll::new(EpollCreateFlags::empty())?,
            streams: Vec::with_capacity(count),
        };
        let deadline = Instant::now() + limit;
        for index in 0..count {
            ensure!(
                Instant::now() < deadline,
                "{index} streams are open, and the time is up"
            );
            let mut socket = TcpStream::connect(addr).context("connecting")?;
            socket.write_all(request.as_bytes()).context("asking")?;
            socket.set_nonblocking(true)?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            followers.epoll.add(&socket, event)?;
            followers.streams.push(Stream {
                socket,
                tail: Vec::new(),
                version: None,
                end: None,
            });
        }
        followers.until(0, Instant::now(), deadline)?;
        Ok(followers)
    }

    /// Waits until all were told this version or a later one; how long after `since` each was.
    ///
    /// # Errors
    /// When a stream ends, or `deadline` has passed.
    pub fn until(
        &mut self,
        version: i64,
        since: Instant,
        deadline: Instant,
    ) -> anyhow::Result<Histogram> {
        let mut told = Histogram::default();
        let has_it = |stream: &Stream| stream.version.is_some_and(|has| has >= version);
        let mut waiting = self.streams.iter().filter(|stream| !has_it(stream)).count();
        while waiting > 0 {
            let ready = self.ready()?;
            for index in ready {
                let stream = &mut self.streams[index];
                let had_it = has_it(stream);
                stream.read();
                if let Some(end) = stream.end {
                    let said = String::from_utf8_lossy(&stream.tail).into_owned();
                    bail!("a stream ended ({end:?}): {said}");
                }
                if !had_it && has_it(stream) {
                    told.record(since.elapsed());
                    waiting -= 1;
                }
            }
            ensure!(
                waiting == 0 || Instant::now() < deadline,
                "{waiting} of {} streams were not told of version {version} in time",
                self.streams.len()
            );
        }
        Ok(told)
    }

    /// Waits until all have ended; how many did so as HTTP has it.
    ///
    /// # Errors
    /// When `deadline` has passed.
    pub fn until_ended(&mut self, deadline: Instant) -> anyhow::Result<usize> {
        while self.streams.iter().any(|stream| stream.end.is_none()) {
            for index in self.ready()? {
                let stream = &mut self.streams[index];
                stream.read();
                if stream.end.is_some() {
                    // Its end would be reported again and again.
                    self.epoll.delete(&stream.socket)?;
                }
            }
            ensure!(Instant::now() < deadline, "not all streams ended in time");
        }
        let whole = |stream: &&Stream| stream.end == Some(End::Whole);
        Ok(self.streams.iter().filter(whole).count())
    }

    fn ready(&self) -> anyhow::Result<Vec<usize>> {
        let mut events = vec![EpollEvent::empty(); 1024];
        match self
            .epoll
            .wait(&mut events, EpollTimeout::from(LOOK_EVERY_MS))
        {
            Err(nix::errno::Errno::EINTR) => Ok(Vec::new()),
            ready => {
                let ready = events[..ready?].iter();
                Ok(ready.map(|event| event.data() as usize).collect())
            }
        }
    }
}

impl Stream {
    /// Reads what is there.
    fn read(&mut self) {
        let mut piece = [0; READ_BYTES];
        while self.end.is_none() {
            match self.socket.read(&mut piece) {
                Ok(0) => {
                    let is_whole = self.tail.ends_with(LAST_CHUNK);
                    self.end = Some(if is_whole { End::Whole } else { End::Broken });
                }
                Ok(read) => {
                    self.tail.extend_from_slice(&piece[..read]);
                    self.version = last_version(&self.tail).or(self.version);
                    let from = self.tail.len().saturating_sub(TAIL_BYTES);
                    self.tail.drain(..from);
                    self.tail.shrink_to(2 * TAIL_BYTES);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.end = Some(End::Broken),
            }
        }
    }
}

/// The version of the last whole `id` line.
fn last_version(text: &[u8]) -> Option<i64> {
    const NAME: &[u8] = b"id: ";
    let begins = text.windows(NAME.len()).enumerate();
    let begins = begins
        .filter(|(_, window)| *window == NAME)
        .map(|(at, _)| at + NAME.len());
    let mut versions = begins.filter_map(|from| {
        let line = &text[from..];
        let end = line.iter().position(|byte| *byte == b'\n')?;
        std::str::from_utf8(&line[..end]).ok()?.parse().ok()
    });
    versions.next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_id_counts() {
        for (text, expected) in [
            ("", None),
            ("HTTP/1.1 200 OK\r\n\r\n", None),
            ("id: 7\nevent: seats\ndata: {}\n\n", Some(7)),
            ("id: 7\nevent: seats\n\nid: 12\nevent", Some(12)),
            ("id: 7\nevent: seats\n\nid: 12", Some(7)),
        ] {
            assert_eq!(last_version(text.as_bytes()), expected, "{text}");
        }
    }
}
