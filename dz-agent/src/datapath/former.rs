//! Finds the interfaces that an earlier agent served.

use std::collections::BTreeSet;
use std::path::Path;

use super::features::has_tcx;
use super::pins::Pin;
use super::upgrade::filtered;
use crate::error::{ExitCode, FailWith, Failure};

/// Returns the names of the interfaces that our programs are on, by the pins of their links; below Linux 6.6 also by
/// the filters that have our maps.
///
/// # Errors
/// They cannot be looked for.
pub fn served_before(pin_dir: &Path) -> Result<BTreeSet<String>, Failure> {
    let shown = || pin_dir.display().to_string();
    let pins = Pin::list(pin_dir).fail_with(ExitCode::Failure, shown)?;
    let links = pins.iter().filter_map(Pin::interface);
    let mut names: BTreeSet<_> = links.map(str::to_owned).collect();
    if !pins.is_empty() && !has_tcx()? {
        let filtered = filtered(pin_dir);
        let failure = |why: String| Failure::new(ExitCode::Failure, why).context(shown());
        names.extend(filtered.map_err(failure)?);
    }
    Ok(names)
}
