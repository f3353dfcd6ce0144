//! The kernel of one node: interfaces and addresses as a DoubleZero client has them.

use std::cell::{Cell, Ref, RefCell};
use std::net::Ipv4Addr;
use std::rc::Rc;

use super::beside::{Beside, Mac};
use super::daemon::{Daemon, best, theirs};
use crate::engine::hands::memory::MemoryHands;
use crate::memory::net::{Author, Entry, Kind, MAIN, Mode, Net, Shape, Which};
use crate::memory::{Device, Handle, Kernel};
use crate::net::links::{Address, Tunnel};
use crate::net::routes::DEFAULT_PROTOCOL;
use crate::settings::RunOptions;

/// The tunnel that is served.
pub(super) const TUNNEL: &str = "doublezero0";
const NIC: &str = "eth0";
pub(super) const SCOPE_LINK: u8 = 253;
/// The `rtm_protocol` of another routing daemon, which nobody follows.
const BIRD: u8 = 12;
/// The `rtm_protocol` of the default route.
const BOOT: u8 = 3;
/// Most notifications that wait to be read.
const NOTICES: usize = 512;

/// Where the DoubleZero address of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the tunnel: it was allocated.
    Tunnel,
    /// On the NIC, plain IBRL.
    Nic,
    /// Nowhere at present.
    Nowhere,
}

/// One node's kernel.
pub(super) struct Machine {
    number: usize,
    pub(super) kernel: Rc<RefCell<Kernel>>,
    pub(super) net: Rc<RefCell<Net>>,
    pub(super) nic: u32,
    pub(super) place: Place,
    /// What lies beside its served interface, if that is Ethernet and no tunnel.
    pub(super) beside: Option<Beside>,
    /// Its agent follows the routes of the other daemon.
    pub(super) follows: bool,
    pub(super) daemon: Daemon,
    /// The routes of others as they were after somebody else's last change.
    kept: RefCell<Vec<Entry>>,
    /// Those of them that are to be followed.
    followed: RefCell<Vec<Entry>>,
    /// Since when next hops are as they are, but for those that are searched for, ns.
    turned_ns: Cell<u64>,
}

/// Returns the DoubleZero address of a node.
pub(super) fn address_of(node: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0001 + node as u32)
}

/// Returns which node has a DoubleZero address, if one has.
pub(super) fn node_of(address: Ipv4Addr, nodes: usize) -> Option<usize> {
    let number = u32::from(address).checked_sub(0x0a00_0001)? as usize;
    (number < nodes).then_some(number)
}

impl Machine {
    /// Makes one whose served interface has an Ethernet address, or is a tunnel.
    pub(super) fn new(number: usize, place: Place, mac: Option<Mac>) -> Self {
        // There are kernels of both kinds.
        let tells_of_sources = number.is_multiple_of(2);
        let mut net = Net::new(tells_of_sources);
        let nic = net.create_link(NIC, Shape::nic([2, 0, 0, 0, 0, number as u8]));
        let nic = nic.expect("a new namespace has no such interface");
        let machine = Self {
            number,
            kernel: Kernel::shared(),
            net: Rc::new(RefCell::new(net)),
            nic,
            place: Place::Nowhere,
            beside: mac.map(Beside::new),
            follows: false,
            daemon: Daemon::default(),
            kept: RefCell::default(),
            followed: RefCell::default(),
            turned_ns: Cell::default(),
        };
        machine.change(|net| net.set_up(nic, true));
        let outer = Address::plain(machine.outer(), 24);
        machine.change(|net| net.add_address(nic, outer));
        if machine.has_way_around() {
            let default = machine.default_route();
            machine.change(|net| net.add_entry(Author::Other(7), default, Mode::Exclusive));
        }
        let mut machine = machine;
        machine.make_tunnel();
        machine.put_address(place);
        machine
    }

    /// Returns its DoubleZero address, wherever that is.
    pub(super) fn address(&self) -> Ipv4Addr {
        address_of(self.number)
    }

    /// Returns the address of its NIC, from which its tunnel starts.
    pub(super) fn outer(&self) -> Ipv4Addr {
        Ipv4Addr::from(0xc000_0201 + self.number as u32)
    }

