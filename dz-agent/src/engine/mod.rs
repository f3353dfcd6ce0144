//! The loop that carries out what should be: peers → sessions → routes.
//!
//! One task owns everything that changes; it is driven by state changes from the kernel, by
//! netlink notifications, by requests of the API, by the clock, and by a full check every ten
//! seconds that needs none of these to have arrived. It holds nothing that it could not read back.

mod alarm;
mod batches;
mod check;
mod choose;
mod clock;
mod close;
mod configured;
mod connect;
mod connections;
mod detours;
mod diverted;
mod ends;
mod events;
mod farewell;
mod followed;
mod front;
mod guard;
mod held;
mod inspect;
mod interfaces;
mod jobs;
mod left;
mod locals;
mod mirror;
mod next_hops;
mod notices;
mod reconcile;
mod resolve;
mod reverse_path;
mod routes;
mod run;
mod scrapes;
mod shared;
mod slots;
mod sources;
mod stop;
mod surroundings;
mod transmit;
mod unfollowed;
mod withdraw;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dz_common::map::{Peer, PeerKey, SessionKey};
use foldhash::{HashMap, HashSet};
use tokio::time::Instant;

use crate::datapath::Datapath;
use crate::host::identity::Identity;
use crate::host::logging::FloodLimit;
use crate::settings::RunOptions;
use check::Reading;
use clock::Clock;
use close::Closing;
use connections::Connections;
use detours::Detours;
use events::Unlogged;
use farewell::Farewells;
use followed::Followed;
use held::Held;
use interfaces::Interface;
use jobs::RouteJobs;
use left::Left;
use locals::Blocks;
use next_hops::NextHops;
use reconcile::RouteKey;
use shared::Shared;
use slots::Slots;
use sources::Sources;

pub use inspect::Inspector;
pub use run::run;

/// How often everything is read and compared, whatever notifications came or did not come.
const FULL_CHECK: Duration = Duration::from_secs(10);

/// The pause after a first failure, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A session as the agent needs it at hand; all of it is also in its map entry.
#[derive(Clone, Debug)]
struct Live {
    generation: u32,
    slot: u32,
    interface: Arc<str>,
    /// Where frames to the peer go, on Ethernet.
    next_hop: Option<Ipv4Addr>,
}

/// Everything that changes.
struct Engine {
    options: RunOptions,
    datapath: Datapath,
    connections: Connections,
    identity: Identity,
    shared: Arc<Shared>,
    floods: FloodLimit,
    interfaces: Vec<Interface>,
    peers: HashMap<PeerKey, Peer>,
    sessions: HashMap<SessionKey, Live>,
    /// Which session a route belongs to: one per interface and peer.
    owners: HashMap<RouteKey, SessionKey>,
    slots: Slots,
    blocks: Blocks,
    /// Which interface of this host holds which address.
    held: Held,
    clock: Clock,
    /// Peers that our clock speaks to once a minute only.
    left: Left,
    jobs: RouteJobs,
    closing: HashMap<SessionKey, Closing>,
    batches: BTreeMap<u64, batches::Batch>,
    farewells: Farewells,
    next_hops: NextHops,
    /// What makes peers without a request.
    sources: Sources,
    followed: Followed,
    /// Ways around, for packets that must not go to a peer that is Down.
    detours: Detours,
    next_generation: u32,
    /// Ring events read, and the kernel's count of those emitted before we began.
    events_read: u64,
    events_before: u64,
    events_lost: u64,
    unlogged: Unlogged,
    reading: Reading,
    /// When to look at everything ahead of time.
    check_at: Option<Instant>,
    /// Full checks in a row that could not read everything.
    check_failures: u32,
    /// What they could not read, logged once each.
    check_errors: HashSet<String>,
    /// When to look at all interfaces and addresses ahead of time.
    look_around_at: Option<Instant>,
}

impl Engine {
    /// Most sessions: as many as asked for, although the maps are rounded up to whole groups of
    /// deadline slots, and no more than they hold, for those of an earlier agent keep their size.
    fn capacity(&self) -> u32 {
        self.options.max_sessions.min(self.datapath.slots())
    }

    fn peer_of(&self, key: RouteKey) -> Option<&Peer> {
        let interface = self.interface_at(key.ifindex)?;
        self.peers
            .get(&reconcile::peer_key(&interface.name, key.dst))
    }

    /// The interface with this index, if it is one of ours.
    fn interface_at(&self, ifindex: u32) -> Option<&Interface> {
        let mut interfaces = self.interfaces.iter();
        interfaces.find(|interface| interface.ifindex() == Some(ifindex))
    }

    /// Returns the name of a session's interface, also of one that is gone.
    fn name_over(&self, key: &SessionKey) -> String {
        let live = self.sessions.get(key);
        live.map_or_else(
            || self.interface_name(key.ifindex),
            |live| live.interface.to_string(),
        )
    }

    fn interface_name(&self, ifindex: u32) -> String {
        let found = self.interface_at(ifindex);
        found.map_or_else(|| format!("#{ifindex}"), |interface| interface.name.clone())
    }
}

/// The pause after so many failures in a row (1 or more): it doubles up to [`LONGEST_PAUSE`].
fn backoff(failures: u32) -> Duration {
    (FIRST_PAUSE * (1 << failures.saturating_sub(1).min(6))).min(LONGEST_PAUSE)
}
