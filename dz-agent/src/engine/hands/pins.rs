//! Removes the pins, at the end of a withdrawal and of a start that has failed.

use std::fs;
use std::path::Path;

use tracing::warn;

use crate::datapath::Pin;

/// Removes our pins, and with them maps and links. `all`: otherwise they stay, for the kernel part of an
/// earlier agent is to go on.
pub(crate) fn remove_pins(pin_dir: &Path, all: bool) {
    if !all {
        return;
    }
    for pin in Pin::list(pin_dir).unwrap_or_default() {
        if let Err(error) = pin.remove(pin_dir) {
            warn!(pin = %pin.path(pin_dir).display(), %error, "pin not removed");
        }
    }
    // Fails if somebody else's file is in it, which is not ours to remove.
    let _ = fs::remove_dir(pin_dir);
}
