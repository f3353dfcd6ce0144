//! Takes over the maps of an earlier layout, or of another size (`--max-sessions`), without a gap.
//!
//! The old kernel part serves until its programs are replaced in their links (below Linux 6.6 TC has
//! filters instead). Each step leaves a state from which the next start goes on; the folder's name says
//! how far it was:
//!
//! Settings and heartbeat are copied, too: those of this start follow when it cannot fail any more.
//!
//! | step | a crash right after it leaves | the next start |
//! |---|---|---|
//! | 1. maps of the new layout pinned in `takeover_new`, entries copied | the old part at work | throws the folder away |
//! | 2. folder renamed `takeover_swap` | the same | the same: no link has a program with these maps |
//! | 3. program of one link after the other replaced | some interfaces on the old maps, some on the new | copies the sessions of the former again, replaces the rest |
//! | 4. folder renamed `takeover_move` | the new part at work | moves the pins |
//! | 5. pins moved, one by one, in place of the old ones | the same, the pins in two places | moves the rest |
//! | 6. pins that the new layout does not have, and the folder, removed | the new part at work | nothing, or the rest of this |
//!
//! Changes by packets in the old maps between copying and replacing, some milliseconds, are lost. It is
//! as if these packets had been lost on the wire, but for the answers that the peer has seen: it may
//! know us in a state that we do not know of. The protocol mends that without a flap: a session
//! that the peer believes Up goes there with the peer's next packet (it echoes our discriminator, and
//! our saying Down meanwhile is ignored as stale by a peer that has just gone Up). A peer that has gone
//! Down says so again. One that said AdminDown in that moment is noticed by its silence.
//!
//! The gates are replaced before the ingress programs: a gate on the new maps sees each session as it
//! was copied, for a detection time at least, while one left on the old maps would see them expire.

mod btf;
mod convert;
mod copy;
mod old_links;
mod staging;
mod types;

use std::fs;
use std::io;
use std::path::Path;
use std::time::Instant;

use dz_common::map::{ABI_VERSION, name};
use tracing::{info, warn};

use super::layout::{abi_version, earlier, slots_for};
use super::names::MAPS;
use super::pins::Pin;
use super::raw::map::RawMap;
use super::settings::Settings;
use super::whole::Datapath;
use crate::error::{ExitCode, FailWith, Failure};
use copy::Copier;
pub(super) use old_links::filtered;
use old_links::{OldLink, old_links};
pub use staging::unfinished;
use staging::{MOVE, NEW, SWAP, exists, map_ids, remove, rename};
pub use types::keep_types;

/// Copies pinned maps of an earlier layout or another size into maps of ours, and replaces the programs that use
/// them by ours. Finishes the takeover of an agent that died in it. Without maps, or with maps of our layout and size,
/// there is nothing to do.
///
/// # Errors
/// [`ExitCode::Usage`] if there are more sessions than there are to be; [`ExitCode::Failure`] if it cannot be
/// done. The old kernel part goes on as it was.
pub fn take_over(settings: &Settings) -> Result<(), Failure> {
    let pin_dir = &settings.pin_dir;
    if let Some(earlier) = earlier(pin_dir)?.filter(|earlier| earlier.port != settings.port) {
        warn!(
            port = settings.port,
            earlier = earlier.port,
            "another liveness port than before: sessions go Down with peers that keep the earlier one"
        );
    }
    remove(&pin_dir.join(NEW))?;
    if exists(&pin_dir.join(MOVE))? {
        info!(pin_dir = %pin_dir.display(), "finishing a takeover that was cut short");
        move_pins(pin_dir)?;
    } else if exists(&pin_dir.join(SWAP))? {
        let staged = map_ids(&pin_dir.join(SWAP))?;
        let links = old_links(pin_dir).map_err(|fault| refusal(pin_dir, &fault))?;
        let used = any_uses(&links, &staged).map_err(|fault| refusal(pin_dir, &fault))?;
        if used {
            info!(pin_dir = %pin_dir.display(), "going on with a takeover that was cut short");
            let taken = swap_rest(settings, &staged).map_err(|fault| refusal(pin_dir, &fault));
            taken.and_then(|()| move_pins(pin_dir))?;
        } else {
            remove(&pin_dir.join(SWAP))?;
        }
    }
    let found = abi_version(pin_dir)?;
    // None or 0, or only some of our maps: nothing that could be taken over; see `Datapath::load`.
    let is_ours = found == Some(ABI_VERSION);
    if !found.is_some_and(|found| (1..=ABI_VERSION).contains(&found))
        || is_ours && !exists(&pin_dir.join(name::DEADLINES))?
    {
        return Ok(());
    }
    let slots = has_room(settings)?;
    if is_ours && slots == slots_for(settings.max_sessions) {
        return Ok(());
    }
    prepare(settings)
        .and_then(|datapath| swap(datapath, pin_dir, |_| Ok(true)))
        .map_err(|fault| {
            // Unless a link has been given a new program, there is nothing to go on from.
            for folder in [NEW, SWAP] {
                if is_unused(pin_dir, folder) {
                    let _ = remove(&pin_dir.join(folder));
                }
            }
            refusal(pin_dir, &fault)
        })?;
    move_pins(pin_dir)
}

