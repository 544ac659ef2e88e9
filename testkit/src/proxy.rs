//! A TCP proxy on loopback that breaks the link it carries, on demand and for as long as wanted:
//! what a network does to two processes that are both in good health.
//!
//! A fault holds from [`Proxy::set`] to the next one, for the connections that are there and for
//! those that come. It is a state and no event: one that is taken back within the same moment may
//! pass a connection unnoticed.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes that one direction of a connection keeps in hand; the sender's own buffers take the rest.
const HELD_MAX: usize = 1 << 20;
/// Bytes read at a time.
const CHUNK: usize = 16 << 10;

/// Where bytes of a connection flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the one that connected to the upstream.
    ToServer,
    /// Back.
    ToClient,
}

/// What the link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// All bytes arrive at once.
    Pass,
    /// All bytes arrive, so much later, in each direction.
    Delay(Duration),
    /// Nothing arrives and nobody is told. Connections are accepted and lead nowhere. When it is
    /// taken back, what was held back is delivered and all goes on: so does TCP, which repeats
    /// what a network has dropped.
    BlackHole,
    /// The connections that are there lead nowhere from here on, and for good, with nobody told:
    /// what a firewall does that has forgotten them. New ones pass.
    Forget,
    /// Connections are reset, also new ones, just after they were accepted.
    Reset,
    /// The receiver of one direction reads the end of its stream; what is sent to it after that is
    /// thrown away. The other direction goes on. A connection stays so when the fault is taken
    /// back.
    HalfClose(Direction),
    /// So many more bytes of one direction of each connection arrive, then it is reset.
    CutAfter(Direction, usize),
}

/// A running proxy. Dropping it ends it with all its connections.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    fault: watch::Sender<Fault>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Starts a proxy in front of `upstream`, on a free port, without a fault.
    ///
    /// # Errors
    /// When there is no port to listen on.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::Pass);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, upstream, faults));
        Ok(Self {
            addr,
            fault,
            _accepting: accepting,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Breaks the link, or heals it with [`Fault::Pass`].
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

/// Accepts and carries connections until it is dropped.
async fn accept(listener: TcpListener, upstream: SocketAddr, faults: watch::Receiver<Fault>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(carry(client, upstream, faults.clone()));
                }
                Err(error) => tracing::debug!(%error, "a connection could not be accepted"),
            },
        }
    }
}

/// The connection is to be reset: by a fault, or because one end has.
struct Cut;

impl From<io::Error> for Cut {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl From<watch::error::RecvError> for Cut {
    fn from(_: watch::error::RecvError) -> Self {
        Self
    }
}

/// Carries one connection to its end.
async fn carry(mut client: TcpStream, upstream: SocketAddr, mut faults: watch::Receiver<Fault>) {
    let Ok(mut server) = connect(upstream, &mut faults).await else {
        reset(&client);
        return;
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let there = Pipe::new(Direction::ToServer, from_client, to_server, faults.clone());
    let back = Pipe::new(Direction::ToClient, from_server, to_client, faults);
    if let Err(Cut) = tokio::try_join!(there.run(), back.run()) {
        reset(&client);
        reset(&server);
    }
}

/// Reaches the upstream as soon as the link does.
async fn connect(
    upstream: SocketAddr,
    faults: &mut watch::Receiver<Fault>,
) -> Result<TcpStream, Cut> {
    let fault = *faults.wait_for(|fault| *fault != Fault::BlackHole).await?;
    match fault {
        Fault::Reset => Err(Cut),
        Fault::Pass
        | Fault::Delay(_)
        | Fault::BlackHole
        | Fault::Forget
        | Fault::HalfClose(_)
        | Fault::CutAfter(..) => Ok(TcpStream::connect(upstream).await?),
    }
}

/// What is closed from here on is closed by a reset.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection is closed, not reset");
    }
}

