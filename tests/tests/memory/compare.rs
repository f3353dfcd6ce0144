//! One operation on both, and everything that can be seen of it.
//!
//! What is not compared: whether an interface runs (the kernel notices a carrier later, in its own time),
//! and the order of a family's notifications where the kernel has none: neighbours that are flushed
//! together go in the order of a hash table. That a carrier is lost is not tried, for the same reason, nor
//! is that a secondary address takes a deleted primary one's place (`promote_secondaries`).

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Result, ensure};
use dz_agent::memory::net::{Author, Family, MAIN, Net};
use dz_agent::net::NetlinkError;
use dz_agent::net::detours::{self, Flow};
use dz_agent::net::monitor::Event;
use dz_agent::net::routes::RouteError;
use dz_agent::net::{hosts, links, local, neighbours};
use dz_agent::settings::Follow;
use dz_tests::rng::Rng;
use nix::errno::Errno;

use crate::operation::{DESTINATIONS, HELD, NAMES, Operation, TABLE, any};
use crate::real::Kernel;
use crate::requests;

/// Look-ups that are compared after each operation.
const QUESTIONS: usize = 4;
/// Somebody else's socket, whatever its number is.
const SOMEBODY: u32 = 1;

/// Carries out an operation on both, and compares.
pub(crate) async fn step(
    operation: &Operation,
    kernel: &mut Kernel<'_>,
    net: &mut Net,
    rng: &Rng,
) -> Result<()> {
    carry_out(operation, kernel, net).await?;
    let events = by_family(kernel.events().await?);
    let mut told = Vec::new();
    while let Some(family) = { net.waiting().next() } {
        told.extend(net.next_event(family));
    }
    told.retain(|event| !kernel.told.repeats(event));
    same("notifications", &events, &by_family(told))?;
    state(kernel, net).await?;
    for _ in 0..QUESTIONS {
        ask(kernel, net, rng).await?;
    }
    Ok(())
}

fn same<T: PartialEq + Debug>(what: &str, real: &T, memory: &T) -> Result<()> {
    ensure!(
        real == memory,
        "{what}:\n  kernel {real:?}\n  memory {memory:?}"
    );
    Ok(())
}

fn errno<T>(outcome: Result<T, NetlinkError>) -> Result<T, Option<Errno>> {
    outcome.map_err(|cause| cause.errno())
}

/// The words of a refusal differ from version to version.
fn plain<T>(outcome: Result<T, RouteError>) -> Result<T, (Option<Errno>, String)> {
    outcome.map_err(|error| (error.errno(), format!("{:?}", error.conflict())))
}

async fn carry_out(operation: &Operation, kernel: &mut Kernel<'_>, net: &mut Net) -> Result<()> {
    let by = Author::Other(SOMEBODY);
    let (request, outcome) = match *operation {
        Operation::Create(name) => {
            let (ifindex, shape) = kernel.create(name).await?;
            return same("index", &Ok(ifindex), &errno(net.create_link(name, shape)));
        }
        Operation::AddOurs(route) => {
            let real = plain(kernel.routes.add(&route).await);
            let memory = net.add_route(crate::operation::OURS, &route);
            return same("outcome", &real, &plain(memory));
        }
        Operation::DeleteOurs(dst, ifindex) => {
            let real = plain(kernel.routes.delete(dst, ifindex).await);
            let memory = net.delete_route(crate::operation::OURS, dst, ifindex);
            return same("outcome", &real, &Ok(memory));
        }
        Operation::Resolve(ifindex, address) => {
            let real = neighbours::resolve(&kernel.netlink, ifindex, address).await;
            let memory = net.resolve(ifindex, address);
            return same("outcome", &errno(real), &errno(memory));
        }
        Operation::Answer(ifindex, address, mac) => {
            net.answer_for(ifindex, address, mac);
            (requests::neighbour(ifindex, address, mac, false), Ok(()))
        }
        Operation::Delete(ifindex) => (requests::delete_link(ifindex), net.delete_link(ifindex)),
        Operation::SetUp(ifindex, up) => (requests::set_up(ifindex, up), net.set_up(ifindex, up)),
        Operation::Rename(ifindex, name) => (
            requests::rename(ifindex, name),
            net.rename_link(ifindex, name),
        ),
        Operation::SetMac(ifindex, mac) => {
            (requests::set_mac(ifindex, mac), net.set_mac(ifindex, mac))
        }
        Operation::Lose(ifindex, address) => {
            if !net.lose_neighbour(ifindex, address) {
                return Ok(());
            }
            (requests::neighbour(ifindex, address, None, false), Ok(()))
        }
        Operation::AddAddress(ifindex, address) => (
            requests::address(ifindex, &address, true),
            net.add_address(ifindex, address),
        ),
        Operation::DeleteAddress(ifindex, address) => (
            requests::address(ifindex, &address, false),
            net.delete_address(ifindex, &address),
        ),
        Operation::Add(entry, mode) => {
            (requests::add(&entry, mode), net.add_entry(by, entry, mode))
        }
        Operation::Remove(which) => (requests::delete(&which), net.delete_entry(by, &which)),
        Operation::SetNeighbour(ifindex, address, mac, permanent) => (
            requests::neighbour(ifindex, address, Some(mac), permanent),
            net.set_neighbour(ifindex, address, mac, permanent),
        ),
        Operation::DeleteNeighbour(ifindex, address) => (
            requests::delete_neighbour(ifindex, address),
            net.delete_neighbour(ifindex, address),
        ),
    };
    let real = kernel.request(&request)?;
    same("outcome", &real.map_err(Some), &errno(outcome))
}

