//! The engine's hands: the trait through which it reads and changes the kernel.
//!
//! Nothing else in the engine writes maps, links, routes or neighbours. There are two implementations: the
//! product's, and one over the kernel in memory, for unit tests and the simulator. The trait has no rule of
//! its own: flows and decisions say what is to be done, and in which order.
//!
//! A method that takes long is asynchronous, in one of two ways. A flow awaits an `async fn` where it calls
//! it. A method that returns an [`Answer`] asks when the answer is first polled; an owner keeps the answer,
//! and the engine goes on meanwhile.

pub(crate) mod chosen;
mod connections;
pub(crate) mod earlier;
mod guard;
pub(crate) mod holding;
pub(crate) mod kernel;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod memory;

#[cfg(any(test, feature = "sim"))]
pub(crate) mod pending;
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

use crate::datapath::{MapError, Mended, Order, Place, Transmitted, Unreadable};
use crate::error::Failure;
use crate::net::NetlinkError;
use crate::net::coverage::Coverage;
use crate::net::detours::{Flow, Way};
use crate::net::hosts::HostRoute;
use crate::net::links::{Address, Interface};
use crate::net::routes::{Added, Deleted, Route, RouteError};
use crate::settings::Follow;
use crate::view::InterfaceView;

/// A future of the kernel's answer. It borrows nothing, so that an owner can keep it.
pub(crate) type Answer<T> = LocalBoxFuture<'static, T>;

/// What a look at the programs of an interface came to.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// What was put right.
    pub(crate) mended: Vec<Mended>,
    /// The hooks where a program is somewhere else than at the look before.
    pub(crate) changed: Vec<(&'static str, Place)>,
}

