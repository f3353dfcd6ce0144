//! A kernel without bpf(2), or without memory for it, for one child: a seccomp filter answers in its
//! place.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Offsets in the kernel's `struct seccomp_data`: the system call's number, and the lower half of its
/// first argument on a little-endian machine.
const NUMBER: u32 = 0;
const FIRST_ARGUMENT: u32 = 16;

/// `struct sock_filter` of classic BPF.
pub(crate) const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// A command of bpf(2) (include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BpfCommand {
    /// `BPF_MAP_CREATE`
    MapCreate = 0,
    /// `BPF_PROG_LOAD`
    ProgLoad = 5,
    /// `BPF_OBJ_PIN`
    ObjPin = 6,
    /// `BPF_OBJ_GET`
    ObjGet = 7,
    /// `BPF_PROG_TEST_RUN`
    ProgTestRun = 10,
    /// `BPF_OBJ_GET_INFO_BY_FD`
    ObjGetInfo = 15,
    /// `BPF_PROG_QUERY`
    ProgQuery = 16,
    /// `BPF_LINK_CREATE`
    LinkCreate = 28,
    /// `BPF_LINK_UPDATE`
    LinkUpdate = 29,
}

/// Makes bpf(2) fail with `ENOSYS` in the child, as in a kernel without `CONFIG_BPF_SYSCALL`.
pub fn without_bpf(command: &mut Command) -> &mut Command {
    let bpf = jump_unless_equal(libc::SYS_bpf as u32, 1);
    let refuse = refusal(libc::ENOSYS);
    // SAFETY: between fork and exec, `install` makes two system calls and touches no lock or heap.
    unsafe { command.pre_exec(move || install(&mut [LOAD_NUMBER, bpf, refuse, ALLOW])) }
}

/// Makes one command of bpf(2) fail in the child for want of memory.
pub fn without_memory_for(command: &mut Command, refused: BpfCommand) -> &mut Command {
    let bpf = jump_unless_equal(libc::SYS_bpf as u32, 3);
    let same = jump_unless_equal(refused as u32, 1);
    let refuse = refusal(libc::ENOMEM);
    // SAFETY: as above.
    unsafe {
        command.pre_exec(move || {
            install(&mut [LOAD_NUMBER, bpf, LOAD_FIRST_ARGUMENT, same, refuse, ALLOW])
        })
    }
}

/// Loads the number of the system call.
pub(crate) const LOAD_NUMBER: libc::sock_filter = load(NUMBER);
const LOAD_FIRST_ARGUMENT: libc::sock_filter = load(FIRST_ARGUMENT);
/// Lets the call through.
pub(crate) const ALLOW: libc::sock_filter =
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW);

const fn load(offset: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

/// Skips so many instructions unless the value that was loaded last is this one.
pub(crate) const fn jump_unless_equal(value: u32, over: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, over, value)
}

const fn refusal(errno: libc::c_int) -> libc::sock_filter {
    let action = libc::SECCOMP_RET_ERRNO | errno as u32;
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: a system call without pointers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the program and its instructions are alive during the call, which copies them.
    check(unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
