//! The full check: it reads everything from the kernel, compares it, and corrects what differs, whatever
//! events and notifications came.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use dz_common::map::SessionEntry;
use futures_util::FutureExt;
use tracing::{debug, info, warn};

use crate::datapath::MapError;
use crate::engine::decide::reconcile::{self, Facts, Op};
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::backoff::nanos;
use crate::engine::state::checks::{OurRoutes, Reading};
use crate::engine::state::keys::{RouteKey, flow, peer_key, route_key};
use crate::engine::state::left::{after_ns, has_left};
use crate::hash::HashMap;
use crate::net::routes::Route;
use crate::settings::PeerPassive;

/// The steps to be taken, and the first error of what could not be read.
type Decided = (Vec<Op>, Option<anyhow::Error>);

impl<H: Hands> Engine<H> {
    /// Begins a full check, unless one is under way: sessions are read at its end, so that it will do.
    /// [`Self::check_with`] goes on with it when our routes, links and addresses have been read; the loop runs
    /// meanwhile.
    pub(crate) fn begin_check(&mut self) {
        if self.checks.is_checking() {
            return;
        }
        let (surroundings, routes) = (self.read_surroundings(), self.hands.routes());
        let reading = async move {
            Reading {
                surroundings: Some(surroundings.await),
                routes: Some(routes.await),
            }
        };
        self.checks.begin(reading.boxed_local());
    }

    /// Runs a full check from its beginning to its end, while the loop waits: where an address may be gone,
    /// nothing may be sent from it meanwhile.
    pub(crate) async fn full_check(&mut self) {
        let routes = self.hands.routes();
        let reading = async move {
            Reading {
                surroundings: None,
                routes: Some(routes.await),
            }
        };
        self.checks.begin(reading.boxed_local());
        let read = self.checks.finished().await;
        self.check_with(read).await;
    }

    /// Goes on with what a reading was made for: a full check, or a look around.
    pub(crate) async fn have_read(&mut self, reading: Reading) {
        // Something has changed meanwhile that sessions depend on, and what was read may be older: the full check
        // that this has asked for reads everything.
        if self.agenda.has_check() {
            return;
        }
        if reading.routes.is_some() {
            self.check_with(reading).await;
        } else if let Some(surroundings) = reading.surroundings
            && let Some(error) = self.looked_around(surroundings).await
        {
            self.check_failed(&error);
        }
    }

    /// Ends a full check, given what was read. If something could not be read, another check follows soon.
    async fn check_with(&mut self, reading: Reading) {
        let begun_ns = self.hands.now_ns();
        let decided = self.read_and_decide(reading).await;
        let (ops, failed) = decided.unwrap_or_else(|error| (Vec::new(), Some(error)));
        if !ops.is_empty() {
            debug!(steps = ops.len(), "full check");
        }
        // Sessions are closed first, which makes room for those that are opened.
        for op in ops.iter().filter(|op| matches!(op, Op::Close { .. })) {
            self.carry_out(*op);
        }
        for op in ops.iter().filter(|op| !matches!(op, Op::Close { .. })) {
            self.carry_out(*op);
        }
        if self.interfaces.has_leaving() {
            self.let_go_of_leaving();
        }
        match failed {
            Some(error) => self.check_failed(&error),
            None => {
                if let Some(failures) = self.checks.succeeded() {
                    info!(failures, "full check: everything read again");
                    *self.shared.check_error() = None;
                }
            }
        }
        let took_ns = self.hands.now_ns().saturating_sub(begun_ns);
        self.shared.full_check_ns.store(took_ns, Ordering::Relaxed);
        self.agenda.checked(self.hands.now_ns(), took_ns);
    }

    /// Notes that a full check or a look around has failed, and schedules another check.
    pub(crate) fn check_failed(&mut self, error: &anyhow::Error) {
        self.shared.checks_failed.fetch_add(1, Ordering::Relaxed);
        let text = format!("{error:#}");
        let (pause, is_news) = self.checks.failed(&text);
        self.agenda
            .retry_at(self.hands.now_ns().saturating_add(nanos(pause)));
        if is_news {
            warn!(error = text, retry = ?pause, "full check");
        } else {
            debug!(error = text, retry = ?pause, "full check, again");
        }
        *self.shared.check_error() = Some(text);
    }

