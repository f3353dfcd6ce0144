//! The hands of the product: the pinned maps and loaded programs, routing netlink, locks and ports.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use dz_common::control::Request;
use dz_common::counters::{Counter, Counters};
use dz_common::ingress::Link;
use dz_common::map::{Confined, Event, LocalKey, Peer, PeerKey, SessionEntry, SessionKey, name};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use zerocopy::TryFromBytes;

use super::chosen::settings;
use super::connections::Connections;
use super::earlier::take_over;
use super::guard::Guard;
use super::holding::Holding;
use super::{Answer, Hands, Kept, Mac, Surroundings};
use crate::datapath::{
    Datapath, MapError, MapReader, Order, Ready, Settings, Transmitted, Unreadable, choose, now_ns,
    wait_for_programs,
};
use crate::error::{ExitCode, FailWith, Failure};
use crate::host::lock;
use crate::net::coverage::{self, Coverage};
use crate::net::detours::{self, Flow, Way};
use crate::net::hosts::{self, HostRoute};
use crate::net::links::{self, Address, Interface};
use crate::net::routes::{Added, Deleted, Route, RouteError};
use crate::net::{NetlinkError, local, neighbours};
use crate::settings::{Attach, Follow, RunOptions, Switch, UnknownPeers};
use crate::view::InterfaceView;

/// The product's hands: the descriptors through which it reaches the kernel.
pub(crate) struct KernelHands {
    datapath: Datapath,
    events: RingBuf<MapData>,
    connections: Connections,
    /// The hold on each interface, in their order.
    holdings: Vec<Holding>,
    settings: Settings,
    attach: Attach,
    /// Whether the liveness port is to be taken on each interface.
    guarded: bool,
}

impl KernelHands {
    /// Loads the kernel part, or opens that of an earlier agent, which goes on as it was until [`Hands::begin`]: of
    /// another map layout, it is taken over here, with its settings. `holdings`: one for each interface, in
    /// their order; `first`: the thread of route changes is to be real-time. Needs a tokio runtime.
    ///
    /// # Errors
    /// The pinned maps cannot be taken over, the kernel refuses our programs, or netlink cannot be opened.
    pub(crate) fn load(
        options: &RunOptions,
        holdings: Vec<Holding>,
        first: bool,
    ) -> Result<Self, Failure> {
        let settings = settings(options);
        let connections = Connections::open(options.route_protocol, first)
            .fail_with(ExitCode::Failure, || "netlink")?;
        take_over(&settings)?;
        let mut datapath = Datapath::load(&settings)?;
        datapath.forward_logs()?;
        let events = datapath.take_events();
        let events = events.ok_or_else(|| Failure::new(ExitCode::Failure, "dz_events is gone"))?;
        Ok(Self {
            datapath,
            events,
            connections,
            holdings,
            settings,
            attach: options.attach,
            // With `--unknown pass` another program's socket has the port.
            guarded: options.port_guard == Switch::On && options.unknown == UnknownPeers::Drop,
        })
    }

    /// Returns the reader of the maps that other threads use.
    pub(crate) const fn reader(&self) -> &Arc<MapReader> {
        self.datapath.reader()
    }

    /// Returns the port numbers of our netlink sockets ([`crate::net::Netlink::port`]).
    pub(crate) fn ports(&self) -> [u32; 2] {
        self.connections.ports()
    }

    /// Takes an interface's port, if that is wanted and it is free, and makes its programs ready.
    fn ready(&mut self, interface: &Interface, link: Link) -> Result<(Guard, Ready), Failure> {
        let choice = choose(self.attach, interface, link)?;
        // The port before the programs: packets that a change of mode misses reach our socket, and the
        // kernel does not answer them with an ICMP error.
        let guard = Guard::new(self.guarded, &interface.name, self.settings.port);
        Ok((guard, self.datapath.ready(interface, link, &choice)?))
    }

    /// Waits until a connection to netlink is lost.
    pub(crate) fn lost(&self) -> LocalBoxFuture<'static, ()> {
        self.connections.lost()
    }

    /// Returns a descriptor that is readable while there are events ([`Hands::next_event`]).
    ///
    /// # Errors
    /// The process may not open another descriptor.
    pub(crate) fn events_descriptor(&self) -> io::Result<OwnedFd> {
        self.events.as_fd().try_clone_to_owned()
    }
}

impl Hands for KernelHands {
    fn now_ns(&self) -> u64 {
        now_ns()
    }

    async fn sleep(&self, pause: Duration) {
        tokio::time::sleep(pause).await;
    }

    fn slots(&self) -> u32 {
        self.datapath.slots()
    }

    fn session(&self, key: &SessionKey) -> Result<Option<SessionEntry>, MapError> {
        self.datapath.maps().reader().session(key)
    }

