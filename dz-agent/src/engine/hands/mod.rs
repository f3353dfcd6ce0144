//! The hands: everything through which the engine touches the kernel, to read it or to change it.
//!
//! Nothing else writes maps, links, routes or neighbours. There are two implementations: the
//! product's, and one over the kernel in memory, for unit tests and the simulator. The trait has no
//! rule of its own: what is to be done, and in which order, is the engine's business.
//!
//! A method that takes long is asynchronous. Those that return an [`Answer`] begin when their answer
//! is first polled, and are kept by the owner of what they are about, so that the engine does other
//! things meanwhile; the other ones are awaited in place.

mod connections;
mod guard;
pub(crate) mod holding;
pub(crate) mod kernel;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod memory;
pub(crate) mod pins;

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use dz_common::control::Request;
use dz_common::counters::{Counter, Counters};
use dz_common::ingress::Link;
use dz_common::map::{Confined, Event, LocalKey, Peer, PeerKey, SessionEntry, SessionKey};
use futures_util::future::LocalBoxFuture;

use crate::datapath::{MapError, Order, Transmitted};
use crate::error::Failure;
use crate::net::NetlinkError;
use crate::net::detours::{Flow, Way};
use crate::net::hosts::HostRoute;
use crate::net::links::{Address, Interface};
use crate::net::routes::{Added, Deleted, Route, RouteError};
use crate::settings::Follow;
use crate::view::InterfaceView;

