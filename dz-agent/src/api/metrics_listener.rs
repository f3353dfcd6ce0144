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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::super::connections::{Clients, serve};
    use super::super::server::metrics_router;
    use super::*;
    use crate::fixture::{self, Fixed};
    use crate::metrics::{Exporter, Recorded};

    async fn scrape(path: &Path) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }

    /// Serves metrics to anybody on a Unix socket in a directory.
    async fn metrics_for_anybody(directory: &Path) -> PathBuf {
        let path = directory.join("metrics.sock");
        let wanted = MetricsListen::Unix(path.clone());
        let listener = MetricsListener::bind(&wanted).unwrap();
        assert_eq!(listener.place().unwrap(), wanted);
        let inspect = Arc::new(Fixed(fixture::snapshot()));
        let exporter = Arc::new(Exporter::new(inspect, Recorded::default(), false));
        let routes = metrics_router(exporter);
        let serving = serve(listener, routes, Clients::Anybodys, std::future::pending());
        tokio::spawn(serving);
        path
    }

    #[tokio::test]
    async fn metrics_can_have_a_socket_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = metrics_for_anybody(dir.path()).await;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(scrape(&path).await.contains("doublezero_liveness_"));
        let second = MetricsListener::bind(&MetricsListen::Unix(path)).unwrap_err();
        assert!(
            second.to_string().contains("its own --metrics-listen"),
            "{second}"
        );
    }

    #[tokio::test]
    async fn those_who_say_nothing_keep_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = metrics_for_anybody(dir.path()).await;
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        assert!(scrape(&path).await.starts_with("HTTP/1.1 200"));
        // The first of them has been closed.
        assert_eq!(silent[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
    }
}
