//! Finds and removes our filters of the clsact qdisc, which an agent below Linux 6.6 has put on interfaces.

use std::thread;

use aya::programs::TcAttachType;
use nix::errno::Errno;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};

use super::clsact;
use super::names::is_ours;
use crate::net::{Netlink, NetlinkError, links};

/// The errors that mean that there are no filters.
const ABSENT: [Errno; 3] = [Errno::ENODEV, Errno::ENOENT, Errno::EINVAL];

/// A filter of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Name of the interface.
    pub interface: String,
    /// Index of the interface.
    pub ifindex: u32,
    /// The gate is at egress, everything else at ingress.
    pub egress: bool,
    /// Kernel id of its program.
    pub program: u32,
}

impl Filter {
    pub(super) const fn hook(&self) -> TcAttachType {
        if self.egress {
            TcAttachType::Egress
        } else {
            TcAttachType::Ingress
        }
    }
}

/// Lists our filters on every interface.
///
/// # Errors
/// The kernel could not be asked.
pub async fn list(netlink: &Netlink) -> Result<Vec<Filter>, NetlinkError> {
    let mut found = Vec::new();
    for interface in links::list(netlink).await? {
        let Ok(index) = i32::try_from(interface.ifindex) else {
            continue;
        };
        for (minor, egress) in [(TcHandle::MIN_INGRESS, false), (TcHandle::MIN_EGRESS, true)] {
            if let Some(program) = program_of_ours(netlink, index, minor).await? {
                found.push(Filter {
                    interface: interface.name.clone(),
                    ifindex: interface.ifindex,
                    egress,
                    program,
                });
            }
        }
    }
    Ok(found)
}

/// Lists our filters while the caller's thread waits: for code that cannot await.
///
/// # Errors
/// The kernel could not be asked.
pub(super) fn list_at_once() -> Result<Vec<Filter>, String> {
    at_once(async |netlink| list(netlink).await)
}

/// Asks while the caller's thread waits.
pub(super) fn at_once<T: Send>(
    ask: impl AsyncFnOnce(&Netlink) -> Result<T, NetlinkError> + Send,
) -> Result<T, String> {
    let asked = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let netlink = Netlink::open().map_err(|error| error.to_string())?;
            ask(&netlink).await.map_err(|error| error.to_string())
        })
    };
    // A runtime does not start on the thread of another one.
    let answer = thread::scope(|scope| scope.spawn(asked).join());
    let answer = answer.unwrap_or_else(|_| Err("the thread has died".to_owned()));
    answer.map_err(|error| format!("reading the interfaces and their filters: {error}"))
}

/// Takes filters away that [`list`] has found, and lists those that are still there. No others are taken
/// away: in the same place on the other side may be somebody else's.
///
/// # Errors
/// The kernel could not be asked.
pub async fn detach(netlink: &Netlink, filters: &[Filter]) -> Result<Vec<Filter>, NetlinkError> {
    if filters.is_empty() {
        return Ok(Vec::new());
    }
    for filter in filters {
        clsact::detach(&filter.interface, filter.hook());
    }
    list(netlink).await
}

/// Reads the programs of an interface's filters at ingress and egress by their kernel ids, in their order.
///
/// # Errors
/// The kernel could not be asked.
pub async fn chains(netlink: &Netlink, ifindex: u32) -> Result<[Vec<u32>; 2], NetlinkError> {
    let mut chains = [Vec::new(), Vec::new()];
    let Ok(index) = i32::try_from(ifindex) else {
        return Ok(chains);
    };
    for (chain, minor) in chains
        .iter_mut()
        .zip([TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS])
    {
        let mut found = at(netlink, index, minor).await?;
        found.sort_by_key(|found| found.priority);
        chain.extend(found.iter().map(|found| found.program));
    }
    Ok(chains)
}

/// Whose filter has our priority and handle at one side of an interface.
pub(super) enum AtOurPlace {
    /// Nobody's.
    Nobodys,
    /// One of ours.
    Ours,
    /// Somebody else's; its program's name.
    Others(String),
}

/// Finds out whose filter has our priority and handle, while the caller's thread waits.
///
/// # Errors
/// The kernel could not be asked.
pub(super) fn at_our_place(ifindex: u32, egress: bool) -> Result<AtOurPlace, String> {
    let minor = match egress {
        true => TcHandle::MIN_EGRESS,
        false => TcHandle::MIN_INGRESS,
    };
    let index = i32::try_from(ifindex).map_err(|error| error.to_string())?;
    let found = at_once(async |netlink| at(netlink, index, minor).await)?;
    Ok(match found.into_iter().find(|found| found.in_our_place) {
        None => AtOurPlace::Nobodys,
        Some(found) if found.is_ours() => AtOurPlace::Ours,
        Some(found) => AtOurPlace::Others(found.name),
    })
}

async fn program_of_ours(
    netlink: &Netlink,
    index: i32,
    minor: u16,
) -> Result<Option<u32>, NetlinkError> {
    let found = at(netlink, index, minor).await?;
    let ours = found
        .iter()
        .find(|found| found.in_our_place && found.is_ours());
    Ok(ours.map(|found| found.program))
}

/// A filter of whoever.
struct Found {
    priority: u32,
    /// Whether priority and handle are those of our filters. Somebody else's could have the same.
    in_our_place: bool,
    program: u32,
    name: String,
}

impl Found {
    /// Says whether its program is one of ours.
    fn is_ours(&self) -> bool {
        is_ours(&self.name)
    }
}

/// Reads the filters of an interface at one side that have a BPF program.
async fn at(netlink: &Netlink, index: i32, minor: u16) -> Result<Vec<Found>, NetlinkError> {
    let mut message = TcMessage::default();
    message.header.index = index;
    message.header.parent = TcHandle {
        major: TcHandle::CLSACT.major,
        minor,
    };
    let keep = |message| match message {
        RouteNetlinkMessage::NewTrafficFilter(message) => found(&message),
        _ => None,
    };
    let request = RouteNetlinkMessage::GetTrafficFilter(message);
    match netlink.dump(request, keep).await {
        // No qdisc that could have filters, or the interface is gone meanwhile.
        Err(error) if error.errno().is_some_and(|errno| ABSENT.contains(&errno)) => Ok(Vec::new()),
        found => found,
    }
}

fn found(message: &TcMessage) -> Option<Found> {
    let TcHeader { handle, info, .. } = message.header;
    // The priority is the upper half; below is the protocol.
    let priority = info >> 16;
    let options = message
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        });
    let (mut id, mut called) = (None, String::new());
    for option in options.flatten() {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => called.clone_from(name),
            TcOption::Bpf(TcFilterBpfOption::ProgId(found)) => id = Some(*found),
            _ => {}
        }
    }
    Some(Found {
        priority,
        in_our_place: (priority, handle.major, handle.minor) == (u32::from(clsact::PRIORITY), 0, 1),
        program: id?,
        name: called,
    })
}
