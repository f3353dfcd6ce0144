//! The namespace: its tables, and what every change of a route has in common.

use std::net::Ipv4Addr;

use nix::errno::Errno;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::addresses::{Addresses, SCOPE_HOST, SCOPE_LINK};
use super::fib::{self, Entry, Fib, Inserted, Kind, Mode, Which, truncated};
use super::links::{LOOPBACK, Links};
use super::message;
use super::neighbours::Neighbours;
use super::notices::{Family, Notices};
use crate::net::NetlinkError;
use crate::net::links::Address;
use crate::net::monitor::{self, Event};

/// `RTPROT_KERNEL`.
pub(super) const KERNEL: u8 = 2;

/// Who changes a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// The kernel itself.
    Kernel,
    /// Our own sockets: the subscriber leaves their changes out.
    Us,
    /// Somebody else's socket, with its number, which is not 0.
    Other(u32),
}

impl Author {
    const fn port(self) -> u32 {
        match self {
            Self::Other(port) => port,
            Self::Kernel | Self::Us => 0,
        }
    }
}

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Net {
    pub(super) links: Links,
    pub(super) addresses: Addresses,
    pub(super) fib: Fib,
    pub(super) neighbours: Neighbours,
    pub(super) notices: Notices,
    /// Whether the kernel tells of routes that went with their source: since Linux 6.7, and in some stable versions
    /// before that.
    pub(super) tells_of_sources: bool,
}

impl Net {
    /// A namespace as it is made, with its loopback interface up. `tells_of_sources`: as kernels since Linux
    /// 6.7, and Debian's 6.1, it tells of routes that it flushes because this host has lost their source; earlier ones flush
    /// them silently.
    pub fn new(tells_of_sources: bool) -> Self {
        let mut net = Self {
            links: Links::new(),
            addresses: Addresses::default(),
            fib: Fib::default(),
            neighbours: Neighbours::default(),
            notices: Notices::default(),
            tells_of_sources,
        };
        let loopback = Address {
            scope: SCOPE_HOST,
            ..Address::plain(Ipv4Addr::LOCALHOST, 8)
        };
        net.addresses.add(LOOPBACK, loopback).ok();
        for (prefix_len, kind) in [(8, Kind::Local), (32, Kind::Local), (32, Kind::Broadcast)] {
            let dst = match kind {
                Kind::Broadcast => Ipv4Addr::new(127, 255, 255, 255),
                _ => truncated(Ipv4Addr::LOCALHOST, prefix_len),
            };
            let own = net.own(LOOPBACK, kind, dst, prefix_len, Ipv4Addr::LOCALHOST);
            net.fib.insert(own, Mode::Append).ok();
        }
        net
    }

    /// Begins to keep events for a subscriber, as the opening of a monitor does: at most `room` of them.
    /// `hosts`: it asks for [`Event::Host`], too.
    pub fn subscribe(&mut self, hosts: bool, room: usize) {
        self.notices.subscribe(hosts, room);
    }

    /// Ends the subscription, with all that has not been read.
    pub fn unsubscribe(&mut self) {
        self.notices.unsubscribe();
    }

    /// Returns the families of which an event waits to be read. Any of them may be next.
    pub fn waiting(&self) -> impl Iterator<Item = Family> {
        self.notices.families()
    }

    /// Reads the next event of a family.
    pub fn next_event(&mut self, family: Family) -> Option<Event> {
        self.notices.take(family)
    }

    /// Loses all events that wait to be read. The subscriber will be told that some were lost.
    pub fn lose_events(&mut self) {
        self.notices.lose();
    }

    /// Adds an entry to a routing table, whosever it is.
    ///
    /// # Errors
    /// As the kernel's.
    pub fn add_entry(&mut self, by: Author, entry: Entry, mode: Mode) -> Result<(), NetlinkError> {
        self.check(&entry)?;
        let inserted = self.fib.insert(entry, mode).map_err(refused)?;
        if by != Author::Us && inserted != Inserted::Unchanged {
            self.tell_of_route(message::came(&entry, inserted, by.port()));
        }
        Ok(())
    }

    /// Deletes an entry from a routing table, whosever it is.
    ///
    /// # Errors
    /// There is no such one (`ESRCH`).
    pub fn delete_entry(&mut self, by: Author, which: &Which) -> Result<(), NetlinkError> {
        let entry = self.fib.delete(which);
        let entry = entry.ok_or_else(|| refused(Errno::ESRCH))?;
        if by != Author::Us {
            self.tell_of_route(message::went(&entry, by.port()));
        }
        Ok(())
    }

