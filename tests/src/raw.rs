//! Ethernet frames in and out of a device.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use crate::netns::Netns;
use crate::wait::readable;

/// Longer than any frame.
const FRAME: usize = 2048;
/// `PACKET_IGNORE_OUTGOING` of the kernel's `if_packet.h`.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

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
        Self::open_for(netns, name, libc::ETH_P_ALL as u16)
    }

    /// Opens it for one EtherType (host order) only. Unlike the socket for all of them, it lies
    /// behind TC ingress: it sees what the programs at XDP and at TC have let pass, as the host's
    /// protocols get it.
    ///
    /// # Errors
    /// No such device, or no privilege.
    pub fn open_for(netns: &Netns, name: &str, ethertype: u16) -> anyhow::Result<Self> {
        let ifindex = netns.ifindex(name)?;
        let socket = netns.run(|| open(ifindex, ethertype));
        let socket = socket.with_context(|| format!("packet socket on {name}"))?;
        Ok(Self {
            socket,
            name: name.to_owned(),
        })
    }

    /// Sends a frame that starts with its Ethernet header.
    ///
    /// # Errors
    /// The device is down, or the frame is shorter than an Ethernet header.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// Takes the next frame; none if there is none within `timeout`.
    ///
    /// # Errors
    /// The device is gone or down.
    pub fn recv(&self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(frame) = self.try_recv()? {
                return Ok(Some(frame));
            }
            let left = end.saturating_duration_since(Instant::now());
            if !readable(&self.socket, left)? && left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Takes frames until `wanted` returns something of one.
    ///
    /// # Errors
    /// None did within `timeout`; the message names `what` and counts the others.
    pub fn recv_until<T>(
        &self,
        timeout: Duration,
        what: &str,
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + timeout;
        let mut others = 0;
        while let Some(frame) = self.recv(end.saturating_duration_since(Instant::now()))? {
            if let Some(found) = wanted(&frame) {
                return Ok(found);
            }
            others += 1;
        }
        bail!(
            "waited {timeout:?} in vain on {} for: {what} ({others} other frames)",
            self.name
        )
    }

    /// Takes a frame if there is one.
    ///
    /// # Errors
    /// The device is gone or down.
    pub fn try_recv(&self) -> io::Result<Option<Vec<u8>>> {
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

    /// Throws away what has arrived so far; returns how many frames that were.
    ///
    /// # Errors
    /// The device is gone or down.
    pub fn drain(&self) -> io::Result<usize> {
        let mut count = 0;
        while self.try_recv()?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

fn open(ifindex: u32, ethertype: u16) -> io::Result<OwnedFd> {
    // Without a protocol it receives nothing before it is bound to the device.
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None::<SockProtocol>,
    )?;
    ignore_outgoing(socket.as_raw_fd())?;
    bind(socket.as_raw_fd(), ifindex, ethertype)?;
    Ok(socket)
}

fn ignore_outgoing(fd: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, of the size given.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
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

fn bind(fd: RawFd, ifindex: u32, ethertype: u16) -> io::Result<()> {
    // SAFETY: all zeros is a valid `sockaddr_ll`: numbers and a byte array only.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
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
