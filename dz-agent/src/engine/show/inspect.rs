//! The inspector: it reads everything there is to show, from the pinned maps, the kernel's routing table and
//! [`Shared`], without disturbing the engine.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use dz_common::map::{Origin, SessionEntry};
use tokio::sync::OnceCell;

use super::held::held;
use super::parked::why_parked;
use super::reverse_path;
use crate::datapath::{Lasting, MapReader, now_ns};
use crate::engine::show::shared::{FollowedRoute, Shared};
use crate::engine::state::backoff::nanos;
use crate::engine::state::keys::{RouteKey, ifname, peer_key, route_key};
use crate::engine::state::left;
use crate::hash::{HashMap, HashSet};
use crate::host::logging;
use crate::net::Netlink;
use crate::net::routes::{Route, Routes};
use crate::reason::{self, Parked, PassedOver};
use crate::settings::{PeerPassive, RunOptions};
use crate::view::{
    AgentView, BlockView, Detour, Inspect, InterfaceView, ParkedView, RouteState, RouteTotals,
    SessionView, Snapshot,
};

/// Takes snapshots of the agent's state, for the API and the metrics.
pub struct Inspector {
    reader: Arc<MapReader>,
    netlink: OnceCell<Netlink>,
    protocol: u8,
    shared: Arc<Shared>,
    port: u16,
    max_sessions: u32,
    ignore_peer_passive: bool,
    /// What is to be known of how long the pins last.
    lasting: Option<String>,
    hold_up_ns: u64,
}

impl Inspector {
    pub(crate) fn new(
        reader: Arc<MapReader>,
        options: &RunOptions,
        shared: Arc<Shared>,
        max_sessions: u32,
    ) -> Self {
        let (port, protocol) = (options.port, options.route_protocol);
        Self {
            reader,
            netlink: OnceCell::new(),
            protocol,
            shared,
            port,
            max_sessions,
            ignore_peer_passive: options.peer_passive == PeerPassive::Ignore,
            lasting: Lasting::of(&options.pin_dir).warning(&options.pin_dir),
            hold_up_ns: nanos(options.hold_up),
        }
    }

    /// Returns the routing table, by a netlink socket of our own: the engine's belongs to its thread.
    async fn routes(&self) -> anyhow::Result<Routes> {
        let netlink = self
            .netlink
            .get_or_try_init(async || Netlink::open())
            .await?;
        Ok(Routes::new(netlink.clone(), self.protocol))
    }

    async fn sessions(
        &self,
        names: &HashMap<u32, Arc<str>>,
        table: &Routes,
        routes: &HashMap<RouteKey, Route>,
        unread: Option<&Arc<str>>,
    ) -> anyhow::Result<Vec<SessionView>> {
        let peers: HashMap<_, _> = self.reader.peers()?.into_iter().collect();
        let mut troubles = self.shared.troubles().clone();
        let holds = self.shared.holds().clone();
        let (now_ns, left_after_ns) = (now_ns(), left::after_ns());
        let mut sessions = Vec::new();
        // Asked for once for each interface: a system call and a socket.
        let mut detours = HashMap::default();
        for entry in self.reader.sessions()? {
            let interface = name_of(names, entry.key.ifindex);
            let peer = peers.get(&peer_key(&interface, entry.key.peer.into()));
            let via = peer
                .map(|peer| peer.via)
                .filter(|via| *via != [0; 4])
                .map(Ipv4Addr::from);
            let trouble = troubles.remove(&route_key(&entry.key));
            let conflict = trouble.as_ref().and_then(|trouble| trouble.conflict);
            let origin = peer.map(|peer| peer.origin);
            let route = match routes.get(&route_key(&entry.key)) {
                _ if origin == Some(Origin::Follow) => {
                    let key = peer_key(&interface, entry.key.peer.into());
                    followed_route(self.shared.followed_routes().get(&key))
                }
                Some(route) => RouteState::Present {
                    via: route.via,
                    src: route.src,
                },
                None => match (unread, conflict) {
                    (Some(reason), _) => unknown(Arc::clone(reason)),
                    (None, Some(protocol)) => RouteState::Foreign { protocol },
                    (None, None) => absent(table, &entry).await,
                },
            };
            sessions.push(SessionView {
                interface,
                left: left::has_left(|| origin, &entry, now_ns, left_after_ns),
                held: held(&entry, holds.get(&entry.key).copied(), self.hold_up_ns),
                entry,
                origin,
                via,
                route,
                detour: detours
                    .entry(entry.detour)
                    .or_insert_with(|| detour(entry.detour))
                    .clone(),
                ignore_peer_passive: self.ignore_peer_passive,
                route_error: trouble.map(|trouble| trouble.text),
            });
        }
        Ok(sessions)
    }