/// Says whether no link has a program with the maps in a folder, as none has before the folder has its second name. What cannot be
/// looked at may be in use.
fn is_unused(pin_dir: &Path, folder: &str) -> bool {
    let (Ok(staged), Ok(links)) = (map_ids(&pin_dir.join(folder)), old_links(pin_dir)) else {
        return folder == NEW;
    };
    folder == NEW || any_uses(&links, &staged) == Ok(false)
}

/// Makes sure that there is room for the sessions and peers that there are. Returns how many deadline slots the maps
/// have.
fn has_room(settings: &Settings) -> Result<u32, Failure> {
    let pin_dir = &settings.pin_dir;
    let open = |name| {
        let map = RawMap::from_pin(&pin_dir.join(name));
        map.map_err(|error| refusal(pin_dir, &format!("{name}: {error}")))
    };
    let count = |name| {
        if !exists(&pin_dir.join(name))? {
            return Ok(0); // an earlier layout without it
        }
        let keys = open(name)?.keys();
        let keys = keys.map_err(|error| refusal(pin_dir, &format!("{name}: {error}")))?;
        Ok::<_, Failure>(keys.len())
    };
    let (most, slots) = (settings.max_sessions, open(name::DEADLINES)?.max_entries());
    if most >= slots {
        return Ok(slots);
    }
    let there = count(name::SESSIONS)?.max(count(name::PEERS)?);
    if there > most as usize {
        let text = format!(
            "--max-sessions {most}: there are {there} sessions, which go on as they are: disconnect {} with the \
             earlier settings first, or give --max-sessions {there} or more",
            there - most as usize
        );
        return Err(Failure::new(ExitCode::Usage, text));
    }
    Ok(slots)
}

/// Takes steps 1 and 2.
fn prepare(settings: &Settings) -> Result<Datapath, String> {
    let pin_dir = &settings.pin_dir;
    let start = Instant::now();
    let staging = pin_dir.join(NEW);
    fs::create_dir(&staging).map_err(|error| format!("{}: {error}", staging.display()))?;
    step();
    let mut datapath = Datapath::load(&Settings {
        pin_dir: staging.clone(),
        ..settings.clone()
    })
    .map_err(|failure| failure.to_string())?;
    // From here on it is the folder that is thrown away.
    datapath.keep_maps();
    datapath
        .start_timers()
        .map_err(|failure| failure.to_string())?;
    step();
    // The verifier takes its time, and the copy is the better the younger it is.
    for link in old_links(pin_dir)? {
        link.make_ready(datapath.object())?;
    }
    let copier = Copier::new(pin_dir, &staging, &settings.state_dir)?;
    // No route has our number yet.
    let ours = Settings {
        route_protocols: [0; 4],
        ..settings.clone()
    };
    copier.settings(datapath.maps(), ours.config(datapath.groups()))?;
    copier.settled()?;
    step();
    copier.counters()?;
    step();
    let slots = datapath.slots();
    let sessions = copier.sessions(datapath.maps(), slots, |_| true)?;
    step();
    rename(&staging, &pin_dir.join(SWAP))?;
    step();
    info!(sessions, slots, took = ?start.elapsed(), "maps of an earlier layout or another size copied");
    Ok(datapath)
}

