//! The commands of bpf(2) that aya does not offer for a program of one's own instructions, and
//! `BPF_PROG_TEST_RUN` for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use dz_agent::datapath::undisturbed;

// From the kernel's `bpf.h`.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_PROG_ARRAY: u32 = 3;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// Prefixes of `union bpf_attr`, one per command. All without padding.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Where TCX runs programs; numbers of the kernel's `bpf.h`.
#[derive(Clone, Copy, Debug)]
pub enum Tcx {
    /// What comes in.
    Ingress = 46,
    /// What goes out.
    Egress = 47,
}

/// `r0 = TCX_NEXT; exit`, as `struct bpf_insn`: the next program decides.
pub const NEXT: [u64; 2] = [0xb7 | 0xffff_ffff << 32, 0x95];

/// Attaches a program behind those that a device carries, for as long as the link is open. The index
/// is looked up in the calling thread's namespace.
///
/// # Errors
/// As `bpf(2)`.
pub fn attach_tcx(program: BorrowedFd<'_>, ifindex: u32, hook: Tcx) -> io::Result<OwnedFd> {
    link_tcx(program, ifindex, hook, 0)
}

/// The same before those that a device carries.
///
/// # Errors
/// As `bpf(2)`.
pub fn attach_tcx_first(program: BorrowedFd<'_>, ifindex: u32, hook: Tcx) -> io::Result<OwnedFd> {
    /// `BPF_F_BEFORE`: before all, where none is named.
    const BEFORE: u32 = 1 << 3;
    link_tcx(program, ifindex, hook, BEFORE)
}

fn link_tcx(program: BorrowedFd<'_>, ifindex: u32, hook: Tcx, flags: u32) -> io::Result<OwnedFd> {
    descriptor(
        LINK_CREATE,
        &mut LinkCreate {
            prog_fd: program.as_raw_fd() as u32,
            target_ifindex: ifindex,
            attach_type: hook as u32,
            flags,
        },
    )
}

/// One run of a program, seen from outside.
#[derive(Debug)]
pub struct Ran {
    /// What the program returned.
    pub verdict: u32,
    /// Bytes written into the buffer for the frame.
    pub len: usize,
}

/// Runs a program over a frame; `after` gets the frame as the program leaves it.
///
/// # Errors
/// As `bpf(2)`.
pub fn test_run(
    program: BorrowedFd<'_>,
    frame: &[u8],
    context: &[u32],
    after: &mut [u8],
) -> io::Result<Ran> {
    let mut run = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_size_out: after.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    // The kernel takes an address without a size for one of enough room.
    if !after.is_empty() {
        run.data_out = after.as_mut_ptr() as u64;
    }
    // It refuses such an address of a context.
    if !context.is_empty() {
        run.ctx_size_in = size_of_val(context) as u32;
        run.ctx_in = context.as_ptr() as u64;
    }
    bpf(PROG_TEST_RUN, &mut run)?;
    Ok(Ran {
        verdict: run.retval,
        len: run.data_size_out as usize,
    })
}

/// Runs a program over a frame many times, each time over what the run before has left of it, and
/// returns how long one run takes, ns. By the kernel's clock, which says whole nanoseconds: ours
/// would see what the kernel does before the first run, which for XDP is a grace period.
///
/// # Errors
/// As `bpf(2)`.
pub fn test_run_time(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<u32> {
    let mut run = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut run)?;
    Ok(run.duration)
}

/// Runs an XDP program over copies of a frame, so many, which go where the program sends them.
///
/// # Errors
/// As `bpf(2)`.
pub fn run_live_frames(program: BorrowedFd<'_>, frame: &[u8], frames: u32) -> io::Result<()> {
    let mut run = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: frames,
        flags: TEST_XDP_LIVE_FRAMES,
        ..TestRun::default()
    };
    bpf(PROG_TEST_RUN, &mut run).map(drop)
}

/// A map with one program in it, for tail calls.
///
/// # Errors
/// As `bpf(2)`.
pub fn program_array(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let map = descriptor(
        MAP_CREATE,
        &mut MapCreate {
            map_type: MAP_TYPE_PROG_ARRAY,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
        },
    )?;
    let (key, value) = (0_u32, program.as_fd().as_raw_fd());
    bpf(
        MAP_UPDATE_ELEM,
        &mut MapUpdate {
            map_fd: map.as_raw_fd() as u32,
            reserved: 0,
            key: &raw const key as u64,
            value: &raw const value as u64,
            flags: 0,
        },
    )?;
    Ok(map)
}

/// Loads a SCHED_CLS program of these instructions (`struct bpf_insn`).
///
/// # Errors
/// As `bpf(2)`.
pub fn load_classifier(instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut program = ProgLoad {
        prog_type: PROG_TYPE_SCHED_CLS,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    undisturbed(|| descriptor(PROG_LOAD, &mut program))
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: the attributes are a prefix of `union bpf_attr` of the size given, without padding;
    // what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    match RawFd::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `bpf(2)` for commands that return a descriptor.
fn descriptor<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: the call has just returned it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