    fn parked(
        &self,
        interfaces: &[InterfaceView],
        sessions: &[SessionView],
    ) -> anyhow::Result<Vec<ParkedView>> {
        let live: HashSet<_> = sessions
            .iter()
            .map(|session| peer_key(&session.interface, session.peer()))
            .collect();
        let refused = self.shared.refused().clone();
        let peers = self.reader.peers()?.into_iter();
        let parked = peers.filter(|(key, _)| !live.contains(key));
        let room = sessions.len() < self.max_sessions as usize;
        Ok(parked
            .map(|(key, peer)| {
                let (name, local) = (ifname(&key), Ipv4Addr::from(peer.local));
                let (why, reason) = match refused.get(&key) {
                    Some(reason) => (Parked::NoPeer, reason.clone()),
                    None => why_parked(interfaces, name, local, room),
                };
                ParkedView {
                    interface: name.to_owned(),
                    local,
                    peer: key.peer.into(),
                    origin: peer.origin,
                    why,
                    reason,
                }
            })
            .collect())
    }

    fn passed_over(&self) -> Vec<(PassedOver, u64)> {
        let mut counts = {
            let follow = self.shared.followed_routes();
            reason::count(follow.values().filter_map(|route| route.passed_over))
        };
        let unfollowed = self.shared.unfollowed();
        for (why, count) in &mut counts {
            *count += unfollowed.get(why).copied().unwrap_or(0);
        }
        counts
    }

    fn blocks(&self, names: &HashMap<u32, Arc<str>>) -> anyhow::Result<Vec<BlockView>> {
        let none = BlockView {
            interface: None,
            local: None,
            counters: self.reader.counters(0)?,
        };
        let mut blocks = vec![none];
        for (key, block) in self.reader.locals()? {
            blocks.push(BlockView {
                interface: Some(name_of(names, key.ifindex).to_string()),
                local: Some(key.addr.into()),
                counters: self.reader.counters(block)?,
            });
        }
        Ok(blocks)
    }

    fn totals(
        &self,
        interfaces: &[InterfaceView],
        names: &HashMap<u32, Arc<str>>,
        routes: &HashMap<RouteKey, Route>,
        sessions: &[SessionView],
    ) -> Vec<RouteTotals> {
        let mut totals: BTreeMap<(String, Ipv4Addr), RouteTotals> = BTreeMap::new();
        let blank = |interface: &str, local| RouteTotals {
            interface: interface.to_owned(),
            local,
            installs: 0,
            withdraws: 0,
            install_failures: 0,
            uninstall_failures: 0,
            repairs: 0,
            conflicts: 0,
            holds: 0,
            installed: 0,
        };
        for interface in interfaces {
            for &local in interface.locals.iter().chain(&interface.borrowed) {
                let key = (interface.name.clone(), local);
                totals.insert(key, blank(&interface.name, local));
            }
        }
        for ((interface, local), counts) in self.shared.counts().iter() {
            let row = totals
                .entry((interface.clone(), *local))
                .or_insert_with(|| blank(interface, *local));
            row.installs = counts.installs;
            row.withdraws = counts.withdraws;
            row.install_failures = counts.install_failures;
            row.uninstall_failures = counts.uninstall_failures;
            row.repairs = counts.repairs;
            row.holds = counts.holds;
        }
        let foreign = |session: &&SessionView| matches!(session.route, RouteState::Foreign { .. });
        for session in sessions.iter().filter(foreign) {
            let (name, local) = (&session.interface, session.local());
            let key = (name.to_string(), local);
            totals
                .entry(key)
                .or_insert_with(|| blank(name, local))
                .conflicts += 1;
        }
        for route in routes.values() {
            let (Some(name), Some(src)) = (names.get(&route.ifindex), route.src) else {
                continue;
            };
            let row = totals
                .entry((name.to_string(), src))
                .or_insert_with(|| blank(name, src));
            row.installed += 1;
        }
        totals.into_values().collect()
    }
}

