//! The connections to routing netlink: one that the event thread uses itself, and one with a thread beside it.
//! With one processor the former makes all changes, and the latter reads.
//!
//! The kernel changes a table within the system call that asks for the change. Thousands of changes are
//! asked for by the thread beside, while the event thread goes on. A single change is asked for by the event
//! thread: the two wake-ups would take several times as long as the change.

use std::io;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use crate::host::realtime;
use crate::net::Netlink;
use crate::net::routes::{RouteError, Routes};

/// The connections.
pub(super) struct Connections {
    /// The event thread's.
    near: Netlink,
    /// The one by which things are read, and that a thread beside serves in any case.
    reading: Netlink,
    /// The one of the thread beside.
    beside: Netlink,
    /// Our routes, by `reading`.
    routes: Routes,
    /// Our routes, by `beside`.
    beside_routes: Routes,
    /// Our routes, by `near`.
    near_routes: Routes,
    /// Counts the changes under way: each holds a clone.
    under_way: Arc<()>,
}

/// A change of a route from its beginning to its end. It counts as under way while this exists.
pub(super) struct Asking {
    near: Routes,
    beside: Routes,
    under_way: Arc<()>,
}

impl Connections {
    /// Opens both. `protocol`: that of our routes; `first`: the thread beside is to be real-time.
    ///
    /// # Errors
    /// A socket cannot be opened, or the thread not started.
    pub(super) fn open(protocol: u8, first: bool) -> io::Result<Self> {
        let near = Netlink::open()?;
        // With one processor the event thread could not go on meanwhile.
        let beside = if realtime::processors() < 2 {
            near.clone()
        } else {
            Netlink::open_beside(move || {
                if first {
                    realtime::join();
                }
            })?
        };
        // What is read may wait for whoever changes links (RTNL): not the event thread.
        let reading = if realtime::processors() < 2 {
            Netlink::open_beside(|| ())?
        } else {
            beside.clone()
        };
        Ok(Self {
            routes: Routes::new(reading.clone(), protocol),
            reading,
            beside_routes: Routes::new(beside.clone(), protocol),
            near_routes: Routes::new(near.clone(), protocol),
            near,
            beside,
            under_way: Arc::default(),
        })
    }

    /// Returns the connection for reading.
    pub(super) const fn netlink(&self) -> &Netlink {
        &self.reading
    }

    /// Returns our routes, for reading.
    pub(super) const fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Returns the port numbers of both sockets ([`Netlink::port`]).
    pub(super) fn ports(&self) -> [u32; 2] {
        [self.near.port(), self.beside.port()]
    }

    /// Waits until one of them is lost.
    pub(super) fn lost(&self) -> LocalBoxFuture<'static, ()> {
        let (near, beside) = (self.near.clone(), self.beside.clone());
        let reading = self.reading.clone();
        let lost = async move {
            tokio::select! {
                () = near.lost() => {}
                () = beside.lost() => {}
                () = reading.lost() => {}
            }
        };
        lost.boxed_local()
    }

    /// Gives routes over these interfaces that have an earlier protocol number of ours the one that we have now.
    /// Returns how many there were.
    ///
    /// # Errors
    /// The kernel refuses; some may have been given it.
    pub(super) async fn renumber(
        &self,
        earlier: u8,
        ifindices: &[u32],
    ) -> Result<usize, RouteError> {
        let earlier = Routes::new(self.near.clone(), earlier);
        let mut found = earlier.list(None).await?;
        found.retain(|route| ifindices.contains(&route.ifindex));
        for route in &found {
            earlier.delete(route.dst, route.ifindex).await?;
            self.near_routes.add(route).await?;
        }
        Ok(found.len())
    }

    /// Begins a change.
    pub(super) fn ask(&self) -> Asking {
        Asking {
            near: self.near_routes.clone(),
            beside: self.beside_routes.clone(),
            under_way: Arc::clone(&self.under_way),
        }
    }
}

impl Asking {
    /// Chooses the connection for this change: the event thread's if no other change is under way. To be
    /// called when the change is first polled, for by then all changes of one turn have begun.
    pub(super) fn routes(&self) -> &Routes {
        // One clone is this change's, the other that of the connections.
        let alone = Arc::strong_count(&self.under_way) <= 2;
        if alone { &self.near } else { &self.beside }
    }
}
