//! The engine's turns: each reason to wake up, and what the engine does about it.
//!
//! Between two turns everything that the engine holds is consistent. Within a turn it may await the kernel
//! where ARCHITECTURE.md allows it ("What the engine may wait for"); no other turn begins meanwhile.

use tracing::{info, warn};

use crate::command::{Command, Connected, Refusal};
use crate::engine::flows::choose::Sources;
use crate::engine::hands::Hands;
use crate::engine::parts::Engine;
use crate::engine::state::checks::Reading;
use crate::engine::state::detours::WayFound;
use crate::engine::state::next_hops::Neighbour;
use crate::engine::state::reloads::{AskedBy, FileRead};
use crate::engine::state::routes::Finished;
use crate::error::Failure;
use crate::net::monitor::Event;
use crate::settings::PeerSpec;

/// A reason to wake the engine up. State changes from kernel programs ([`Engine::reported`]) and the
/// heartbeat ([`Engine::beat`]) have no variant.
#[derive(Debug)]
pub(super) enum Turn {
    /// SIGHUP: the file of peers is to be read again.
    Reload,
    /// The file of peers has been read.
    FileRead(Box<FileRead>),
    /// The kernel has carried out a change of a route, or refused it.
    Route(Finished),
    /// The kernel has answered a question about a next hop.
    NextHop(Neighbour),
    /// A way around has been looked up.
    Detour(WayFound),
    /// Routes, links and addresses have been read: the full check or the look around that has begun with this can
    /// go on.
    Read(Reading),
    /// Netlink notified us of a change in the network namespace.
    Changed(Event),
    /// A client asks for something.
    Command(Command),
    /// The time of an appointment has come ([`Engine::due_ns`]).
    Due,
}

impl<H: Hands> Engine<H> {
    /// Attaches to the interfaces that exist, takes over what an earlier agent has left, and runs the first
    /// full check.
    ///
    /// # Errors
    /// An interface cannot be served, the kernel refuses our programs, or interfaces and addresses cannot
    /// be read. Then nothing of an earlier agent has changed.
    pub(super) async fn start(&mut self) -> Result<(), Failure> {
        let (found, addresses) = self.read_interfaces().await?;
        self.begin_serving(&found)?;
        // Nothing fails any more.
        for (index, found) in found.into_iter().enumerate() {
            let interface = self.interfaces.at(index);
            if interface.is_leaving() {
                warn!(
                    interface = interface.name(),
                    "not named any more: its sessions are closed, and their peers told"
                );
            }
            self.update_or_wait(index, found, &addresses);
            let interface = self.interfaces.at(index);
            if let Some(reason) = interface.unavailable().filter(|_| !interface.is_leaving()) {
                warn!(
                    interface = interface.name(),
                    reason, "waiting for the interface"
                );
            }
        }
        if let Some(file) = &self.options.peers {
            let peers = self.wants.configured().len();
            info!(file = %file.display(), peers, "peers configured");
        }
        // Before our routes are read. What fails is tried again by the full check.
        self.renumber_routes().await;
        // Also gives up peers that an earlier agent had from its file or its followed routes, and that
        // nobody wants any more.
        self.full_check().await;
        self.tick();
        Ok(())
    }

    /// Waits for the kernel's next answer; for ever if it has not been asked anything.
    pub(super) async fn answered(&mut self) -> Turn {
        let is_reading_file = self.wants.reloads().is_reading();
        tokio::select! {
            biased;
            // Comes once in a full check: nothing waits for it long.
            read = self.checks.finished(), if self.checks.is_reading() => Turn::Read(read),
            Some(done) = self.jobs.answered(), if self.jobs.is_asking() => Turn::Route(done),
            Some(found) = self.sessions.next_hops_mut().answered() => Turn::NextHop(found),
            Some(found) = self.detours.answered() => Turn::Detour(found),
            read = self.wants.reloads_mut().read(), if is_reading_file => Turn::FileRead(Box::new(read)),
            else => std::future::pending().await,
        }
    }

    /// Deals with a reason to wake up.
    pub(super) async fn take_turn(&mut self, turn: Turn) {
        match turn {
            Turn::Reload => self.reload(AskedBy::Signal),
            Turn::FileRead(read) => self.file_read(*read),
            Turn::Route(done) => self.route_done(done),
            Turn::NextHop(found) => self.next_hop_looked_up(found),
            Turn::Detour(found) => self.detour_found(found),
            Turn::Read(reading) => {
                self.have_read(reading).await;
                self.tick();
            }
            Turn::Changed(event) => self.changed(event),
            Turn::Command(command) => self.command(command).await,
            Turn::Due => self.due().await,
        }
    }

    /// Stores the heartbeat, looks some ways around up again, and begins a full check if events were lost.
    pub(super) fn beat(&mut self, now_ns: u64) {
        self.hands.beat(now_ns);
        self.detours.look_at_some();
        self.look_up_ways();
        self.log_lists();
        if self.events_missing() {
            if self.agenda.is_resting(now_ns) {
                self.agenda.check_by(now_ns);
            } else {
                self.begin_check();
            }
        }
    }

    /// Keeps every appointment whose time has come.
    async fn due(&mut self) {
        self.tick();
        self.say_farewells();
        self.retry_routes();
        self.review_due();
        if self.agenda.take_retry(self.hands.now_ns()) {
            self.begin_check();
        }
        if self.agenda.is_time_to_look_around(self.hands.now_ns()) {
            self.agenda.looked_around();
            self.begin_to_look_around();
        }
        if self.agenda.take_check(self.hands.now_ns()) {
            self.full_check().await;
            self.tick();
        }
        if self.agenda.take_settling(self.hands.now_ns()) {
            self.settle_some();
        }
    }

    /// Connects all of the peers of a request, or none. State changes that come meanwhile are acted on after each
    /// portion, and so are answers about routes: other sessions do not wait for the whole request.
    async fn connect(
        &mut self,
        peers: &[PeerSpec],
        sources: &Sources,
    ) -> Result<Vec<Connected>, Refusal> {
        let mut request = self.begin_connect(peers, sources)?;
        while self.connect_some(&mut request)? {
            self.advance_routes();
            self.reported().await;
        }
        Ok(request.done())
    }

    async fn command(&mut self, command: Command) {
        // Sending a reply fails if the client is gone, who does not need it then.
        match command {
            Command::Connect { peers, reply } => {
                let sources = self.prepare(&peers).await;
                let _ = reply.send(self.connect(&peers, &sources).await);
            }
            Command::Disconnect { selector, reply } => self.disconnect(&selector, reply),
            Command::Reload { force, reply } => self.reload(AskedBy::Request { force, reply }),
        }
    }
}