/// Links and addresses of this host, as they were read one after the other.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// The interfaces that we serve or wait for, in their order; none if the kernel has none.
    pub(crate) found: Vec<Option<Interface>>,
    /// Every IPv4 address, with the index of its interface.
    pub(crate) addresses: Vec<(u32, Address)>,
    /// The interfaces that packets can be diverted to, and among them those that we serve.
    pub(crate) carriers: Vec<Interface>,
}

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// Reads and changes what the kernel has.
pub(crate) trait Hands: 'static {
    // Time.

    /// Returns the time of `CLOCK_MONOTONIC`, ns.
    fn now_ns(&self) -> u64;

    /// Waits for the length of `pause`.
    async fn sleep(&self, pause: Duration);

    // Maps: reading.

    /// Returns how many sessions the maps have room for.
    fn slots(&self) -> u32;

    /// Reads one session, under its lock; none if its map has none with this key.
    ///
    /// # Errors
    /// The kernel refuses.
    fn session(&self, key: &SessionKey) -> Result<Option<SessionEntry>, MapError>;

    /// Reads every session, each under its lock. While sessions are inserted or deleted, the list may lack
    /// some. Calls `unreadable` with each entry that this version cannot read.
    ///
    /// # Errors
    /// The kernel refuses.
    fn sessions(&self, unreadable: impl FnMut(Unreadable)) -> Result<Vec<SessionEntry>, MapError>;

    /// Calls `show` with every peer, and `unreadable` with each entry that this version cannot read.
    ///
    /// # Errors
    /// The kernel refuses.
    fn each_peer(
        &self,
        show: impl FnMut(PeerKey, Peer),
        unreadable: impl FnMut(Unreadable),
    ) -> Result<(), MapError>;

    /// Reads every local address, with its block of counters.
    ///
    /// # Errors
    /// The kernel refuses.
    fn locals(&self) -> Result<Vec<(LocalKey, u32)>, MapError>;

    /// Reads every confined address: packets with this source are not diverted.
    ///
    /// # Errors
    /// The kernel refuses.
    fn confined(&self) -> Result<Vec<Confined>, MapError>;

    /// Reads a block of counters, summed over the processors.
    ///
    /// # Errors
    /// The kernel refuses.
    fn counters(&self, block: u32) -> Result<Counters, MapError>;

    /// Returns until when the transmit program need not be asked for the session of a slot, ns; none if it
    /// is to be asked now.
    fn not_due_before(&self, slot: u32, now_ns: u64) -> Option<u64>;

    /// Takes the next state change from `dz_events`; none if it is empty.
    ///
    /// # Errors
    /// [`MapError::Layout`]: this version cannot decode the event, which has been taken all the same.
    fn next_event(&mut self) -> Option<Result<Event, MapError>>;

    // Maps: changing.

    /// Tells the kernel programs that the agent is alive.
    fn beat(&mut self, now_ns: u64);

    /// Gives a deadline slot to a session that is about to be inserted. Our clock is to ask for it at `now_ns`.
    fn prepare_slot(&mut self, slot: u32, key: SessionKey, now_ns: u64);

    /// Inserts a session.
    ///
    /// # Errors
    /// The map has a session with this peer by this interface (`EEXIST`), is full (`E2BIG`), or the kernel
    /// refuses.
    fn insert_session(&mut self, entry: &SessionEntry) -> Result<(), MapError>;

    /// Deletes the session with the key's peer by its interface. It is no error if there is none.
    ///
    /// # Errors
    /// The kernel refuses.
    fn delete_session(&mut self, key: &SessionKey) -> Result<(), MapError>;

    /// Deletes an entry that this version cannot read. It is no error if it is gone already.
    ///
    /// # Errors
    /// The kernel refuses.
    fn discard(&mut self, unreadable: &Unreadable) -> Result<(), MapError>;

    /// Writes a peer.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    fn set_peer(&mut self, key: &PeerKey, peer: &Peer) -> Result<(), MapError>;

    /// Writes a local address with its block of counters.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    fn set_local(&mut self, key: &LocalKey, block: u32) -> Result<(), MapError>;

    /// Sets a block of counters to zero.
    ///
    /// # Errors
    /// The kernel refuses.
    fn clear_counters(&mut self, block: u32) -> Result<(), MapError>;

    /// Deletes a local address. It is no error if it is gone already.
    ///
    /// # Errors
    /// The kernel refuses.
    fn delete_local(&mut self, key: &LocalKey) -> Result<(), MapError>;

    /// Confines an address of an interface: packets with this source are not diverted to another one.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    fn confine(&mut self, key: &Confined, ifindex: u32) -> Result<(), MapError>;

    /// Ends the confinement of an address. It is no error if it is not confined.
    ///
    /// # Errors
    /// The kernel refuses.
    fn release(&mut self, key: &Confined) -> Result<(), MapError>;

    // Programs.

    /// Runs the control program (`dz_control`) with a request. Returns the exit that the program took.
    ///
    /// # Errors
    /// The program could not be run.
    fn control(&self, request: &Request) -> io::Result<Counter>;

    /// Runs the transmit program (`dz_transmit`) over sessions. Calls `done` with each order and its outcome,
    /// one after the other.
    ///
    /// # Errors
    /// The program could not be run. Orders without a call of `done` have not been carried out.
    fn transmit(&self, orders: &[Order], done: impl FnMut(&Order, Transmitted)) -> io::Result<()>;

    /// Waits, some milliseconds at most, until every kernel program that runs now has ended: afterwards none can
    /// hold a session that was deleted before.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    fn wait_for_programs(&self) -> io::Result<()>;

    // Interfaces. `index` is an interface's position among those that we serve or wait for.

    /// Reads an interface by its name; none if the kernel has none.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn interface(&self, name: &str) -> Result<Option<Interface>, NetlinkError>;

    /// Reads every IPv4 address of this host, with the index of its interface.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn addresses(&self) -> Result<Vec<(u32, Address)>, NetlinkError>;

    /// Reads the interfaces that packets can be diverted to, and among them those that we serve.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn carriers(&self) -> Result<Vec<Interface>, NetlinkError>;

    /// Reads links and addresses while the engine goes on: whoever else changes links may keep the kernel's lock
    /// on them (RTNL) for seconds. `names`: of the interfaces that we serve or wait for.
    fn surroundings(&self, names: Vec<String>) -> Answer<Result<Surroundings, NetlinkError>>;

    /// Returns the names of all interfaces that any agent serves or waits for, this one included.
    fn served(&self) -> BTreeSet<String>;

    /// Returns the kernel index of the interface with a name, if there is one.
    fn ifindex(&self, name: &str) -> Option<u32>;

    /// Attaches our programs to an interface whose frames start as `link` says, in place of an earlier agent's,
    /// and takes its liveness port if that is wanted and free.
    ///
    /// # Errors
    /// [`ExitCode::Interface`](crate::error::ExitCode::Interface): the interface cannot carry the programs.
    fn attach(&mut self, index: usize, interface: &Interface, link: Link) -> Result<(), Failure>;

    /// Attaches our programs to the interfaces that exist, each with its position and the start of its frames, and
    /// has the kernel part go on with this agent's settings. It is the last step of a start that can fail.
    ///
    /// # Errors
    /// An interface cannot carry the programs, or the kernel refuses a timer. What this start has made is taken back
    /// then, and what an earlier agent has left goes on as it was.
    fn begin(&mut self, found: &[(usize, Interface, Link)]) -> Result<(), Failure>;

    /// Loads every program, to find out before an interface exists whether the kernel takes its programs.
    ///
    /// # Errors
    /// [`ExitCode::Kernel`](crate::error::ExitCode::Kernel): the kernel refuses one.
    fn load_all(&mut self) -> Result<(), Failure>;

    /// Looks where our programs are on an interface, and puts right what others have changed.
    ///
    /// # Errors
    /// The kernel could not be asked.
    async fn keep_programs(
        &mut self,
        index: usize,
        interface: &Interface,
    ) -> Result<Kept, NetlinkError>;

    /// Takes an interface's liveness port, if that is wanted, not ours yet, and free.
    fn keep_port(&mut self, index: usize);

    /// Takes our programs off an interface, if they are on it, and gives its liveness port up.
    ///
    /// # Errors
    /// The kernel keeps a program or a pin.
    fn detach(&mut self, index: usize) -> io::Result<()>;

    /// Lets go of an interface for good: takes our programs off it, removes their pins, and gives its lock up. Interfaces
    /// behind it move up by one position.
    ///
    /// # Errors
    /// The kernel keeps a program or a pin; then nothing has moved.
    fn let_go(&mut self, index: usize) -> io::Result<()>;

    /// Adds attach mode and port guard to an interface's view.
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

    /// Returns a neighbour's Ethernet address if the kernel knows it. Otherwise the kernel resolves it, and
    /// notifies us when it has.
    fn resolve(&self, ifindex: u32, address: Ipv4Addr)
    -> Answer<Result<Option<Mac>, NetlinkError>>;

    // Routes.

    /// Reads all of our routes.
    fn routes(&self) -> Answer<Result<Vec<Route>, RouteError>>;

    /// Gives the routes by these interfaces our protocol number that still have that of an earlier agent, one after
    /// the other: for some microseconds there is none to its destination. Returns how many there were; once it
    /// has succeeded there are none any more.
    ///
    /// # Errors
    /// The kernel refuses, or somebody else's route has come in between. Called again, it goes on.
    async fn renumber_routes(&mut self, ifindices: &[u32]) -> Result<usize, RouteError>;

    /// Adds a route of ours; a different one of ours to the destination by the same interface is replaced.
    fn add_route(&self, route: Route) -> Answer<Result<Added, RouteError>>;

    /// Deletes our route to a destination by an interface. It is no error if there is none.
    fn delete_route(&self, dst: Ipv4Addr, ifindex: u32) -> Answer<Result<Deleted, RouteError>>;

    /// Reads the routes by an interface that meet one condition of `--follow`.
    ///
    /// # Errors
    /// The table could not be read, or kept changing.
    async fn host_routes(
        &self,
        ifindex: u32,
        follow: &Follow,
    ) -> Result<Vec<HostRoute>, NetlinkError>;

    /// Reads the routes by no interface (blackhole, unreachable, prohibit) that meet one condition of
    /// `--follow`.
    ///
    /// # Errors
    /// The table could not be read, or kept changing.
    async fn host_routes_nowhere(&self, follow: &Follow) -> Result<Vec<HostRoute>, NetlinkError>;

    /// Reads which interfaces have routes, in all tables, and to which destinations.
    ///
    /// # Errors
    /// The tables could not be read, or kept changing.
    async fn coverage(&self) -> Result<Coverage, NetlinkError>;

    /// Finds the best route of a flow by one of the interfaces; one by a holder of its source comes first.
    fn way_around(
        &self,
        flow: Flow,
        interfaces: Arc<[u32]>,
        holders: Vec<u32>,
    ) -> Answer<Result<Way, NetlinkError>>;
}
