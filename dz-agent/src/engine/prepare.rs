//! `prepare`: what a start may need and an agent with the rights of a service cannot do, done once and with full rights
//! before it: a BPF file system mounted, the kernel part of a version with another map layout taken over, and programs of dead
//! agents with other pins taken off.

use super::hands::chosen::settings;
use super::hands::earlier::{remove_strays, take_over};
use crate::datapath::{check_kernel, check_pins};
use crate::error::Failure;
use crate::host::identity::Identity;
use crate::host::lock::{InterfaceLock, LockError, PinDirLock};
use crate::settings::RunOptions;

/// Makes everything ready for a start with these options. While an agent runs with them, nothing is touched.
///
/// # Errors
/// As of a start: exit code 6 while an agent runs, 1 if the earlier version's kernel part cannot be
/// taken over, which then goes on as it was.
pub async fn prepare(options: &RunOptions) -> Result<(), Failure> {
    options.validate()?;
    check_kernel(&options.pin_dir)?;
    let locks = options.interfaces.iter();
    let locks = locks.map(|name| InterfaceLock::acquire(name));
    let _locks = locks.collect::<Result<Vec<_>, LockError>>()?;
    let _lock = PinDirLock::create(&options.pin_dir).map_err(Failure::from)?;
    check_pins(&options.pin_dir).await?;
    // Makes the directory.
    Identity::load(&options.state_dir)?;
    take_over(&settings(options))?;
    remove_strays(&options.pin_dir, &options.interfaces).await
}
