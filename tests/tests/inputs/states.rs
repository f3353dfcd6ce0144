//! Every state with every sound packet: what the session becomes, and that no input leads to
//! AdminDown.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use dz_common::counters::Counter::{
    self, DownToInit, DownToUp, EventEmitted, InitToDownRemoteAdmin, InitToDownRemoteDown,
    InitToUp, RxAnswered, RxPaced, RxRemoteAdmin, StaleDown, UpToDownRemoteAdmin,
};

use crate::bed::{Bed, PATIENCE, Peer};
use crate::case;
use crate::liveness::{ADMIN_DOWN, DOWN, INIT, Liveness, PEER_DISCR, UP, ours};
use crate::session::{ensure_state, enter, local};
use crate::watch::{Place, Snapshot, Touch, compare, observe};

/// Our state, the packet's state, whether it echoes our discriminator; our state afterwards, the
/// exit, and what else is counted. Written down from the protocol's rules 3 to 7: within one
/// interval a change is answered, anything else is not, nor is AdminDown.
type Row = (u8, u8, bool, u8, Counter, Option<Counter>);

const ROWS: [Row; 24] = [
    (DOWN, ADMIN_DOWN, false, DOWN, RxRemoteAdmin, None),
    (DOWN, ADMIN_DOWN, true, DOWN, RxRemoteAdmin, None),
    (DOWN, DOWN, false, INIT, RxAnswered, Some(DownToInit)),
    (DOWN, DOWN, true, INIT, RxAnswered, Some(DownToInit)),
    (DOWN, INIT, false, INIT, RxAnswered, Some(DownToInit)),
    (DOWN, INIT, true, UP, RxAnswered, Some(DownToUp)),
    (DOWN, UP, false, INIT, RxAnswered, Some(DownToInit)),
    (DOWN, UP, true, UP, RxAnswered, Some(DownToUp)),
    (
        INIT,
        ADMIN_DOWN,
        false,
        DOWN,
        RxRemoteAdmin,
        Some(InitToDownRemoteAdmin),
    ),
    (
        INIT,
        ADMIN_DOWN,
        true,
        DOWN,
        RxRemoteAdmin,
        Some(InitToDownRemoteAdmin),
    ),
    (
        INIT,
        DOWN,
        false,
        DOWN,
        RxAnswered,
        Some(InitToDownRemoteDown),
    ),
    (
        INIT,
        DOWN,
        true,
        DOWN,
        RxAnswered,
        Some(InitToDownRemoteDown),
    ),
    (INIT, INIT, false, INIT, RxPaced, None),
    (INIT, INIT, true, UP, RxAnswered, Some(InitToUp)),
    (INIT, UP, false, INIT, RxPaced, None),
    (INIT, UP, true, UP, RxAnswered, Some(InitToUp)),
    (
        UP,
        ADMIN_DOWN,
        false,
        DOWN,
        RxRemoteAdmin,
        Some(UpToDownRemoteAdmin),
    ),
    (
        UP,
        ADMIN_DOWN,
        true,
        DOWN,
        RxRemoteAdmin,
        Some(UpToDownRemoteAdmin),
    ),
    // Up for less than a detect time: sent before the peer saw us Up.
    (UP, DOWN, false, UP, RxPaced, Some(StaleDown)),
    (UP, DOWN, true, UP, RxPaced, Some(StaleDown)),
    (UP, INIT, false, UP, RxPaced, None),
    (UP, INIT, true, UP, RxPaced, None),
    (UP, UP, false, UP, RxPaced, None),
    (UP, UP, true, UP, RxPaced, None),
];

/// Each row over a session of its own.
pub(crate) fn test(bed: &Bed) -> Result<()> {
    let addresses = (150..).map(|last| Ipv4Addr::new(10, 77, 0, last));
    let addresses: Vec<_> = addresses.take(ROWS.len()).collect();
    let peers = bed.connect(&addresses)?;
    let cases: Vec<_> = ROWS
        .iter()
        .zip(peers)
        .map(|(row, peer)| (format!("{row:?}"), *row, peer))
        .collect();
    case::each(
        bed,
        &cases,
        |(name, ..)| name,
        |(_, row, peer), _| run(bed, peer, *row),
    )
}

fn run(bed: &Bed, peer: &Peer, row: Row) -> Result<Snapshot> {
    let (from, state, echo, to, exit, besides) = row;
    let before = enter(bed, peer, from)?;
    let packet = Liveness::new(if echo { peer.local_discr } else { 0 }).in_state(state);
    let frame = bed.frame(&packet.from(peer.address).build());
    let mut counters = vec![local(exit)];
    counters.extend(besides.map(local));
    if from != to {
        counters.push((Place::Shared, EventEmitted));
    }
    let seen = observe(bed, &before, &frame, &counters)?;
    compare(&before, &seen.after, Touch::Changed(peer.address))?;
    ensure_state(&seen.after, peer, to)?;
    let mut came_out = seen.came_out;
    let expected = match exit {
        RxAnswered => vec![ours(peer, to, PEER_DISCR)],
        // Not answered, but a new state is announced: our clock does it.
        RxRemoteAdmin if from != to => {
            if came_out.is_empty() {
                came_out.extend(bed.recv(PATIENCE)?);
            }
            vec![ours(peer, to, PEER_DISCR)]
        }
        _ => Vec::new(),
    };
    ensure!(
        came_out == expected,
        "sent\n{came_out:02x?}\n{expected:02x?} expected"
    );
    ensure!(seen.passed.is_empty(), "passed on: {:02x?}", seen.passed);
    Ok(seen.after)
}
