//! Requests to the kernel, written by hand.

use std::net::Ipv4Addr;

use dz_agent::memory::net::{Entry, Kind, Mode, Which};
use dz_agent::net::links::Address;
use dz_tests::rtnl::attribute;

/// A request: its type, its flags, and what follows the header.
pub(crate) type Request = (u16, i32, Vec<u8>);

const NEW: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
/// `RTNH_F_ONLINK`.
const ONLINK: u32 = 4;
/// `RT_SCOPE_NOWHERE`: any.
const NOWHERE: u8 = 255;

/// Sets a link up or down.
pub(crate) fn set_up(ifindex: u32, up: bool) -> Request {
    let flags = if up { libc::IFF_UP as u32 } else { 0 };
    (
        libc::RTM_NEWLINK,
        0,
        link(ifindex, flags, libc::IFF_UP as u32),
    )
}

/// Deletes a link.
pub(crate) fn delete_link(ifindex: u32) -> Request {
    (libc::RTM_DELLINK, 0, link(ifindex, 0, 0))
}

/// Renames a link.
pub(crate) fn rename(ifindex: u32, name: &str) -> Request {
    let mut body = link(ifindex, 0, 0);
    let name = [name.as_bytes(), &[0]].concat();
    attribute(&mut body, libc::IFLA_IFNAME, &name);
    (libc::RTM_NEWLINK, 0, body)
}

/// Gives a link another Ethernet address.
pub(crate) fn set_mac(ifindex: u32, mac: [u8; 6]) -> Request {
    let mut body = link(ifindex, 0, 0);
    attribute(&mut body, libc::IFLA_ADDRESS, &mac);
    (libc::RTM_NEWLINK, 0, body)
}

fn link(ifindex: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [ifindex, flags, change] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// Adds or deletes an address.
pub(crate) fn address(ifindex: u32, address: &Address, add: bool) -> Request {
    let family = libc::AF_INET as u8;
    let mut body = vec![family, address.prefix_len, 0, address.scope];
    body.extend(ifindex.to_ne_bytes());
    attribute(&mut body, libc::IFA_LOCAL, &address.local.octets());
    let far = address.peer.unwrap_or(address.local);
    attribute(&mut body, libc::IFA_ADDRESS, &far.octets());
    match add {
        true => (libc::RTM_NEWADDR, NEW, body),
        false => (libc::RTM_DELADDR, 0, body),
    }
}

/// Adds an entry to a routing table.
pub(crate) fn add(entry: &Entry, mode: Mode) -> Request {
    let flags = match mode {
        Mode::Exclusive => NEW,
        Mode::Prepend => libc::NLM_F_CREATE,
        Mode::Append => libc::NLM_F_CREATE | libc::NLM_F_APPEND,
        Mode::Replace => libc::NLM_F_CREATE | libc::NLM_F_REPLACE,
    };
    let which = Which {
        table: entry.table,
        dst: entry.dst,
        prefix_len: entry.prefix_len,
        tos: entry.tos,
        metric: entry.metric,
        protocol: entry.protocol,
        scope: Some(entry.scope),
        kind: Some(entry.kind),
        ifindex: entry.ifindex,
        src: entry.src,
        via: entry.via,
    };
    (libc::RTM_NEWROUTE, flags, route(&which))
}

/// Deletes an entry.
pub(crate) fn delete(which: &Which) -> Request {
    (libc::RTM_DELROUTE, 0, route(which))
}

fn route(which: &Which) -> Vec<u8> {
    let kind = match which.kind {
        None => libc::RTN_UNSPEC,
        Some(Kind::Unicast) => libc::RTN_UNICAST,
        Some(Kind::Local) => libc::RTN_LOCAL,
        Some(Kind::Broadcast) => libc::RTN_BROADCAST,
        Some(Kind::Blackhole) => libc::RTN_BLACKHOLE,
        Some(Kind::Unreachable) => libc::RTN_UNREACHABLE,
        Some(Kind::Prohibit) => libc::RTN_PROHIBIT,
        Some(Kind::Throw) => libc::RTN_THROW,
    };
    let scope = which.scope.unwrap_or(NOWHERE);
    let table = which.table as u8;
    let family = libc::AF_INET as u8;
    let mut body = vec![family, which.prefix_len, 0, which.tos];
    body.extend([table, which.protocol, scope, kind]);
    let flags = which.via.map_or(0, |_| ONLINK);
    body.extend(flags.to_ne_bytes());
    let mut add = |kind, value: Option<[u8; 4]>| {
        if let Some(value) = value {
            attribute(&mut body, kind, &value);
        }
    };
    add(libc::RTA_DST, Some(which.dst.octets()));
    add(libc::RTA_OIF, which.ifindex.map(u32::to_ne_bytes));
    add(libc::RTA_GATEWAY, which.via.map(|via| via.octets()));
    add(libc::RTA_PREFSRC, which.src.map(|src| src.octets()));
    let metric = Some(which.metric).filter(|metric| *metric != 0);
    add(libc::RTA_PRIORITY, metric.map(u32::to_ne_bytes));
    body
}

/// Writes a neighbour; without an Ethernet address the search for it has failed.
pub(crate) fn neighbour(
    ifindex: u32,
    address: Ipv4Addr,
    mac: Option<[u8; 6]>,
    permanent: bool,
) -> Request {
    // NUD_PERMANENT, NUD_STALE, NUD_FAILED. A stale one stays so, as long as nothing is sent.
    let state: u16 = match mac {
        Some(_) if permanent => 0x80,
        Some(_) => 0x04,
        None => 0x20,
    };
    let mut body = neighbour_header(ifindex, address, state);
    if let Some(mac) = mac {
        attribute(&mut body, libc::NDA_LLADDR, &mac);
    }
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    (libc::RTM_NEWNEIGH, flags, body)
}

/// Deletes a neighbour.
pub(crate) fn delete_neighbour(ifindex: u32, address: Ipv4Addr) -> Request {
    (libc::RTM_DELNEIGH, 0, neighbour_header(ifindex, address, 0))
}

fn neighbour_header(ifindex: u32, address: Ipv4Addr, state: u16) -> Vec<u8> {
    let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
    body.extend(ifindex.to_ne_bytes());
    body.extend(state.to_ne_bytes());
    body.extend([0, 0]);
    attribute(&mut body, libc::NDA_DST, &address.octets());
    body
}
