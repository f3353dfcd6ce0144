//! Removes pins: at the end of a withdrawal, and of an interface that is not to be served any more.

use std::fs;
use std::io;
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

/// Removes the pins of the links on an interface.
///
/// # Errors
/// One cannot be removed.
pub(super) fn remove_pins_of(pin_dir: &Path, interface: &str) -> io::Result<()> {
    let pins = Pin::list(pin_dir)?.into_iter();
    let mut pins = pins.filter(|pin| pin.interface() == Some(interface));
    pins.try_for_each(|pin| pin.remove(pin_dir))
}
