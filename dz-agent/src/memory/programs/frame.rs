//! Frames with a liveness packet (`Outgoing` in `dz-ebpf/src/skb.rs`).

use dz_common::headers::{self, DATAGRAM_LEN, ETHERTYPE_IPV4, Marks, UdpChecksum};
use dz_common::ingress::Link;
use dz_common::map::{Config, SessionKey};
use dz_common::packet::Packet;

/// Writes a frame with a packet of a session. `ethernet`: where it goes, and where it comes from; they
/// mean nothing where the device has no Ethernet headers.
pub(super) fn frame(
    config: &Config,
    key: &SessionKey,
    packet: &Packet,
    link: Link,
    ethernet: ([u8; 6], [u8; 6]),
) -> Vec<u8> {
    let mut datagram = [0; DATAGRAM_LEN];
    let marks = Marks::of(config);
    let checksum = UdpChecksum::Full;
    headers::write(
        &mut datagram,
        &key.local,
        &key.peer,
        marks,
        packet,
        checksum,
    );
    let (destination, source) = ethernet;
    match link {
        Link::Layer3 => datagram.to_vec(),
        Link::Ethernet => {
            let ethertype = ETHERTYPE_IPV4.to_be_bytes();
            [&destination[..], &source, &ethertype, &datagram].concat()
        }
    }
}
