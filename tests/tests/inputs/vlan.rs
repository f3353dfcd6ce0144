//! Frames with a VLAN tag: of another network, whatever is in them.
//!
//! XDP sees a tag that is part of the frame, as it is here. One that the hardware has taken off
//! (receive offload) is invisible to XDP on this kernel floor: such a device must be told to leave
//! tags in place. At TC the kernel has always taken the tag off and shows it beside the frame.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context, Result};
use dz_common::counters::Counter;
use dz_tests::frame::vlan_tag;
use etherparse::EtherType;

use crate::bed::{Bed, DEVICE};
use crate::case::{self, Case, Fate};
use crate::peer::{PORT, Peer};
use crate::session;

const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 4);
const PEER_OF_SUB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 5);
const ID: u16 = 5;

/// The host's protocols get the frame, which the kernel marks as another host's where nobody
/// serves the VLAN.
pub(crate) fn untouched(bed: &Bed) -> Result<()> {
    let peer = session::up(bed, PEER)?;
    let cases = [
        tagged(bed, &peer, EtherType::VLAN_TAGGED_FRAME),
        tagged(bed, &peer, EtherType::PROVIDER_BRIDGING),
    ];
    case::run(bed, &cases)
}

/// With a sub-interface for the VLAN, a socket on it gets what looks like a liveness packet.
pub(crate) fn sub_interface(bed: &Bed) -> Result<()> {
    let name = format!("{DEVICE}.{ID}");
    bed.netns.ip(&format!(
        "link add link {DEVICE} name {name} type vlan id {ID}"
    ))?;
    bed.netns.ip(&format!("link set {name} up"))?;
    let peer = session::up(bed, PEER_OF_SUB)?;
    let socket = Arc::new(bed.netns.run(|| bind_on(&name))?);
    let case = tagged(bed, &peer, EtherType::VLAN_TAGGED_FRAME);
    let payload = bed.liveness(&peer).build();
    case::run(bed, &[case.delivered(&socket, &payload)])?;
    bed.netns.ip(&format!("link delete {name}"))?;
    Ok(())
}

/// The agent has the port on its own interface only.
fn bind_on(name: &str) -> Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    socket.bind_device(Some(name.as_bytes()))?;
    let address = std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
    socket
        .bind(&address.into())
        .with_context(|| format!("the liveness port on {name}"))?;
    Ok(socket.into())
}

fn tagged(bed: &Bed, peer: &Peer, ethertype: EtherType) -> Case {
    let packet = bed.liveness(peer).from(peer.address).build();
    let frame = bed.frame_of(ethertype, &vlan_tag(ID, EtherType::IPV4, &packet));
    let name = format!("liveness packet in a VLAN, tag {:#06x}", ethertype.0);
    Case {
        fate: Fate::PassedAs(bed.frame(&packet)),
        ..Case::passed(name, frame, Counter::PassVlan)
    }
}
