//! From start to stop.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use futures_util::StreamExt;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::alarm::Alarm;
use super::check::Reading;
use super::configured;
use super::connections::Connections;
use super::detours::Detours;
use super::due::{LATEST, lateness, moment};
use super::followed::Followed;
use super::front::Front;
use super::holding::Holding;
use super::inspect::Inspector;
use super::parts::Engine;
use super::shared::Shared;
use super::sources::Sources;
use super::state::agenda::Agenda;
use super::state::blocks::Blocks;
use super::state::checks::Checks;
use super::state::interface::Interface;
use super::state::interfaces::Interfaces;
use super::state::ledger::Ledger;
use super::state::routes::RouteJobs;
use super::state::sessions::Sessions;
use super::stop::{Signals, Stop, remove_pins};
use crate::command::Command;
use crate::datapath::{Datapath, Settings, check_kernel, now_ns, readable, take_over};
use crate::error::{ExitCode, FailWith, Failure};
use crate::host::identity::Identity;
use crate::host::lock::{InterfaceLock, LockError, PinDirLock};
use crate::host::logging::FloodLimit;
use crate::host::realtime;
use crate::metrics::Recorded;
use crate::net::monitor::Monitor;
use crate::settings::RunOptions;
use crate::settings::{Gate, PeerPassive, UnknownPeers};

/// How often the agent says that it is alive and counts events, ns.
const HEARTBEAT_NS: u64 = 1_000_000_000;
/// How long that may wait for something else to wake the thread up, ns.
const HEARTBEAT_SLACK_NS: u64 = 250_000_000;
/// How long a flood of notifications may keep our clock waiting.
const TICK_LATEST: Duration = Duration::from_millis(20);
/// How often everything is read and compared, whatever notifications came or did not come.
const FULL_CHECK: Duration = Duration::from_secs(10);
/// Requests waiting for the engine. More wait in their connections.
const COMMANDS: usize = 64;

/// Runs the agent until a signal stops it.
///
/// # Errors
/// What keeps it from starting, or what it could not take back when it stopped.
pub async fn run(options: RunOptions, socket: &Path, floods: FloodLimit) -> Result<(), Failure> {
    options.validate()?;
    let conditions = options.conditions()?;
    let (configured, policy) = configured::read(&options)?;
    check_kernel(&options.pin_dir)?;
    let interfaces = options
        .interfaces
        .iter()
        .map(|name| {
            Ok((
                Interface::new(name),
                Holding::new(InterfaceLock::acquire(name)?),
            ))
        })
        .collect::<Result<Vec<_>, LockError>>()?;
    let _lock = PinDirLock::create(&options.pin_dir).map_err(Failure::from)?;
    let identity = Identity::load(&options.state_dir)?;
    let front = Front::bind(socket, options.metrics_listen)?;
    // After the thread of the API, which is to run as others do.
    let realtime = realtime::apply(options.realtime)?;
    let fresh = fs::read_dir(&options.pin_dir).is_ok_and(|mut files| files.next().is_none());
    let mut signals = Signals::new()?;

    let settings = Settings {
        pin_dir: options.pin_dir.clone(),
        port: options.port,
        unknown_pass: options.unknown == UnknownPeers::Pass,
        max_sessions: options.max_sessions,
        grace_ns: u64::try_from(options.restart_grace.as_nanos()).unwrap_or(u64::MAX),
        when_down: options.when_down.into(),
        when_never_up: options.when_never_up.into(),
        ttl: options.ttl,
        tos: options.tos.0,
        ignore_peer_passive: options.peer_passive == PeerPassive::Ignore,
    };
    take_over(&settings)?;
    let datapath =
        Datapath::load(&settings).inspect_err(|_| remove_pins(&options.pin_dir, fresh))?;
    let pin_dir = options.pin_dir.clone();
    let prepared = Prepared {
        realtime,
        sources: Sources::new(configured, policy),
        followed: Followed::new(conditions),
        identity,
        interfaces,
    };
    let result = serve(options, prepared, datapath, front, floods, &mut signals).await;
    match &result {
        Ok(Stop::Withdraw) => remove_pins(&pin_dir, true),
        Ok(Stop::Leave) => info!("stopped; the kernel part goes on for the next start"),
        Err(_) => remove_pins(&pin_dir, fresh),
    }
    result.map(|_| ())
}

/// What is ours before the kernel part is loaded.
struct Prepared {
    /// Whether this thread runs before others.
    realtime: bool,
    sources: Sources,
    followed: Followed,
    identity: Identity,
    interfaces: Vec<(Interface, Holding)>,
}

