//! An entry of a routing table as the kernel writes it into a message.

use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_REPLACE, NetlinkHeader, NetlinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::fib::{Entry, Inserted, Kind};

const fn route_type(kind: Kind) -> RouteType {
    match kind {
        Kind::Unicast => RouteType::Unicast,
        Kind::Local => RouteType::Local,
        Kind::Broadcast => RouteType::Broadcast,
        Kind::Blackhole => RouteType::BlackHole,
        Kind::Unreachable => RouteType::Unreachable,
        Kind::Prohibit => RouteType::Prohibit,
        Kind::Throw => RouteType::Throw,
    }
}

/// Describes an entry.
pub(super) fn describe(entry: &Entry) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = AddressFamily::Inet;
    header.destination_prefix_length = entry.prefix_len;
    header.tos = entry.tos;
    header.table = u8::try_from(entry.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    header.protocol = RouteProtocol::from(entry.protocol);
    header.scope = entry.scope.into();
    header.kind = route_type(entry.kind);
    if entry.via.is_some() {
        header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(entry.table));
    if entry.prefix_len != 0 {
        let dst = RouteAddress::Inet(entry.dst);
        attributes.push(RouteAttribute::Destination(dst));
    }
    if entry.metric != 0 {
        attributes.push(RouteAttribute::Priority(entry.metric));
    }
    let src = entry.src.map(RouteAddress::Inet);
    attributes.extend(src.map(RouteAttribute::PrefSource));
    let via = entry.via.map(RouteAddress::Inet);
    attributes.extend(via.map(RouteAttribute::Gateway));
    attributes.extend(entry.ifindex.map(RouteAttribute::Oif));
    message
}

/// The notification that an entry has come, by the wish of a socket.
pub(super) fn came(
    entry: &Entry,
    inserted: Inserted,
    port: u32,
) -> NetlinkMessage<RouteNetlinkMessage> {
    let flags = match inserted {
        Inserted::Before | Inserted::Unchanged => 0,
        Inserted::Behind => NLM_F_APPEND,
        Inserted::Replaced => NLM_F_REPLACE,
    };
    notification(RouteNetlinkMessage::NewRoute(describe(entry)), flags, port)
}

/// The notification that an entry has gone, by the wish of a socket.
pub(super) fn went(entry: &Entry, port: u32) -> NetlinkMessage<RouteNetlinkMessage> {
    notification(RouteNetlinkMessage::DelRoute(describe(entry)), 0, port)
}

fn notification(
    message: RouteNetlinkMessage,
    flags: u16,
    port: u32,
) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.port_number = port;
    NetlinkMessage::new(header, message.into())
}
