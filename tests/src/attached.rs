//! What BPF programs a device carries, asked of the kernel.

use std::io;
use std::time::Duration;

use anyhow::Context;

use crate::harness::Requirement;
use crate::netns::Netns;
use crate::wait::eventually;

/// For what the kernel does soon, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

// From the kernel's `bpf.h`.
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// The kernel's `union bpf_attr` for `BPF_PROG_QUERY`, as far as it has grown for TCX.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    reserved: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Whether programs are attached by TCX, which came with 6.6, and not as filters of the clsact qdisc,
/// which have no links that could be pinned.
pub fn by_tcx() -> bool {
    Requirement::Kernel(6, 6).missing().is_none()
}

/// How many programs a device carries: TC's of both directions, and XDP.
///
/// # Errors
/// There is no such device, or the kernel refuses.
pub fn programs(netns: &Netns, name: &str) -> anyhow::Result<u32> {
    let ifindex = netns.ifindex(name)?;
    let tc = if by_tcx() {
        let tcx = netns.run(|| Ok(tcx(ifindex, BPF_TCX_INGRESS)? + tcx(ifindex, BPF_TCX_EGRESS)?));
        tcx.map_err(|error: io::Error| error)
            .context("BPF_PROG_QUERY")?
    } else {
        clsact(netns, name)?
    };
    let shown = netns.ip(&format!("-o link show {name}"))?;
    let xdp = shown
        .split_whitespace()
        .any(|word| word.starts_with("prog/xdp"));
    Ok(tc + u32::from(xdp))
}

/// Waits until a device carries so many: the kernel takes a program off only a grace period after the
/// last pin of its link is gone (`bpf_free_inode`).
///
/// # Errors
/// It does not in time.
pub fn until(netns: &Netns, name: &str, programs: u32) -> anyhow::Result<()> {
    eventually(PATIENCE, "programs on the device", || {
        let found = self::programs(netns, name)?;
        anyhow::ensure!(found == programs, "{found} on {name}, not {programs}");
        anyhow::Ok(())
    })
}

/// Below Linux 6.6: the filters that run a program, one line each with its id.
fn clsact(netns: &Netns, name: &str) -> anyhow::Result<u32> {
    let mut programs = 0;
    for hook in ["ingress", "egress"] {
        let shown = netns.command(&format!("tc filter show dev {name} {hook}"))?;
        let runs = |line: &&str| line.contains(" direct-action ") && line.contains(" id ");
        programs += u32::try_from(shown.lines().filter(runs).count())?;
    }
    Ok(programs)
}

fn tcx(ifindex: u32, attach_type: u32) -> io::Result<u32> {
    let mut query = ProgQuery {
        target_ifindex: ifindex,
        attach_type,
        ..ProgQuery::default()
    };
    // SAFETY: the attributes are a prefix of `union bpf_attr` of the size given, which the kernel
    // reads and writes during the call; the pointers in it are null, which asks for the count only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<ProgQuery>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(query.count)
}
