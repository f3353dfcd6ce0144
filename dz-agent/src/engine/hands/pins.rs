//! Removes the pins, at the end of a withdrawal.

use std::fs;
use std::path::Path;

use tracing::warn;

use crate::datapath::Pin;

/// Removes our pins, and with them maps and links.
pub(crate) fn remove_pins(pin_dir: &Path) {
    let pins = Pin::list(pin_dir).unwrap_or_else(|error| {
        warn!(pin_dir = %pin_dir.display(), %error, "pins not removed: `dz-agent purge` does it");
        Vec::new()
    });
    for pin in pins {
        if let Err(error) = pin.remove(pin_dir) {
            warn!(pin = %pin.path(pin_dir).display(), %error, "pin not removed");
        }
    }
    // Fails if somebody else's file is in it, which is not ours to remove.
    let _ = fs::remove_dir(pin_dir);
}
