//! One agent per interface, pin directory and port.

use std::fmt::Display;
use std::net::UdpSocket;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dz_agent::host::lock::{InterfaceLock, PinDirLock};
use dz_agent::host::port::{PortError, PortGuard};
use dz_tests::bed::PATIENCE;
use dz_tests::bpffs;
use dz_tests::harness::{Requirement::Root, Requirement::Tool, Test};
use dz_tests::netns::Netns;
use dz_tests::wait::eventually;

const PORT: u16 = 44880;

fn us() -> String {
    format!("process {}", std::process::id())
}

fn an_interface_lock_is_per_namespace() -> Result<()> {
    let (one, two) = (Netns::new("lock")?, Netns::new("lock")?);
    let lock = one.run(|| InterfaceLock::acquire("doublezero0"))?;
    let error = one
        .run(|| InterfaceLock::acquire("doublezero0"))
        .err()
        .context("it is taken")?;
    ensure!(
        error.is_busy() && error.to_string().contains(&us()),
        "{error}"
    );
    two.run(|| InterfaceLock::acquire("doublezero0"))?;
    drop(lock);
    freed(|| one.run(|| InterfaceLock::acquire("doublezero0")).map(drop))
}

/// Waits until something that was let go of can be had again: a child that another test is starting may
/// hold a copy of its descriptor for a moment.
fn freed<E: Display>(take: impl FnMut() -> Result<(), E>) -> Result<()> {
    eventually(PATIENCE, "what was let go of", take)
}

fn a_pin_directory_on_bpffs() -> Result<()> {
    let directory = bpffs::Directory::new("lock")?;
    let lock = PinDirLock::acquire(directory.path())?;
    let error = PinDirLock::acquire(directory.path())
        .err()
        .context("it is taken")?;
    let words = error.to_string();
    ensure!(error.is_busy() && words.contains(&us()), "{words}");
    drop(lock);
    PinDirLock::acquire(directory.path())?;
    Ok(())
}

fn the_port_is_ours_on_that_interface() -> Result<()> {
    let netns = Netns::new("port")?;
    netns.ip("link add v0 type veth peer name v1")?;
    netns.ip("address add 10.0.0.1/24 dev v0")?;
    let guard = netns.run(|| PortGuard::bind("v0", PORT))?;
    ensure!(
        netns.run(|| PortGuard::bind("v1", PORT)).is_ok(),
        "another interface is free"
    );
    for address in ["0.0.0.0", "10.0.0.1"] {
        let bound = netns.run(|| UdpSocket::bind((address, PORT)));
        ensure!(bound.is_err(), "{address} could be bound beside the guard");
    }
    let error = netns
        .run(|| PortGuard::bind("v0", PORT))
        .err()
        .context("it is taken")?;
    ensure!(error.is_taken(), "{error}");
    drop(guard);
    freed(|| netns.run(|| PortGuard::bind("v0", PORT)).map(drop))
}

fn a_taken_port_is_told_from_other_errors() -> Result<()> {
    let netns = Netns::new("port")?;
    netns.ip("link add v0 type veth peer name v1")?;
    for address in ["0.0.0.0", "[::]"] {
        let bind = || netns.run(|| UdpSocket::bind(format!("{address}:{PORT}")));
        let other = eventually(PATIENCE, "a free port", bind)?;
        let error = netns
            .run(|| PortGuard::bind("v0", PORT))
            .err()
            .context("it is taken")?;
        ensure!(error.is_taken(), "{address}: {error}");
        drop(other);
    }
    match netns.run(|| PortGuard::bind("v9", PORT)) {
        Err(PortError::NoInterface { .. }) => Ok(()),
        other => anyhow::bail!("{other:?}"),
    }
}

/// What reaches the guard is dropped: no ICMP error to the sender, nothing queued.
fn the_guard_keeps_silent() -> Result<()> {
    let netns = Netns::new("port")?;
    let other = Netns::new("port")?;
    let (here, there) = (netns.name(), other.name());
    netns.ip(&format!(
        "link add v0 netns {here} type veth peer name v1 netns {there}"
    ))?;
    netns.ip("address add 10.0.0.1/24 dev v0")?;
    netns.ip("link set v0 up")?;
    other.ip("address add 10.0.0.2/24 dev v1")?;
    other.ip("link set v1 up")?;
    // A connected socket is told of ICMP errors by its next call.
    let refused = |guarded: bool| -> Result<bool> {
        let socket = other.run(|| -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind(("10.0.0.2", 0))?;
            socket.connect(("10.0.0.1", PORT))?;
            socket.send(b"one")?;
            Ok(socket)
        })?;
        // An echo that is answered after it shows that the datagram has been dealt with.
        other.command("ping -c 1 -W 5 10.0.0.1")?;
        let error = socket.take_error()?;
        let queued = netns.command("cat /proc/net/udp")?;
        if guarded {
            let line = queued
                .lines()
                .find(|line| line.contains(&format!(":{PORT:04X} ")));
            let line = line.context("the guard is not in the table")?;
            ensure!(
                line.contains(" 00000000:00000000 "),
                "something queues: {line}"
            );
        }
        Ok(error.is_some())
    };
    ensure!(refused(false)?, "without the guard the sender is told");
    let _guard = netns.run(|| PortGuard::bind("v0", PORT))?;
    ensure!(!refused(true)?, "with the guard it is not");
    Ok(())
}

fn a_lock_on_a_path_that_is_not_there() -> Result<()> {
    let error = PinDirLock::acquire(Path::new("/sys/fs/bpf/dz-test-none")).err();
    ensure!(error.is_some_and(|error| !error.is_busy()));
    Ok(())
}

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "lock::per_namespace",
            &[Root],
            an_interface_lock_is_per_namespace,
        ),
        Test::new("lock::pin_directory", &[Root], a_pin_directory_on_bpffs),
        Test::new(
            "lock::no_pin_directory",
            &[Root],
            a_lock_on_a_path_that_is_not_there,
        ),
        Test::new(
            "port::ours_on_that_interface",
            &[Root],
            the_port_is_ours_on_that_interface,
        ),
        Test::new(
            "port::taken",
            &[Root],
            a_taken_port_is_told_from_other_errors,
        ),
        Test::new(
            "port::silent",
            &[Root, Tool("ping")],
            the_guard_keeps_silent,
        ),
    ]
}