async fn serve(
    options: RunOptions,
    prepared: Prepared,
    mut datapath: Datapath,
    front: Front,
    floods: FloodLimit,
    signals: &mut Signals,
) -> Result<Stop, Failure> {
    datapath.forward_logs()?;
    let realtime = prepared.realtime;
    let mut monitor = Monitor::open().fail_with(ExitCode::Failure, || "netlink notifications")?;
    if prepared.followed.is_on() {
        monitor.tell_of_hosts();
    }
    let recorded = Recorded::default();
    let shared = Arc::new(Shared::new(recorded.clone(), front.metrics()));
    let (mut engine, mut ring) = Engine::new(options, datapath, prepared, shared, floods)?;
    // From here on it asks for changes.
    let left_out = monitor.leave_out(engine.connections.ports());
    left_out.fail_with(ExitCode::Failure, || "netlink notifications")?;
    if let Err(failure) = engine.start().await {
        engine.detach_all();
        return Err(failure);
    }
    let (commands, mut requests) = mpsc::channel(COMMANDS);
    let inspector = engine.inspector();
    let front = front.serve(
        inspector,
        commands,
        recorded,
        engine.options.metrics_per_peer,
    );
    info!(version = crate::view::VERSION, realtime, "ready");

    let stop = engine
        .run(&mut ring, &mut monitor, &mut requests, signals)
        .await?;
    drop(requests);
    let withdrawn = match stop {
        Stop::Leave => Ok(()),
        Stop::Withdraw => engine.withdraw(&mut monitor).await,
    };
    front.stop();
    withdrawn.map(|()| stop)
}

impl Engine {
    fn new(
        options: RunOptions,
        mut datapath: Datapath,
        prepared: Prepared,
        shared: Arc<Shared>,
        floods: FloodLimit,
    ) -> Result<(Self, AsyncFd<RingBuf<MapData>>), Failure> {
        let kernel = || "reading the maps of an earlier agent";
        let connections = Connections::open(options.route_protocol, prepared.realtime)
            .fail_with(ExitCode::Failure, || "netlink")?;
        let ring = datapath.take_events();
        let mut ring = ring.ok_or_else(|| Failure::new(ExitCode::Failure, "dz_events is gone"))?;
        // What happened before us is in the sessions, which are all read anyway.
        while ring.next().is_some() {}
        let sessions = datapath
            .maps()
            .reader()
            .sessions()
            .fail_with(ExitCode::Failure, kernel)?;
        let reroute = [options.when_down, options.when_never_up].contains(&Gate::Reroute);
        let detours = Detours::new(connections.netlink().clone(), reroute);
        let blocks = datapath.maps().reader().locals();
        let blocks = Blocks::new(blocks.fail_with(ExitCode::Failure, kernel)?);
        let (interfaces, holdings) = prepared.interfaces.into_iter().unzip();
        let mut engine = Self {
            connections,
            sessions: Sessions::new(datapath.slots(), &sessions),
            options,
            datapath,
            identity: prepared.identity,
            shared,
            floods,
            interfaces: Interfaces::new(interfaces, blocks),
            holdings,
            peers: Default::default(),
            jobs: RouteJobs::default(),
            closings: Default::default(),
            sources: prepared.sources,
            followed: prepared.followed,
            detours,
            ledger: Ledger::default(),
            reading: Reading::default(),
            agenda: Agenda::default(),
            checks: Checks::default(),
        };
        let (emitted, lost) = engine
            .events_emitted()
            .fail_with(ExitCode::Failure, kernel)?;
        engine.ledger = Ledger::new(emitted, lost);
        let ring = readable(ring).fail_with(ExitCode::Failure, || "dz_events")?;
        Ok((engine, ring))
    }

    /// Attaches to the interfaces that are there and goes on from what was found.
    async fn start(&mut self) -> Result<(), Failure> {
        let (found, addresses) = self.read_interfaces().await?;
        for (index, found) in found.into_iter().enumerate() {
            let followed = self.follow_interface(index, found, &addresses);
            followed.map_err(|failure| {
                let name = self.interfaces.at(index).name();
                failure.context(format!("interface {name}"))
            })?;
            let interface = self.interfaces.at(index);
            if let Some(reason) = interface.unavailable() {
                warn!(
                    interface = interface.name(),
                    reason, "waiting for the interface"
                );
            }
        }
        if self.interfaces.iter().any(|i| i.ifindex().is_none()) {
            self.datapath.load_all()?;
        }
        if let Some(file) = &self.options.peers {
            let peers = self.sources.configured.len();
            info!(file = %file.display(), peers, "peers configured");
        }
        // Also what an earlier agent had from a file, or by following, and nobody wants any more.
        self.full_check().await;
        // By now it is known what is borrowed.
        self.forget_stale_locals();
        self.tick();
        Ok(())
    }

