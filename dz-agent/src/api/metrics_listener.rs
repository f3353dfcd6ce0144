//! Listens on TCP, where `/metrics` is served.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use super::listen::{Accept, BACKLOG};

/// A TCP socket that listens for scrapers.
#[derive(Debug)]
pub struct MetricsListener {
    listener: TcpListener,
}

impl MetricsListener {
    /// Listens on the first of these addresses that is of a family that this host has. On `[::]` IPv4
    /// is served, too. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// The kernel refuses the last one tried: the port is taken, the address is not there.
    pub fn bind(addresses: &[SocketAddr]) -> io::Result<Self> {
        let mut refused = io::ErrorKind::InvalidInput.into();
        for address in addresses {
            match listen(*address) {
                Ok(listener) => return Ok(Self { listener }),
                Err(error) => refused = error,
            }
            if refused.raw_os_error() != Some(libc::EAFNOSUPPORT) {
                break;
            }
        }
        Err(refused)
    }

    /// Returns the address that it listens on.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Connections of an earlier agent that are not quite over are no reason to wait.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl Accept for MetricsListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(self.listener.accept().await?.0)
    }
}
