//! Kinds of system calls: what is called, on what, and how it may fail.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use super::listener::Asked;

/// What a call's first argument says of it.
#[derive(Clone, Copy)]
enum On {
    /// Nothing.
    Nothing,
    /// A descriptor.
    Descriptor,
    /// A command of bpf(2).
    Command,
    /// The path behind a descriptor of a folder, or the path alone.
    PathAt,
    Path,
    /// A descriptor, which memory has none of.
    Mapping,
    /// A socket's family.
    Family,
}

const MEMORY: &[Errno] = &[Errno::ENOMEM];
const THREAD: &[Errno] = &[Errno::ENOMEM, Errno::EAGAIN];
const FILE: &[Errno] = &[Errno::ENOMEM, Errno::EIO, Errno::EINTR];
const READ: &[Errno] = &[Errno::EIO, Errno::EINTR, Errno::ENOMEM];
const SOCKET: &[Errno] = &[Errno::ENOMEM, Errno::ENOBUFS];
/// Not `EAGAIN`: it means that an edge is still to come, which does not where it was made up.
const TALK: &[Errno] = &[Errno::ENOBUFS, Errno::ENOMEM, Errno::EINTR];
/// Of a Unix socket, whose other end is busy.
const CONNECT: &[Errno] = &[Errno::ENOMEM, Errno::EINTR, Errno::EAGAIN];
const WAIT: &[Errno] = &[Errno::EINTR];
const BPF: &[Errno] = &[Errno::ENOMEM, Errno::EINTR, Errno::EAGAIN];

/// System calls with their names, errors and what they work on. A call that is not here fails for want of memory.
const CALLS: &[(libc::c_long, &str, &[Errno], On)] = &[
    (libc::SYS_bpf, "bpf", BPF, On::Command),
    (libc::SYS_openat, "openat", FILE, On::PathAt),
    (libc::SYS_mkdirat, "mkdirat", FILE, On::PathAt),
    (libc::SYS_unlinkat, "unlinkat", FILE, On::PathAt),
    (libc::SYS_readlinkat, "readlinkat", FILE, On::PathAt),
    (libc::SYS_newfstatat, "newfstatat", FILE, On::PathAt),
    (libc::SYS_statx, "statx", FILE, On::PathAt),
    (libc::SYS_faccessat, "faccessat", FILE, On::PathAt),
    (libc::SYS_fchmodat, "fchmodat", FILE, On::PathAt),
    (libc::SYS_renameat2, "renameat2", FILE, On::PathAt),
    (libc::SYS_statfs, "statfs", FILE, On::Path),
    (libc::SYS_fstat, "fstat", FILE, On::Descriptor),
    (libc::SYS_fstatfs, "fstatfs", FILE, On::Descriptor),
    (libc::SYS_getdents64, "getdents64", FILE, On::Descriptor),
    (libc::SYS_read, "read", READ, On::Descriptor),
    (libc::SYS_pread64, "pread64", READ, On::Descriptor),
    (libc::SYS_readv, "readv", READ, On::Descriptor),
    (libc::SYS_write, "write", READ, On::Descriptor),
    (libc::SYS_writev, "writev", READ, On::Descriptor),
    (libc::SYS_fsync, "fsync", FILE, On::Descriptor),
    (libc::SYS_flock, "flock", READ, On::Descriptor),
    (libc::SYS_fchmod, "fchmod", FILE, On::Descriptor),
    (libc::SYS_lseek, "lseek", &[Errno::EIO], On::Descriptor),
    (libc::SYS_fcntl, "fcntl", MEMORY, On::Descriptor),
    (libc::SYS_ioctl, "ioctl", FILE, On::Descriptor),
    (libc::SYS_socket, "socket", SOCKET, On::Family),
    (libc::SYS_socketpair, "socketpair", SOCKET, On::Family),
    (libc::SYS_bind, "bind", SOCKET, On::Descriptor),
    (libc::SYS_listen, "listen", SOCKET, On::Descriptor),
    (libc::SYS_connect, "connect", CONNECT, On::Descriptor),
    (libc::SYS_accept4, "accept4", TALK, On::Descriptor),
    (libc::SYS_sendto, "sendto", TALK, On::Descriptor),
    (libc::SYS_sendmsg, "sendmsg", TALK, On::Descriptor),
    (libc::SYS_recvfrom, "recvfrom", TALK, On::Descriptor),
    (libc::SYS_recvmsg, "recvmsg", TALK, On::Descriptor),
    (libc::SYS_setsockopt, "setsockopt", SOCKET, On::Descriptor),
    (libc::SYS_getsockopt, "getsockopt", SOCKET, On::Descriptor),
    (libc::SYS_getsockname, "getsockname", SOCKET, On::Descriptor),
    (libc::SYS_shutdown, "shutdown", SOCKET, On::Descriptor),
    (libc::SYS_mmap, "mmap", THREAD, On::Mapping),
    (libc::SYS_clone3, "clone3", THREAD, On::Nothing),
    (
        libc::SYS_epoll_create1,
        "epoll_create1",
        MEMORY,
        On::Nothing,
    ),
    (libc::SYS_epoll_ctl, "epoll_ctl", MEMORY, On::Nothing),
    (libc::SYS_epoll_pwait, "epoll_pwait", WAIT, On::Nothing),
    (libc::SYS_epoll_pwait2, "epoll_pwait2", WAIT, On::Nothing),
    (libc::SYS_ppoll, "ppoll", WAIT, On::Nothing),
    (libc::SYS_eventfd2, "eventfd2", MEMORY, On::Nothing),
    (
        libc::SYS_timerfd_create,
        "timerfd_create",
        MEMORY,
        On::Nothing,
    ),
    (
        libc::SYS_timerfd_settime,
        "timerfd_settime",
        &[],
        On::Descriptor,
    ),
    (libc::SYS_pipe2, "pipe2", MEMORY, On::Nothing),
    (libc::SYS_dup, "dup", MEMORY, On::Descriptor),
    (libc::SYS_getrandom, "getrandom", WAIT, On::Nothing),
    (libc::SYS_mount, "mount", MEMORY, On::Nothing),
    (libc::SYS_prctl, "prctl", MEMORY, On::Nothing),
    (libc::SYS_capget, "capget", MEMORY, On::Nothing),
    (libc::SYS_capset, "capset", MEMORY, On::Nothing),
    (libc::SYS_membarrier, "membarrier", MEMORY, On::Nothing),
    (libc::SYS_mlockall, "mlockall", THREAD, On::Nothing),
    (
        libc::SYS_sched_setscheduler,
        "sched_setscheduler",
        MEMORY,
        On::Nothing,
    ),
    (
        libc::SYS_sched_getaffinity,
        "sched_getaffinity",
        MEMORY,
        On::Nothing,
    ),
    (libc::SYS_sigaltstack, "sigaltstack", &[], On::Nothing),
    (libc::SYS_seccomp, "seccomp", MEMORY, On::Nothing),
    (libc::SYS_getcwd, "getcwd", MEMORY, On::Nothing),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "epoll_wait", WAIT, On::Nothing),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "poll", WAIT, On::Nothing),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open", FILE, On::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_stat, "stat", FILE, On::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, "access", FILE, On::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_readlink, "readlink", FILE, On::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", FILE, On::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", FILE, On::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", FILE, On::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", FILE, On::Path),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, "chmod", FILE, On::Path),
];

