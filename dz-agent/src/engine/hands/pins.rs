//! Taking the pins away: the last step of a stop for good, and of a start that fails.

use std::fs;
use std::path::Path;

use tracing::warn;

use crate::datapath::Pin;

/// Removes our pins, and with them the maps and links. `all`: nothing there is anybody else's.
pub(crate) fn remove_pins(pin_dir: &Path, all: bool) {
    if !all {
        return;
    }
    for pin in Pin::list(pin_dir).unwrap_or_default() {
        if let Err(error) = pin.remove(pin_dir) {
            warn!(pin = %pin.path(pin_dir).display(), %error, "pin not removed");
        }
    }
    // Not empty: somebody else's file is in it, which is not ours to remove.
    let _ = fs::remove_dir(pin_dir);
}