/// What the kernel will have answered. It owns all that it needs, so that it can be kept.
pub(crate) type Answer<T> = LocalBoxFuture<'static, T>;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// Reads and changes what the kernel has.
pub(crate) trait Hands: 'static {
    // Time.

    /// Returns the time of `CLOCK_MONOTONIC`, ns.
    fn now_ns(&self) -> u64;

    /// Waits for that long.
    async fn sleep(&self, pause: Duration);

    // Maps: reading.

    /// Returns how many sessions the maps have room for.
    fn slots(&self) -> u32;

    /// Reads one session, under its lock; none if there is none with this key.
    ///
    /// # Errors
    /// The kernel refuses.
    fn session(&self, key: &SessionKey) -> Result<Option<SessionEntry>, MapError>;

    /// Reads every session, each under its lock. What is inserted or deleted meanwhile may be missing.
    ///
    /// # Errors
    /// The kernel refuses.
    fn sessions(&self) -> Result<Vec<SessionEntry>, MapError>;

    /// Shows every peer.
    ///
    /// # Errors
    /// The kernel refuses.
    fn each_peer(&self, show: impl FnMut(PeerKey, Peer)) -> Result<(), MapError>;

    /// Reads every local address, with its block of counters.
    ///
    /// # Errors
    /// The kernel refuses.
    fn locals(&self) -> Result<Vec<(LocalKey, u32)>, MapError>;

    /// Reads every address that is confined to gated interfaces.
    ///
    /// # Errors
    /// The kernel refuses.
    fn confined(&self) -> Result<Vec<Confined>, MapError>;

    /// Reads a block of counters, summed over the processors.
    ///
    /// # Errors
    /// The kernel refuses.
    fn counters(&self, block: u32) -> Result<Counters, MapError>;

    /// Returns until when the transmit program need not be asked for the session of a slot, ns; none if
    /// it is to be asked by `now_ns`.
    fn not_due_before(&self, slot: u32, now_ns: u64) -> Option<u64>;

    /// Takes the next state change that the kernel programs have reported; none if there is no more at
    /// present.
    ///
    /// # Errors
    /// [`MapError::Layout`] for one that this version cannot read. It is taken, too.
    fn next_event(&mut self) -> Option<Result<Event, MapError>>;

    // Maps: changing.

    /// Tells the kernel programs that the agent is alive.
    fn beat(&mut self, now_ns: u64);

    /// Gives a deadline slot to a session that is about to be inserted, and that is due at once.
    fn prepare_slot(&mut self, slot: u32, key: SessionKey, now_ns: u64);

    /// Inserts a session.
    ///
    /// # Errors
    /// There is one with this peer by this interface (`EEXIST`), the map is full (`E2BIG`), or the kernel
    /// refuses.
    fn insert_session(&mut self, entry: &SessionEntry) -> Result<(), MapError>;

    /// Deletes the session with the key's peer by its interface. That it is gone already is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    fn delete_session(&mut self, key: &SessionKey) -> Result<(), MapError>;

    /// Writes a peer.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    fn set_peer(&mut self, key: &PeerKey, peer: &Peer) -> Result<(), MapError>;

    /// Writes which block of counters a local address has.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    fn set_local(&mut self, key: &LocalKey, block: u32) -> Result<(), MapError>;

    /// Deletes a local address. That it is gone already is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    fn delete_local(&mut self, key: &LocalKey) -> Result<(), MapError>;

    /// Keeps packets from an address of an interface from leaving by another one.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    fn confine(&mut self, key: &Confined, ifindex: u32) -> Result<(), MapError>;

    /// Lets packets from an address leave by any interface. That they may already is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    fn release(&mut self, key: &Confined) -> Result<(), MapError>;

    // Programs.

    /// Runs the control program (`dz_control`); returns the exit that it took.
    ///
    /// # Errors
    /// It could not be run.
    fn control(&self, request: &Request) -> io::Result<Counter>;

    /// Runs the transmit program (`dz_transmit`) over sessions; `done` gets each order with its outcome,
    /// in their order.
    ///
    /// # Errors
    /// It could not be run. The orders that `done` has not got are not carried out.
    fn transmit(&self, orders: &[Order], done: impl FnMut(&Order, Transmitted)) -> io::Result<()>;

    /// Waits until every kernel program has ended that runs now: afterwards none can hold a session that has been
    /// deleted. Some microseconds.
    fn wait_for_programs(&self);

    // Interfaces. An index is that of an interface among those served.

    /// Reads an interface by its name; none if there is none.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn interface(&self, name: &str) -> Result<Option<Interface>, NetlinkError>;

    /// Reads every IPv4 address of this host, with the index of its interface.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn addresses(&self) -> Result<Vec<(u32, Address)>, NetlinkError>;

    /// Reads the interfaces that packets can be diverted to, ours included.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn carriers(&self) -> Result<Vec<Interface>, NetlinkError>;

    /// Names the interfaces that an agent serves or waits for, us included.
    fn served(&self) -> BTreeSet<String>;

    /// Returns the index of the interface with a name, if there is one.
    fn ifindex(&self, name: &str) -> Option<u32>;

    /// Attaches our programs to an interface, whose frames start as `link` says, or takes over from an earlier agent there, and takes its
    /// liveness port if that is wanted and it is free.
    ///
    /// # Errors
    /// [`ExitCode::Interface`](crate::error::ExitCode::Interface) if it cannot carry them.
    fn attach(&mut self, index: usize, interface: &Interface, link: Link) -> Result<(), Failure>;

    /// Makes sure that the kernel takes the programs of interfaces that are not there yet.
    ///
    /// # Errors
    /// [`ExitCode::Kernel`](crate::error::ExitCode::Kernel) if it does not.
    fn load_all(&mut self) -> Result<(), Failure>;

    /// Takes an interface's liveness port, if that is wanted, not done yet, and possible by now.
    fn keep_port(&mut self, index: usize);

    /// Takes our programs off an interface, if they are on it, and leaves its port to others.
    ///
    /// # Errors
    /// The kernel keeps a program or a pin.
    fn detach(&mut self, index: usize) -> io::Result<()>;

    /// Adds what we hold of an interface to its view.
    fn show(&self, index: usize, view: InterfaceView) -> InterfaceView;

    // Addresses and neighbours.

    /// Asks whether an address is this host's own (`RTN_LOCAL`), in a VRF or outside of all.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn is_local(&self, address: Ipv4Addr, vrf: Option<u32>) -> Result<bool, NetlinkError>;

    /// Asks which source the kernel would choose for packets to a destination by an interface.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn source_to(
        &self,
        dst: Ipv4Addr,
        ifindex: u32,
    ) -> Result<Option<Ipv4Addr>, NetlinkError>;

    /// Reads the neighbours of an interface whose Ethernet address is known.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn neighbours(&self, ifindex: u32) -> Result<Vec<(Ipv4Addr, Mac)>, NetlinkError>;

    /// Returns a neighbour's Ethernet address if the kernel knows it, else has the kernel resolve it, which
    /// notifies us.
    fn resolve(&self, ifindex: u32, address: Ipv4Addr)
    -> Answer<Result<Option<Mac>, NetlinkError>>;

    // Routes.

    /// Reads all of our routes.
    fn routes(&self) -> Answer<Result<Vec<Route>, RouteError>>;

    /// Adds a route of ours, in place of a different one of ours by the same interface.
    fn add_route(&self, route: Route) -> Answer<Result<Added, RouteError>>;

    /// Deletes our route to a destination by an interface. That there is none is no error.
    fn delete_route(&self, dst: Ipv4Addr, ifindex: u32) -> Answer<Result<Deleted, RouteError>>;

    /// Reads the routes of others by an interface that `--follow` asks for.
    ///
    /// # Errors
    /// The table could not be read, or kept changing.
    async fn host_routes(
        &self,
        ifindex: u32,
        follow: &Follow,
    ) -> Result<Vec<HostRoute>, NetlinkError>;

    /// Reads those that lead nowhere (blackhole, unreachable, prohibit), by no interface.
    ///
    /// # Errors
    /// The table could not be read, or kept changing.
    async fn host_routes_nowhere(&self, follow: &Follow) -> Result<Vec<HostRoute>, NetlinkError>;

    /// Finds the best route of a flow by one of the interfaces; of equals, one by a holder of its source.
    fn way_around(
        &self,
        flow: Flow,
        interfaces: Arc<[u32]>,
        holders: Vec<u32>,
    ) -> Answer<Result<Way, NetlinkError>>;
}
