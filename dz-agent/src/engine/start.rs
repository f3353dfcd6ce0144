//! The agent's life: it takes its locks, loads the kernel part, starts the engine, runs it until a signal,
//! and cleans up.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::alarm::Alarm;
use super::configured;
use crate::datapath::{Lasting, check_kernel, check_pins, readable, served_before};
use crate::engine::hands::chosen::check_interfaces;
use crate::engine::hands::earlier::remove_strays;
use crate::engine::hands::holding::Holding;
use crate::engine::hands::kernel::KernelHands;
use crate::engine::hands::pins::remove_pins;
use crate::engine::parts::{Engine, Prepared};
use crate::engine::run::Senses;
use crate::engine::show::front::Front;
use crate::engine::show::inspect::Inspector;
use crate::engine::show::shared::Shared;
use crate::engine::state::followed::Followed;
use crate::engine::state::wants::Wants;
use crate::engine::stop::{Signals, Stop};
use crate::error::{ExitCode, FailWith, Failure};
use crate::host::identity::Identity;
use crate::host::lock::{LockError, PinDirLock};
use crate::host::logging::FloodLimit;
use crate::host::realtime;
use crate::metrics::Recorded;
use crate::net::monitor::Monitor;
use crate::settings::RunOptions;

/// Most requests that wait for the engine. Further ones wait in their connections.
const COMMANDS: usize = 64;

/// Runs the agent until a signal stops it.
///
/// Until it is ready, whatever it makes is taken back if it fails: sockets, locks, the pin directory, maps and links go
/// with the values that hold them. What an earlier agent has left changes last, in [`Engine::start`]. From then on only
/// a withdrawal takes anything back; every other end leaves what a crash leaves, for the next start.
///
/// # Errors
/// The agent cannot start, or go on, or take everything back when it stops.
pub async fn run(options: RunOptions, socket: &Path, floods: FloodLimit) -> Result<(), Failure> {
    options.validate()?;
    let conditions = options.conditions()?;
    let (configured, policy) = configured::read(&options)?;
    check_kernel(&options.pin_dir)?;
    let holdings = options.interfaces.iter().map(|name| Holding::take(name));
    let mut holdings = holdings.collect::<Result<Vec<_>, LockError>>()?;
    let mut pins = PinDirLock::create(&options.pin_dir).map_err(Failure::from)?;
    check_pins(&options.pin_dir).await?;
    let leaving = leaving(&options)?;
    for name in &leaving {
        let holding = Holding::take(name).map_err(Failure::from);
        let earlier = || format!("{name} was served from {}", options.pin_dir.display());
        holdings.push(holding.map_err(|failure| failure.context(earlier()))?);
    }
    check_interfaces(&options).await?;
    let identity = Identity::load(&options.state_dir)?;
    let front = Front::bind(socket, options.metrics_listen.clone())?;
    // After `Front::bind` has started the API's thread, which is not to inherit real-time priority.
    let realtime = realtime::apply(options.realtime)?;
    let mut signals = Signals::new()?;
    let alarm = Alarm::new().fail_with(ExitCode::Failure, || "timerfd")?;
    let mut monitor = Monitor::open().fail_with(ExitCode::Failure, || "netlink notifications")?;

    let hands = KernelHands::load(&options, holdings, realtime)?;
    let wants = Wants::new(configured, policy, Followed::new(conditions));
    if wants.followed().is_on() {
        monitor.tell_of_hosts();
    }
    // Notifications of our own route changes are left out before the first is asked for: their answers tell.
    let left_out = monitor.leave_out(hands.ports());
    left_out.fail_with(ExitCode::Failure, || "netlink notifications")?;
    let ring = hands.events_descriptor().and_then(readable);
    let ring = ring.fail_with(ExitCode::Failure, || "dz_events")?;
    let reader = Arc::clone(hands.reader());
    let recorded = Recorded::default();
    let shared = Arc::new(Shared::new(recorded.clone(), front.metrics()));
    let prepared = Prepared {
        wants,
        identity,
        leaving,
    };
    let mut engine = Engine::new(hands, options, prepared, Arc::clone(&shared))?;
    engine.start().await?;
    pins.keep();
    // Ours run before them by now.
    let strays = remove_strays(&engine.options.pin_dir, &engine.options.interfaces).await;
    if let Err(failure) = strays {
        warn!("programs of dead agents may be left on the interfaces: {failure}");
    }
    let lasting = Lasting::of(&engine.options.pin_dir);
    if let Some(warning) = lasting.warning(&engine.options.pin_dir) {
        warn!("{warning}");
    }

    let (commands, requests) = mpsc::channel(COMMANDS);
    let inspector = Inspector::new(reader, &engine.options, shared, engine.capacity());
    let front = front.serve(
        inspector,
        commands,
        recorded,
        engine.options.metrics_per_peer,
    );
    info!(version = crate::view::VERSION, realtime, "ready");

    let mut senses = Senses {
        ring,
        monitor,
        requests,
        alarm,
        lost: engine.hands.lost(),
    };
    let stop = engine.run(&mut senses, &mut signals, &floods).await?;
    // Requests that come now are refused: the engine does not read them any more.
    let Senses {
        mut monitor,
        requests,
        ..
    } = senses;
    drop(requests);
    let withdrawn = match stop {
        Stop::Leave => Ok(()),
        Stop::Withdraw => engine.withdraw(&mut monitor).await,
    };
    front.stop();
    withdrawn?;
    match stop {
        Stop::Withdraw => remove_pins(&engine.options.pin_dir),
        Stop::Leave => match lasting {
            Lasting::Machine => info!("stopped; the kernel part goes on for the next start"),
            Lasting::MountNamespace => {
                warn!("stopped; the kernel part ends with this mount namespace, routes stay")
            }
            Lasting::Unknown => info!(
                "stopped; the kernel part goes on for the next start if the BPF file system does"
            ),
        },
    }
    Ok(())
}

/// Returns the interfaces that an earlier agent served and that are not named any more.
fn leaving(options: &RunOptions) -> Result<Vec<String>, Failure> {
    let before = served_before(&options.pin_dir)?.into_iter();
    let left = before.filter(|name| !options.interfaces.contains(name));
    Ok(left.collect())
}