    /// Returns all entries of a table, in the kernel's order.
    pub fn entries(&self, table: u32) -> impl Iterator<Item = &Entry> {
        self.fib.table(table)
    }

    /// What the kernel asks of an entry before it looks at the table (`fib_create_info`).
    fn check(&self, entry: &Entry) -> Result<(), NetlinkError> {
        if truncated(entry.dst, entry.prefix_len) != entry.dst {
            return Err(said(
                Errno::EINVAL,
                "Invalid prefix for given prefix length",
            ));
        }
        if entry.kind.error().is_some() {
            if entry.ifindex.is_some() || entry.via.is_some() {
                let text = "Gateway, device and multipath can not be specified for this route type";
                return Err(said(Errno::EINVAL, text));
            }
            // Whatever source it names.
            return Ok(());
        }
        self.check_interface(entry)?;
        let itself = entry.kind == Kind::Local && entry.src == Some(entry.dst);
        match entry.src {
            Some(src) if !itself && !self.holds(src) => {
                Err(said(Errno::EINVAL, "Invalid prefsrc address"))
            }
            _ => Ok(()),
        }
    }

    fn check_interface(&self, entry: &Entry) -> Result<(), NetlinkError> {
        let least_scope = match entry.kind {
            Kind::Local => SCOPE_HOST,
            Kind::Broadcast => SCOPE_LINK,
            _ => 0,
        };
        if entry.scope < least_scope {
            return Err(said(Errno::EINVAL, "Invalid scope"));
        }
        let up = entry.ifindex.and_then(|ifindex| self.links.is_up(ifindex));
        match (up, entry.via) {
            _ if entry.scope == SCOPE_HOST => up.map(|_| ()).ok_or_else(|| refused(Errno::ENODEV)),
            (_, Some(_)) if entry.scope >= SCOPE_LINK => {
                Err(said(Errno::EINVAL, "Nexthop has invalid scope"))
            }
            (None, Some(_)) => Err(said(Errno::ENODEV, "Nexthop device required for onlink")),
            (None, None) => Err(refused(Errno::ENODEV)),
            (Some(false), Some(_)) => Err(said(Errno::ENETDOWN, "Nexthop device is not up")),
            (Some(false), None) => Err(said(Errno::ENETDOWN, "Device for nexthop is not up")),
            (Some(true), Some(via)) => self.check_gateway(via),
            (Some(true), None) => Ok(()),
        }
    }

    /// A gateway must not be an address of this host, nor everybody's.
    fn check_gateway(&self, via: Ipv4Addr) -> Result<(), NetlinkError> {
        match self.fib.local(via) {
            Some(_) => Err(said(Errno::EINVAL, "Nexthop has invalid gateway")),
            None => Ok(()),
        }
    }

    /// Whether an address is this host's, by the table `local` alone: then the kernel takes it for the source
    /// of a route (`fib_valid_prefsrc`).
    pub(super) fn holds(&self, src: Ipv4Addr) -> bool {
        let found = self.fib.local(src);
        found.is_some_and(|entry| entry.kind == Kind::Local)
    }

    /// The kernel's own entry for an address.
    pub(super) const fn own(
        &self,
        ifindex: u32,
        kind: Kind,
        dst: Ipv4Addr,
        prefix_len: u8,
        src: Ipv4Addr,
    ) -> Entry {
        Entry {
            table: match kind {
                Kind::Unicast => fib::MAIN,
                _ => fib::LOCAL,
            },
            dst,
            prefix_len,
            tos: 0,
            metric: 0,
            protocol: KERNEL,
            scope: match kind {
                Kind::Local => SCOPE_HOST,
                _ => SCOPE_LINK,
            },
            kind,
            ifindex: Some(ifindex),
            src: Some(src),
            via: None,
        }
    }

    /// Tells of a route what the monitor makes of the kernel's message.
    pub(super) fn tell_of_route(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        let Some(hosts) = self.notices.hosts() else {
            return;
        };
        let mut events = Vec::new();
        monitor::read(message, hosts, &mut events);
        for event in events {
            self.notices.push(event);
        }
    }
}

/// The kernel's refusal, without a word.
pub(super) const fn refused(errno: Errno) -> NetlinkError {
    NetlinkError::Refused { errno, said: None }
}

/// The kernel's refusal, in words.
pub(super) fn said(errno: Errno, text: &str) -> NetlinkError {
    NetlinkError::Refused {
        errno,
        said: Some(text.to_owned()),
    }
}
