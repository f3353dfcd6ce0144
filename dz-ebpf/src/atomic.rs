//! Atomic operations that rustc does not offer for BPF: the target says `atomic-cas: false`,
//! although the instructions exist since Linux 5.12. With a fetched result they order everything
//! before against everything after (Documentation/bpf/standardization/instruction-set.rst).

use core::arch::asm;

/// Adds to a value, without a result: one instruction that no interrupt can split.
///
/// # Safety
/// `target` points to a live, aligned map value.
#[inline(always)]
pub unsafe fn add(target: *mut u64, value: u64) {
    // SAFETY: as the caller promises.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) target, in(reg) value) }
}

/// Orders every access before against every access after, by a no-op on a value of the caller's.
///
/// # Safety
/// `target` points to a live, aligned map value.
#[inline(always)]
pub unsafe fn barrier(target: *mut u64) {
    // SAFETY: as the caller promises; the value does not change.
    unsafe {
        asm!("{1} = atomic_fetch_or((u64 *)({0} + 0), {1})", in(reg) target, inout(reg) 0_u64 => _)
    }
}

/// Replaces the value and returns the old one.
///
/// # Safety
/// `target` points to a live, aligned map value.
#[inline(always)]
pub unsafe fn exchange(target: *mut u64, mut value: u64) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { asm!("{1} = xchg_64({0} + 0, {1})", in(reg) target, inout(reg) value) }
    value
}

/// Stores `new` if the value is `expected`; returns the value found.
///
/// # Safety
/// `target` points to a live, aligned map value.
#[inline(always)]
pub unsafe fn compare_exchange(target: *mut u64, expected: u64, new: u64) -> u64 {
    let found;
    // SAFETY: as the caller promises; r0 is the register the instruction compares with.
    unsafe {
        asm!("r0 = cmpxchg_64({0} + 0, r0, {1})",
            in(reg) target, in(reg) new, inout("r0") expected => found)
    }
    found
}