    fn sessions(&self, unreadable: impl FnMut(Unreadable)) -> Result<Vec<SessionEntry>, MapError> {
        self.datapath.maps().reader().sessions_and(unreadable)
    }

    fn each_peer(
        &self,
        show: impl FnMut(PeerKey, Peer),
        unreadable: impl FnMut(Unreadable),
    ) -> Result<(), MapError> {
        self.datapath.maps().reader().each_peer(show, unreadable)
    }

    fn locals(&self) -> Result<Vec<(LocalKey, u32)>, MapError> {
        self.datapath.maps().reader().locals()
    }

    fn confined(&self) -> Result<Vec<Confined>, MapError> {
        self.datapath.maps().reader().confined()
    }

    fn counters(&self, block: u32) -> Result<Counters, MapError> {
        self.datapath.maps().reader().counters(block)
    }

    fn not_due_before(&self, slot: u32, now_ns: u64) -> Option<u64> {
        self.datapath.maps().not_due_before(slot, now_ns)
    }

    fn next_event(&mut self) -> Option<Result<Event, MapError>> {
        let item = self.events.next()?;
        let event = Event::try_read_from_bytes(&item);
        Some(event.map_err(|_| MapError::Layout(name::EVENTS)))
    }

    fn beat(&mut self, now_ns: u64) {
        self.datapath.maps().beat(now_ns);
    }

    fn prepare_slot(&mut self, slot: u32, key: SessionKey, now_ns: u64) {
        self.datapath.maps().prepare_slot(slot, key, now_ns);
    }

    fn insert_session(&mut self, entry: &SessionEntry) -> Result<(), MapError> {
        self.datapath.maps_mut().insert_session(entry)
    }

    fn delete_session(&mut self, key: &SessionKey) -> Result<(), MapError> {
        self.datapath.maps_mut().delete_session(key)
    }

    fn discard(&mut self, unreadable: &Unreadable) -> Result<(), MapError> {
        self.datapath.maps_mut().discard(unreadable)
    }

    fn set_peer(&mut self, key: &PeerKey, peer: &Peer) -> Result<(), MapError> {
        self.datapath.maps_mut().set_peer(key, peer)
    }

    fn set_local(&mut self, key: &LocalKey, block: u32) -> Result<(), MapError> {
        self.datapath.maps_mut().set_local(key, block)
    }

    fn clear_counters(&mut self, block: u32) -> Result<(), MapError> {
        self.datapath.maps_mut().clear_counters(block)
    }

    fn delete_local(&mut self, key: &LocalKey) -> Result<(), MapError> {
        self.datapath.maps_mut().delete_local(key)
    }

    fn confine(&mut self, key: &Confined, ifindex: u32) -> Result<(), MapError> {
        self.datapath.maps_mut().confine(key, ifindex)
    }

    fn release(&mut self, key: &Confined) -> Result<(), MapError> {
        self.datapath.maps_mut().release(key)
    }

    fn control(&self, request: &Request) -> io::Result<Counter> {
        self.datapath.control(request)
    }

    fn transmit(&self, orders: &[Order], done: impl FnMut(&Order, Transmitted)) -> io::Result<()> {
        self.datapath.transmit(orders, done)
    }

    fn wait_for_programs(&self) -> io::Result<()> {
        wait_for_programs()
    }

    async fn interface(&self, name: &str) -> Result<Option<Interface>, NetlinkError> {
        links::by_name(self.connections.netlink(), name).await
    }

    async fn addresses(&self) -> Result<Vec<(u32, Address)>, NetlinkError> {
        links::addresses(self.connections.netlink()).await
    }

    async fn carriers(&self) -> Result<Vec<Interface>, NetlinkError> {
        detours::carriers(self.connections.netlink()).await
    }

    fn surroundings(&self, names: Vec<String>) -> Answer<Result<Surroundings, NetlinkError>> {
        let netlink = self.connections.netlink().clone();
        // Counts as a change under way: others by then go beside, where they wait for the same lock.
        let under_way = self.connections.ask();
        let reading = async move {
            let _under_way = under_way;
            let mut found = Vec::with_capacity(names.len());
            for name in &names {
                found.push(links::by_name(&netlink, name).await?);
            }
            Ok(Surroundings {
                found,
                addresses: links::addresses(&netlink).await?,
                carriers: detours::carriers(&netlink).await?,
            })
        };
        reading.boxed_local()
    }

    fn served(&self) -> BTreeSet<String> {
        lock::served()
    }

    fn ifindex(&self, name: &str) -> Option<u32> {
        nix::net::if_::if_nametoindex(name).ok()
    }

