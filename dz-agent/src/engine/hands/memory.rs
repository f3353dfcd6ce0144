//! The hands over the kernel in memory, for unit tests and the simulator.
//!
//! A method that a flow awaits answers immediately, unless the test wants the engine to stand still there
//! ([`Pauses`]). A method that returns an [`Answer`] queues a request, which the test carries out when it
//! wants to ([`Requests`]).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dz_common::control::Request;
use dz_common::counters::{Counter, Counters};
use dz_common::ingress::Link;
use dz_common::map::{Confined, Event, LocalKey, Peer, PeerKey, SessionEntry, SessionKey};
use futures_util::FutureExt;

use super::chosen::settings;
use super::pending::{Pauses, Requests, failed, refused};
use super::{Answer, Hands, Kept, Mac, Surroundings};
use crate::datapath::{MapError, Order, Settings, Transmitted, Unreadable};
use crate::error::Failure;
use crate::memory::net::Net;
use crate::memory::{Ask, Call, Done, Handle};
use crate::net::NetlinkError;
use crate::net::coverage::Coverage;
use crate::net::detours::{Flow, Way};
use crate::net::hosts::HostRoute;
use crate::net::links::{Address, Interface};
use crate::net::routes::{Added, Deleted, Route, RouteError};
use crate::settings::{Follow, RunOptions};
use crate::view::InterfaceView;

/// The hands of one agent process on a machine in memory.
pub(crate) struct MemoryHands {
    handle: Handle,
    net: Rc<RefCell<Net>>,
    requests: Requests,
    pauses: Pauses,
    settings: Settings,
    /// The `rtm_protocol` of our routes.
    protocol: u8,
    /// The interfaces that we serve or wait for.
    served: Vec<String>,
    /// The kernel indices of the interfaces that our programs are on, by their position in `served`.
    attached: Vec<Option<u32>>,
}

impl MemoryHands {
    /// Makes the hands of a process with these options, after one that served these interfaces, too.
    pub(crate) fn new(
        handle: Handle,
        net: Rc<RefCell<Net>>,
        options: &RunOptions,
        leaving: &[String],
    ) -> Self {
        let served = [options.interfaces.as_slice(), leaving].concat();
        Self {
            handle,
            net,
            requests: Requests::default(),
            pauses: Pauses::default(),
            settings: settings(options),
            protocol: options.route_protocol,
            attached: vec![None; served.len()],
            served,
        }
    }

    pub(crate) const fn requests(&self) -> &Requests {
        &self.requests
    }

    #[cfg(feature = "sim")]
    pub(crate) const fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    /// Asks the network namespace a question, which changes nothing.
    fn look<T: 'static>(
        &self,
        ask: Ask,
        answer: impl FnOnce(&Net) -> T + 'static,
    ) -> Answer<Result<T, NetlinkError>> {
        let (handle, net) = (self.handle.clone(), Rc::clone(&self.net));
        self.requests.ask(move || {
            let asked = handle.look(&Call::Ask(ask), |_| answer(&net.borrow()));
            asked.map_err(refused)
        })
    }

    async fn ask<T>(&self, ask: Ask, answer: impl FnOnce(&Net) -> T) -> Result<T, NetlinkError> {
        self.pauses.question().await;
        let asked = self
            .handle
            .look(&Call::Ask(ask), |_| answer(&self.net.borrow()));
        asked.map_err(refused)
    }
}

impl Hands for MemoryHands {
    fn now_ns(&self) -> u64 {
        self.handle.now_ns()
    }

    async fn sleep(&self, pause: Duration) {
        self.handle.sleep(pause).await;
    }

    fn slots(&self) -> u32 {
        self.handle.slots()
    }

    fn session(&self, key: &SessionKey) -> Result<Option<SessionEntry>, MapError> {
        self.handle.session(key)
    }

    fn sessions(&self, _: impl FnMut(Unreadable)) -> Result<Vec<SessionEntry>, MapError> {
        self.handle.sessions()
    }

    fn each_peer(
        &self,
        show: impl FnMut(PeerKey, Peer),
        _: impl FnMut(Unreadable),
    ) -> Result<(), MapError> {
        self.handle.each_peer(show)
    }

    fn locals(&self) -> Result<Vec<(LocalKey, u32)>, MapError> {
        self.handle.locals()
    }

    fn confined(&self) -> Result<Vec<Confined>, MapError> {
        self.handle.confined()
    }

    fn counters(&self, block: u32) -> Result<Counters, MapError> {
        self.handle.counters(block)
    }

