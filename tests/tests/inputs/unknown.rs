//! `--unknown pass`: what no session expects is left to the host, where the agent leaves the port to
//! somebody else.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;

use anyhow::Result;
use dz_common::counters::Counter;
use dz_tests::frame::Datagram;

use crate::bed::{Bed, SECOND, STRANGER};
use crate::case::{self, Case};
use crate::liveness::Liveness;
use crate::peer::PORT;
use crate::session;
use crate::watch::Place;

const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

/// Whether sound or not; a known peer's faults are dropped as ever.
pub(crate) fn test(bed: &Bed) -> Result<()> {
    let peer = session::up(bed, PEER)?;
    let anywhere = (Ipv4Addr::UNSPECIFIED, PORT);
    let socket = Arc::new(bed.netns.run(|| UdpSocket::bind(anywhere))?);
    let good = bed.liveness(&peer);
    let stranger = good.from(STRANGER);
    let short = Datagram {
        payload: vec![0x20],
        ..stranger.clone()
    };
    let second = Datagram {
        dst: SocketAddrV4::new(SECOND, PORT),
        ..good.from(PEER)
    };
    let passed = |name: &str, datagram: &Datagram, place| Case {
        counters: vec![(place, Counter::PassUnknownPeer)],
        ..Case::passed(name, bed.frame(&datagram.build()), Counter::PassUnknownPeer)
            .delivered(&socket, &datagram.payload)
    };
    let version = Liveness { version: 2, ..good };
    case::run(
        bed,
        &[
            passed("unknown peer", &stranger, Place::Local),
            passed("unknown peer, short", &short, Place::Local),
            passed("right peer, wrong local address", &second, Place::Second),
            Case::dropped(
                "known peer, wrong version",
                bed.frame(&version.from(PEER).build()),
                (Place::Local, Counter::DropVersion),
            ),
        ],
    )
}
