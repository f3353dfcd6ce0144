//! Keeps the liveness port on every interface that we serve, where it can be had.
//!
//! The kernel programs answer before any socket; ours only takes the port, so that nothing else on
//! the host answers beside them, and so that a packet that they pass up causes no ICMP "port
//! unreachable" (which would fail the sender's next send).

mod taken;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use nix::libc;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

pub use taken::{Holders, Sockets};

/// Why the port was not taken on an interface, which the caller names.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody else has it, on this interface or on all.
    #[error("UDP port {port} is taken")]
    Taken {
        /// The port.
        port: u16,
    },
    /// There is no such interface at present.
    #[error("UDP port {port}: there is no such interface")]
    NoInterface {
        /// The port.
        port: u16,
    },
    /// The kernel refused for another reason.
    #[error("UDP port {port} cannot be taken: {error}")]
    Io {
        /// The port.
        port: u16,
        /// The kernel's error.
        error: io::Error,
    },
}

impl PortError {
    /// Says whether another process has the port.
    pub const fn is_taken(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }
}

/// Keeps the port on one interface for as long as the value lives. It belongs to the interface's
/// index: bind it again when the interface was created anew.
#[derive(Debug)]
pub struct PortGuard {
    _socket: Socket,
}

impl PortGuard {
    /// Takes UDP 0.0.0.0:`port` on the interface, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The port is taken, the interface does not exist, or the kernel refuses.
    pub fn bind(interface: &str, port: u16) -> Result<Self, PortError> {
        let error = |error: io::Error| match error.raw_os_error() {
            Some(libc::EADDRINUSE) => PortError::Taken { port },
            Some(libc::ENODEV) => PortError::NoInterface { port },
            _ => PortError::Io { port, error },
        };
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).map_err(error)?;
        socket
            .bind_device(Some(interface.as_bytes()))
            .map_err(error)?;
        // Before the port: nothing is ever queued that nobody reads.
        socket.attach_filter(&DROP_ALL).map_err(error)?;
        let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        socket.bind(&address.into()).map_err(error)?;
        Ok(Self { _socket: socket })
    }
}

/// Classic BPF `ret #0`: keep 0 bytes of every packet, which drops it.
const DROP_ALL: [SockFilter; 1] = [SockFilter::new(
    (libc::BPF_RET | libc::BPF_K) as u16,
    0,
    0,
    0,
)];