    /// Says whether its NIC has a default route: there are machines of both kinds.
    pub(super) const fn has_way_around(&self) -> bool {
        !self.number.is_multiple_of(3)
    }

    const fn default_route(&self) -> Entry {
        Entry {
            table: MAIN,
            dst: Ipv4Addr::UNSPECIFIED,
            prefix_len: 0,
            tos: 0,
            metric: 0,
            protocol: BOOT,
            scope: 0,
            kind: Kind::Unicast,
            ifindex: Some(self.nic),
            src: None,
            via: Some(Ipv4Addr::new(192, 0, 2, 251)),
        }
    }

    /// Changes the namespace as somebody else on this machine does; what is refused is as it was.
    pub(super) fn change<T, E>(&self, change: impl FnOnce(&mut Net) -> Result<T, E>) {
        change(&mut self.net.borrow_mut()).ok();
        self.sync();
        let theirs: Vec<_> = theirs(&self.net.borrow()).copied().collect();
        if self.follows {
            let followed = best(&theirs, self.tunnel());
            if followed != *self.followed() {
                self.turn();
                self.followed.replace(followed);
            }
        }
        self.kept.replace(theirs);
    }

    /// Returns how the routes of others should be: nobody but they has changed any.
    pub(super) fn kept(&self) -> Ref<'_, Vec<Entry>> {
        self.kept.borrow()
    }

    /// Returns those that are to be followed, in the order of their destinations.
    pub(super) fn followed(&self) -> Ref<'_, Vec<Entry>> {
        self.followed.borrow()
    }

    /// Notes that next hops are others from now on.
    pub(super) fn turn(&self) {
        self.turned_ns.set(self.kernel.borrow().now_ns());
    }

    /// Returns since when they are as they are, ns.
    pub(super) const fn turned_ns(&self) -> u64 {
        self.turned_ns.get()
    }

    /// Says whether they are so.
    pub(super) fn is_kept(&self) -> bool {
        theirs(&self.net.borrow()).eq(self.kept().iter())
    }

    /// Has packets come and go as the interfaces are by now.
    fn sync(&self) {
        let net = self.net.borrow();
        let mut kernel = self.kernel.borrow_mut();
        for name in [TUNNEL, NIC] {
            let Some(found) = net.interface(name) else {
                continue;
            };
            let device = found.link.ok().map(|link| Device {
                link,
                mac: found.mac.unwrap_or_default(),
                up: found.up,
            });
            kernel.set_device(found.ifindex, device);
        }
    }

    pub(super) fn tunnel(&self) -> Option<u32> {
        self.net.borrow().ifindex(TUNNEL)
    }

    /// Says whether the tunnel is up.
    pub(super) fn has_tunnel(&self) -> bool {
        let tunnel = self.net.borrow().interface(TUNNEL);
        tunnel.is_some_and(|tunnel| tunnel.up)
    }

    /// Says whether an address is this host's.
    pub(super) fn holds(&self, address: Ipv4Addr) -> bool {
        match self.place {
            Place::Nowhere => address == self.outer(),
            _ => [self.address(), self.outer()].contains(&address),
        }
    }

    /// Says whether somebody else's route to a destination has the place of ours.
    pub(super) fn has_in_place(&self, dst: Ipv4Addr) -> bool {
        let kept = self.kept();
        let mut there = kept.iter();
        there.any(|entry| (entry.table, entry.dst, entry.metric) == (MAIN, dst, 0))
    }

    /// Makes the tunnel, with its link-local address, unless it is there.
    pub(super) fn make_tunnel(&mut self) {
        if self.tunnel().is_some() {
            return;
        }
        let tunnel = Tunnel {
            local: Some(self.outer()),
            remote: Some(Ipv4Addr::new(192, 0, 2, 254)),
        };
        let shape = match &self.beside {
            Some(beside) => Shape::nic(beside.mac),
            None => Shape::gre(tunnel),
        };
        self.change(|net| net.create_link(TUNNEL, shape));
        let Some(ifindex) = self.tunnel() else {
            return;
        };
        self.change(|net| net.set_up(ifindex, true));
        let link_local = Address {
            scope: SCOPE_LINK,
            ..Address::plain(Ipv4Addr::from(0xa9fe_0000 + 2 * self.number as u32), 31)
        };
        self.change(|net| net.add_address(ifindex, link_local));
    }

    /// Deletes the tunnel; an address on it goes with it.
    pub(super) fn delete_tunnel(&mut self) {
        let Some(ifindex) = self.tunnel() else { return };
        self.turn();
        self.change(|net| net.delete_link(ifindex));
        self.kernel.borrow_mut().set_device(ifindex, None);
        if self.place == Place::Tunnel {
            self.place = Place::Nowhere;
        }
    }

    pub(super) fn set_tunnel_up(&self, up: bool) {
        self.turn();
        if let Some(ifindex) = self.tunnel() {
            self.change(|net| net.set_up(ifindex, up));
        }
    }

    /// A packet comes out of the tunnel. `slow`: the program has found the session and is not yet done with it
    /// when the agent has its turn.
    pub(super) fn receive(&self, frame: &[u8], now_ns: u64, slow: bool) {
        let Some(tunnel) = self.tunnel() else { return };
        let mut kernel = self.kernel.borrow_mut();
        kernel.set_now_ns(now_ns);
        let begun = kernel.begin(tunnel, frame);
        if let Ok(number) = begun
            && !slow
        {
            kernel.finish(number);
        }
    }

    /// Puts the DoubleZero address where it is to be, and takes it away from where it was.
    pub(super) fn put_address(&mut self, place: Place) {
        let own = Address::plain(address_of(self.number), 32);
        let index = |place| match place {
            Place::Tunnel => self.tunnel(),
            Place::Nic => Some(self.nic),
            Place::Nowhere => None,
        };
        let (from, to) = (index(self.place), index(place));
        if let Some(ifindex) = from {
            self.change(|net| net.delete_address(ifindex, &own));
        }
        self.place = Place::Nowhere;
        if let Some(ifindex) = to {
            self.change(|net| net.add_address(ifindex, own));
            self.place = place;
        }
    }

    /// Somebody deletes our route to a destination.
    pub(super) fn delete_route(&self, dst: Ipv4Addr) {
        let mut which = Which::to(MAIN, dst, 32);
        which.protocol = DEFAULT_PROTOCOL;
        self.change(|net| net.delete_entry(Author::Other(7), &which));
    }

    /// Another daemon puts a route of its own in the place of ours, or takes it away.
    pub(super) fn foreign_route(&self, dst: Ipv4Addr, there: bool) {
        let mut which = Which::to(MAIN, dst, 32);
        which.protocol = BIRD;
        if !there {
            self.change(|net| net.delete_entry(Author::Other(7), &which));
            return;
        }
        let entry = Entry {
            table: MAIN,
            dst,
            prefix_len: 32,
            tos: 0,
            metric: 0,
            protocol: BIRD,
            scope: 0,
            kind: Kind::Unicast,
            ifindex: Some(self.nic),
            src: None,
            via: None,
        };
        self.change(|net| net.add_entry(Author::Other(7), entry, Mode::Replace));
    }

    /// Removes the kernel part, and our routes (`dz-agent purge`). No agent runs.
    pub(super) fn purge(&self) {
        self.kernel.borrow_mut().unload();
        let mut net = self.net.borrow_mut();
        for route in net.routes(DEFAULT_PROTOCOL) {
            net.delete_route(DEFAULT_PROTOCOL, route.dst, route.ifindex);
        }
    }

    pub(super) fn lose_notices(&self) {
        self.net.borrow_mut().lose_events();
    }

    /// Starts a process here, which has nothing loaded yet.
    pub(super) fn hands(&self, options: &RunOptions) -> (Handle, MemoryHands) {
        let handle = Handle::new(&self.kernel);
        let net = Rc::clone(&self.net);
        net.borrow_mut().subscribe(self.follows, NOTICES);
        let hands = MemoryHands::new(handle.clone(), net, options, &[]);
        (handle, hands)
    }
}