    fn not_due_before(&self, slot: u32, now_ns: u64) -> Option<u64> {
        self.handle.not_due_before(slot, now_ns)
    }

    fn next_event(&mut self) -> Option<Result<Event, MapError>> {
        self.handle.next_event()
    }

    fn beat(&mut self, now_ns: u64) {
        self.handle.beat(now_ns);
    }

    fn prepare_slot(&mut self, slot: u32, key: SessionKey, now_ns: u64) {
        self.handle.prepare_slot(slot, key, now_ns);
    }

    fn insert_session(&mut self, entry: &SessionEntry) -> Result<(), MapError> {
        self.handle.insert_session(entry)
    }

    fn delete_session(&mut self, key: &SessionKey) -> Result<(), MapError> {
        self.handle.delete_session(key)
    }

    /// Entries in memory are of this version.
    fn discard(&mut self, _: &Unreadable) -> Result<(), MapError> {
        Ok(())
    }

    fn set_peer(&mut self, key: &PeerKey, peer: &Peer) -> Result<(), MapError> {
        self.handle.set_peer(key, peer)
    }

    fn set_local(&mut self, key: &LocalKey, block: u32) -> Result<(), MapError> {
        self.handle.set_local(key, block)
    }

    fn clear_counters(&mut self, block: u32) -> Result<(), MapError> {
        self.handle.clear_counters(block)
    }

    fn delete_local(&mut self, key: &LocalKey) -> Result<(), MapError> {
        self.handle.delete_local(key)
    }

    fn confine(&mut self, key: &Confined, ifindex: u32) -> Result<(), MapError> {
        self.handle.confine(key, ifindex)
    }

    fn release(&mut self, key: &Confined) -> Result<(), MapError> {
        self.handle.release(key)
    }

    fn control(&self, request: &Request) -> io::Result<Counter> {
        self.handle.control(request)
    }

    fn transmit(&self, orders: &[Order], done: impl FnMut(&Order, Transmitted)) -> io::Result<()> {
        self.handle.transmit(orders, done)
    }

    fn wait_for_programs(&self) -> io::Result<()> {
        self.handle.wait_for_programs();
        Ok(())
    }

    async fn interface(&self, name: &str) -> Result<Option<Interface>, NetlinkError> {
        self.ask(Ask::Links, |net| net.interface(name)).await
    }

    async fn addresses(&self) -> Result<Vec<(u32, Address)>, NetlinkError> {
        self.ask(Ask::Addresses, Net::addresses).await
    }

    async fn carriers(&self) -> Result<Vec<Interface>, NetlinkError> {
        self.ask(Ask::Links, Net::carriers).await
    }

    fn surroundings(&self, names: Vec<String>) -> Answer<Result<Surroundings, NetlinkError>> {
        let found = self.look(Ask::Links, move |net| {
            names.iter().map(|name| net.interface(name)).collect()
        });
        let addresses = self.look(Ask::Addresses, Net::addresses);
        let carriers = self.look(Ask::Links, Net::carriers);
        // One after the other: anything may happen in between.
        let reading = async move {
            Ok(Surroundings {
                found: found.await?,
                addresses: addresses.await?,
                carriers: carriers.await?,
            })
        };
        reading.boxed_local()
    }

    fn served(&self) -> BTreeSet<String> {
        self.served.iter().cloned().collect()
    }

    fn ifindex(&self, name: &str) -> Option<u32> {
        self.net.borrow().ifindex(name)
    }

    fn attach(&mut self, index: usize, interface: &Interface, _: Link) -> Result<(), Failure> {
        self.handle.attach_all(&[interface.ifindex])?;
        self.attached[index] = Some(interface.ifindex);
        Ok(())
    }

    fn begin(&mut self, found: &[(usize, Interface, Link)]) -> Result<(), Failure> {
        let indices = found.iter().map(|(_, interface, _)| interface.ifindex);
        self.handle
            .begin(&indices.collect::<Vec<_>>(), &self.settings)?;
        for (index, interface, _) in found {
            self.attached[*index] = Some(interface.ifindex);
        }
        Ok(())
    }