/// Descriptors whose reads and writes fail in no kernel, but for want of something to read: tokio takes any other error for the end
/// of the world.
const NEVER_FAIL: [&str; 2] = ["eventfd", "timerfd"];

/// Commands of bpf(2) by their numbers (include/uapi/linux/bpf.h).
const COMMANDS: [&str; 36] = [
    "MAP_CREATE",
    "MAP_LOOKUP_ELEM",
    "MAP_UPDATE_ELEM",
    "MAP_DELETE_ELEM",
    "MAP_GET_NEXT_KEY",
    "PROG_LOAD",
    "OBJ_PIN",
    "OBJ_GET",
    "PROG_ATTACH",
    "PROG_DETACH",
    "PROG_TEST_RUN",
    "PROG_GET_NEXT_ID",
    "MAP_GET_NEXT_ID",
    "PROG_GET_FD_BY_ID",
    "MAP_GET_FD_BY_ID",
    "OBJ_GET_INFO_BY_FD",
    "PROG_QUERY",
    "RAW_TRACEPOINT_OPEN",
    "BTF_LOAD",
    "BTF_GET_FD_BY_ID",
    "TASK_FD_QUERY",
    "MAP_LOOKUP_AND_DELETE_ELEM",
    "MAP_FREEZE",
    "BTF_GET_NEXT_ID",
    "MAP_LOOKUP_BATCH",
    "MAP_LOOKUP_AND_DELETE_BATCH",
    "MAP_UPDATE_BATCH",
    "MAP_DELETE_BATCH",
    "LINK_CREATE",
    "LINK_UPDATE",
    "LINK_GET_FD_BY_ID",
    "LINK_GET_NEXT_ID",
    "ENABLE_STATS",
    "ITER_CREATE",
    "LINK_DETACH",
    "PROG_BIND_MAP",
];

