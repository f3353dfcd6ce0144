//! The peer's socket: at one address, or at all of them for a crowd of peers.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, RcvBuf, RcvBufForce};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::config::UdpPeerConfig;

/// A thousand sessions may be answered at once, and a small packet takes a kilobyte.
const BUFFER: usize = 16 << 20;

/// A socket that knows sessions by one address each.
#[derive(Debug)]
pub(super) struct PeerSocket {
    socket: UdpSocket,
    port: u16,
    crowd: Option<Ipv4Addr>,
}

impl PeerSocket {
    pub(super) fn bind(config: &UdpPeerConfig) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // Beyond the system's limit with the privilege, else up to it.
        if setsockopt(&socket, RcvBufForce, &BUFFER).is_err() {
            setsockopt(&socket, RcvBuf, &BUFFER)?;
        }
        if let Some(device) = &config.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if config.crowd.is_some() {
            setsockopt(&socket, Ipv4PacketInfo, &true)?;
        }
        socket.bind(&SocketAddrV4::new(config.local, config.port).into())?;
        Ok(Self {
            socket: socket.into(),
            port: config.port,
            crowd: config.crowd,
        })
    }

    /// One packet: the address of its session (in a crowd that which it was sent to, else the
    /// sender's) and its length.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<(Ipv4Addr, usize), Errno> {
        let mut control = cmsg_space!(libc::in_pktinfo);
        let mut slices = [IoSliceMut::new(buffer)];
        let control = self.crowd.is_some().then_some(&mut control[..]);
        let received = recvmsg::<SockaddrIn>(
            self.socket.as_raw_fd(),
            &mut slices,
            control,
            MsgFlags::empty(),
        )?;
        let sender = received.address.ok_or(Errno::EDESTADDRREQ)?.ip();
        if self.crowd != Some(sender) {
            return Ok((sender, received.bytes));
        }
        let destination = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(address(info.ipi_addr)),
            _ => None,
        });
        Ok((destination.ok_or(Errno::EDESTADDRREQ)?, received.bytes))
    }

    /// Sends a session's packet; whether it went out.
    pub(super) fn send(&self, session: Ipv4Addr, bytes: &[u8]) -> bool {
        let to = |address| SockaddrIn::from(SocketAddrV4::new(address, self.port));
        let slices = [IoSlice::new(bytes)];
        let flags = MsgFlags::empty();
        let fd = self.socket.as_raw_fd();
        let Some(far) = self.crowd else {
            return sendmsg(fd, &slices, &[], flags, Some(&to(session))).is_ok();
        };
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from_ne_bytes(session.octets()),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let source = [ControlMessage::Ipv4PacketInfo(&info)];
        sendmsg(fd, &slices, &source, flags, Some(&to(far))).is_ok()
    }
}

impl AsFd for PeerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

const fn address(address: libc::in_addr) -> Ipv4Addr {
    let [a, b, c, d] = address.s_addr.to_ne_bytes();
    Ipv4Addr::new(a, b, c, d)
}
