//! Every state with every sound packet: what the session becomes, and that no input leads to
//! AdminDown.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use dz_common::counters::Counter::{
    self, DownToInit, DownToUp, DropUnprovenAdminDown, DropWrongDiscriminator,
    DropZeroYourDiscriminator, EventEmitted, InitToDownRemoteAdmin, InitToDownRemoteDown, InitToUp,
    RxAnswered, RxPaced, RxRemoteAdmin, RxUnprovenAnswered, RxUnprovenPaced, StaleDown,
    UpToDownRemoteAdmin,
};

use crate::bed::{Bed, PATIENCE};
use crate::case;
use crate::liveness::{ADMIN_DOWN, DOWN, INIT, Liveness, PEER_DISCR, UP, ours};
use crate::peer::Peer;
use crate::session::{ensure_state, enter, introduced, local};
use crate::watch::{Place, Snapshot, Touch, compare, observe};

use Echo::{Nothing, Other, Ours};

/// What a packet echoes.
#[derive(Clone, Copy, Debug)]
enum Echo {
    Nothing,
    Ours,
    /// Perhaps what was ours once.
    Other,
}

/// Our state, the packet's state, what it echoes; our state afterwards, the exit, and what else is
/// counted. Written down from the protocol's rules: only what echoes us is proven, and only that
/// changes the session. Within one interval a change is answered, anything else is not, nor is
/// AdminDown. Who may not know who we are is told, once per interval.
type Row = (u8, u8, Echo, u8, Counter, Option<Counter>);

const ROWS: [Row; 36] = [
    (DOWN, ADMIN_DOWN, Nothing, DOWN, DropUnprovenAdminDown, None),
    (DOWN, ADMIN_DOWN, Ours, DOWN, RxRemoteAdmin, None),
    (DOWN, ADMIN_DOWN, Other, DOWN, DropUnprovenAdminDown, None),
    (DOWN, DOWN, Nothing, DOWN, RxUnprovenAnswered, None),
    (DOWN, DOWN, Ours, INIT, RxAnswered, Some(DownToInit)),
    (DOWN, DOWN, Other, DOWN, RxUnprovenAnswered, None),
    (DOWN, INIT, Nothing, DOWN, DropZeroYourDiscriminator, None),
    (DOWN, INIT, Ours, UP, RxAnswered, Some(DownToUp)),
    (DOWN, INIT, Other, DOWN, RxUnprovenAnswered, None),
    (DOWN, UP, Nothing, DOWN, DropZeroYourDiscriminator, None),
    (DOWN, UP, Ours, UP, RxAnswered, Some(DownToUp)),
    (DOWN, UP, Other, DOWN, RxUnprovenAnswered, None),
    (INIT, ADMIN_DOWN, Nothing, INIT, DropUnprovenAdminDown, None),
    (
        INIT,
        ADMIN_DOWN,
        Ours,
        DOWN,
        RxRemoteAdmin,
        Some(InitToDownRemoteAdmin),
    ),
    (INIT, ADMIN_DOWN, Other, INIT, DropUnprovenAdminDown, None),
    (INIT, DOWN, Nothing, INIT, RxUnprovenAnswered, None),
    (
        INIT,
        DOWN,
        Ours,
        DOWN,
        RxAnswered,
        Some(InitToDownRemoteDown),
    ),
    (INIT, DOWN, Other, INIT, RxUnprovenAnswered, None),
    (INIT, INIT, Nothing, INIT, DropZeroYourDiscriminator, None),
    (INIT, INIT, Ours, UP, RxAnswered, Some(InitToUp)),
    (INIT, INIT, Other, INIT, RxUnprovenAnswered, None),
    (INIT, UP, Nothing, INIT, DropZeroYourDiscriminator, None),
    (INIT, UP, Ours, UP, RxAnswered, Some(InitToUp)),
    (INIT, UP, Other, INIT, RxUnprovenAnswered, None),
    (UP, ADMIN_DOWN, Nothing, UP, DropUnprovenAdminDown, None),
    (
        UP,
        ADMIN_DOWN,
        Ours,
        DOWN,
        RxRemoteAdmin,
        Some(UpToDownRemoteAdmin),
    ),
    (UP, ADMIN_DOWN, Other, UP, DropUnprovenAdminDown, None),
    (UP, DOWN, Nothing, UP, RxUnprovenAnswered, None),
    // Up for less than a detect time: sent before the peer saw us Up.
    (UP, DOWN, Ours, UP, RxPaced, Some(StaleDown)),
    (UP, DOWN, Other, UP, RxUnprovenAnswered, None),
    (UP, INIT, Nothing, UP, DropZeroYourDiscriminator, None),
    (UP, INIT, Ours, UP, RxPaced, None),
    (UP, INIT, Other, UP, DropWrongDiscriminator, None),
    (UP, UP, Nothing, UP, DropZeroYourDiscriminator, None),
    (UP, UP, Ours, UP, RxPaced, None),
    (UP, UP, Other, UP, DropWrongDiscriminator, None),
];

/// Each row over a session of its own.
pub(crate) fn test(bed: &Bed) -> Result<()> {
    let addresses = (130..).map(|last| Ipv4Addr::new(10, 77, 0, last));
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
    let packet = Liveness::new(match echo {
        Nothing => 0,
        Ours => peer.local_discr,
        Other => !peer.local_discr,
    });
    let frame = bed.frame(&packet.in_state(state).from(peer.address).build());
    if !matches!(echo, Ours) {
        return unproven(bed, peer, &before, &frame, (from, exit));
    }
    let mut counters = vec![local(exit)];
    counters.extend(besides.map(local));
    if from != to {
        counters.push((Place::Shared, EventEmitted));
    }
    let seen = observe(bed, &before, &frame, &counters)?;
    compare(&before, &seen.after, Touch::Changed(peer.address))?;
    ensure_state(&seen.after, peer, to)?;
    let mut came_out = seen.came_out;
    // Of a session that was not Up nobody knows whether the peer still knows us.
    let told = if from == INIT && to == DOWN {
        0
    } else {
        PEER_DISCR
    };
    let expected = match exit {
        RxAnswered => vec![ours(peer, to, told)],
        // Not answered, but a new state is announced: our clock does it.
        RxRemoteAdmin if from != to => {
            if came_out.is_empty() {
                came_out.extend(bed.recv(PATIENCE)?);
            }
            vec![ours(peer, to, told)]
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

/// A packet that is not proven changes nothing, twice; it is answered once or not at all.
fn unproven(
    bed: &Bed,
    peer: &Peer,
    before: &Snapshot,
    frame: &[u8],
    (state, exit): (u8, Counter),
) -> Result<Snapshot> {
    let seen = Touch::Seen(peer.address);
    if exit != RxUnprovenAnswered {
        let once = silent(bed, before, frame, exit, seen)?;
        return silent(bed, &once, frame, exit, seen);
    }
    let told = if state == UP { UP } else { INIT };
    let once = introduced(bed, before, peer, frame, &[], told)?;
    silent(bed, &once, frame, RxUnprovenPaced, seen)
}

/// A frame that ends in the program with this exit.
fn silent(
    bed: &Bed,
    before: &Snapshot,
    frame: &[u8],
    exit: Counter,
    touch: Touch,
) -> Result<Snapshot> {
    let seen = observe(bed, before, frame, &[local(exit)])?;
    compare(before, &seen.after, touch)?;
    ensure!(seen.came_out.is_empty(), "sent {:02x?}", seen.came_out);
    ensure!(seen.passed.is_empty(), "passed on: {:02x?}", seen.passed);
    Ok(seen.after)
}