/// Returns the name of a call's kind, of a process; none if it is not one to be made fail: memory that is no file's.
pub(super) fn of(asked: &Asked, process: i32) -> Option<String> {
    let first = asked.arguments[0];
    let descriptor = |descriptor: u64| {
        let link = format!("/proc/{process}/fd/{}", descriptor as i32);
        let shown = fs::read_link(link).map(|path| plain(&path.to_string_lossy()));
        match shown.as_deref() {
            Ok("socket") => socket(process, descriptor as i32),
            Ok(shown) => shown.to_owned(),
            Err(_) => "?".to_owned(),
        }
    };
    let Some((_, name, _, on)) = CALLS.iter().find(|call| call.0 == asked.number) else {
        return Some(format!("call {}", asked.number));
    };
    let on = match on {
        On::Nothing => return Some((*name).to_owned()),
        On::Descriptor => descriptor(first),
        On::Command => COMMANDS
            .get(first as usize)
            .copied()
            .unwrap_or("?")
            .to_owned(),
        On::PathAt => match text(asked.thread, asked.arguments[1]) {
            path if path.is_empty() => descriptor(first),
            path => plain(&path),
        },
        On::Path => plain(&text(asked.thread, first)),
        On::Mapping if asked.arguments[3] & libc::MAP_ANONYMOUS as u64 != 0 => return None,
        On::Mapping => descriptor(asked.arguments[4]),
        On::Family => family(first as i32, asked.arguments[2] as i32),
    };
    Some(format!("{name} {on}"))
}

/// Says whether a call is of a kind. Cheap where it is another system call.
pub(super) fn is_of(asked: &Asked, process: i32, kind: &str) -> bool {
    let known = CALLS.iter().find(|call| call.0 == asked.number);
    let name = kind.split(' ').next().unwrap_or(kind);
    known.is_none_or(|call| call.1 == name) && of(asked, process).as_deref() == Some(kind)
}

/// Returns the errors that calls of a kind are made to fail with.
pub fn errors(kind: &str) -> &'static [Errno] {
    let (name, on) = kind.split_once(' ').unwrap_or((kind, ""));
    if NEVER_FAIL.contains(&on) && ["read", "write"].contains(&name) {
        return &[];
    }
    CALLS
        .iter()
        .find(|call| call.1 == name)
        .map_or(MEMORY, |call| call.2)
}

fn family(family: i32, protocol: i32) -> String {
    match family {
        libc::AF_UNIX => "unix".to_owned(),
        libc::AF_INET => "inet".to_owned(),
        libc::AF_NETLINK => format!("netlink {protocol}"),
        other => format!("family {other}"),
    }
}

/// Returns the family of a process's socket, looked at by a copy of its descriptor.
fn socket(process: i32, descriptor: i32) -> String {
    let option = |copy: &OwnedFd, name| {
        let (mut value, mut length) = (0_i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: both are alive during the call, and the length is the value's.
        unsafe {
            libc::getsockopt(
                copy.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        value
    };
    let copy = new_descriptor(libc::SYS_pidfd_open, process, 0)
        .and_then(|process| new_descriptor(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor));
    copy.map_or_else(
        || "socket".to_owned(),
        |copy| {
            family(
                option(&copy, libc::SO_DOMAIN),
                option(&copy, libc::SO_PROTOCOL),
            )
        },
    )
}

fn new_descriptor(call: libc::c_long, first: i32, second: i32) -> Option<OwnedFd> {
    // SAFETY: system calls without pointers.
    let descriptor = unsafe { libc::syscall(call, first, second, 0) };
    // SAFETY: the call has just returned it, and nobody else knows it.
    (descriptor >= 0).then(|| unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

/// Returns a path as it is in every run: numbers and temporary names are the same there.
fn plain(path: &str) -> String {
    let parts = path.split('/').map(|part| {
        if let Some(rest) = part.strip_prefix("anon_inode:") {
            rest.trim_matches(['[', ']']).to_owned()
        } else if let Some((kind, _)) = part.split_once(":[") {
            kind.to_owned()
        } else if part.starts_with(".tmp")
            || part.starts_with("dz-test-")
            || part.starts_with("dzt-")
        {
            "TEST".to_owned()
        } else if let Some(rest) = part.strip_prefix("net-") {
            // A lock's file: the number of the namespace, the interface.
            let name = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("net-N{name}")
        } else if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            "N".to_owned()
        } else {
            part.to_owned()
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Reads the text at an address of a thread that waits.
fn text(thread: i32, address: u64) -> String {
    let mut bytes = [0; 256];
    let length = File::open(format!("/proc/{thread}/mem"))
        .and_then(|memory| memory.read_at(&mut bytes, address))
        .unwrap_or(0);
    let end = bytes[..length].iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(length)]).into_owned()
}