/// The events of each family, without the numbers of others' sockets.
fn by_family(events: Vec<Event>) -> BTreeMap<Family, Vec<Event>> {
    let mut families: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for mut event in events {
        if let Event::Route { place, .. } = &mut event {
            place.by = place.by.min(SOMEBODY);
        }
        families.entry(Family::of(&event)).or_default().push(event);
    }
    if let Some(neighbours) = families.get_mut(&Family::Neighbours) {
        neighbours.sort_by_key(|event| format!("{event:?}"));
    }
    families
}

async fn state(kernel: &Kernel<'_>, net: &Net) -> Result<()> {
    let netlink = &kernel.netlink;
    let addresses = errno(links::addresses(netlink).await);
    same("addresses", &addresses, &Ok(net.addresses()))?;
    let ours = plain(kernel.routes.list(None).await);
    same("our routes", &ours, &Ok(net.routes(crate::operation::OURS)))?;
    let follows = [(MAIN, None), (MAIN, Some(186)), (TABLE, None)];
    let follows = follows.map(|(table, protocol)| Follow { table, protocol });
    for follow in follows {
        let nowhere = errno(hosts::list_nowhere(netlink, &follow).await);
        same(
            "routes to nowhere",
            &nowhere,
            &Ok(net.host_routes_nowhere(&follow)),
        )?;
    }
    for name in NAMES {
        let real = errno(links::by_name(netlink, name).await);
        let memory = net.interface(name);
        let real = real.map(|interface| {
            interface.map(|interface| links::Interface {
                running: memory.as_ref().is_some_and(|memory| memory.running),
                ..interface
            })
        });
        same("interface", &real, &Ok(memory.clone()))?;
        let Some(interface) = memory else {
            continue;
        };
        let ifindex = interface.ifindex;
        for follow in follows {
            let routes = errno(hosts::list(netlink, ifindex, &follow).await);
            same(
                "host routes",
                &routes,
                &Ok(net.host_routes(ifindex, &follow)),
            )?;
        }
        if interface.mac.is_some() {
            let mut known = errno(neighbours::list(netlink, ifindex).await);
            if let Ok(known) = &mut known {
                known.sort();
            }
            same("neighbours", &known, &Ok(net.neighbours(ifindex)))?;
        }
    }
    Ok(())
}

async fn ask(kernel: &Kernel<'_>, net: &Net, rng: &Rng) -> Result<()> {
    let netlink = &kernel.netlink;
    let pool: &[[u8; 4]] = match rng.chance(50) {
        true => &HELD,
        false => &DESTINATIONS,
    };
    let dst = any(rng, pool);
    let real = errno(local::is_local(netlink, dst, None).await);
    same(
        &format!("{dst} is local"),
        &real,
        &Ok(net.is_local(dst, None)),
    )?;
    let links = NAMES.iter().filter_map(|name| net.ifindex(name));
    let links: Vec<_> = links.collect();
    let Some(ifindex) = links.get(rng.index(links.len().max(1))) else {
        return Ok(());
    };
    let real = errno(local::source_to(netlink, dst, *ifindex).await);
    let memory = net.source_to(dst, *ifindex);
    same(&format!("source to {dst} by {ifindex}"), &real, &Ok(memory))?;
    let flow = Flow {
        dst,
        src: any(rng, &HELD),
    };
    let real = errno(detours::best(netlink, flow, &links, &[*ifindex]).await);
    let memory = net.way_around(flow, &links, &[*ifindex]);
    same(
        &format!("way of {flow:?}, held by {ifindex}"),
        &real,
        &Ok(memory),
    )
}
