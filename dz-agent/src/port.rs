//! The liveness port, kept by us on every interface that we serve.
//!
//! The kernel programs answer; the socket only takes the port, so that nothing else on the host
//! answers beside them, and so that a packet that they pass up causes no ICMP "port unreachable"
//! (which would fail the sender's next send).

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use nix::libc;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::holder::{self, Holder};

/// Why the port was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody else has it, on this interface or on all.
    #[error(
        "UDP port {port} on {interface} is taken by {}; stop that first, or give another port",
        holder::list(holders, "a process that is not visible from here")
    )]
    Taken {
        /// The interface.
        interface: String,
        /// The port.
        port: u16,
        /// Who has it, as far as can be told.
        holders: Vec<Holder>,
    },
    /// There is no such interface at present.
    #[error("UDP port {port} on {interface}: there is no such interface")]
    NoInterface {
        /// The interface.
        interface: String,
        /// The port.
        port: u16,
    },
    /// The kernel refused for another reason.
    #[error("taking UDP port {port} on {interface}")]
    Io {
        /// The interface.
        interface: String,
        /// The port.
        port: u16,
        /// What it answered.
        #[source]
        source: io::Error,
    },
}

impl PortError {
    /// Another process has the port.
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
        let error = |source: io::Error| {
            let interface = interface.to_owned();
            match source.raw_os_error() {
                Some(libc::EADDRINUSE) => PortError::Taken {
                    interface,
                    port,
                    holders: holders(port),
                },
                Some(libc::ENODEV) => PortError::NoInterface { interface, port },
                _ => PortError::Io {
                    interface,
                    port,
                    source,
                },
            }
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

/// Who has a UDP socket on the port. The tables do not say which interface a socket is bound to, so
/// that a process with the port on another interface is named as well; an IPv6 socket may cover
/// IPv4.
fn holders(port: u16) -> Vec<Holder> {
    let tables = [holder::net_table("udp"), holder::net_table("udp6")];
    let inodes: BTreeSet<u64> = tables
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(|line| bound(line, port))
        .collect();
    holder::of_sockets(&inodes)
}

/// The inode of a line's socket if it is bound to the port. Columns: number, local address
/// (`address:port` in hexadecimal), remote address, state, queues, timer, retransmissions, user,
/// timeout, inode.
fn bound(line: &str, port: u16) -> Option<u64> {
    let mut columns = line.split_whitespace();
    let (_, local_port) = columns.nth(1)?.rsplit_once(':')?;
    if u16::from_str_radix(local_port, 16).ok()? != port {
        return None;
    }
    columns.nth(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_of_the_table() {
        let line = " 4711: 0100007F:AF50 00000000:0000 07 00000000:00000000 00:00000000 00000000  \
                    1000        0 123456 2 0000000000000000 0";
        assert_eq!(bound(line, 44880), Some(123_456));
        assert_eq!(bound(line, 44881), None);
        assert_eq!(
            bound(
                "  sl  local_address rem_address   st tx_queue rx_queue",
                44880
            ),
            None
        );
    }
}
