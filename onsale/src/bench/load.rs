//! The load generator: a closed loop of keep-alive HTTP/1.1 connections on one thread.
//!
//! It shares the machine with what it measures, so it does nothing that it need not: requests are
//! made before the clock starts, an answer is read just far enough to know its status and its end,
//! and one `epoll` serves all connections. Latency is counted from the first byte written to the
//! last byte read.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::histogram::Histogram;

/// Room for one answer.
const ANSWER_BYTES: usize = 16 * 1024;
/// How often a generator without answers looks whether its time is up.
const LOOK_EVERY_MS: u16 = 100;
/// So much of an answer is kept as a sample.
const SAMPLE_BYTES: usize = 600;

/// Requests, ready to be sent, one after the other.
#[derive(Debug, Default)]
pub struct Script {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Script {
    /// Appends what `write` writes as one request.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// How many requests.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }
}

/// What came of a script.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Of the answers.
    pub latency: Histogram,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// The first answer of each status.
    pub samples: BTreeMap<u16, String>,
    /// Requests without an answer: their connection broke, or the time was up.
    pub failed: u64,
}

impl Tally {
    /// Answers with this status.
    #[must_use]
    pub fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// Adds what came of another script, which was played after this one.
    pub fn add(&mut self, other: Self) {
        self.elapsed += other.elapsed;
        self.latency.add(&other.latency);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (status, sample) in other.samples {
            self.samples.entry(status).or_insert(sample);
        }
        self.failed += other.failed;
    }

    /// Answers per second.
    #[must_use]
    pub fn answers_per_s(&self) -> f64 {
        self.latency.count() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Open connections to one server, or to several.
#[derive(Debug)]
pub struct Generator {
    epoll: Epoll,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    answer: Box<[u8]>,
    filled: usize,
    /// When the request that waits for its answer was sent.
    sent_at: Option<Instant>,
    broken: bool,
}

impl Generator {
    /// Connects.
    ///
    /// # Errors
    /// When the server does not accept.
    pub fn connect(addr: SocketAddr, connections: usize) -> io::Result<Self> {
        Self::connect_to(&[addr], connections)
    }

    /// Connects to several servers that are alike, in turns.
    ///
    /// # Errors
    /// When one does not accept.
    pub fn connect_to(addrs: &[SocketAddr], connections: usize) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let open = |(index, addr): (usize, &SocketAddr)| {
            let stream = TcpStream::connect(addr)?;
            stream.set_nodelay(true)?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            epoll.add(&stream, event)?;
            Ok(Connection {
                stream,
                answer: vec![0; ANSWER_BYTES].into(),
                filled: 0,
                sent_at: None,
                broken: false,
            })
        };
        let addrs = addrs.iter().cycle().take(connections).enumerate();
        let connections = addrs.map(open).collect::<io::Result<_>>()?;
        Ok(Self { epoll, connections })
    }

    /// Sends all requests of a script, each connection one at a time, and waits for the answers, at
    /// most until `limit` has passed. Blocks.
    ///
    /// # Errors
    /// When `epoll` fails. A connection that breaks is counted, not an error.
    pub fn play(&mut self, script: &Script, limit: Duration) -> io::Result<Tally> {
        let mut tally = Tally::default();
        let mut unsent = 0..script.len();
        let mut waiting = 0;
        let started = Instant::now();
        for connection in &mut self.connections {
            waiting += usize::from(connection.send_next(script, &mut unsent));
        }
        let mut events = vec![EpollEvent::empty(); self.connections.len().max(1)];
        while waiting > 0 && started.elapsed() < limit {
            let timeout = EpollTimeout::from(LOOK_EVERY_MS);
            let ready = match self.epoll.wait(&mut events, timeout) {
                Err(nix::errno::Errno::EINTR) => continue,
                ready => ready?,
            };
            for event in &events[..ready] {
                let index = usize::try_from(event.data()).unwrap_or(usize::MAX);
                let Some(connection) = self.connections.get_mut(index) else {
                    continue;
                };
                if connection.receive(&mut tally) {
                    waiting -= 1;
                    waiting += usize::from(connection.send_next(script, &mut unsent));
                }
                if connection.broken {
                    // Its end would be reported again and again.
                    self.epoll.delete(&connection.stream)?;
                }
            }
        }
        tally.elapsed = started.elapsed();
        tally.failed = script.len() as u64 - tally.latency.count();
        Ok(tally)
    }
}

impl Connection {
    /// Sends the next request; false when there is none, or the connection is broken.
    fn send_next(&mut self, script: &Script, unsent: &mut std::ops::Range<usize>) -> bool {
        if self.broken || self.sent_at.is_some() {
            return false;
        }
        let Some(index) = unsent.next() else {
            return false;
        };
        self.sent_at = Some(Instant::now());
        self.filled = 0;
        // The socket blocks, but its buffer is empty: the last request was answered.
        self.broken = self.stream.write_all(script.get(index)).is_err();
        !self.broken
    }