impl Inspect for Inspector {
    async fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let interfaces = self.shared.interfaces().clone();
        let names: HashMap<u32, Arc<str>> = interfaces
            .iter()
            .filter_map(|interface| Some((interface.ifindex?, interface.name.as_str().into())))
            .collect();
        // Counters are read before sessions: a packet that comes in between is missing in its counter, not in
        // its session.
        let blocks = self.blocks(&names).context("reading the counters")?;
        let table = self.routes().await.context("netlink")?;
        let (listed, unread) = match table.list(None).await {
            Ok(listed) => (listed, None),
            Err(error) => (Vec::new(), Some(error.to_string().into())),
        };
        let routes: HashMap<_, _> = listed
            .into_iter()
            .filter(|route| names.contains_key(&route.ifindex))
            .map(|route| {
                (
                    RouteKey {
                        ifindex: route.ifindex,
                        dst: route.dst,
                    },
                    route,
                )
            })
            .collect();
        let sessions = self
            .sessions(&names, &table, &routes, unread.as_ref())
            .await
            .context("reading the sessions")?;
        let parked = self
            .parked(&interfaces, &sessions)
            .context("reading the peers")?;
        let around = sessions.iter().filter_map(|session| match &session.detour {
            Detour::Interface(name) => Some(&**name),
            Detour::None => None,
        });
        let mut warnings = reverse_path::warnings(around, reverse_path::mode);
        warnings.extend(self.lasting.clone());
        let taken_at_ns = now_ns();
        let beat_ns = self.reader.heartbeat().context("reading the heartbeat")?;
        Ok(Snapshot {
            taken_at_ns,
            routes: self.totals(&interfaces, &names, &routes, &sessions),
            interfaces,
            sessions,
            parked,
            passed_over: self.passed_over(),
            blocks,
            agent: AgentView {
                heartbeat_age_ns: taken_at_ns.saturating_sub(beat_ns),
                events_lost: self.shared.events_lost.load(Ordering::Relaxed),
                notification_overruns: self.shared.overruns.load(Ordering::Relaxed),
                checks_failed: self.shared.checks_failed.load(Ordering::Relaxed),
                log_lines_dropped: logging::dropped(),
                full_check_ns: self.shared.full_check_ns.load(Ordering::Relaxed),
                follow_changes: *self.shared.follow_changes(),
                check_error: self.shared.check_error().clone(),
                warnings,
                started_at: self.shared.started_at,
                metrics: self.shared.metrics(),
                pid: std::process::id(),
                port: self.port,
                max_sessions: self.max_sessions,
            },
        })
    }
}

/// Returns the state of a route of ours that is absent: another daemon's may be in its place.
async fn absent(table: &Routes, entry: &SessionEntry) -> RouteState {
    if !entry.counts_as_up() {
        return RouteState::Absent;
    }
    match table.foreign(entry.key.peer.into()).await {
        Ok(None) => RouteState::Absent,
        Ok(Some(foreign)) => RouteState::Foreign {
            protocol: foreign.protocol,
        },
        Err(error) => unknown(error.to_string()),
    }
}

/// Returns the state of a followed peer's route, which is unknown for a moment: the engine writes the peer
/// before it has read the route.
fn followed_route(route: Option<&FollowedRoute>) -> RouteState {
    let Some(route) = route else {
        return unknown("the followed route is being looked at");
    };
    RouteState::Followed {
        protocol: route.protocol,
        table: route.table,
        metric: route.metric,
    }
}

fn unknown(reason: impl Into<Arc<str>>) -> RouteState {
    let reason = reason.into();
    RouteState::Unknown { reason }
}

fn name_of(names: &HashMap<u32, Arc<str>>, ifindex: u32) -> Arc<str> {
    names
        .get(&ifindex)
        .cloned()
        .unwrap_or_else(|| format!("#{ifindex}").into())
}

/// Returns the way around by the interface with an index; 0: there is none.
fn detour(ifindex: u32) -> Detour {
    if ifindex == 0 {
        return Detour::None;
    }
    match nix::net::if_::if_indextoname(ifindex) {
        Ok(name) => Detour::Interface(name.to_string_lossy().into()),
        Err(_gone) => Detour::Interface(format!("#{ifindex}").into()),
    }
}
