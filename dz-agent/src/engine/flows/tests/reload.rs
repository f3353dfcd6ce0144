//! The file of peers, read again.

use std::net::Ipv4Addr;

use dz_common::map::{Origin, Peer};
use tokio::sync::oneshot;

use super::{LOCAL, Machine, NAME, PEER, Process, options};
use crate::command::{Command, RefusalKind};
use crate::engine::state::keys::peer_key;
use crate::engine::state::reloads::AskedBy;
use crate::engine::state::wants::Configured;
use crate::engine::turn::Turn;
use crate::error::{ExitCode, Failure};
use crate::settings::{PeerSpec, Policy};

/// A file that names the peer, with the timers of these options.
pub(super) fn file(words: &[&str]) -> Configured {
    file_of(words, [PEER])
}

fn file_of(words: &[&str], peers: impl IntoIterator<Item = Ipv4Addr>) -> Configured {
    let timers = options(words).timers();
    let peer = |address| Peer {
        origin: Origin::Config,
        left_out: 0,
        ..PeerSpec::new(address, LOCAL).peer(&timers)
    };
    let peers = peers.into_iter();
    peers
        .map(|address| (peer_key(NAME, address), peer(address)))
        .collect()
}

impl Process {
    fn reload(
        &mut self,
        force: bool,
        file: Result<Configured, Failure>,
    ) -> Result<usize, RefusalKind> {
        let (reply, mut answer) = oneshot::channel();
        let reading = Box::pin(std::future::pending());
        let asked_by = AskedBy::Request { force, reply };
        self.engine.wants.reloads_mut().begin(reading, asked_by);
        let read = file.map(|configured| (configured, Policy::default()));
        self.take(Turn::FileRead(Box::new(read)));
        let reloaded = answer.try_recv().unwrap();
        reloaded
            .map(|reloaded| reloaded.removed)
            .map_err(|refusal| refusal.kind)
    }
}

#[test]
fn a_file_without_most_peers_needs_force() {
    let many = || (2..10).map(|last| Ipv4Addr::new(10, 0, 0, last));
    let words = ["--max-sessions=64"];
    let machine = Machine::new();
    let mut process = machine.start_with(options(&words), file_of(&words, many()));
    assert_eq!(
        process.reload(false, Ok(file(&words))),
        Ok(7),
        "of less than ten"
    );
    let many = || (2..22).map(|last| Ipv4Addr::new(10, 0, 0, last));
    assert_eq!(process.reload(false, Ok(file_of(&words, many()))), Ok(0));
    process.let_pass(&machine);
    for file in [file(&words), Configured::default()] {
        let refused = process.reload(false, Ok(file));
        assert_eq!(refused, Err(RefusalKind::Conflict));
    }
    let unread = || Err(Failure::new(ExitCode::Usage, "line 1"));
    for force in [false, true] {
        assert_eq!(process.reload(force, unread()), Err(RefusalKind::Invalid));
    }
    assert_eq!(process.engine.peers.len(), 20);
    assert_eq!(process.reload(true, Ok(Configured::default())), Ok(20));
}

#[test]
fn one_request_at_a_time_reads_the_file() {
    let machine = Machine::new();
    let words = ["--peers=/nonexistent/peers"];
    let mut process = machine.start_with(options(&words), Configured::default());
    let mut ask = || {
        let (reply, answer) = oneshot::channel();
        let force = false;
        process.take(Turn::Command(Command::Reload { force, reply }));
        answer
    };
    let (mut first, mut second) = (ask(), ask());
    let second = second.try_recv().unwrap().unwrap_err();
    assert_eq!(second.kind, RefusalKind::Unavailable);
    assert!(first.try_recv().is_err(), "is being read");
    process.take(Turn::Reload);
    process.take(Turn::FileRead(Box::new(Ok(Default::default()))));
    assert!(first.try_recv().unwrap().is_ok());
    assert!(
        process.engine.wants.reloads().is_reading(),
        "once more, for SIGHUP"
    );
}
