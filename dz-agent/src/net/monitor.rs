//! Tells of changes in this network namespace: of links, IPv4 addresses, IPv4 routes, IPv4 neighbours.
//!
//! Open the monitor first and read the state afterwards: then nothing falls between the two. An
//! event says where to look again; the state is read then. Nothing is queued in user space: events that
//! have not been read wait in the socket's buffer, and when that is full the kernel drops some and says
//! so, which is [`Event::Overrun`].

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{
    NLM_F_REPLACE, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;

use super::filter::all_routes_but;
use super::hosts::{self, HostChange};
use super::links::{self, Address};
use super::main_route::MainRoute;
use super::neighbours;
use super::routes::Route;

/// Bytes of the socket's buffer; the kernel doubles it for its bookkeeping. An event takes about
/// 1 KiB there, so that the routes of some ten thousand peers can change at once.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The kernel's notifications are far below it; a longer one counts as lost.
const DATAGRAM: usize = 64 << 10;

/// `RT_TABLE_LOCAL`.
const LOCAL_TABLE: u8 = 255;

/// A change in the network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interface came, changed or went.
    Link {
        /// Its index.
        ifindex: u32,
        /// Its name.
        name: String,
        /// Set up by the administrator. Going down flushes its IPv4 routes without a word.
        up: bool,
        /// Deleted, or moved to another namespace.
        gone: bool,
    },
    /// An IPv4 address came, changed or went. The kernel flushes the routes that have it as their source
    /// when it goes, before Linux 6.7 (and without a backport of its change) without a notification.
    Address {
        /// Index of its interface.
        ifindex: u32,
        /// The address.
        address: Address,
        /// Removed.
        gone: bool,
    },
    /// An entry of the table `local` that is not the kernel's own came or went: `ip route add local`
    /// makes addresses this host's that no interface holds.
    Local {
        /// Destination.
        dst: Ipv4Addr,
        /// Length of its prefix, bits.
        prefix_len: u8,
    },
    /// An IPv4 route of the main table came or went: a unicast route, or a host route of whatever
    /// kind. One that was replaced is not reported as gone.
    Route {
        /// Destination.
        dst: Ipv4Addr,
        /// Length of its prefix, bits.
        prefix_len: u8,
        /// Index of its interface, if it has exactly one.
        ifindex: Option<u32>,
        /// Its `rtm_protocol`.
        protocol: u8,
        /// Removed.
        gone: bool,
        /// How the change bears on a route of ours to the same destination.
        place: RouteSlot,
    },
    /// An IPv4 route of any table but the kernel's own came, changed or went, as `--follow` looks at it;
    /// only told if asked for ([`Monitor::tell_of_hosts`]), and apart from [`Event::Route`].
    Host(HostChange),
    /// An IPv4 neighbour of an Ethernet interface was resolved, or is not any more.
    Neighbour {
        /// Index of its interface.
        ifindex: u32,
        /// Its address.
        address: Ipv4Addr,
        /// Its Ethernet address, while it is known.
        mac: Option<[u8; 6]>,
    },
    /// Events were lost: read everything again.
    Overrun,
}

/// The slot of the table that a changed route is in: it may be the one of a route of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteSlot {
    /// Port of the socket that asked for the change ([`crate::net::Netlink::port`]); 0 if it was the
    /// kernel itself.
    pub by: u32,
    /// Whether it is the slot that a route of ours would have: a host route's, metric 0.
    pub ours: bool,
    /// Whether the route replaced another one there, whose end nobody reports.
    pub replaced: bool,
    /// The route, if it has the shape of ours.
    pub route: Option<Route>,
}

/// The stream of events.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<Socket>,
    buffer: Box<[u8]>,
    /// Events of the last datagram that have not been returned.
    ready: VecDeque<Event>,
    /// The kernel has said that it dropped something. Until the socket has been emptied it goes on
    /// dropping without saying so again (`NETLINK_S_CONGESTED`): only then is a state worth reading.
    draining: bool,
    hosts: bool,
}

impl Monitor {
    /// Subscribes, in the calling thread's network namespace; inside a tokio runtime with I/O.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        // Beyond net.core.rmem_max with CAP_NET_ADMIN, up to it without.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        socket.bind_auto()?;
        for group in [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Neigh,
        ] {
            socket.add_membership(group as u32)?;
        }
        Ok(Self {
            socket: register(socket)?,
            buffer: vec![0; DATAGRAM].into_boxed_slice(),
            ready: VecDeque::new(),
            draining: false,
            hosts: false,
        })
    }

    /// Leaves out changes of routes that these sockets ([`crate::net::Netlink::port`]) ask for: the
    /// acknowledgements say how they went. The kernel filters them, before anybody is woken up.
    ///
    /// # Errors
    /// The kernel refuses the filter.
    pub fn leave_out(&self, ports: [u32; 2]) -> io::Result<()> {
        SockRef::from(self.socket.get_ref()).attach_filter(&all_routes_but(ports))
    }

    /// Has [`Event::Host`] told, too.
    pub const fn tell_of_hosts(&mut self) {
        self.hosts = true;
    }

    /// Waits for the next event. Nothing is lost when the wait is abandoned.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn next(&mut self) -> io::Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let mut guard = self.socket.readable().await?;
            match guard.try_io(|socket| receive(socket.get_ref(), &mut self.buffer)) {
                Err(_would_block) => self.is_empty(),
                Ok(received) => self.received(received)?,
            }
        }
    }

    /// Returns the next event that has come by now; none if there is none.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn next_by_now(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            match receive(self.socket.get_ref(), &mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_empty();
                    if self.ready.is_empty() {
                        return Ok(None);
                    }
                }
                received => self.received(received)?,
            }
        }
    }

    /// Notes that the socket has been emptied.
    fn is_empty(&mut self) {
        if std::mem::take(&mut self.draining) {
            self.ready.push_back(Event::Overrun);
        }
    }

    /// Makes events of what was received: the length of a datagram, or why there was none.
    fn received(&mut self, received: io::Result<usize>) -> io::Result<()> {
        match received {
            Ok(_) if self.draining => {}
            Ok(len) => match self.buffer.get(..len) {
                Some(datagram) => parse(datagram, self.hosts, &mut self.ready),
                None => self.ready.push_back(Event::Overrun),
            },
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOBUFS) => self.draining = true,
                Some(Errno::EINTR) => {}
                _ => return Err(error),
            },
        }
        Ok(())
    }
}

