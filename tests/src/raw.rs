//! Ethernet frames in and out of a device.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::Context;
use etherparse::EtherType;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimestampns};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, recv, recvmsg,
    send, setsockopt, socket,
};
use nix::sys::time::TimeSpec;

use crate::netns::Netns;
use crate::receive::Receive;
use crate::wait::{monotonic_ns, realtime_ns};

/// Longer than any frame.
const FRAME: usize = 2048;
/// Of a socket, bytes.
const BUFFER: usize = 4 << 20;
/// `PACKET_IGNORE_OUTGOING` of the kernel's `if_packet.h`.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// `struct tpacket_auxdata`, which begins with the status.
type AuxiliaryData = [u8; 20];

/// A packet socket on one device: sends frames as they are, and receives what arrives at the device
/// (not what its host sends).
///
/// The kernel takes the outermost VLAN tag off a received frame before it gets here.
#[derive(Debug)]
pub struct RawSocket {
    socket: OwnedFd,
    name: String,
}

impl RawSocket {
    /// Opens it.
    ///
    /// # Errors
    /// No such device, or no privilege.
    pub fn open(netns: &Netns, name: &str) -> anyhow::Result<Self> {
        Self::open_for(netns, name, EtherType(libc::ETH_P_ALL as u16))
    }

    /// Opens it for one EtherType only. Unlike the socket for all of them, it lies behind TC
    /// ingress: it sees what the programs at XDP and at TC have let pass, as the host's protocols
    /// get it.
    ///
    /// # Errors
    /// No such device, or no privilege.
    pub fn open_for(netns: &Netns, name: &str, ethertype: EtherType) -> anyhow::Result<Self> {
        let ifindex = netns.ifindex(name)?;
        let socket = netns.run(|| open(ifindex, ethertype));
        let socket = socket.with_context(|| format!("packet socket on {name}"))?;
        Ok(Self {
            socket,
            name: name.to_owned(),
        })
    }

    /// Takes what has arrived first, with the time at which it did by the kernel's account
    /// (`SO_TIMESTAMPNS`) on `CLOCK_MONOTONIC`, ns; none if nothing has. However late this is called, the
    /// time is right, to within what the two clocks are read apart.
    ///
    /// # Errors
    /// The device is gone or down.
    pub fn try_recv_stamped(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let mut frame = vec![0; FRAME];
        let mut stamp = nix::cmsg_space!(TimeSpec);
        let mut into = [IoSliceMut::new(&mut frame)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let (len, stamps) =
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut into, Some(&mut stamp), flags) {
                Ok(message) => (message.bytes, message.cmsgs()?.collect::<Vec<_>>()),
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            };
        let stamp = stamps.into_iter().find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(at) => Some(at),
            _ => None,
        });
        let stamp = stamp.ok_or_else(|| io::Error::other("a frame without its time"))?;
        let at_ns = stamp.tv_sec() as u64 * 1_000_000_000 + stamp.tv_nsec() as u64;
        let ago_ns = realtime_ns().saturating_sub(at_ns);
        frame.truncate(len);
        Ok(Some((monotonic_ns().saturating_sub(ago_ns), frame)))
    }

    /// From now on what arrives is taken by [`RawSocket::try_recv_summed`] only.
    ///
    /// # Errors
    /// A kernel without `PACKET_AUXDATA`.
    pub fn tell_sums(&self) -> io::Result<()> {
        set(self.socket.as_raw_fd(), libc::PACKET_AUXDATA)
    }

    /// Takes what has arrived first, with whether a checksum in it is still to be completed, by the kernel's
    /// account (`CHECKSUM_PARTIAL`); none if nothing has.
    ///
    /// # Errors
    /// The device is gone or down, or the kernel does not tell ([`RawSocket::tell_sums`]).
    pub fn try_recv_summed(&self) -> io::Result<Option<(bool, Vec<u8>)>> {
        let mut frame = vec![0; FRAME];
        let mut told = nix::cmsg_space!(TimeSpec, AuxiliaryData);
        let mut into = [IoSliceMut::new(&mut frame)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let (len, told) =
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut into, Some(&mut told), flags) {
                Ok(message) => (message.bytes, message.cmsgs()?.collect::<Vec<_>>()),
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            };
        let status = told.into_iter().find_map(|message| match message {
            ControlMessageOwned::Unknown(message)
                if message.cmsg_header.cmsg_level == libc::SOL_PACKET
                    && message.cmsg_header.cmsg_type == libc::PACKET_AUXDATA =>
            {
                message.data_bytes.first_chunk().copied()
            }
            _ => None,
        });
        let status = status.ok_or_else(|| io::Error::other("a frame without its status"))?;
        let unfinished = u32::from_ne_bytes(status) & libc::TP_STATUS_CSUMNOTREADY != 0;
        frame.truncate(len);
        Ok(Some((unfinished, frame)))
    }

    /// Sends a frame that starts with its Ethernet header.
    ///
    /// # Errors
    /// The device is down, or the frame is shorter than an Ethernet header.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }
}

impl AsFd for RawSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Receive for RawSocket {
    fn name(&self) -> &str {
        &self.name
    }

    fn try_recv(&self) -> io::Result<Option<Vec<u8>>> {
        let mut frame = vec![0; FRAME];
        match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
            Ok(len) => {
                frame.truncate(len);
                Ok(Some(frame))
            }
            Err(nix::errno::Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn open(ifindex: u32, ethertype: EtherType) -> io::Result<OwnedFd> {
    // Without a protocol it receives nothing before it is bound to the device.
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None::<SockProtocol>,
    )?;
    set(socket.as_raw_fd(), PACKET_IGNORE_OUTGOING)?;
    // Below Linux 6.3 what XDP passes on a veth pair counts as a page each: 50 would fill the usual
    // buffer.
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    bind(socket.as_raw_fd(), ifindex, ethertype)?;
    Ok(socket)
}

/// Sets an option of a packet socket.
fn set(fd: RawFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, of the size given.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_PACKET,
            option,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn bind(fd: RawFd, ifindex: u32, ethertype: EtherType) -> io::Result<()> {
    // SAFETY: all zeros is a valid `sockaddr_ll`: numbers and a byte array only.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.0.to_be();
    address.sll_ifindex = ifindex.cast_signed();
    // SAFETY: the address is a `sockaddr_ll` of the size given.
    let result = unsafe {
        libc::bind(
            fd,
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
