//! TCP ports on loopback.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

/// Below the ports that Linux gives to outgoing connections, any of which may come and go.
const CANDIDATES: Range<u16> = 20_000..32_768;
const TRIES: u32 = 1000;

/// A free port that no other caller of this function gets while this process lives, also not in
/// another process: ports are handed to children, and by the time those listen, two tests could
/// have found the same one.
///
/// # Errors
/// When there is none.
pub fn free() -> io::Result<u16> {
    static HELD: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    for _ in 0..TRIES {
        let port = rand::random_range(CANDIDATES);
        // A name in the kernel's own table marks it as ours, and goes away with us.
        let name = SocketAddr::from_abstract_name(format!("onsale-port-{port}"))?;
        if let Ok(mark) = UnixListener::bind_addr(&name)
            && is_free(port)
        {
            HELD.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(mark);
            return Ok(port);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        "no port is free on loopback",
    ))
}

/// Whether a server could listen on this port of loopback now.
#[must_use]
pub fn is_free(port: u16) -> bool {
    // Bound with SO_REUSEADDR by the standard library, so that connections in TIME_WAIT from a
    // former run don't count as taken.
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_port_is_given_once() {
        let ports: HashSet<u16> = (0..200).map(|_| free().unwrap()).collect();
        assert_eq!(ports.len(), 200);
        let taken = *ports.iter().next().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        assert!(!is_free(taken));
        drop(listener);
        assert!(is_free(taken));
    }
}
