//! Which way data takes, told by the receiver: each datagram comes with the index of the interface
//! that it came in by.

use std::io::{IoSliceMut, Result as IoResult};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_tests::bed::{INTERFACE, PATIENCE};
use dz_tests::wait::eventually;
use nix::cmsg_space;
use nix::sys::socket::sockopt::Ipv4PacketInfo;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt};

use crate::scene::{Host, UNDER};

const PORT: u16 = 9_000;
/// Datagrams of one look.
const COUNT: u64 = 20;
/// Sequence numbers of what is sent after them, to know that they are not on the way any more.
const LAST: [u64; 2] = [u64::MAX, u64::MAX - 1];

/// The way that datagrams took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tunnel,
    Underlay,
    /// None of them arrived.
    Nowhere,
}

/// Sends to the addresses of one host from the other one's.
pub(crate) struct Traffic<'a> {
    from: &'a Host,
    to: &'a Host,
    receiver: UdpSocket,
}

impl<'a> Traffic<'a> {
    pub(crate) fn new(from: &'a Host, to: &'a Host) -> Result<Self> {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT));
        let receiver = to.netns.run(bind)?;
        setsockopt(&receiver, Ipv4PacketInfo, &true)?;
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { from, to, receiver })
    }

    /// Waits until datagrams from our address on the underlay to the far address of a number take
    /// this way, all of a look.
    pub(crate) fn until(&self, number: usize, way: Way) -> Result<()> {
        let what = format!("{way:?} to {}", self.to.addresses[number]);
        eventually(PATIENCE, &what, || {
            let seen = self.way(number, self.from.under)?;
            ensure!(seen == way, "{seen:?}");
            anyhow::Ok(())
        })
    }

    /// The way that datagrams from this source take at present.
    pub(crate) fn way(&self, number: usize, source: Ipv4Addr) -> Result<Way> {
        let sockets = [source, self.from.under, self.from.link];
        let bind = |source| UdpSocket::bind((source, 0));
        let [data, under, link] = sockets.map(|source| self.from.netns.run(|| bind(source)));
        let (data, last) = (data.context("sender")?, [under?, link?]);
        let to = (self.to.addresses[number], PORT);
        for sequence in 0..COUNT {
            // What the gate drops is an error here (`ENOBUFS`), and is missing there.
            let _ = data.send_to(&sequence.to_be_bytes(), to);
        }
        // Each way keeps its order.
        let ends = [self.to.under, self.to.link];
        for ((socket, sequence), end) in last.iter().zip(LAST).zip(ends) {
            socket.send_to(&sequence.to_be_bytes(), (end, PORT))?;
        }
        let ifindex = |name| self.to.netns.ifindex(name);
        let (tunnel, underlay) = (ifindex(INTERFACE)?, ifindex(UNDER)?);
        let (mut by_tunnel, mut by_underlay, mut missing) = (0, 0, LAST.to_vec());
        while !missing.is_empty() {
            let (sequence, ifindex) = receive(&self.receiver).context("the last datagrams")?;
            match sequence {
                0..COUNT if ifindex == tunnel => by_tunnel += 1,
                0..COUNT if ifindex == underlay => by_underlay += 1,
                sequence => missing.retain(|last| *last != sequence),
            }
        }
        match (by_tunnel, by_underlay) {
            (COUNT, 0) => Ok(Way::Tunnel),
            (0, COUNT) => Ok(Way::Underlay),
            (0, 0) => Ok(Way::Nowhere),
            _ => anyhow::bail!(
                "of {COUNT}: {by_tunnel} by the tunnel, {by_underlay} by the underlay"
            ),
        }
    }
}

/// A datagram's sequence number, and the interface that it came in by.
fn receive(socket: &UdpSocket) -> IoResult<(u64, u32)> {
    let mut bytes = [0; 8];
    let mut control = cmsg_space!(libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let fd = socket.as_raw_fd();
    let received = recvmsg::<SockaddrIn>(fd, &mut slices, Some(&mut control), MsgFlags::empty())?;
    let ifindex = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => u32::try_from(info.ipi_ifindex).ok(),
        _ => None,
    });
    Ok((u64::from_be_bytes(bytes), ifindex.unwrap_or_default()))
}
