//! The kernel's side of it: a seccomp filter that asks a listener about system calls
//! (`SECCOMP_RET_USER_NOTIF`), and the listener's descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::seccomp::{ALLOW, LOAD_NUMBER, instruction, jump_unless_equal};

/// Calls that nobody is asked about: they hand out memory, wait for other threads or read a clock, and cannot fail in a
/// program that is right, or have no error that it could act upon. A `close` that is made to fail would leave a
/// descriptor open, which the kernel's never does.
const LET_THROUGH: [libc::c_long; 29] = [
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prlimit64,
    libc::SYS_uname,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_tgkill,
];

/// A call that waits for the listener's answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    id: u64,
    /// The thread that makes it.
    pub(super) thread: i32,
    pub(super) number: i64,
    pub(super) arguments: [u64; 6],
}

/// The listener's descriptor.
#[derive(Debug)]
pub(super) struct Listener(OwnedFd);

impl Listener {
    /// Has the calling thread, and every process and thread that it starts from now on, ask about its calls.
    ///
    /// # Errors
    /// No privilege, or a kernel without it.
    pub(super) fn install() -> io::Result<Self> {
        let mut filter = vec![LOAD_NUMBER];
        for number in LET_THROUGH {
            filter.extend([jump_unless_equal(number as u32, 1), ALLOW]);
        }
        let ask = libc::SECCOMP_RET_USER_NOTIF;
        filter.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, ask));
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: the program and its instructions are alive during the call, which copies them.
        let descriptor = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned it, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor as i32) }))
    }

    /// Takes the next call that waits; none if it does not any more.
    pub(super) fn next(&self) -> io::Result<Option<Asked>> {
        // SAFETY: all zero is a value of it, and what the kernel wants to be given.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes a `seccomp_notif` there.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut asked,
            )
        };
        if result < 0 {
            return match io::Error::last_os_error() {
                gone if gone.raw_os_error() == Some(libc::ENOENT) => Ok(None),
                error => Err(error),
            };
        }
        Ok(Some(Asked {
            id: asked.id,
            thread: asked.pid as i32,
            number: asked.data.nr.into(),
            arguments: asked.data.args,
        }))
    }

    /// Has the kernel carry the call out.
    pub(super) fn go_on(&self, asked: &Asked) {
        self.answer(asked, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    /// Has the call fail, not carried out.
    pub(super) fn fail(&self, asked: &Asked, errno: i32) {
        self.answer(asked, -errno, 0);
    }

    fn answer(&self, asked: &Asked, error: i32, flags: u32) {
        let mut answer = libc::seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error,
            flags,
        };
        // Whoever has asked may be dead by now, and then there is nobody to tell.
        // SAFETY: the kernel reads a `seccomp_notif_resp` there.
        unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw mut answer,
            )
        };
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
