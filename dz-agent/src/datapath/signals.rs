//! Keeps signals waiting while programs are loaded.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Keeps signals from this thread while programs are loaded, also those by which aya finds out what
/// the kernel can: the verifier gives up with EAGAIN when a signal is pending (`do_check`), and SIGHUP
/// during a start must not be its end. They wait.
pub fn undisturbed<T>(load: impl FnOnce() -> T) -> T {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let loaded = load();
    if let Ok(before) = before {
        // It was in force a moment ago.
        let _ = before.thread_set_mask();
    }
    loaded
}
