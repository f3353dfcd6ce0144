//! The kernel's IPv4 routes through a netlink socket of the test's own, written and read here by
//! hand: what watches the agent's routes must not share code with it.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;

use crate::netns::Netns;
use crate::wait::monotonic_ns;

/// Notifications of a hundred thousand changes that nobody has read yet.
const RECEIVE_BUFFER: usize = 128 << 20;
/// Longest answer: a part of a dump.
const DATAGRAM: usize = 256 << 10;
/// How long a reader of notifications waits before it looks whether it is to stop, ms.
const TIMEOUT_MS: i64 = 100;
/// `nlmsghdr` and `rtmsg`.
const HEADER: usize = 16;
const RTMSG: usize = 12;
/// Not in libc for every target: lets the kernel apply the filters of a dump.
const NETLINK_GET_STRICT_CHK: libc::c_int = 12;

/// A host route of the main table, as far as the tests care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination, a /32.
    pub dst: Ipv4Addr,
    /// Its `rtm_protocol`.
    pub protocol: u8,
    /// Index of its interface, 0 = a blackhole.
    pub ifindex: u32,
}

/// A change that the kernel has reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When the notification was read, ns of `CLOCK_MONOTONIC`: netlink carries no time of its own.
    pub read_ns: u64,
    /// Removed, or added.
    pub gone: bool,
    /// Which.
    pub route: Route,
}

/// A socket that hears of every change of a route, in the order in which they were made.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Listener {
    /// Listens in the namespace from now on.
    ///
    /// # Errors
    /// No privilege.
    pub fn open(netns: &Netns) -> anyhow::Result<Self> {
        let groups = u32::try_from(libc::RTMGRP_IPV4_ROUTE)?;
        let socket = netns.run(|| open(groups))?;
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).context("SO_RCVBUFFORCE")?;
        setsockopt(
            &socket,
            ReceiveTimeout,
            &TimeVal::new(0, TIMEOUT_MS * 1_000),
        )?;
        Ok(Self {
            socket,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Waits for a notification, a tenth of a second at most, and appends it. IPv4 host routes of
    /// the main table only.
    ///
    /// # Errors
    /// Notifications were lost: the order is not known any more.
    pub fn read(&mut self, changes: &mut Vec<Change>) -> anyhow::Result<()> {
        let len = match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
            Ok(len) => len,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
            Err(errno) => bail!("route notifications: {errno}"),
        };
        let read_ns = monotonic_ns();
        for message in messages(&self.buffer[..len]) {
            let gone = match message.kind {
                libc::RTM_NEWROUTE => false,
                libc::RTM_DELROUTE => true,
                _ => continue,
            };
            changes.extend(route(message.body).map(|route| Change {
                read_ns,
                gone,
                route,
            }));
        }
        Ok(())
    }
}

/// A socket to change and to read the table.
#[derive(Debug)]
pub struct Table {
    socket: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Table {
    /// Of the namespace.
    ///
    /// # Errors
    /// No privilege.
    pub fn open(netns: &Netns) -> anyhow::Result<Self> {
        let socket = netns.run(|| open(0))?;
        let on: libc::c_int = 1;
        // SAFETY: the value is a `c_int` that lives during the call, and its size is said.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                NETLINK_GET_STRICT_CHK,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        ensure!(set == 0, "strict checking: {}", io::Error::last_os_error());
        Ok(Self {
            socket,
            buffer: vec![0; DATAGRAM],
            sequence: 0,
        })
    }

    /// Adds a route and waits for the kernel's word.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add(&mut self, route: &Route) -> anyhow::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.change(libc::RTM_NEWROUTE, flags, route)
    }

    /// Deletes a route and waits for the kernel's word.
    ///
    /// # Errors
    /// The kernel refuses: there is none, say.
    pub fn delete(&mut self, route: &Route) -> anyhow::Result<()> {
        self.change(libc::RTM_DELROUTE, 0, route)
    }

