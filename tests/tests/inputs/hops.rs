//! `--min-ttl`: packets with fewer hops left are from further away than the peer.

use std::net::Ipv4Addr;

use anyhow::Result;
use dz_common::counters::Counter::{DropTtl, DropZeroYourDiscriminator, RxPaced};
use dz_tests::frame::Datagram;

use crate::bed::Bed;
use crate::case::{self, Case};
use crate::liveness::Liveness;
use crate::session;
use crate::watch::{Place, Touch};

/// The agent's least, and that of an override.
pub(crate) const OPTIONS: [&str; 2] = ["--min-ttl=64", "--override=10.77.0.3/32 min-ttl 255"];
/// The third one's is that of its request.
const PEERS: [(Ipv4Addr, u8, &[&str]); 3] = [
    (Ipv4Addr::new(10, 77, 0, 2), 64, &[]),
    (Ipv4Addr::new(10, 77, 0, 3), 255, &[]),
    (Ipv4Addr::new(10, 77, 0, 4), 1, &["--min-ttl", "1"]),
];

/// Over sessions that are Up, whatever the packet says.
pub(crate) fn test(bed: &Bed) -> Result<()> {
    for (address, least, more) in PEERS {
        let peer = session::up_by(bed, address, more, 255)?;
        let proven = bed.liveness(&peer);
        let blind = Liveness::new(0);
        let mut cases = Vec::new();
        for ttl in [0, 1, 63, 64, 254, 255] {
            // Neither is answered within the interval: the exit says what has become of it.
            for (name, packet, exit, touch) in [
                ("proven", proven, RxPaced, Touch::Changed(address)),
                (
                    "blind",
                    blind,
                    DropZeroYourDiscriminator,
                    Touch::Seen(address),
                ),
            ] {
                let near = ttl >= least;
                let datagram = Datagram {
                    ttl,
                    ..packet.from(address)
                };
                let frame = bed.frame(&datagram.build());
                let exit = if near { exit } else { DropTtl };
                let name = format!("{name}, {ttl} hops left of {least}");
                cases.push(Case {
                    touch: if near { touch } else { Touch::Nothing },
                    ..Case::dropped(name, frame, (Place::Local, exit))
                });
            }
        }
        case::run(bed, &cases)?;
    }
    Ok(())
}