    /// Reads everything else, and decides. What has been read before may have changed since: of our routes
    /// [`Self::adjust_route`] reads the session again, notifications of addresses have been kept, and any other
    /// change that sessions depend on has asked for another full check. Nothing is awaited between reading the
    /// sessions and deciding, so that nothing of ours changes, and nothing is sent, for an address may be found gone.
    async fn read_and_decide(&mut self, reading: Reading) -> anyhow::Result<Decided> {
        let Reading {
            surroundings,
            routes,
        } = reading;
        let routes = routes.unwrap_or_else(|| Ok(Vec::new()));
        let (unread, carriers) = match surroundings {
            None => (self.refresh_interfaces().await, None),
            Some(Ok(read)) => {
                self.use_addresses(&read.addresses);
                let unseen = self.update_interfaces(read.found, &read.addresses).await;
                (unseen, Some(Ok(read.carriers)))
            }
            Some(Err(error)) => (None, Some(Err(error))),
        };
        self.read_peers()?;
        // Without knowing which addresses sessions may have, nothing is decided.
        self.read_borrowed().await.map_or(Ok(()), Err)?;
        let unseen = match carriers {
            None => self.look_at_links().await,
            Some(carriers) => self.look_at(carriers).await,
        };
        let unfollowed = self.read_followed().await;
        let resolve = !self.sessions.next_hops().is_up_to_date();
        let unresolved = self.read_neighbours().await;
        let unnumbered = self.renumber_routes().await;
        if self.sessions.len() == 0 {
            // Those of an earlier agent: settling closes them, or goes on with them.
            let sessions = self.read_sessions()?;
            self.know_sessions(&sessions, &routes);
        }
        self.settle_all().log();
        if self.interfaces.host_addresses_mut().take_new() {
            self.read_borrowed().await.map_or(Ok(()), Err)?;
            self.use_holders();
        }
        self.correct_locals();
        self.show_interfaces();
        let refused = self.interfaces.refused_peers(&self.peers);
        let sessions = self.read_sessions()?;
        self.know_sessions(&sessions, &routes);
        if resolve {
            self.resolve_missing();
        }
        self.note_who_has_left(&sessions);
        let now_ns = self.hands.now_ns();
        self.sessions.damping_mut().forgive(&sessions, now_ns);
        let mut ops = reconcile::decide(&Facts {
            peers: &self.peers,
            carriers: &self.interfaces.carriers(),
            sessions: &sessions,
            closing: &self.closings.keys().map(|key| route_key(&key)).collect(),
            refused: &refused.keys().copied().collect(),
            routes: routes.as_deref().unwrap_or_default(),
            detours: self.detours.known(),
            ignore_peer_passive: self.options.peer_passive == PeerPassive::Ignore,
        });
        let damping = self.sessions.damping();
        let amiss = |entry: &&SessionEntry| damping.is_amiss(entry, now_ns);
        let amiss = sessions.iter().filter(amiss);
        ops.extend(amiss.map(|entry| Op::Review(entry.key)));
        *self.shared.refused() = refused;
        if routes.is_err() {
            // Without our routes, sessions are opened and closed all the same.
            ops.retain(|op| !matches!(op, Op::AdjustRoute(_)));
        }
        let failed = unread
            .or(unseen)
            .or(unfollowed)
            .or(unresolved)
            .or(unnumbered)
            .or(routes.err().map(anyhow::Error::from));
        Ok((ops, failed))
    }

    /// Gives routes our protocol number that an earlier agent with another one has left (`--route-protocol`). Returns why
    /// that failed, if it did.
    pub(crate) async fn renumber_routes(&mut self) -> Option<anyhow::Error> {
        let indices: Vec<_> = self.interfaces.indices().collect();
        match self.hands.renumber_routes(&indices).await {
            Ok(0) => None,
            Ok(routes) => {
                info!(
                    routes,
                    "routes of an earlier agent have our protocol number now"
                );
                None
            }
            Err(error) => Some(error.into()),
        }
    }