    /// Every host route with the protocol number on the interface.
    ///
    /// # Errors
    /// The kernel refuses, or the table changed meanwhile too often.
    pub fn dump(&mut self, protocol: u8, ifindex: u32) -> anyhow::Result<Vec<Route>> {
        let mut body = rtmsg(0, protocol, 0, 0).to_vec();
        attribute(&mut body, libc::RTA_OIF, &ifindex.to_ne_bytes());
        self.send(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &body)?;
        let mut routes = Vec::new();
        loop {
            let len = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            for message in messages(&self.buffer[..len]) {
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => return Ok(routes),
                    // The main table is made with its first route.
                    libc::NLMSG_ERROR => match errno(message.body) {
                        Errno::ENOENT => return Ok(routes),
                        errno => bail!("dump of routes: {errno}"),
                    },
                    _ => routes.extend(route(message.body)),
                }
            }
        }
    }

    fn change(&mut self, kind: u16, flags: i32, route: &Route) -> anyhow::Result<()> {
        let (scope, what) = match route.ifindex {
            0 => (libc::RT_SCOPE_UNIVERSE, libc::RTN_BLACKHOLE),
            _ => (libc::RT_SCOPE_LINK, libc::RTN_UNICAST),
        };
        let mut body = rtmsg(32, route.protocol, scope, what).to_vec();
        attribute(&mut body, libc::RTA_DST, &route.dst.octets());
        if route.ifindex != 0 {
            attribute(&mut body, libc::RTA_OIF, &route.ifindex.to_ne_bytes());
        }
        match self.request(kind, flags, &body)? {
            Ok(()) => Ok(()),
            Err(errno) => bail!("{route:?}: {errno}"),
        }
    }

    /// Asks for a change that the caller has written, and returns the kernel's word.
    ///
    /// # Errors
    /// There is no word.
    pub fn request(
        &mut self,
        kind: u16,
        flags: i32,
        body: &[u8],
    ) -> anyhow::Result<Result<(), Errno>> {
        self.send(kind, libc::NLM_F_ACK | flags, body)?;
        let len = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
        let answer = messages(&self.buffer[..len]).next().context("no answer")?;
        Ok(match errno(answer.body) {
            Errno::UnknownErrno => Ok(()),
            errno => Err(errno),
        })
    }

    fn send(&mut self, kind: u16, flags: i32, body: &[u8]) -> anyhow::Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(u32::try_from(HEADER + body.len())?.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(u16::try_from(libc::NLM_F_REQUEST | flags)?.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }
}

fn open(groups: u32) -> anyhow::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )
    .context("a netlink socket")?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

fn rtmsg(prefix_len: u8, protocol: u8, scope: u8, kind: u8) -> [u8; RTMSG] {
    let family = libc::AF_INET as u8;
    let table = libc::RT_TABLE_MAIN;
    [
        family, prefix_len, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0,
    ]
}

/// Appends an attribute to a message.
pub fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = usize::try_from(u32_at(datagram, 0)?).ok()?;
        let kind = u16_at(datagram, 4)?;
        let body = datagram.get(HEADER..len)?;
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

/// What an error message says; an acknowledgement is `UnknownErrno`, 0.
fn errno(body: &[u8]) -> Errno {
    Errno::from_raw(u32_at(body, 0).map_or(libc::EBADMSG, |code| code.cast_signed().wrapping_neg()))
}

fn route(body: &[u8]) -> Option<Route> {
    let header = body.get(..RTMSG)?;
    if header[0] != libc::AF_INET as u8 || header[1] != 32 || header[4] != libc::RT_TABLE_MAIN {
        return None;
    }
    let mut found = Route {
        dst: Ipv4Addr::UNSPECIFIED,
        protocol: header[5],
        ifindex: 0,
    };
    let mut attributes = &body[RTMSG..];
    while let (Some(len), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let value = attributes.get(4..usize::from(len))?;
        match kind {
            libc::RTA_DST => found.dst = <[u8; 4]>::try_from(value).ok()?.into(),
            libc::RTA_OIF => found.ifindex = u32_at(value, 0)?,
            _ => {}
        }
        let next = usize::from(len).next_multiple_of(4);
        attributes = attributes.get(next..).unwrap_or_default();
    }
    Some(found)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