    fn attach(&mut self, index: usize, interface: &Interface, link: Link) -> Result<(), Failure> {
        let (guard, ready) = self.ready(interface, link)?;
        let attachments = self.datapath.attach(vec![ready])?.into_iter();
        for (attachment, guard) in attachments.zip([guard]) {
            self.holdings[index].attached(attachment, guard);
        }
        Ok(())
    }

    fn begin(&mut self, found: &[(usize, Interface, Link)]) -> Result<(), Failure> {
        let (mut guards, mut all) = (Vec::new(), Vec::new());
        for (_, interface, link) in found {
            let ready = self.ready(interface, *link);
            let name = || format!("interface {}", interface.name);
            let (guard, ready) = ready.map_err(|failure| failure.context(name()))?;
            guards.push(guard);
            all.push(ready);
        }
        let attachments = self.datapath.begin(all)?;
        for (((index, ..), attachment), guard) in found.iter().zip(attachments).zip(guards) {
            self.holdings[*index].attached(attachment, guard);
        }
        Ok(())
    }

    fn load_all(&mut self) -> Result<(), Failure> {
        self.datapath.load_all()
    }

    async fn keep_programs(
        &mut self,
        index: usize,
        interface: &Interface,
    ) -> Result<Kept, NetlinkError> {
        let (datapath, netlink) = (&mut self.datapath, self.connections.netlink());
        let kept = self.holdings[index].keep_programs(datapath, netlink, interface.ifindex);
        kept.await
    }

    fn keep_port(&mut self, index: usize) {
        self.holdings[index].keep_port(self.settings.port);
    }

    fn detach(&mut self, index: usize) -> io::Result<()> {
        self.holdings[index].detach()
    }

    fn let_go(&mut self, index: usize) -> io::Result<()> {
        self.holdings[index].let_go(&self.settings.pin_dir)?;
        self.holdings.remove(index);
        Ok(())
    }

    fn show(&self, index: usize, view: InterfaceView) -> InterfaceView {
        self.holdings[index].show(view)
    }

    async fn is_local(&self, address: Ipv4Addr, vrf: Option<u32>) -> Result<bool, NetlinkError> {
        local::is_local(self.connections.netlink(), address, vrf).await
    }

    async fn source_to(
        &self,
        dst: Ipv4Addr,
        ifindex: u32,
    ) -> Result<Option<Ipv4Addr>, NetlinkError> {
        local::source_to(self.connections.netlink(), dst, ifindex).await
    }

    async fn neighbours(&self, ifindex: u32) -> Result<Vec<(Ipv4Addr, Mac)>, NetlinkError> {
        neighbours::list(self.connections.netlink(), ifindex).await
    }

    fn resolve(
        &self,
        ifindex: u32,
        address: Ipv4Addr,
    ) -> Answer<Result<Option<Mac>, NetlinkError>> {
        let netlink = self.connections.netlink().clone();
        async move { neighbours::resolve(&netlink, ifindex, address).await }.boxed_local()
    }

    fn routes(&self) -> Answer<Result<Vec<Route>, RouteError>> {
        let routes = self.connections.routes().clone();
        async move { routes.list(None).await }.boxed_local()
    }

    async fn renumber_routes(&mut self, ifindices: &[u32]) -> Result<usize, RouteError> {
        let mut renumbered = 0;
        for earlier in self.datapath.earlier_protocols() {
            renumbered += self.connections.renumber(earlier, ifindices).await?;
        }
        if self.datapath.earlier_protocols().next().is_some() {
            self.datapath.forget_earlier_protocols();
        }
        Ok(renumbered)
    }

    fn add_route(&self, route: Route) -> Answer<Result<Added, RouteError>> {
        let asking = self.connections.ask();
        async move { asking.routes().add(&route).await }.boxed_local()
    }

    fn delete_route(&self, dst: Ipv4Addr, ifindex: u32) -> Answer<Result<Deleted, RouteError>> {
        let asking = self.connections.ask();
        async move { asking.routes().delete(dst, ifindex).await }.boxed_local()
    }

    async fn host_routes(
        &self,
        ifindex: u32,
        follow: &Follow,
    ) -> Result<Vec<HostRoute>, NetlinkError> {
        hosts::list(self.connections.netlink(), ifindex, follow).await
    }

    async fn host_routes_nowhere(&self, follow: &Follow) -> Result<Vec<HostRoute>, NetlinkError> {
        hosts::list_nowhere(self.connections.netlink(), follow).await
    }

    async fn coverage(&self) -> Result<Coverage, NetlinkError> {
        coverage::read(self.connections.netlink()).await
    }

    fn way_around(
        &self,
        flow: Flow,
        interfaces: Arc<[u32]>,
        holders: Vec<u32>,
    ) -> Answer<Result<Way, NetlinkError>> {
        let netlink = self.connections.netlink().clone();
        async move { detours::best(&netlink, flow, &interfaces, &holders).await }.boxed_local()
    }
}