/// Receives a datagram. Returns its true length, even if not all of it has fitted.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC)?)
}

fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket owns its descriptor, always returns the same one, and closes it only when
    // it is dropped, which `AsyncFd` does after it has deregistered it.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}

/// Takes a datagram apart. A message that cannot be read counts as lost.
pub(crate) fn parse(mut datagram: &[u8], hosts: bool, events: &mut VecDeque<Event>) {
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram)
            .ok()
            .and_then(|buffer| {
                let len = buffer.length() as usize;
                let message = NetlinkMessage::deserialize(datagram.get(..len)?).ok()?;
                // The next message begins at a multiple of 4.
                Some((message, len.next_multiple_of(4).min(datagram.len())))
            });
        let Some((message, len)) = message else {
            events.push_back(Event::Overrun);
            return;
        };
        read(message, hosts, events);
        datagram = &datagram[len..];
    }
}

/// Makes events of a message. `hosts`: [`Event::Host`], too.
pub(crate) fn read(
    message: NetlinkMessage<RouteNetlinkMessage>,
    hosts: bool,
    events: &mut impl Extend<Event>,
) {
    if hosts {
        events.extend(host(&message));
    }
    events.extend(event(message));
}

fn host(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    let (route, gone) = match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => (route, false),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelRoute(route)) => (route, true),
        _ => return None,
    };
    hosts::change(&message.header, route, gone).map(Event::Host)
}

fn event(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Event> {
    let header = message.header;
    match message.payload {
        NetlinkPayload::InnerMessage(message) => match message {
            RouteNetlinkMessage::NewLink(message) => link(&message, false),
            RouteNetlinkMessage::DelLink(message) => link(&message, true),
            RouteNetlinkMessage::NewAddress(message) => Some(Event::Address {
                ifindex: message.header.index,
                address: links::address(&message)?,
                gone: false,
            }),
            RouteNetlinkMessage::DelAddress(message) => Some(Event::Address {
                ifindex: message.header.index,
                address: links::address(&message)?,
                gone: true,
            }),
            RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message, false),
            RouteNetlinkMessage::DelNeighbour(message) => neighbour(&message, true),
            RouteNetlinkMessage::NewRoute(message) => route(&header, &message, false),
            RouteNetlinkMessage::DelRoute(message) => route(&header, &message, true),
            _ => None,
        },
        NetlinkPayload::Overrun(_) => Some(Event::Overrun),
        _ => None,
    }
}

fn link(message: &LinkMessage, gone: bool) -> Option<Event> {
    // A bridge tells of its ports in messages of the same types: that a port left the bridge is not
    // that the interface is gone.
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let interface = links::interface(message);
    Some(Event::Link {
        ifindex: interface.ifindex,
        name: interface.name,
        up: interface.up,
        gone,
    })
}

fn neighbour(message: &NeighbourMessage, gone: bool) -> Option<Event> {
    let (address, mac) = neighbours::neighbour(message)?;
    Some(Event::Neighbour {
        ifindex: message.header.ifindex,
        address,
        mac: mac.filter(|_| !gone),
    })
}

fn route(request: &NetlinkHeader, message: &RouteMessage, gone: bool) -> Option<Event> {
    let header = &message.header;
    let host = MainRoute::parse(message).filter(|found| found.metric == 0);
    let place = RouteSlot {
        by: request.port_number,
        ours: host.is_some(),
        replaced: !gone && request.flags & NLM_F_REPLACE != 0,
        route: host.and_then(|found| found.route),
    };
    let by_hand = header.table == LOCAL_TABLE && header.protocol != RouteProtocol::Kernel;
    let ordinary = header.table == RouteHeader::RT_TABLE_MAIN
        && (header.kind == RouteType::Unicast || host.is_some());
    if !(ordinary || by_hand) || header.address_family != AddressFamily::Inet {
        return None;
    }
    // The default route has no destination attribute.
    let (mut dst, mut ifindex) = (Ipv4Addr::UNSPECIFIED, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(addr)) => dst = *addr,
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            _ => {}
        }
    }
    let prefix_len = header.destination_prefix_length;
    if by_hand {
        return Some(Event::Local { dst, prefix_len });
    }
    Some(Event::Route {
        dst,
        prefix_len,
        ifindex,
        protocol: header.protocol.into(),
        gone,
        place,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_counts_as_lost() {
        let mut events = VecDeque::new();
        parse(&[7; 15], true, &mut events);
        assert_eq!(events, [Event::Overrun]);
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        assert_eq!(link(&message, true), None);
    }
}