    fn load_all(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn keep_programs(&mut self, _: usize, _: &Interface) -> Result<Kept, NetlinkError> {
        Ok(Kept::default())
    }

    fn keep_port(&mut self, _: usize) {}

    fn detach(&mut self, index: usize) -> io::Result<()> {
        let attached = self.attached[index].take();
        attached.map_or(Ok(()), |ifindex| self.handle.detach(ifindex))
    }

    fn let_go(&mut self, index: usize) -> io::Result<()> {
        self.detach(index)?;
        self.served.remove(index);
        self.attached.remove(index);
        Ok(())
    }

    fn show(&self, _: usize, view: InterfaceView) -> InterfaceView {
        view
    }

    async fn is_local(&self, address: Ipv4Addr, vrf: Option<u32>) -> Result<bool, NetlinkError> {
        let answer = |net: &Net| net.is_local(address, vrf);
        self.ask(Ask::RouteOf, answer).await
    }

    async fn source_to(
        &self,
        dst: Ipv4Addr,
        ifindex: u32,
    ) -> Result<Option<Ipv4Addr>, NetlinkError> {
        let answer = |net: &Net| net.source_to(dst, ifindex);
        self.ask(Ask::RouteOf, answer).await
    }

    async fn neighbours(&self, ifindex: u32) -> Result<Vec<(Ipv4Addr, Mac)>, NetlinkError> {
        let answer = |net: &Net| net.neighbours(ifindex);
        self.ask(Ask::Neighbours, answer).await
    }

    fn resolve(
        &self,
        ifindex: u32,
        address: Ipv4Addr,
    ) -> Answer<Result<Option<Mac>, NetlinkError>> {
        let (handle, net) = (self.handle.clone(), Rc::clone(&self.net));
        self.requests.ask(move || {
            let call = Call::Resolve(ifindex, address);
            match handle.change(&call, |_| net.borrow_mut().resolve(ifindex, address)) {
                Done::Made(resolved) => resolved,
                Done::Refused(errno) => Err(refused(errno)),
                Done::Dead => Ok(None),
            }
        })
    }

    fn routes(&self) -> Answer<Result<Vec<Route>, RouteError>> {
        let (handle, net) = (self.handle.clone(), Rc::clone(&self.net));
        let protocol = self.protocol;
        self.requests.ask(move || {
            let routes = handle.look(&Call::Ask(Ask::Routes), |_| net.borrow().routes(protocol));
            routes.map_err(|errno| failed("reading our routes".to_owned(), errno))
        })
    }

    async fn renumber_routes(&mut self, _: &[u32]) -> Result<usize, RouteError> {
        Ok(0)
    }

    fn add_route(&self, route: Route) -> Answer<Result<Added, RouteError>> {
        let (handle, net) = (self.handle.clone(), Rc::clone(&self.net));
        let protocol = self.protocol;
        self.requests.ask(move || {
            let call = Call::AddRoute(route.dst, route.ifindex);
            match handle.change(&call, |_| net.borrow_mut().add_route(protocol, &route)) {
                Done::Made(added) => added,
                Done::Refused(errno) => Err(failed(format!("adding route {route}"), errno)),
                Done::Dead => Ok(Added::New),
            }
        })
    }

    fn delete_route(&self, dst: Ipv4Addr, ifindex: u32) -> Answer<Result<Deleted, RouteError>> {
        let (handle, net) = (self.handle.clone(), Rc::clone(&self.net));
        let protocol = self.protocol;
        self.requests.ask(move || {
            let call = Call::DeleteRoute(dst, ifindex);
            let delete = |_: &mut _| net.borrow_mut().delete_route(protocol, dst, ifindex);
            match handle.change(&call, delete) {
                Done::Made(deleted) => Ok(deleted),
                Done::Refused(errno) => Err(failed(format!("deleting route {dst}/32"), errno)),
                Done::Dead => Ok(Deleted::Deleted),
            }
        })
    }

    async fn host_routes(
        &self,
        ifindex: u32,
        follow: &Follow,
    ) -> Result<Vec<HostRoute>, NetlinkError> {
        let answer = |net: &Net| net.host_routes(ifindex, follow);
        self.ask(Ask::Routes, answer).await
    }

    async fn host_routes_nowhere(&self, follow: &Follow) -> Result<Vec<HostRoute>, NetlinkError> {
        let answer = |net: &Net| net.host_routes_nowhere(follow);
        self.ask(Ask::Routes, answer).await
    }

    async fn coverage(&self) -> Result<Coverage, NetlinkError> {
        self.ask(Ask::Routes, Net::coverage).await
    }

    fn way_around(
        &self,
        flow: Flow,
        interfaces: Arc<[u32]>,
        holders: Vec<u32>,
    ) -> Answer<Result<Way, NetlinkError>> {
        let (handle, net) = (self.handle.clone(), Rc::clone(&self.net));
        self.requests.ask(move || {
            let answer = |_: &mut _| net.borrow().way_around(flow, &interfaces, &holders);
            let asked = handle.look(&Call::Ask(Ask::RouteOf), answer);
            asked.map_err(refused)
        })
    }
}