    /// Takes in what has come; true when nothing more is to be waited for.
    fn receive(&mut self, tally: &mut Tally) -> bool {
        let Some(sent_at) = self.sent_at else {
            // Nothing was asked, so this is the end of the connection.
            self.close();
            return false;
        };
        match self.stream.read(&mut self.answer[self.filled..]) {
            Ok(0) | Err(_) => {
                self.close();
                return true;
            }
            Ok(read) => self.filled += read,
        }
        match parse(&self.answer[..self.filled]) {
            Some(Ok(status)) => {
                tally.latency.record(sent_at.elapsed());
                *tally.statuses.entry(status).or_default() += 1;
                tally.samples.entry(status).or_insert_with(|| {
                    let kept = self.filled.min(SAMPLE_BYTES);
                    String::from_utf8_lossy(&self.answer[..kept]).into_owned()
                });
                self.sent_at = None;
                true
            }
            None if self.filled < self.answer.len() => false,
            Some(Err(Unreadable)) | None => {
                self.close();
                true
            }
        }
    }

    fn close(&mut self) {
        self.broken = true;
        self.sent_at = None;
        self.filled = 0;
    }
}

/// An answer that this generator does not understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unreadable;

/// The status of an answer; `None` while it is not whole. Answers say how long they are.
fn parse(bytes: &[u8]) -> Option<Result<u16, Unreadable>> {
    let head_end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let mut lines = bytes[..head_end].split(|byte| *byte == b'\n');
    let status = lines.next().and_then(|line| {
        let rest = line.strip_prefix(b"HTTP/1.1 ")?;
        std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()
    });
    let Some(status) = status else {
        return Some(Err(Unreadable));
    };
    let body = match (status, lines.find_map(content_length)) {
        (_, Some(length)) => length,
        (204 | 304, None) => 0,
        (_, None) => return Some(Err(Unreadable)),
    };
    (bytes.len() >= head_end + body).then_some(Ok(status))
}

fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let (name, value) = line.split_at_checked(NAME.len())?;
    if !name.eq_ignore_ascii_case(NAME) {
        return None;
    }
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn answers_are_read_to_their_end() {
        let whole = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nx: y\r\n\r\n{}";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), None);
        }
        assert_eq!(parse(whole), Some(Ok(201)));
        assert_eq!(parse(b"HTTP/1.1 204 No Content\r\n\r\n"), Some(Ok(204)));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n"), Some(Err(Unreadable)));
        assert_eq!(parse(b"SMTP\r\n\r\n"), Some(Err(Unreadable)));
    }

    /// Answers every request on one connection after the other with its own length as status.
    fn server(answers: usize) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            for _ in 0..answers {
                let read = stream.read(&mut buffer).unwrap();
                let answer = format!("HTTP/1.1 {read} X\r\ncontent-length: 5\r\n\r\nhello");
                let (first, second) = answer.split_at(20);
                stream.write_all(first.as_bytes()).unwrap();
                stream.write_all(second.as_bytes()).unwrap();
            }
        });
        (addr, thread)
    }

    fn script(lengths: &[usize]) -> Script {
        let mut script = Script::default();
        for length in lengths {
            script.push(|bytes| bytes.extend(std::iter::repeat_n(b'x', *length)));
        }
        script
    }

    #[test]
    fn every_request_is_sent_and_counted() {
        let (addr, thread) = server(3);
        let mut generator = Generator::connect(addr, 1).unwrap();
        let limit = Duration::from_secs(30);
        let tally = generator.play(&script(&[201, 409, 201]), limit).unwrap();
        assert_eq!(tally.statuses, BTreeMap::from([(201, 2), (409, 1)]));
        assert_eq!((tally.failed, tally.latency.count()), (0, 3));
        assert!(tally.samples[&409].ends_with("hello"));
        thread.join().unwrap();
    }

    #[test]
    fn a_broken_connection_is_counted_and_ends_the_wait() {
        let (addr, thread) = server(1);
        let mut generator = Generator::connect(addr, 1).unwrap();
        let limit = Duration::from_secs(30);
        let tally = generator.play(&script(&[200, 200, 200]), limit).unwrap();
        assert_eq!((tally.status(200), tally.failed), (1, 2));
        thread.join().unwrap();
    }
}
