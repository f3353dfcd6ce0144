//! BIRD 2, unmodified, beside the agent on two hosts: it speaks BGP over the tunnel, and the agents
//! follow what it learns. A route is as good as its session is alive, although BIRD knows nothing of
//! that; its own view and its routes in the kernel's table never change because of us.
//!
//! Each test runs over GRE where the kernel has it, and over a veth pair elsewhere.

mod beside;
mod daemon;
mod flapping;
mod follow;
mod plain;
mod scene;
mod sessions;
mod traffic;

use std::process::ExitCode;

use dz_tests::harness::{Requirement, Test, run};

use scene::Kind;

type Run = fn(Kind) -> anyhow::Result<()>;

fn main() -> ExitCode {
    let all: [(&str, Run); 10] = [
        ("daemon::alone", daemon::alone),
        ("follow::stopped", follow::stopped),
        ("follow::crashed", follow::crashed),
        ("follow::withdrawn", follow::withdrawn),
        ("follow::daemon_ended", follow::daemon_ended),
        ("follow::daemon_killed", follow::daemon_killed),
        ("plain::stopped", plain::stopped),
        ("plain::tunnel_anew", plain::tunnel_anew),
        ("flapping::by_bird", flapping::by_bird),
        ("flapping::by_netlink", flapping::by_netlink),
    ];
    let gre = Requirement::LinkKind("gre").missing().is_none();
    let kinds = Kind::ALL
        .into_iter()
        .filter(|kind| !gre || *kind == Kind::Gre);
    let tests = kinds.flat_map(|kind| {
        all.into_iter().map(move |(name, run)| {
            let name = format!("{}::{name}", kind.name());
            Test::new(name, &needs(kind), move || run(kind))
        })
    });
    run(tests.collect())
}

fn needs(kind: Kind) -> Vec<Requirement> {
    let mut needs = vec![Requirement::Root];
    needs.extend(["bird", "ethtool"].map(Requirement::Tool));
    if kind == Kind::Gre {
        needs.push(Requirement::LinkKind("gre"));
    }
    needs
}