/// One direction of a connection.
struct Pipe<'a> {
    direction: Direction,
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    faults: watch::Receiver<Fault>,
    /// What was read, and when it may go on; nothing at all is the end of the stream.
    held: VecDeque<(Instant, Vec<u8>)>,
    /// The sender has ended its stream.
    ended: bool,
    /// The receiver has been told that the stream ends.
    closed: bool,
    /// Nothing passes any more.
    forgotten: bool,
    /// Bytes that may still pass before the connection is cut.
    left: usize,
}

impl<'a> Pipe<'a> {
    fn new(
        direction: Direction,
        from: ReadHalf<'a>,
        to: WriteHalf<'a>,
        mut faults: watch::Receiver<Fault>,
    ) -> Self {
        // A fault that is there applies, but a new connection was not there to be forgotten.
        if *faults.borrow_and_update() != Fault::Forget {
            faults.mark_changed();
        }
        Self {
            direction,
            from,
            to,
            faults,
            held: VecDeque::new(),
            ended: false,
            closed: false,
            forgotten: false,
            left: usize::MAX,
        }
    }

    async fn run(mut self) -> Result<(), Cut> {
        let mut chunk = vec![0; CHUNK];
        let mut fault = Fault::Pass;
        while !(self.ended && self.held.is_empty()) {
            if self.left == 0 {
                return Err(Cut);
            }
            let flows = fault != Fault::BlackHole && !self.forgotten;
            let held: usize = self.held.iter().map(|(_, bytes)| bytes.len()).sum();
            tokio::select! {
                biased;
                changed = self.faults.changed() => {
                    changed?;
                    fault = *self.faults.borrow_and_update();
                    self.begin(fault).await?;
                }
                written = write(&mut self.to, self.held.front(), self.left),
                    if flows && !self.held.is_empty() => self.written(written?).await?,
                read = self.from.read(&mut chunk), if flows && !self.ended && held < HELD_MAX => {
                    self.read(&chunk[..read?], fault);
                }
            }
        }
        Ok(())
    }

    async fn begin(&mut self, fault: Fault) -> Result<(), Cut> {
        self.left = usize::MAX;
        match fault {
            Fault::Pass | Fault::Delay(_) | Fault::BlackHole => {}
            Fault::Forget => self.forgotten = true,
            Fault::Reset => return Err(Cut),
            Fault::HalfClose(direction) if direction == self.direction => {
                self.held.clear();
                self.close().await?;
            }
            Fault::CutAfter(direction, bytes) if direction == self.direction => self.left = bytes,
            Fault::HalfClose(_) | Fault::CutAfter(..) => {}
        }
        Ok(())
    }

    fn read(&mut self, bytes: &[u8], fault: Fault) {
        self.ended = bytes.is_empty();
        let delay = match fault {
            Fault::Delay(delay) => delay,
            Fault::Pass
            | Fault::BlackHole
            | Fault::Forget
            | Fault::Reset
            | Fault::HalfClose(_)
            | Fault::CutAfter(..) => Duration::ZERO,
        };
        if !self.closed {
            self.held
                .push_back((Instant::now() + delay, bytes.to_vec()));
        }
    }

    async fn written(&mut self, count: usize) -> Result<(), Cut> {
        let Some((_, bytes)) = self.held.front_mut() else {
            return Ok(());
        };
        let is_end = bytes.is_empty();
        bytes.drain(..count);
        if bytes.is_empty() {
            self.held.pop_front();
        }
        if self.left != usize::MAX {
            self.left -= count;
        }
        if is_end {
            self.close().await?;
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), Cut> {
        if !std::mem::replace(&mut self.closed, true) {
            self.to.shutdown().await?;
        }
        Ok(())
    }
}

/// Writes of the oldest bytes in hand what may be written, when it is time; the count. Cancel safe.
async fn write(
    to: &mut WriteHalf<'_>,
    oldest: Option<&(Instant, Vec<u8>)>,
    most: usize,
) -> io::Result<usize> {
    let Some((due, bytes)) = oldest else {
        return Ok(0);
    };
    tokio::time::sleep_until(*due).await;
    to.write(&bytes[..bytes.len().min(most)]).await
}
