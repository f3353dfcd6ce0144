//! A kernel without bpf(2), for one child: a seccomp filter answers in its place.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Offset of the system call's number in the kernel's `struct seccomp_data`.
const NUMBER: u32 = 0;

/// `struct sock_filter` of classic BPF.
const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// Makes bpf(2) fail with `ENOSYS` in the child, as in a kernel without `CONFIG_BPF_SYSCALL`.
pub fn without_bpf(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec, `install` makes two system calls and touches no lock or heap.
    unsafe { command.pre_exec(install) }
}

fn install() -> io::Result<()> {
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, NUMBER),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_bpf as u32,
        ),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
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
