//! Names and files that the agent's locks are made of, or were once.

use std::fs::{self, File, Permissions};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dz_agent::host::lock;
use dz_tests::agent::{Agent, Home};
use dz_tests::bed::{Bed, INTERFACE, connect};
use dz_tests::harness::Test;
use dz_tests::nobody::become_nobody;
use dz_tests::veth::{self, End};

use crate::needs::NEEDS;

/// Another interface, by which there may be a way around.
const UNDER: &str = "under0";

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("locks::names", &NEEDS, names),
        Test::new("locks::directory_of_the_socket", &NEEDS, socket_directory),
        Test::new("locks::files", &NEEDS, files),
    ]
}

/// He has the abstract sockets whose names were once the locks, of ours and of a way around.
fn names() -> Result<()> {
    let bed = Bed::new("names", Duration::ZERO)?;
    let (near, far) = (
        End::new(&bed.here, UNDER, "198.51.100.1/30"),
        End::new(&bed.there, UNDER, "198.51.100.2/30"),
    );
    veth::pair(&near, &far)?;
    let _taken = bed.here.run(|| -> Result<_> {
        become_nobody()?;
        let mut sockets = Vec::new();
        for name in [INTERFACE, UNDER] {
            let address = SocketAddr::from_abstract_name(format!("dz-agent/{name}"))?;
            sockets.push(UnixListener::bind_addr(&address)?);
        }
        Ok(sockets)
    })?;
    let agent = bed.agent(100)?;
    connect(&agent)?;
    let served = bed.here.run(lock::served);
    ensure!(served.iter().eq([INTERFACE]), "{served:?}");
    Ok(())
}

/// He locks the directory of the socket, which everybody may open.
fn socket_directory() -> Result<()> {
    let bed = Bed::new("socket", Duration::ZERO)?;
    let home = Home::new()?;
    let socket = home.socket();
    let directory = socket.parent().context("it is in a directory")?;
    fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    let _locked = bed.here.run(|| -> Result<File> {
        become_nobody()?;
        let file = File::open(directory)?;
        file.try_lock()?;
        Ok(file)
    })?;
    Agent::start_in(home, &bed.here, &["--interface", INTERFACE])?;
    Ok(())
}

/// He finds nothing that he could lock or make.
fn files() -> Result<()> {
    let bed = Bed::new("files", Duration::ZERO)?;
    let agent = bed.agent(100)?;
    let mut ours = vec![Path::new(lock::DIRECTORY).to_owned()];
    ours.push(agent.home().pin_dir().to_owned());
    for file in fs::read_dir(lock::DIRECTORY)? {
        ours.push(file?.path());
    }
    ensure!(ours.len() > 2, "no lock: {ours:?}");
    bed.here.run(|| -> Result<()> {
        become_nobody()?;
        for path in &ours {
            let opened = File::open(path).err().map(|error| error.kind());
            ensure!(
                opened == Some(std::io::ErrorKind::PermissionDenied),
                "{}: {opened:?}",
                path.display()
            );
        }
        let made = File::create_new(Path::new(lock::DIRECTORY).join("net-1-eth0"));
        ensure!(made.is_err(), "he can make locks");
        Ok(())
    })
}
