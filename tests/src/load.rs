//! Objects and their programs, loaded while signals wait: the verifier gives up with EAGAIN when one is
//! pending, and aya takes a probe that was cut short for a kernel that cannot.

use anyhow::Context;
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use dz_agent::datapath::undisturbed;

/// Reads an object, and makes its maps or opens those that are pinned where the loader is told. The first
/// time in a process it also finds out what the kernel can.
///
/// # Errors
/// The kernel refuses a map, or the object is not one.
pub fn object(loader: &mut EbpfLoader<'_>, bytes: &[u8]) -> Result<Ebpf, EbpfError> {
    undisturbed(|| loader.load(bytes))
}

/// Finds a TC program, and has the kernel load it if it has not yet.
///
/// # Errors
/// There is no such program, or the verifier refuses it.
pub fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> anyhow::Result<&'e mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| name.to_owned())?;
    let program: &mut SchedClassifier = program.try_into()?;
    if program.fd().is_err() {
        undisturbed(|| program.load())?;
    }
    Ok(program)
}

/// Finds an XDP program, and has the kernel load it if it has not yet.
///
/// # Errors
/// There is no such program, or the verifier refuses it.
pub fn xdp<'e>(ebpf: &'e mut Ebpf, name: &str) -> anyhow::Result<&'e mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| name.to_owned())?;
    let program: &mut Xdp = program.try_into()?;
    if program.fd().is_err() {
        undisturbed(|| program.load())?;
    }
    Ok(program)
}
