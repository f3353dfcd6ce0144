//! Listens where `/metrics` is served: on TCP, or on a Unix socket of its own.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use super::connections::{Accept, BACKLOG};
use super::unix_socket::{METRICS, UnixSocket};
use crate::settings::MetricsListen;

/// A socket that listens for scrapers.
#[derive(Debug)]
pub enum MetricsListener {
    /// Anybody on this host, and beyond.
    Tcp(TcpListener),
    /// Whoever may open the file.
    Unix(UnixSocket),
}

impl MetricsListener {
    /// Listens on the first of the wanted addresses that is of a family that this host has (on `[::]` IPv4
    /// is served, too), or on the wanted Unix socket. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// The kernel refuses the last one tried: the port is taken, the address is not there. Another agent has the
    /// Unix socket, or it cannot be made.
    pub fn bind(wanted: &MetricsListen) -> io::Result<Self> {
        if let MetricsListen::Unix(path) = wanted {
            let socket = UnixSocket::bind(path, METRICS);
            return socket
                .map(Self::Unix)
                .map_err(|failure| io::Error::other(format!("{:#}", failure.error)));
        }
        let mut refused = io::ErrorKind::InvalidInput.into();
        for address in wanted.addresses() {
            match listen(address) {
                Ok(listener) => return Ok(Self::Tcp(listener)),
                Err(error) => refused = error,
            }
            if refused.raw_os_error() != Some(libc::EAFNOSUPPORT) {
                break;
            }
        }
        Err(refused)
    }

    /// Returns where it listens, of several addresses the one.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn place(&self) -> io::Result<MetricsListen> {
        match self {
            Self::Tcp(listener) => Ok(MetricsListen::At(listener.local_addr()?)),
            Self::Unix(socket) => Ok(MetricsListen::Unix(socket.path().to_owned())),
        }
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

/// A connection of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

impl Accept for MetricsListener {
    type Stream = Pin<Box<dyn Stream>>;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(match self {
            Self::Tcp(listener) => Box::pin(listener.accept().await?.0),
            Self::Unix(socket) => Box::pin(socket.accept().await?),
        })
    }
}