    fn inspector(&self) -> Inspector {
        let reader = Arc::clone(self.datapath.reader());
        let shared = Arc::clone(&self.shared);
        Inspector::new(reader, &self.options, shared, self.capacity())
    }

    /// The loop.
    async fn run(
        &mut self,
        ring: &mut AsyncFd<RingBuf<MapData>>,
        monitor: &mut Monitor,
        requests: &mut mpsc::Receiver<Command>,
        signals: &mut Signals,
    ) -> Result<Stop, Failure> {
        let mut full_check = interval(FULL_CHECK);
        full_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        full_check.reset();
        let mut alarm = Alarm::new().fail_with(ExitCode::Failure, || "timerfd")?;
        let mut beat_ns = 0;
        loop {
            // Here, so that nothing that goes on and on keeps it waiting.
            let begun_ns = now_ns();
            if begun_ns >= beat_ns {
                self.beat(begun_ns, ring.get_mut());
                beat_ns = begun_ns + HEARTBEAT_NS;
            }
            let (due_ns, look_at) = (self.due_ns(), self.agenda.next());
            let beat_at_ns = beat_ns + HEARTBEAT_SLACK_NS;
            alarm
                .set(due_ns.map_or(beat_at_ns, |due_ns| due_ns.min(beat_at_ns)))
                .fail_with(ExitCode::Failure, || "timerfd")?;
            tokio::select! {
                biased;
                stop = signals.next() => match stop {
                    Some(stop) => return Ok(stop),
                    None => self.reload(),
                },
                guard = ring.readable_mut() => {
                    let mut guard = guard.fail_with(ExitCode::Failure, || "dz_events")?;
                    if !self.reported(guard.get_inner_mut()).await {
                        guard.clear_ready();
                    }
                }
                Some(done) = self.jobs.answered(), if self.jobs.is_asking() => {
                    self.route_done(done);
                }
                Some(found) = self.sessions.next_hops_mut().answered(), if self.sessions.next_hops().is_asking() => {
                    self.next_hop_looked_up(found);
                }
                Some(found) = self.detours.running.next(), if !self.detours.running.is_empty() => {
                    self.detour_found(found);
                }
                routes = self.reading.done(), if self.reading.is_running() => {
                    self.check_with(routes).await;
                    self.tick();
                }
                event = monitor.next() => {
                    self.changed(event.fail_with(ExitCode::Failure, || "netlink notifications")?);
                    self.late(lateness(due_ns, look_at)).await;
                }
                Some(command) = requests.recv() => self.command(command).await,
                _ = full_check.tick() => self.begin_check(),
                // Last: with more sessions than can be served, one of them is always due.
                () = moment(look_at) => self.due().await,
                rung = alarm.rings() => {
                    rung.fail_with(ExitCode::Failure, || "timerfd")?;
                    self.due().await;
                }
            }
        }
    }

    /// Says that we are alive, and looks at what nobody tells us about.
    fn beat(&mut self, now_ns: u64, ring: &mut RingBuf<MapData>) {
        self.datapath.maps().beat(now_ns);
        self.floods.report();
        self.detours.look_at_some();
        if self.events_missing(ring) {
            self.begin_check();
        }
    }

    /// What is due comes after the notifications that wait to be read: between a route's end and its
    /// coming back there may be some hundred others. But neither waits for ever.
    async fn late(&mut self, late: Duration) {
        if late > LATEST {
            self.due().await;
        } else if late > TICK_LATEST {
            self.tick();
        }
    }

    /// Does what the loop has woken up for.
    async fn due(&mut self) {
        self.tick();
        self.say_farewells();
        self.retry_routes();
        if self.agenda.is_time_to_look_around(Instant::now())
            && let Some(error) = self.look_around().await
        {
            self.check_failed(&error);
        }
        if self.agenda.take_check(Instant::now()) {
            self.full_check().await;
            self.tick();
        }
        if self.agenda.take_settling(Instant::now()) {
            self.settle_some();
        }
    }

    async fn command(&mut self, command: Command) {
        // A reply that nobody waits for any more need not be delivered.
        match command {
            Command::Connect { peers, reply } => {
                let sources = self.prepare(&peers).await;
                let _ = reply.send(self.connect(&peers, &sources));
            }
            Command::Disconnect { selector, reply } => self.disconnect(&selector, reply),
        }
    }

    /// When somebody is to be spoken to, or a route is to be tried again, ns.
    fn due_ns(&mut self) -> Option<u64> {
        let due_ns = [self.sessions.next_look_ns(), self.closings_due_ns()];
        due_ns.into_iter().flatten().min()
    }
}
