//! Ethernet, and a peer whose next hop is not known: what is not proven is not answered to wherever it
//! came from.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use dz_common::counters::Counter::{DownToInit, RxUnprovenNoNeighbour};

use crate::bed::Bed;
use crate::case::{self, Case};
use crate::liveness::{DOWN, INIT, Liveness, UP};
use crate::peer::{LOCAL, Peer};
use crate::session::{answered, introduced, local};
use crate::watch::{Snapshot, Touch};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 8);
/// A station on the wire that is not the peer.
const OTHER: [u8; 6] = [2, 0xdb, 0xbb, 0, 0, 9];

pub(crate) fn test(bed: &Bed) -> Result<()> {
    // Nobody answers for it: there is no first packet.
    let (name, own) = (PEER.to_string(), LOCAL.to_string());
    bed.agent.cli(&["connect", &name, "--local", &own])?;
    let before = Snapshot::take(bed)?;
    let number = before.field(PEER, "/session/local_discr")?.as_u64();
    let number = number.context("a discriminator that is no number")?;
    let mut peer = Peer {
        address: PEER,
        local_discr: u32::try_from(number)?,
        software: [0; 4],
    };
    let blind = |echo: u32, state| Liveness::new(echo).in_state(state).from(PEER).build();
    let other = !peer.local_discr;
    let blinds = [(0, DOWN), (other, DOWN), (other, INIT), (other, UP)];
    let cases = blinds.map(|(echo, state)| {
        let name = format!("echo {echo:#x}, state {state}");
        Case {
            touch: Touch::Seen(PEER),
            ..Case::dropped(
                name,
                bed.frame(&blind(echo, state)),
                local(RxUnprovenNoNeighbour),
            )
        }
    });
    case::run(bed, &cases)?;

    // A proven one shows where the peer is, and that is where stateless answers go from now on:
    // the bed looks at the Ethernet addresses of all that comes out.
    peer.software = software(bed)?;
    let before = Snapshot::take(bed)?;
    let proven = bed.frame(&bed.liveness(&peer).in_state(DOWN).from(PEER).build());
    let before = answered(bed, &before, &peer, &proven, &[local(DownToInit)], INIT)?;
    let spoofed = bed.frame_from(OTHER, &blind(0, DOWN));
    introduced(bed, &before, &peer, &spoofed, &[], INIT)?;
    Ok(())
}

/// What the agent announces, from the packets to somebody that it can reach.
fn software(bed: &Bed) -> Result<[u8; 4]> {
    let reachable = Ipv4Addr::new(10, 77, 0, 99);
    Ok(bed.connect(&[reachable])?[0].software)
}