/// Takes step 3 after a crash in it.
fn swap_rest(settings: &Settings, staged: &[u32]) -> Result<(), String> {
    let pin_dir = &settings.pin_dir;
    let staging = pin_dir.join(SWAP);
    let mut datapath = Datapath::load(&Settings {
        pin_dir: staging.clone(),
        ..settings.clone()
    })
    .map_err(|failure| failure.to_string())?;
    let links = old_links(pin_dir)?;
    for link in &links {
        link.make_ready(datapath.object())?;
    }
    // Which maps an interface's packets change is decided by its ingress program.
    let mut old = Vec::new();
    for link in links.iter().filter(|link| link.is_ingress()) {
        if !link.uses(staged)? {
            old.push(link.ifindex);
        }
    }
    let slots = datapath.slots();
    let copier = Copier::new(pin_dir, &staging, &settings.state_dir)?;
    let sessions = copier.sessions(datapath.maps(), slots, |ifindex| old.contains(&ifindex))?;
    info!(sessions, "sessions copied that were still in the old maps");
    swap(datapath, pin_dir, |link| Ok(!link.uses(staged)?))
}

/// Takes steps 3 and 4.
fn swap(
    mut datapath: Datapath,
    pin_dir: &Path,
    wanted: impl Fn(&OldLink) -> Result<bool, String>,
) -> Result<(), String> {
    let mut links = Vec::new();
    for link in old_links(pin_dir)? {
        if wanted(&link)? {
            links.push(link);
        }
    }
    links.sort_by_key(|link| link.is_ingress());
    for link in links {
        link.swap(datapath.object(), pin_dir)?;
        step();
    }
    rename(&pin_dir.join(SWAP), &pin_dir.join(MOVE))?;
    step();
    Ok(())
}

/// Takes steps 5 and 6.
fn move_pins(pin_dir: &Path) -> Result<(), Failure> {
    let staging = pin_dir.join(MOVE);
    let result = || -> io::Result<()> {
        for pin in Pin::list(&staging)? {
            fs::rename(pin.path(&staging), pin.path(pin_dir))?;
            step();
        }
        for pin in Pin::list(pin_dir)? {
            if matches!(&pin, Pin::Map(name) if !MAPS.contains(&name.as_str())) {
                pin.remove(pin_dir)?;
                step();
            }
        }
        fs::remove_dir(&staging)?;
        step();
        Ok(())
    };
    result().fail_with(ExitCode::Failure, || {
        format!("moving the pins of {}", staging.display())
    })?;
    info!(pin_dir = %pin_dir.display(), "earlier maps taken over");
    Ok(())
}

/// Says whether one of the links has a program that uses one of these maps.
fn any_uses(links: &[OldLink], maps: &[u32]) -> Result<bool, String> {
    for link in links {
        if link.uses(maps)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn refusal(pin_dir: &Path, fault: &str) -> Failure {
    Failure::new(
        ExitCode::Failure,
        format!(
            "{}: the maps of an earlier version or another --max-sessions cannot be taken over ({fault}): the kernel \
             part goes on as it was; go on with that version and number, or remove it all with `dz-agent purge`",
            pin_dir.display()
        ),
    )
}

/// Marks a point at which an agent can die, and a test can make it die.
fn step() {
    #[cfg(feature = "faults")]
    crate::faults::takeover_step();
}
