//! The observer: looks at maps and table again and again, from its own descriptors.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
use aya::maps::{HashMap, Map, MapData, MapError};
use dz_agent::net::routes::DEFAULT_PROTOCOL;
use dz_common::map::{Destination, Peer, PeerKey, SessionEntry, name};
use dz_common::packet::State;
use dz_tests::answerer::peer as address;
use dz_tests::bed::INTERFACE;
use dz_tests::route_log::RouteLog;
use dz_tests::rtnl::Table;
use dz_tests::wait::monotonic_ns;
use zerocopy::TryFromBytes;

use crate::history::{Look, Round, Seen};
use crate::scene::{PEERS, Scene};

/// `BPF_F_LOCK`: a copy that nobody writes to meanwhile.
const LOCKED: u64 = 4;

type Pinned<const KEY: usize, const VALUE: usize> = HashMap<MapData, [u8; KEY], [u8; VALUE]>;

/// Who looks.
pub(super) struct Watch<'a> {
    peers: Pinned<{ size_of::<PeerKey>() }, { size_of::<Peer>() }>,
    sessions: Pinned<{ size_of::<Destination>() }, { size_of::<SessionEntry>() }>,
    table: Table,
    log: &'a RouteLog,
    ifindex: u32,
    /// Sessions Up at the last look, for those who wait.
    up: &'a AtomicUsize,
}

impl<'a> Watch<'a> {
    pub(super) fn new(scene: &'a Scene, up: &'a AtomicUsize) -> Result<Self> {
        let pins = scene.agent.home().pin_dir();
        Ok(Self {
            peers: HashMap::try_from(open(pins, name::PEERS)?)?,
            sessions: HashMap::try_from(open(pins, name::SESSIONS)?)?,
            table: Table::open(&scene.netns)?,
            log: &scene.log,
            ifindex: scene.ifindex,
            up,
        })
    }

    pub(super) fn round(&mut self) -> Result<Round> {
        let peers = look(|| each(|number| self.peer(number)))?;
        let mark = self.log.mark()?;
        let sessions = look(|| each(|number| self.session(number)))?;
        let routes = look(|| {
            let routes = self.table.dump(DEFAULT_PROTOCOL, self.ifindex)?;
            let numbers = routes.iter().filter_map(|route| number(route.dst));
            Ok(numbers.map(|number| (number, ())).collect())
        })?;
        let sessions_after = look(|| each(|number| self.session(number)))?;
        let up = |(_, (_, state)): &&(u16, Seen)| *state == State::Up;
        let up = sessions_after.found.iter().filter(up).count();
        self.up.store(up, Ordering::Relaxed);
        Ok(Round {
            peers,
            sessions,
            routes,
            sessions_after,
            mark,
        })
    }

    fn peer(&self, number: u16) -> Result<Option<()>> {
        let mut key = [0; size_of::<PeerKey>()];
        key[..INTERFACE.len()].copy_from_slice(INTERFACE.as_bytes());
        key[16..].copy_from_slice(&address(number.into()).octets());
        Ok(found(self.peers.get(&key, 0))?.map(drop))
    }

    fn session(&self, number: u16) -> Result<Option<Seen>> {
        let key = Destination {
            ifindex: self.ifindex,
            peer: address(number.into()).octets(),
        };
        let value = found(self.sessions.get(&zerocopy::transmute!(key), LOCKED))?;
        let read = |value: [u8; size_of::<SessionEntry>()]| {
            let entry = SessionEntry::try_read_from_bytes(&value);
            let entry = entry.map_err(|_| anyhow!("a session that cannot be read"))?;
            Ok((entry.generation, entry.session.state))
        };
        value.map(read).transpose()
    }
}

fn open(pins: &Path, name: &str) -> Result<Map> {
    Ok(Map::from_map_data(MapData::from_pin(pins.join(name))?)?)
}

fn found<T>(got: Result<T, MapError>) -> Result<Option<T>> {
    match got {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// One by one: a walk through a map that changes under it can miss some.
fn each<T>(get: impl Fn(u16) -> Result<Option<T>>) -> Result<Vec<(u16, T)>> {
    let all = (0..PEERS as u16).map(|number| Ok(get(number)?.map(|found| (number, found))));
    all.filter_map(Result::transpose).collect()
}

fn look<T: Copy>(read: impl FnOnce() -> Result<Vec<(u16, T)>>) -> Result<Look<T>> {
    let begin_ns = monotonic_ns();
    let mut found = read()?;
    let end_ns = monotonic_ns();
    found.sort_by_key(|(peer, _)| *peer);
    found.dedup_by_key(|(peer, _)| *peer);
    Ok(Look {
        begin_ns,
        end_ns,
        found,
    })
}

fn number(addr: Ipv4Addr) -> Option<u16> {
    let number = u32::from(addr).checked_sub(address(0).into())?;
    let number = u16::try_from(number).ok()?;
    (usize::from(number) < PEERS).then_some(number)
}
