//! Has freed memory given back to the kernel.

/// Blocks of this size on have a mapping of their own, which ends when they are freed, bytes.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 << 10;

/// Has large blocks given back to the kernel when they are freed. glibc raises the size from which it
/// does so with every such block up to 32 MiB, so that the lists and texts of a full check or a scrape
/// would stay the agent's for ever, and locked, where memory is locked.
pub fn give_large_blocks_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a call without pointers, before there are other threads. It cannot fail for a size within
    // glibc's bounds; if it did, more memory would be kept.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