    /// Reads the peers from their map, which somebody else may have changed.
    fn read_peers(&mut self) -> Result<(), MapError> {
        let (mut read, mut known) = (0, 0);
        let mut unreadable = Vec::new();
        let show = |key, peer| {
            read += 1;
            known += usize::from(self.peers.get(&key) == Some(&peer));
        };
        self.hands.each_peer(show, |entry| unreadable.push(entry))?;
        self.discard(&unreadable);
        if known != read || known != self.peers.len() {
            let mut peers = HashMap::default();
            let show = |key, peer| {
                peers.insert(key, peer);
            };
            self.hands.each_peer(show, |_| ())?;
            self.peers = peers;
        }
        Ok(())
    }

    /// Adopts the sessions that were read and are not known, and forgets those that are gone.
    fn know_sessions(&mut self, read: &[SessionEntry], routes: &OurRoutes) {
        if self.sessions.are(read) {
            return;
        }
        self.forget_missing(read);
        let gateways = gateways(routes.as_deref().unwrap_or_default());
        for entry in read {
            // Spares the known ones all but a look-up.
            if !self.sessions.knows(entry) {
                self.adopt(entry, &gateways);
            }
        }
    }

    /// Forgets sessions that somebody else has deleted, but for those that are being closed anyway.
    fn forget_missing(&mut self, read: &[SessionEntry]) {
        for key in self.sessions.missing_in(read) {
            // A list that was read while sessions were deleted may lack others, too.
            if self.closings.contains(&key) || !matches!(self.hands.session(&key), Ok(None)) {
                continue;
            }
            let peer = Ipv4Addr::from(key.peer);
            warn!(%peer, "somebody else has deleted the session");
            self.forget(&key);
        }
    }

    /// Adopts a session that its map has and that we do not know: an earlier agent's.
    fn adopt(&mut self, entry: &SessionEntry, gateways: &HashMap<RouteKey, Ipv4Addr>) {
        let interface = self.interfaces.name_of(entry.key.ifindex);
        let key = peer_key(&interface, entry.key.peer.into());
        let peer = self.peers.get(&key);
        let next_hop = self.next_hop(entry.key.ifindex, entry.key.peer, peer);
        // A disconnect that was cut short has deleted the peer, and with it the gateway, which the route
        // still has.
        let gateway = gateways.get(&route_key(&entry.key));
        let gateway = gateway.filter(|_| peer.is_none()).copied();
        let next_hop = next_hop.map(|next_hop| gateway.unwrap_or(next_hop));
        let about = || (interface, next_hop);
        if self.sessions.adopt(entry, about, self.hands.now_ns()) {
            self.detours.look(flow(&entry.key));
            self.look_up_ways();
            self.show_hold(&entry.key);
        }
    }

    /// Notes the sessions whose peers have left. Our clock asks now for those whose peers are back.
    fn note_who_has_left(&mut self, sessions: &[SessionEntry]) {
        let (now_ns, after_ns) = (self.hands.now_ns(), after_ns());
        let left = sessions.iter().filter(|entry| {
            let origin = || self.peer_of(route_key(&entry.key)).map(|peer| peer.origin);
            has_left(origin, entry, now_ns, after_ns)
        });
        let left = left.map(|entry| entry.key).collect();
        self.sessions.have_left(left, now_ns);
    }

    fn carry_out(&mut self, op: Op) {
        match op {
            Op::Open(key) => {
                if let Err(error) = self.open(&key) {
                    warn!(peer = %Ipv4Addr::from(key.peer), %error, "session not opened; retried");
                }
            }
            Op::Close { key, announce } => self.close(key, announce),
            Op::Retime(key) => {
                self.retime(key);
                self.adjust_route(route_key(&key)); // active or passive
            }
            Op::AdjustRoute(key) => self.adjust_route(key),
            Op::Divert(key) => self.divert(key),
            Op::Review(key) => self.review(key),
        }
    }
}

/// Returns the gateways of our routes that have one.
fn gateways(routes: &[Route]) -> HashMap<RouteKey, Ipv4Addr> {
    let gateway = |route: &Route| {
        let (dst, ifindex) = (route.dst, route.ifindex);
        Some((RouteKey { dst, ifindex }, route.via?))
    };
    routes.iter().filter_map(gateway).collect()
}
