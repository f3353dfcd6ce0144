//! The two connections to routing netlink.
//!
//! The kernel changes a table within the system call that asks for it. Whoever has thousands of
//! changes has other work meanwhile, and a thread beside asks for them. For a single one, waking that
//! thread up and being woken up by it takes several times as long as the change itself.

use std::io;
use std::sync::Arc;

use crate::host::realtime;
use crate::net::Netlink;
use crate::net::routes::Routes;

/// Both of them.
pub(super) struct Connections {
    near: Netlink,
    beside: Netlink,
    /// Our routes, asked for beside.
    routes: Routes,
    /// Our routes, asked for by the event thread itself.
    near_routes: Routes,
    /// One more is held by each change under way.
    under_way: Arc<()>,
}

/// A change of a route that is to be asked for.
pub(super) struct Asking {
    near: Routes,
    beside: Routes,
    under_way: Arc<()>,
}

impl Connections {
    /// Opens them. `protocol`: of our routes; `first`: the thread beside runs before others, too.
    ///
    /// # Errors
    /// A socket cannot be opened, or the thread not started.
    pub(super) fn open(protocol: u8, first: bool) -> io::Result<Self> {
        let near = Netlink::open()?;
        // With one processor there is nothing to be done meanwhile.
        let beside = if realtime::processors() < 2 {
            near.clone()
        } else {
            Netlink::open_beside(move || {
                if first {
                    realtime::join();
                }
            })?
        };
        Ok(Self {
            routes: Routes::new(beside.clone(), protocol),
            near_routes: Routes::new(near.clone(), protocol),
            near,
            beside,
            under_way: Arc::default(),
        })
    }

    /// For everything that is read.
    pub(super) const fn netlink(&self) -> &Netlink {
        &self.beside
    }

    /// Our routes, for reading.
    pub(super) const fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Their sockets' numbers ([`Netlink::port`]).
    pub(super) const fn ports(&self) -> [u32; 2] {
        [self.near.port(), self.beside.port()]
    }

    /// A change begins, and is under way until what this returns is dropped.
    pub(super) fn ask(&self) -> Asking {
        Asking {
            near: self.near_routes.clone(),
            beside: self.routes.clone(),
            under_way: Arc::clone(&self.under_way),
        }
    }
}

impl Asking {
    /// Whom to ask, once it comes to asking: by then every change that began together has begun.
    pub(super) fn routes(&self) -> &Routes {
        // Ours, and that of the connections.
        let alone = Arc::strong_count(&self.under_way) <= 2;
        if alone { &self.near } else { &self.beside }
    }
}
