//! An XDP program that passes everything: native `XDP_TX` on a veth needs one on the peer's end.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::Context;

use crate::netns::Netns;

// From the kernel's `bpf.h` and `if_link.h`.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 4;
const XDP_PASS: u64 = 2;

/// `r0 = XDP_PASS; exit`, as `struct bpf_insn`: opcode, registers, offset, immediate.
const PASS_ALL: [u64; 2] = [0xb7 | XDP_PASS << 32, 0x95];

/// The first fields of the kernel's `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The same for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The program on one device, in native mode, for as long as the value lives.
#[derive(Debug)]
pub struct PassAll {
    _link: OwnedFd,
}

impl PassAll {
    /// Attaches it.
    ///
    /// # Errors
    /// The device does not exist, its driver has no XDP, or another program is attached.
    pub fn attach(netns: &Netns, name: &str) -> anyhow::Result<Self> {
        let ifindex = netns.ifindex(name)?;
        // The kernel looks the index up in the caller's namespace.
        let link = netns.run(|| attach(ifindex));
        let link = link.with_context(|| format!("XDP on {name} in {}", netns.name()))?;
        Ok(Self { _link: link })
    }
}

fn attach(ifindex: u32) -> io::Result<OwnedFd> {
    let program = bpf(
        BPF_PROG_LOAD,
        &ProgLoad {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: PASS_ALL.len() as u32,
            insns: PASS_ALL.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        },
    )?;
    bpf(
        BPF_LINK_CREATE,
        &LinkCreate {
            prog_fd: program.as_raw_fd() as u32,
            target_ifindex: ifindex,
            attach_type: BPF_XDP,
            flags: XDP_FLAGS_DRV_MODE,
        },
    )
}

/// `bpf(2)` for commands that return a descriptor.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are a prefix of `union bpf_attr` of the size given, without padding;
    // what they point to is static.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    let fd = RawFd::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the call has just returned it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
